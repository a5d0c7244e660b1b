"""Mistakes in the port to MindSpore are caught in graph mode too."""

import pytest

import ms2torch_roi
from ms2torch_roi import encodings, rules
from ms2torch_roi.parity import edges, operators, verdicts

pytestmark = pytest.mark.needs_mindspore


# Of each MindSpore's compiler makes a graph, where the port calls its operator.
GRAPHS = [
    edges.edge_case(f"torchvision: boxes of several cells, {aligned}, {dtype}")
    for aligned in ("not aligned", "aligned")
    for dtype in ("float32", "float16")
]


def failed_in_graphs():
    ms = operators.import_mindspore()
    failed = set()
    for case in GRAPHS:
        cell = ms2torch_roi.RoIAlign(**case.arguments)
        given = operators.some_output_gradient(case)
        features, rois, weights = map(ms.Tensor, (case.features, case.rois, given))

        @ms.jit
        def port(features, rois):
            return cell(features, rois)  # noqa: B023

        def loss(features):
            return (port(features, rois) * weights).sum()  # noqa: B023

        forward = verdicts.judge(case, operators.original(case), port(features, rois).asnumpy())
        of_features = operators.original_gradient(case, given)
        backward = verdicts.judge_gradient(case, of_features, ms.grad(loss)(features).asnumpy(), "")
        failed |= {name for name, verdict in (("forward", forward), ("backward", backward)) if not verdict.passed}
    return failed


def test_graphs_fail_nowhere():
    assert failed_in_graphs() == set()


def test_the_rule_of_the_other_aligned_in_graphs_is_caught(monkeypatch):
    monkeypatch.setattr(rules, "TORCHVISION", rules.TORCHVISION[::-1])
    assert failed_in_graphs() == {"forward", "backward"}


def _without_the_1(xp, boxes, size, scale):
    return xp.concatenate((boxes[:, :1], boxes[:, 1:] / scale), 1)


def test_rois_of_mode_1_that_do_not_end_a_pixel_earlier_in_graphs_are_caught(monkeypatch):
    monkeypatch.setattr(encodings, "mindspore_rois_of_mode_1", _without_the_1)
    monkeypatch.setattr(encodings, "mindspore_scale", lambda *_: 1.0)
    assert failed_in_graphs() == {"forward", "backward"}


def test_the_gradient_of_the_rois_of_mode_0_in_graphs_is_caught(monkeypatch):
    from ms2torch_roi.mindspore import graph

    def pool_all(input, boxes, size, pooled, sampling_ratio, roi_end_mode, scale):
        in_mode_1 = encodings.mindspore_rois_of_mode_1(graph.XP, boxes, size, scale)
        rois = in_mode_1 if roi_end_mode == 1 else encodings.boxes_to_enlarge(graph.XP, boxes, size)
        return graph.operator_of(pooled, sampling_ratio, roi_end_mode, scale)(input, rois, rois)

    monkeypatch.setattr(graph, "_pool_all", pool_all)
    assert failed_in_graphs() == {"backward"}
