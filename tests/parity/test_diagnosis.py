"""Each known mistake is named, on random cases and by the real frameworks; what is no known mistake is not."""

import functools
import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
import torchvision
from helpers import EDGE_CASES

from ms2torch_roi import boxes
from ms2torch_roi.parity import cases, diagnosis, edges, operators, rules, verdicts

with_mindspore = pytest.mark.needs_mindspore


@functools.cache
def random_case(make, number):
    """A random case without the rows on which ports by hand crash, and those that MindSpore does not write."""
    case = make(7, number)
    cells = np.abs(case.rois[:, 1:] * case.arguments["spatial_scale"])
    return replace(case, rois=case.rois[(cells < 200).all(1) & ~case.undefined])


@functools.cache
def result(original, make, number):
    return getattr(operators, original)(random_case(make, number))


def sentences(port, wanted, original="reference", make=cases.random_case, count=3):
    """Explain the first random cases for which a port gives other values."""
    found = []
    for number in range(300):
        case = random_case(make, number)
        if len(found) == count or not len(case.rois) or not wanted(case):
            continue
        actual = operators.outcome(port, case)
        if isinstance(actual, Exception):  # torchvision refuses some adaptive grids
            continue
        expected = result(original, make, number)
        if verdicts.judge(case, expected, actual).differing:
            found.append((case, expected, actual))
    assert len(found) == count
    return [diagnosis.explain(*difference) for difference in found]


def on_torchvision(aligned, extra, shifted=lambda rois, case: (rois, case.spatial_scale)):
    """A port by hand: torchvision with these choices."""

    def port(case):
        rois, features = torch.from_numpy(case.rois), torch.from_numpy(case.features)
        dtype = torch.promote_types(rois.dtype, features.dtype)
        rois = rois.to(dtype)
        rois, scale = shifted(torch.cat((rois[:, :3], rois[:, 3:] + extra), 1), case)
        output = torchvision.ops.roi_align(features.to(dtype), rois, case.pooled, scale, case.samples, aligned)
        return output.to(features.dtype).numpy()

    return port


def in_cells_and_half_of_one(rois, case):
    cells = rois[:, 1:] * torch.tensor(case.spatial_scale).to(rois.dtype) + 0.5
    return torch.cat((rois[:, :1], cells), 1), 1.0


def in_dtype(dtype):
    def port(case):
        typed = replace(case, features=case.features.astype(dtype), rois=case.rois.astype(dtype))
        return operators.port(typed).astype(case.features.dtype)

    return port


def in_the_other_mode(case):
    return operators.port(replace(case, roi_end_mode=1 - case.roi_end_mode))


def mode(number):
    return lambda case: case.roi_end_mode == number and case.sample_num > 0 and not has_fractional_index(case)


def adaptive(case):
    return case.samples <= 0 and not has_fractional_index(case)


def has_fractional_index(case):
    return (case.rois[:, 0] % 1).any()


