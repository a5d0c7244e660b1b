"""Do the two libraries agree? Cases, the operators that run them, and verdicts on the bits.

    from ms2torch_roi.parity import cases, operators, verdicts

    case = cases.random_case(seed=0, number=7)
    verdicts.judge(case, operators.outcome(operators.mindspore, case), operators.outcome(operators.adapter, case))
"""
