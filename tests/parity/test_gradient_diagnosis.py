"""A gradient that follows a known rule is told which; one that follows none is said to."""

import itertools

import numpy as np
import pytest
import torch
import torchvision
from explained import CASE, mode, random_case

from ms2torch_roi.parity import cases, diagnosis, edges, operators, verdicts


def gradients(case, backward_roi_end_mode=None):
    weights = np.random.default_rng(0).standard_normal(case.output_shape).astype(case.features.dtype)
    return weights, operators.gradient(case, weights, backward_roi_end_mode)


def cases_with_another_gradient(wanted, gradient, count=4):
    for number in itertools.count():
        case = random_case(cases.random_case, number)
        if len(case.rois) and wanted(case):
            weights, expected = gradients(case)
            actual = gradient(case, weights)
            if not verdicts.judge_gradient(case, expected, actual, "").passed:
                yield case, weights, expected, actual
                count -= 1
        if not count:
            return


ADVICE = (
    "In MindSpore the gradient of roi_end_mode=0 is that of roi_end_mode=1: ROIAlign(..., backward_roi_end_mode=1)"
    " trains as MindSpore does."
)


def test_the_gradient_of_mode_1_is_recognised_in_mode_0():
    def gradient(case, weights):
        return operators.gradient(case, weights, 1)

    padded = edges.edge_case("zero-padded rois, sample_num 2, mode 0, float32")
    of_padded = (padded, *gradients(padded), gradient(padded, gradients(padded)[0]))
    for case, weights, expected, actual in (of_padded, *cases_with_another_gradient(mode(0), gradient)):
        of_mode_1 = "gradient matches that of roi_end_mode=1, not the roi_end_mode=0 asked for."
        assert diagnosis.explain_gradient(case, weights, expected, actual) == f"The port's {of_mode_1} {ADVICE}"
        assert diagnosis.explain_gradient(case, weights, actual, expected) == f"MindSpore's {of_mode_1} {ADVICE}"


@pytest.mark.needs_mindspore
def test_mindspores_own_gradient_of_mode_0_is_recognised():
    ms = operators.import_mindspore()

    def gradient(case, weights):
        operator = ms.ops.ROIAlign(*case.arguments.values())
        operator.add_prim_attr("arguments", f"test_diagnosis {case.name}")
        rois, weights = ms.Tensor(case.rois), ms.Tensor(weights)
        return ms.grad(lambda features: (operator(features, rois) * weights).sum())(ms.Tensor(case.features)).asnumpy()

    for case, weights, of_port, of_mindspore in cases_with_another_gradient(
        lambda case: mode(0)(case) and case.features.dtype == case.rois.dtype == np.float32, gradient
    ):
        assert diagnosis.explain_gradient(case, weights, of_mindspore, of_port) == (
            f"MindSpore's gradient matches that of roi_end_mode=1, not the roi_end_mode=0 asked for. {ADVICE}"
        )


def test_the_gradient_of_a_naive_port_is_recognised():
    def gradient(case, weights):
        features = torch.from_numpy(case.features).requires_grad_()
        rois = torch.from_numpy(case.rois)
        output = torchvision.ops.roi_align(features, rois, case.pooled, case.spatial_scale, case.sample_num, True)
        output.backward(torch.from_numpy(weights))
        return features.grad.numpy()

    def wanted(case):
        return mode(1)(case) and case.features.dtype == case.rois.dtype == np.float32

    for difference in cases_with_another_gradient(wanted, gradient):
        assert diagnosis.explain_gradient(*difference) == (
            "The port's gradient matches that of roi_end_mode=1 computed with aligned=True (boxes moved by half a cell)"
            " and without the 1 added to x2 and y2: aligned for roi_end_mode, as MindSpore's documentation suggests."
        )


def test_a_gradient_that_follows_no_rule_is_said_to():
    weights, expected = gradients(CASE)
    actual = expected.copy()
    actual[0, 0, 5, 5] += 1
    sentence = diagnosis.explain_gradient(CASE, weights, expected, actual)
    assert sentence.startswith("None of the known rules fits. The largest difference is 1, ")
    assert sentence.endswith(" of the largest gradient.")
    sentence = diagnosis.explain_gradient(CASE, weights, expected, np.zeros_like(expected))
    assert "All that differs is 0 in the port." in sentence
    sentence = diagnosis.explain_gradient(CASE, weights, expected, expected[:1])
    assert sentence == "The gradient of the port has shape (1, 3, 11, 14); the features have (2, 3, 11, 14)."
