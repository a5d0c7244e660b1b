"""``compare``: whole heads in both frameworks, rows that mean nothing, rois on another level, where they part."""

import functools

import numpy as np
import pytest
import torch
import torchvision

from ms2torch_roi import ROIAlign, SingleRoIExtractor, compare
from ms2torch_roi.parity.comparison import OTHER_LEVEL, UNSEEN, UNSTEADY, UNWRITTEN

STRIDES = [4, 8]
ROI_LAYER = {"out_size": 3, "sample_num": 2}
RNG = np.random.default_rng(0)
FEATURES = [RNG.standard_normal((2, 5, 320 // stride, 320 // stride)).astype(np.float32) for stride in STRIDES]
WEIGHT = (RNG.standard_normal((45, 7)) / 7).astype(np.float32)
BOXES = RNG.uniform((20, 30, 60, 70), (60, 70, 250, 300), (2, 6, 4)).astype(np.float32)
BOXES[:, 4:] = 0  # padding
ROIS = np.concatenate((np.repeat([[0], [1]], 6, 0), BOXES.reshape(-1, 4)), 1).astype(np.float32)
PADDED = (4, 5, 10, 11)
# The layer behind the pooling adds up in another order in each framework.
ATOL = {"atol": 1e-4}


def torch_head(pool=None, scores=lambda pooled, weight: pooled.flatten(1) @ weight):
    pool = pool or SingleRoIExtractor(ROI_LAYER, 5, STRIDES)
    pooled = pool(torch.from_numpy(ROIS), *map(torch.from_numpy, FEATURES))
    scores = scores(pooled, torch.from_numpy(WEIGHT))
    return {"pooled": pooled, "scores": scores, "best": [scores.reshape(2, 6, 7).amax((1, 2))]}


@pytest.fixture(scope="module")
def mindspore_head(ms):
    import mindspore_extractors

    pool = mindspore_extractors.ModelZoo({"roi_sample_num": 6, "mode": 1}, ROI_LAYER, 5, [*STRIDES, 16, 32], 2)
    features = [*FEATURES, *(np.zeros((2, 5, 20, 20), np.float32) for _ in range(2))]

    def head(rois=ROIS, drop=False):
        pooled = pool(ms.Tensor(rois), *map(ms.Tensor, features))
        scores = ms.ops.matmul(pooled.reshape(len(rois), -1), ms.Tensor(WEIGHT))
        if drop:
            scores = scores * ms.Tensor(np.arange(7) != np.random.default_rng().integers(3, 7), ms.float32)
        return {"pooled": pooled, "scores": scores, "best": [scores.reshape(2, 6, 7).max(axis=(1, 2))]}

    return head


@pytest.mark.needs_mindspore
def test_a_head_is_the_same_but_for_the_rows_of_padding(mindspore_head):
    comparison = compare(mindspore_head, torch_head, **ATOL)
    assert comparison.passed, comparison
    assert comparison.parts_at is None
    pooled, scores, best = comparison.outputs
    assert [pooled.values, scores.values, pooled.differing] == [8 * 45, 8 * 7, 0]
    assert comparison.left_out["pooled"] == comparison.left_out["scores"] == {UNWRITTEN: PADDED}
    assert best.values == 0
    assert str(comparison).startswith("THE SAME: 416 values of 2 outputs. NOT COMPARED: best[0].\n  pooled: ")
    assert f"scores: 56 values, all the same\n    not compared: rows 4, 5, 10, 11: they {UNWRITTEN}" in str(comparison)


@pytest.mark.needs_mindspore
def test_what_depends_on_padding_is_found_wherever_it_stands(mindspore_head, monkeypatch):
    """The largest score of an image may be one of padding, whose row is random."""
    monkeypatch.setitem(globals(), "WEIGHT", WEIGHT * 0)
    assert compare(mindspore_head, torch_head).left_out["best[0]"] == {}
    monkeypatch.undo()
    rois = ROIS.copy()
    rois[:6, 1:] += 4  # only the second image has padding
    comparison = compare(
        functools.partial(mindspore_head, rois), {**torch_head(), "pooled": np.zeros((12, 5, 3, 3), "f")}
    )
    assert comparison.left_out["best[0]"] == {UNWRITTEN: (1,)}


@pytest.mark.needs_mindspore
def test_with_the_rois_arrays_are_compared_as_well(mindspore_head):
    comparison = compare(mindspore_head(), torch_head(), rois=ROIS, **ATOL)
    assert [output.passed for output in comparison.outputs[:2]] == [True, True]
    assert comparison.left_out == {"pooled": {UNWRITTEN: PADDED}, "scores": {UNWRITTEN: PADDED}, "best[0]": {}}


@pytest.mark.needs_mindspore
@pytest.mark.parametrize("graph", [False, True])
def test_in_graph_mode_the_rois_are_needed(ms, mindspore_head, graph):
    rois = ms.Tensor(BOXES)
    ms.set_context(mode=ms.GRAPH_MODE if graph else ms.PYNATIVE_MODE)
    try:
        comparison = compare(mindspore_head, torch_head, rois=rois, **ATOL)
    finally:
        ms.set_context(mode=ms.PYNATIVE_MODE)
    assert comparison.left_out["pooled"] == {UNWRITTEN: PADDED}
    assert comparison.outputs[1].passed


@pytest.mark.needs_mindspore
def test_they_part_where_the_port_is_wrong(mindspore_head):
    def wrong_pool(rois, *features):
        level = SingleRoIExtractor(ROI_LAYER, 5, STRIDES).map_roi_levels(rois)[:, None, None, None]
        pooled = [torchvision.ops.roi_align(f, rois, 3, 1 / s, 2, True) for f, s in zip(features, STRIDES, strict=True)]
        return torch.where(level == 0, *pooled)

    def wrong_scores(pooled, weight):
        return pooled.flatten(1).roll(1, 1) @ weight

    comparison = compare(mindspore_head, functools.partial(torch_head, wrong_pool), **ATOL)
    assert not comparison.passed
    assert comparison.parts_at == "pooled"
    assert str(comparison).startswith(
        "DIFFERENT: they part at pooled, and 2 of 3 outputs differ.\n  pooled: 360 of 360 "
    )
    comparison = compare(mindspore_head, functools.partial(torch_head, scores=wrong_scores), rois=ROIS, **ATOL)
    assert comparison.parts_at == "scores"
    row = f"({', '.join(map(str, ROIS[0, 1:]))})"
    assert f"    roi 0 {row}, at [0, 0]: expected " in str(comparison)


@pytest.mark.needs_mindspore
def test_rois_on_another_level_are_named_and_the_rest_is_compared(mindspore_head):
    pool = SingleRoIExtractor(ROI_LAYER, 5, STRIDES)
    other = SingleRoIExtractor(ROI_LAYER, 5, STRIDES, finest_scale=70)
    both = tuple(extractor.map_roi_levels(torch.from_numpy(ROIS)) for extractor in (pool, other))
    moved = tuple(np.flatnonzero(both[0] != both[1]).tolist())
    assert 0 < len(moved) < 8
    head = functools.partial(torch_head, other)
    assert compare(mindspore_head, head, **ATOL).parts_at == "pooled"
    comparison = compare(mindspore_head, head, rois=ROIS, levels=both, **ATOL)
    assert comparison.parts_at == "levels"
    assert not comparison.passed
    assert comparison.outputs[1].passed
    assert comparison.left_out["scores"] == {UNWRITTEN: PADDED, OTHER_LEVEL: moved}
    row = f"({', '.join(map(str, ROIS[moved[0], 1:]))})"
    assert f"    roi {moved[0]} {row}: level 1, and in actual 0\n" in str(comparison)


@pytest.mark.needs_mindspore
def test_what_differs_from_run_to_run_for_another_reason_is_a_failure_and_not_laid_on_padding(mindspore_head):
    results = [compare(functools.partial(mindspore_head, drop=True), torch_head, **ATOL) for _ in range(8)]
    assert any(f"values of expected {UNSTEADY}" in str(result) and not result.passed for result in results)
    assert all(result.left_out["pooled"] == {UNWRITTEN: PADDED} for result in results)


@pytest.mark.needs_mindspore
def test_a_model_that_is_steady_within_the_tolerance_is_compared_within_it(mindspore_head):
    def noisy():
        scores = mindspore_head()["scores"]
        return scores + type(scores)(np.random.default_rng().uniform(0, 1e-6, scores.shape).astype(np.float32))

    scores = torch_head()["scores"]
    assert compare(noisy, scores, atol=1e-4).outputs[0].values == 56
    assert not compare(noisy, scores + 1, atol=1e-4).passed
    assert not compare(noisy, scores).passed


@pytest.mark.needs_mindspore
def test_what_depends_on_padding_as_a_whole_is_no_proof(ms, mindspore_head):
    def kept():  # as the boxes that are left of a suppression
        return np.flatnonzero(mindspore_head()["scores"].asnumpy().max(1) > 0.5)

    port = np.flatnonzero(torch_head()["scores"].numpy().max(1) > 0.5)
    assert compare(kept, port).not_compared == ("output",)
    comparison = compare(lambda: mindspore_head()["best"], torch_head()["best"])
    assert not comparison.passed
    assert comparison.not_compared == ("[0]",)
    assert str(comparison).startswith("NOTHING COMPARED")
    of_other_dtype = compare(lambda: mindspore_head()["best"], [torch_head()["best"][0].double()])
    assert of_other_dtype.parts_at == "[0]"


@pytest.mark.needs_mindspore
def test_gradients_are_those_of_mindspore(ms):
    pool, features, rois = ms.ops.ROIAlign(3, 3, 0.25), ms.Tensor(FEATURES[0]), ms.Tensor(ROIS)

    def gradient():
        return ms.grad(lambda features: (pool(features, rois)[:4] ** 2).sum())(features)

    assert compare(gradient, gradient().asnumpy()).passed
    assert gradient().asnumpy().any()


@pytest.mark.needs_mindspore
def test_calls_that_python_does_not_make_are_a_note(ms, mindspore_head):
    pool = ms.ops.ROIAlign(3, 3, 0.25)
    rois = ms.Tensor(ROIS)

    @ms.jit
    def jitted(features, rois):
        return pool(features, rois)

    def head():
        return jitted(ms.Tensor(FEATURES[0]), rois)

    output = head().asnumpy()
    assert compare(head, output).notes == (UNSEEN,)
    assert str(compare(head, output)).endswith(UNSEEN)
    assert compare(head, output, rois=ROIS).notes == compare(output, output).notes == ()
    assert compare(mindspore_head, torch_head, **ATOL).notes == ()


@pytest.mark.needs_mindspore
def test_either_of_the_two_may_be_mindspores(mindspore_head):
    rois = ROIS.copy()
    rois[6:, 1:] += 4  # only the first image has padding
    comparison = compare(torch_head, mindspore_head, **ATOL)
    assert comparison.passed
    assert comparison.left_out["scores"] == {UNWRITTEN: PADDED}
    comparison = compare(functools.partial(mindspore_head, rois), mindspore_head)
    assert comparison.left_out["best[0]"] == {UNWRITTEN: (0, 1)}


@pytest.mark.needs_mindspore
def test_a_model_without_padding_is_run_once_and_left_as_it_is(ms, mindspore_head):
    runs = []

    def head():
        runs.append(1)
        return mindspore_head(ROIS + np.array([0, 1, 1, 1, 1], np.float32))

    call = ms.ops.ROIAlign.__call__
    compare(head, torch_head)
    assert (len(runs), ms.ops.ROIAlign.__call__) == (1, call)
    assert "__call__" not in vars(ms.ops.ROIAlign)


def test_a_port_of_torchs_is_compared_bit_by_bit():
    features, rois = torch.from_numpy(FEATURES[0]), torch.from_numpy(ROIS)
    pooled = ROIAlign(3, 3, 0.25)(features, rois)
    assert compare(pooled.half().numpy(), pooled.half()).passed
    assert compare(pooled.bfloat16(), pooled.bfloat16()).passed
    assert compare(pooled.bfloat16(), pooled.bfloat16().float()).parts_at == "output"
    comparison = compare((pooled, 1.5), [pooled + 0.5, 1.5])
    assert [output.differing for output in comparison.outputs] == [pooled.numel(), 0]
    assert comparison.parts_at == "[0]"


@pytest.mark.needs_mindspore
def test_an_output_of_another_shape_is_a_difference_whichever_side_has_padding(mindspore_head):
    scores = torch_head()["scores"][:, :-1]
    for models in ((lambda: mindspore_head()["scores"], scores), (scores, lambda: mindspore_head()["scores"])):
        comparison = compare(*models, **ATOL)
        assert comparison.parts_at == "output"
        assert "has the shape (12, " in str(comparison)


def test_integers_are_compared_by_value_and_floats_of_another_dtype_are_not():
    assert compare(np.arange(3, dtype=np.int32), torch.arange(3)).passed
    assert not compare(np.array([2**53]), np.array([2**53 + 1])).passed
    assert str(compare(np.zeros(3, np.float16), torch.zeros(3))).endswith(
        "output: expected is float16, and actual float32"
    )
    assert str(compare(np.zeros((3, 1)), np.zeros(3))).endswith("expected has the shape (3, 1), and actual (3,)")


@pytest.mark.parametrize(
    ("inputs", "named", "error", "message"),
    [
        (({"a": [0.0]}, {"b": [0.0]}), {}, ValueError, r"expected has the outputs a\[0\], and actual b\[0\]"),
        (([0.0, 0.0], [0.0]), {}, ValueError, r"expected has the outputs \[0\], \[1\], and actual \[0\]"),
        (
            ({"a": "text"}, {"a": 0.0}),
            {},
            TypeError,
            "expected a must be an array of numbers, or a list, tuple or dict of such, got str",
        ),
        ((0.0, None), {}, ValueError, "expected has the outputs output, and actual none"),
        ((0.0, 0.0), {"rois": np.zeros(5)}, ValueError, r"rois must be \(K, 5\), \(K, 4\) or \(N, R, 4\), got \(5,\)"),
        ((0.0, 0.0), {"rois": np.zeros((2, 3))}, ValueError, r"got \(2, 3\)"),
        ((0.0, 0.0), {"levels": ([0], [0])}, ValueError, "two for each roi, got 1, 1 and no rois"),
        ((0.0, 0.0), {"levels": ([0], [0], [0])}, ValueError, "levels must be a pair"),
        ((0.0, 0.0), {"levels": (["a"], [0])}, TypeError, "levels must be an array of numbers"),
        (
            ([1 + 1j], [1 + 5j]),
            {},
            TypeError,
            r"expected \[0\] must be an array of numbers, .* got complex of complex128",
        ),
        ((np.array(["a"]), 0.0), {}, TypeError, "got ndarray of <U1"),
        ((torch.ones(2).to_sparse(), 0.0), {}, TypeError, "must be a dense tensor, got torch.sparse_coo"),
        (({"a.b": 0.0, "a": {"b": 1.0}}, 0.0), {}, ValueError, r"expected has two outputs that are called a\.b"),
        ((0.0, 0.0), {"rois": [np.zeros((4, 5))]}, ValueError, r"rois\[0\] must be \(L, 4\), got \(4, 5\)"),
        ((0.0, 0.0), {"rois": [np.zeros((3, 4)), np.zeros(4)]}, ValueError, r"rois\[1\] must be \(L, 4\), got \(4,\)"),
        ((0.0, 0.0), {"levels": (np.zeros(1), np.zeros(1))}, ValueError, "two for each roi, got 1, 1 and no rois"),
        (
            (0.0, 0.0),
            {"levels": (np.zeros(1), np.zeros(2)), "rois": np.zeros((2, 5))},
            ValueError,
            "got 1, 2 and 2 rois",
        ),
        ((0.0, 0.0), {"atol": "1"}, TypeError, "atol must be a number"),
    ],
)
def test_bad_arguments_are_named(inputs, named, error, message):
    with pytest.raises(error, match=message):
        compare(*inputs, **named)


@pytest.mark.parametrize(
    "rois", [np.zeros((3, 5)), np.zeros((3, 4)), np.zeros((1, 3, 4)), [np.zeros((3, 4))], [[0, 0, 0, 0, 0]] * 3]
)
def test_rois_of_every_form(rois):
    comparison = compare(np.ones((3, 2)), np.zeros((3, 2)), rois=rois)
    assert comparison.left_out["output"] == {UNWRITTEN: (0, 1, 2)}
    assert comparison.outputs[0].values == 0


@pytest.mark.parametrize("rois", [np.zeros((0, 5)), []])
def test_no_rois(rois):
    one = np.ones(1)
    assert compare([np.ones((0, 2)), one], [np.ones((0, 2)), one], rois=rois).passed
    assert not compare(np.ones((1, 2)), np.zeros((1, 2)), rois=rois).passed


def test_a_row_for_each_roi_is_told_by_the_first_axes_that_rois_have():
    """Not by any axes of as many values: features of two images may have half as many channels as there are rois."""
    rois = np.zeros((12, 4))
    for shape in [(2, 6, 5), (4, 3), (3, 4)]:
        comparison = compare(np.zeros(shape), np.ones(shape), rois=rois)
        assert comparison.outputs[0].differing == np.zeros(shape).size
    assert compare(1.0, 2.0, rois=rois[:1]).parts_at == "output"
    comparison = compare(np.zeros((2, 6, 5)), np.ones((2, 6, 5)), rois=rois.reshape(2, 6, 4))
    assert comparison.not_compared == ("output",)
    assert compare(np.zeros((12, 5)), np.ones((12, 5)), rois=rois.reshape(2, 6, 4)).not_compared == ("output",)


def test_nothing_on_either_side_is_no_difference():
    assert compare({"a": None, "b": 1.0}, {"a": None, "b": 1.0}).passed


@pytest.mark.parametrize("nothing", [[], {}, None, [[], {}], np.zeros((0, 3), np.float32)], ids=repr)
def test_where_there_is_nothing_to_compare_it_does_not_pass(nothing):
    for one in (nothing, lambda: nothing):
        comparison = compare(one, one)
        assert not comparison.passed
        assert comparison.parts_at is None
        assert str(comparison).startswith("NOTHING COMPARED")


@pytest.mark.needs_mindspore
@pytest.mark.parametrize("shift", [0, 1])
def test_a_loss_is_compared_where_there_is_padding(ms, shift):
    op = ms.ops.ROIAlign(2, 2, 0.5, 2, 1)
    features = np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32)
    rois = np.array([[0, 0, 0, 0, 0], [0, 2, 1, 9, 8]], np.float32)

    def loss(rows):
        return lambda: {"loss": op(ms.Tensor(features), ms.Tensor(rois))[rows].sum(), "number": ms.Tensor(2)}

    defined = compare(loss(slice(1, None)), lambda: {"loss": loss(slice(1, None))()["loss"] + shift, "number": 2})
    assert defined.passed == (shift == 0), defined
    assert defined.parts_at == (None if shift == 0 else "loss")
    assert compare(loss(slice(None)), loss(slice(None))).not_compared == ("loss",)
