"""What is noticed of a mistake in the port."""

from ms2torch_roi.parity import operators, verdicts


def failed_categories(results, port=operators.port):
    judged = [verdicts.judge(case, expected, operators.outcome(port, case)) for case, expected in results]
    return {verdict.category for verdict in judged if not verdict.passed}