# The port, the cases that it is wrong for, and what is said of all of them.
BY_HAND = {
    "naive": (
        on_torchvision(True, 0), mode(1),
        "The port's values match roi_end_mode=1 computed with aligned=True (boxes moved by half a cell) and without the"
        " 1 added to x2 and y2: aligned for roi_end_mode, as MindSpore's documentation suggests.",
    ),
    "naive, adaptive": (
        on_torchvision(True, 0), lambda case: adaptive(case) and case.roi_end_mode == 1,
        "The port's values match roi_end_mode=1 computed with aligned=True (boxes moved by half a cell), without the 1"
        " added to x2 and y2 and with torchvision's adaptive grids (rounded up, 0 where empty): aligned for"
        " roi_end_mode, as MindSpore's documentation suggests.",
    ),
    "unchanged boxes, not aligned": (
        on_torchvision(False, 0), mode(1),
        "The port's values match roi_end_mode=0, not the roi_end_mode=1 asked for: aligned=False on unchanged boxes"
        " does the same.",
    ),
    "x2 + 1, aligned": (
        on_torchvision(True, 1), mode(1),
        "The port's values match roi_end_mode=1 computed with aligned=True (boxes moved by half a cell).",
    ),
    "x2 + 1, not aligned": (
        on_torchvision(False, 1), mode(1),
        "The port's values match roi_end_mode=1 computed with small boxes enlarged to one cell: aligned=False on boxes"
        " that end at x2 + 1 and y2 + 1 does the same.",
    ),
    "half a cell there and back": (
        on_torchvision(True, 1, in_cells_and_half_of_one), lambda case: mode(1)(case) and case.dtype == np.float32,
        "The port's values match roi_end_mode=1 computed with half a cell added to boxes and taken off again (which"
        " rounds them).",
    ),
    "aligned in mode 0": (
        on_torchvision(True, 0), mode(0),
        "The port's values match roi_end_mode=0 computed with aligned=True (boxes moved by half a cell) and without"
        " enlarging small boxes to one cell.",
    ),
    "float16 in float32": (
        in_dtype(np.float32), lambda case: mode(1)(case) and case.dtype == np.float16,
        "The port's values match roi_end_mode=1 computed in float32 instead of float16.",
    ),
    "mixed dtypes in float16": (
        in_dtype(np.float16), lambda case: mode(1)(case) and case.features.dtype != case.rois.dtype,
        "The port's values match roi_end_mode=1 computed in float16 instead of float32.",
    ),
    "mode 1 for mode 0": (
        in_the_other_mode, lambda case: mode(0)(case) and (case.rois[:, 3] < case.rois[:, 1]).any(),
        "The port's values match roi_end_mode=1, not the roi_end_mode=0 asked for.",
    ),
    "a truncated index": (
        on_torchvision(False, 0), lambda case: case.roi_end_mode == 0 and case.sample_num > 0,
        "The port's values match roi_end_mode=0 computed with the image index truncated instead of rounded.",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("port", "wanted", "sentence"), BY_HAND.values(), ids=BY_HAND)
@pytest.mark.parametrize("original", ["reference", pytest.param("original", marks=with_mindspore)])
def test_a_port_by_hand_is_told_its_rule(original, port, wanted, sentence):
    assert set(sentences(port, wanted, original)) == {sentence}


def _changed_boxes(change):
    """Return a mistake in the rule: ``change`` of the corners and sizes that mode 1 gives."""

    def mistake(rule):
        def mindspore_boxes(xp, rois, scale, roi_end_mode):
            index, _ = rule(xp, rois, scale, roi_end_mode)
            corners, size = change(rois, rois.dtype.type(scale))
            return xp.concatenate((index[:, :1], corners), 1), size

        return mindspore_boxes

    return mistake


def _without_the_1(rois, scale):
    corners = rois[:, 1:] * scale
    return corners, corners[:, 2:] - corners[:, :2]


def _with_1_added_to_the_start(rois, scale):
    corners = (rois[:, 1:] + rois.dtype.type(1)) * scale
    return corners, corners[:, 2:] - corners[:, :2]


def _of_at_least(smallest):
    def change(rois, scale):
        start, end = rois[:, 1:3] * scale, (rois[:, 3:] + rois.dtype.type(1)) * scale
        size = np.maximum(end - start, smallest)
        return np.concatenate((start, np.maximum(start, end)), 1), size

    return change


# What is replaced in the port to torch, by what, for which cases, and what is said of all of them.
MISTAKES = {
    "the 1 is missing": (
        "mindspore_boxes", _changed_boxes(_without_the_1), mode(1),
        "The port's values match roi_end_mode=1 computed without the 1 added to x2 and y2.",
    ),
    "1 added to the start": (
        "mindspore_boxes", _changed_boxes(_with_1_added_to_the_start), mode(1),
        "The port's values match roi_end_mode=1 computed with 1 added to x1 and y1: as the newest published kernel for"
        " Ascend does.",
    ),
    "sizes of at least 0": (
        "mindspore_boxes", _changed_boxes(_of_at_least(0)),
        lambda case: mode(1)(case) and (case.rois[:, 3:] + 2 < case.rois[:, 1:3]).any(),
        "The port's values match roi_end_mode=1 computed with negative sizes raised to 0: as the older published"
        " kernels for Ascend do.",
    ),
    "sizes of at least 1": (
        "mindspore_boxes", _changed_boxes(_of_at_least(1)), mode(1),
        "The port's values match roi_end_mode=1 computed with small boxes enlarged to one cell: aligned=False on boxes"
        " that end at x2 + 1 and y2 + 1 does the same.",
    ),
    "a count of at least 1": (
        "mindspore_count", lambda _: boxes.torchvision_count, lambda case: adaptive(case) and case.roi_end_mode == 1,
        "The port's values match roi_end_mode=1 computed with 0 instead of NaN for empty adaptive grids.",
    ),
}  # fmt: skip


def wrong_in(monkeypatch, name, mistake):
    """Return the port to torch with a mistake, which is there only as long as the port runs."""

    def port(case):
        with monkeypatch.context() as patch, np.errstate(all="ignore"):
            patch.setattr(boxes, name, mistake(getattr(boxes, name)))
            return operators.port(case)

    return port


@pytest.mark.parametrize(("name", "mistake", "wanted", "sentence"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_in_the_port_is_named(monkeypatch, name, mistake, wanted, sentence):
    assert set(sentences(wrong_in(monkeypatch, name, mistake), wanted)) == {sentence}


def test_ceil_for_floor_is_named(monkeypatch):
    """By torchvision's unaligned kernel in part, which also enlarges the small boxes that ceil has a sample for."""
    port = wrong_in(monkeypatch, "mindspore_grid", lambda _: functools.partial(boxes.sampling_grid, np.ceil))
    for sentence in sentences(port, lambda case: adaptive(case) and case.roi_end_mode == 1):
        assert "with adaptive grids rounded up (ceil instead of floor)" in sentence


def on_mindspore(case):
    """The existing port back: MindSpore's operator with roi_end_mode for aligned."""
    common = {name: getattr(case, name) for name in ("name", "category", "source", "features", "rois", "spatial_scale")}
    height, width = case.output_size
    sizes = {"pooled_height": height, "pooled_width": width, "sample_num": case.sampling_ratio}
    of_mindspore = cases.MindSporeCase(**common, **sizes, roi_end_mode=int(case.aligned))
    output = operators.mindspore(of_mindspore)
    output[of_mindspore.undefined] = 0
    return output


def is_aligned(case):
    return case.aligned and case.sampling_ratio > 0 and not has_fractional_index(case)


@with_mindspore
def test_roi_end_mode_for_aligned_is_named():
    found = sentences(on_mindspore, is_aligned, "original", cases.random_torchvision_case)
    for sentence in found:  # the rows that MindSpore does not write follow no rule
        assert sentence.endswith(
            "he port's values match aligned=True computed without moving boxes by half a cell and with 1 added to x2"
            " and y2: that is roi_end_mode=1, which is not aligned=True."
        )


@with_mindspore
def test_floor_for_ceil_is_named():
    def wanted(case):
        return not case.aligned and adaptive(case) and (case.rois[:, 3:] > case.rois[:, 1:3]).all()

    found = sentences(on_mindspore, wanted, "original", cases.random_torchvision_case)
    for sentence in found:
        assert sentence in (
            "The port's values match aligned=False computed with adaptive grids rounded down (floor instead of ceil).",
            "The port's values match aligned=False computed with MindSpore's adaptive grids (rounded down, NaN where"
            " empty).",
        )


@pytest.mark.parametrize("aligned", [False, True])
def test_the_other_aligned_is_named(aligned):
    def other(case):
        return operators.torchvision(replace(case, aligned=not case.aligned))

    def wanted(case):
        small = (case.rois[:, 3:] - case.rois[:, 1:3]) * case.spatial_scale < 0.5
        return case.aligned == aligned and case.sampling_ratio > 0 and small.any()

    found = sentences(other, wanted, "torchvision", cases.random_torchvision_case)
    assert set(found) == {f"The port's values match aligned={not aligned}, not the aligned={aligned} asked for."}


def with_rule(case, **changes):
    """Compute a case by another rule, with the reference's parts."""
    rule = replace(rules.candidates_of(case)[0].rule, **changes)
    output = np.zeros(case.output_shape, case.features.dtype)
    rows = np.arange(len(case.rois))
    with np.errstate(all="ignore"):
        for part, channels, values in rule.pool(case, case.features, rule.samples(case, rows), rows):
            output[part, channels] = values
    output[case.undefined] = 0
    return output


@pytest.mark.parametrize("number", range(20))
def test_the_rule_asked_for_is_that_of_the_reference(number):
    for case in (cases.random_case(3, number), cases.random_torchvision_case(3, number)):
        assert verdicts.same_bits(with_rule(case), operators.reference(case)).all()


def test_the_rule_asked_for_is_that_of_the_reference_on_edges():
    for case in EDGE_CASES:
        if case.raises is None and len(case.features):
            assert verdicts.same_bits(with_rule(case), operators.reference(case)).all(), case.name


def test_a_recording_of_another_device_is_told_its_rule():
    """What the newest published kernel for Ascend does, by the reference on boxes that start one pixel further on."""
    case = next(
        case
        for number in itertools.count()
        if mode(1)(case := random_case(cases.random_case, number)) and case.dtype == np.float16
    )
    typed = {"features": case.features.astype(np.float32), "rois": case.rois.astype(np.float32)}
    typed["rois"] += np.array((0, 1, 1, 0, 0), np.float32)
    expected = operators.reference(replace(case, **typed)).astype(np.float16)
    assert diagnosis.explain(case, expected, operators.port(case)) == (
        "MindSpore's values match roi_end_mode=1 computed with 1 added to x1 and y1 and in float32 instead of float16:"
        " as the newest published kernel for Ascend does. That is not the rule of MindSpore on a CPU."
    )


CASE = edges.edge_case("boxes of several cells, mode 1, float32")
RESULT = operators.reference(CASE)


def test_one_corrupt_value_follows_no_rule():
    for value, rest in (
        (RESULT[1, 2, 0, 3] + 1, "The largest difference is 1, 0.26 of the largest feature."),
        (np.nan, "1 of the 1 differences are between a number and NaN or infinity."),
        (0, f"All that differs is 0 in the port. The largest difference is {abs(RESULT[1, 2, 0, 3]):.3g}, "),
    ):
        actual = RESULT.copy()
        actual[1, 2, 0, 3] = value
        sentence = diagnosis.explain(CASE, RESULT, actual)
        assert sentence.startswith(f"None of the known rules fits. {rest}")
        assert "round" not in sentence


@pytest.mark.parametrize("number", range(20))
def test_corrupt_values_of_random_cases_follow_no_rule(number):
    rng = np.random.default_rng(number)
    for make in (cases.random_case, cases.random_torchvision_case):
        case = make(2, number)
        expected = operators.reference(case)
        if case.undefined.all() or not np.isfinite(expected).all():
            continue
        actual = expected.copy()
        row = rng.choice(np.flatnonzero(~case.undefined))
        actual[row].flat[rng.integers(actual[row].size)] += 0.5
        for pair in ((expected, actual), (actual, expected)):
            sentence = diagnosis.explain(case, *pair)
            assert sentence.startswith("None of the known rules fits.")
            assert "The largest difference is 0.5" in sentence


def test_zeros_are_no_proof_of_a_rule():
    """aligned=True would move the only sample, at -0.8, out of the image, and so would many another rule."""
    case = replace(
        CASE,
        rois=np.array([[0, -1.3, 2, -1.3, 3]], np.float32),
        pooled_height=1,
        pooled_width=1,
        spatial_scale=1.0,
        sample_num=1,
    )
    actual = with_rule(case, moved=rules._HALF_A_CELL)
    assert not actual.any()
    sentence = diagnosis.explain(case, operators.reference(case), actual)
    assert sentence.startswith("None of the known rules fits. All that differs is 0 in the port.")


def test_rows_that_follow_a_rule_are_counted():
    wrong = with_rule(CASE, end=0)
    case = replace(CASE, rois=np.tile(CASE.rois, (3, 1)))
    expected, actual = np.tile(RESULT, (3, 1, 1, 1)), np.tile(wrong, (3, 1, 1, 1))
    actual[2:4] = expected[2:4]
    actual[5] += 1
    assert diagnosis.explain(case, expected, actual) == (
        "In 3 of the 4 rows that differ, the port's values match roi_end_mode=1 computed without the 1 added to x2 and"
        " y2."
    )


def test_rows_of_another_rule_among_right_ones_are_told_theirs():
    expected, actual = RESULT, RESULT.copy()
    actual[1] = with_rule(CASE, start=1)[1]
    sentence = diagnosis.explain(CASE, expected, actual)
    assert sentence.startswith("In the only row that differs, the port's values match roi_end_mode=1 computed with 1 ")


def test_rounding_of_another_device_is_told_from_another_rule():
    def rounded_otherwise(values):
        return np.nextafter(np.nextafter(values, np.float32(9)), np.float32(9))

    sentence = diagnosis.explain(CASE, RESULT, rounded_otherwise(RESULT))
    assert sentence.startswith("None of the known rules fits. The largest difference is ")
    assert sentence.endswith("Another device, or sums in another order, may round like that.")
    naive = with_rule(CASE, end=0, moved=rules._HALF_A_CELL)
    assert diagnosis.explain(CASE, RESULT, rounded_otherwise(naive)) == (
        "To within rounding, the port's values match roi_end_mode=1 computed with aligned=True (boxes moved by half a"
        " cell) and without the 1 added to x2 and y2: aligned for roi_end_mode, as MindSpore's documentation suggests."
    )


@pytest.mark.parametrize(
    ("name", "changes", "phrase"),
    [
        ("inf in cell (0, 0) of the features, float32", {"outside": "torchvision"}, "that add 0 times its first pixel"),
        (
            "torchvision: nan in cell (0, 0) of the features, float16",
            {"outside": "MindSpore"},
            "image that add nothing",
        ),
        ("torchvision: a height that float16 rounds up, float16", {"border": "MindSpore"}, "with MindSpore's border ("),
    ],
)
def test_what_happens_outside_the_image_is_named(name, changes, phrase):
    case = edges.edge_case(name)
    assert phrase in diagnosis.explain(case, operators.reference(case), with_rule(case, **changes))


def test_explanations_do_not_depend_on_those_before():
    differences = []
    for number in range(12):
        case = random_case(cases.random_case, number)
        if len(case.rois):
            changes = ({"end": 0}, {"moved": rules._HALF_A_CELL, "end": 0}, {"start": 1}, {"smallest": 1})[number % 4]
            differences.append((case, operators.reference(case), with_rule(case, **changes)))
    forwards = [diagnosis.explain(*difference) for difference in differences]
    rules._candidates.cache_clear()
    backwards = [diagnosis.explain(*difference) for difference in reversed(differences)]
    assert forwards == backwards[::-1]
    assert len(set(forwards)) > 3


def test_nothing_is_said_where_nothing_differs():
    assert diagnosis.explain(CASE, RESULT, RESULT.copy()) == ""


def test_an_operator_taken_for_another_is_recognised():
    case = replace(CASE, pooled_height=33, pooled_width=1)
    actual = operators.reference(case)
    expected = operators.reference(replace(CASE, pooled_height=3, pooled_width=31))
    sentence = diagnosis.explain(case, expected, actual)
    assert sentence.startswith(
        "MindSpore returned the shape (2, 3, 3, 31) instead of (2, 3, 33, 1). MindSpore's PyNative"
    )
    assert "'331'" in sentence
    assert "op.add_prim_attr('arguments', '33x1')" in sentence
    sentence = diagnosis.explain(case, actual, actual[:, :, :5])
    assert sentence == "The port returned the shape (2, 3, 5, 1) instead of (2, 3, 33, 1)."


def test_another_dtype_is_named():
    sentence = diagnosis.explain(CASE, RESULT, RESULT.astype(np.float64))
    assert sentence == "The port returned float64 where MindSpore returned float32."


def test_undefined_rows_are_told_from_wrong_ones():
    case = edges.edge_case("zero-padded rois, sample_num 2, mode 1, float32")
    result = operators.reference(case)
    garbage = result.copy()
    garbage[:3] = 99
    assert diagnosis.explain(case, garbage, result) == (
        "Only rows 0, 1 and 2 differ, never written by MindSpore (|x1| and |x2| < 0.001): their values mean nothing."
    )
    assert diagnosis.explain(case, result, garbage) == (
        "The port must give 0 for rows never written by MindSpore (|x1| and |x2| < 0.001), and does not in rows 0, 1"
        " and 2."
    )
    assert diagnosis.explain(case, garbage, with_rule(case, end=0)).endswith("without the 1 added to x2 and y2.")


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


@with_mindspore
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
