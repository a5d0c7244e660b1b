"""Do the two libraries agree? Cases, the operators that run them, and verdicts on the bits.

>>> from ms2torch_roi.parity import cases, operators, verdicts
>>> case = cases.random_case(seed=0, number=7)
>>> expected = operators.outcome(operators.reference, case)  # or operators.mindspore
>>> verdicts.judge(case, expected, operators.outcome(operators.port, case)).passed
True
"""
