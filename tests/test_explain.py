"""The numbers of ``ms2torch-roi explain`` are where both frameworks sample, and its call is MindSpore's result."""

import numpy as np
import pytest
import torch
from helpers import assert_same_bits
from torchvision.ops import roi_align

from ms2torch_roi import ROIAlign
from ms2torch_roi.explain import explain
from ms2torch_roi.parity import cases, operators

HEIGHT, WIDTH = 11, 13


def _with_mindspore(features, explanation):
    """Pool the box with the original and return (C, pooled_height, pooled_width)."""
    mode = int(explanation.mindspore.setting[-1])
    case = cases.MindSporeCase(
        name="explained",
        category="explained",
        source="",
        features=features,
        rois=explanation.roi[None],
        pooled_height=explanation.pooled[0],
        pooled_width=explanation.pooled[1],
        spatial_scale=explanation.spatial_scale,
        sample_num=explanation.sample_num,
        roi_end_mode=mode,
    )
    return operators.mindspore(case)[0]


def _with_torchvision(features, explanation, aligned):
    boxes = torch.from_numpy(explanation.roi[None])
    arguments = explanation.pooled, explanation.spatial_scale, explanation.sample_num, aligned
    return roi_align(torch.from_numpy(features), boxes, *arguments)[0].numpy()


ORIGINALS = [
    pytest.param(
        lambda explained: explained.mindspore, _with_mindspore, id="MindSpore", marks=pytest.mark.needs_mindspore
    ),
    *(
        pytest.param(
            lambda explained, aligned=aligned: explained.torchvision[aligned],
            lambda features, explained, aligned=aligned: _with_torchvision(features, explained, aligned),
            id=f"torchvision-aligned={aligned}",
        )
        for aligned in (False, True)
    ),
]


def _explained(count, seed, low, high):
    """Explain random boxes between two coordinates in feature cells, one in four of less than a cell."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        scale = float(rng.choice((1.0, 0.25, 0.3)))
        small = rng.random() < 0.25
        start = rng.uniform(low, high - 1, 2)
        end = start + rng.uniform(0, 1, 2) if small else rng.uniform(start, high)
        index = rng.choice((0, 1, 1.3, 1.8))
        roi = (index, *(start / scale), *(end / scale))
        pooled = (int(length) for length in rng.integers(1, 4, 2))
        mode = int(rng.integers(2))
        yield explain(roi, *pooled, scale, int(rng.choice((0, 1, 2, 3))), mode, size=(HEIGHT, WIDTH))


@pytest.mark.parametrize(("placement_of", "pool"), ORIGINALS)
def test_positions_are_where_the_framework_samples(placement_of, pool):
    # One channel for each column and row of cells, 1 there, times 1 + image: a bin is the average of the weights that
    # its samples have on that column or row, which are between 1 and 0 in the cells around a sample.
    columns = np.broadcast_to(np.eye(WIDTH)[:, None, :], (WIDTH, HEIGHT, WIDTH))
    rows = np.broadcast_to(np.eye(HEIGHT)[:, :, None], (HEIGHT, HEIGHT, WIDTH))
    cells = np.concatenate((columns, rows))
    features = np.stack((cells, 2 * cells, 3 * cells)).astype(np.float32)
    checked = 0
    for explained in _explained(80, 1, 0.5, 9.5):
        placement = placement_of(explained)
        if placement.problem is not None:
            assert explained.sample_num == 0
            continue
        along_x, along_y = (
            np.maximum(1 - np.abs(np.arange(length)[:, None, None] - at.astype(np.float64)), 0).mean(2)
            for at, length in zip(placement.positions, (WIDTH, HEIGHT), strict=True)
        )
        height, width = explained.pooled
        expected = (1 + placement.index) * np.concatenate(
            (
                np.broadcast_to(along_x[:, None, :], (WIDTH, height, width)),
                np.broadcast_to(along_y[:, :, None], (HEIGHT, height, width)),
            )
        )
        # Rounding alone: coordinates below 16 and weights in float32, of up to 121 samples.
        np.testing.assert_allclose(pool(features, explained), expected, rtol=0, atol=2e-5)
        checked += 1
    assert checked > 55


@pytest.mark.parametrize(("placement_of", "pool"), ORIGINALS)
def test_samples_said_to_be_outside_add_nothing_in_the_framework(placement_of, pool):
    ones = np.ones((3, 1, HEIGHT, WIDTH), np.float32)
    some = 0
    for explained in _explained(60, 2, -5, 18):
        placement = placement_of(explained)
        if placement.problem is None:
            every = placement.grid.prod() * explained.pooled[0] * explained.pooled[1]
            inside = pool(ones, explained).sum() * placement.count
            assert round(float(inside)) == every - placement.outside
            some += 0 < placement.outside < every
    assert some > 10


def test_edges_and_sizes_are_those_of_the_issues_example():
    explained = explain((0, 0.2, 0.3, 0.2, 0.3), 3, 3, 0.25, 2, 1)
    mindspore, (unaligned, aligned) = explained.mindspore, explained.torchvision
    assert mindspore.start.tolist() == [np.float32(0.05), np.float32(0.075)]
    assert mindspore.end.tolist() == [np.float32(0.3), np.float32(0.325)]
    assert mindspore.size.tolist() == mindspore.used_size.tolist()
    assert unaligned.end.tolist() == unaligned.start.tolist() == mindspore.start.tolist()
    assert (unaligned.size.tolist(), unaligned.used_size.tolist()) == ([0, 0], [1, 1])
    assert unaligned.bin.tolist() == [np.float32(1 / 3)] * 2
    assert aligned.start.tolist() == [np.float32(-0.45), np.float32(-0.425)]
    assert aligned.used_size.tolist() == [0, 0]


def test_mode_0_shows_the_size_before_the_box_is_enlarged():
    mindspore = explain((0, 4, 4, 6, 20), 2, 2, 0.25, 2, 0).mindspore
    assert (mindspore.start.tolist(), mindspore.end.tolist()) == ([1, 1], [1.5, 5])
    assert (mindspore.size.tolist(), mindspore.used_size.tolist()) == ([0.5, 4], [1, 4])


def _explained_rows(seeds, rows_of_a_case):
    for number in seeds:
        case = cases.random_case(5, number)
        if case.features.dtype != case.rois.dtype:
            continue
        expected = operators.port(case)
        for row, roi in enumerate(case.rois[:rows_of_a_case]):
            explained = explain(roi, **case.arguments, dtype=case.dtype.name, size=case.features.shape[2:])
            np.testing.assert_array_equal(explained.roi, roi)
            yield case, row, explained, expected[row]


def _call(explained, features):
    names = {"torch": torch, "roi_align": roi_align, "features": torch.from_numpy(features)}
    boxes, call = explained.call.splitlines()
    exec(boxes, names)
    return eval(call, names)[0].numpy()


def test_the_printed_call_returns_the_bits_of_the_port():
    calls, without_call, small = {}, {}, 0
    for case, _, explained, expected in _explained_rows(range(200), 12):
        if explained.call is None:
            without_call.setdefault(explained.mindspore.problem, []).append((case, explained, expected))
        else:
            assert_same_bits(_call(explained, case.features), expected)
            kind = (case.dtype.name, case.roi_end_mode, case.sample_num > 0, explained.remark)
            calls[kind] = calls.get(kind, 0) + 1

    for dtype in ("float16", "float32"):
        assert calls[dtype, 0, True, "the rois as they are"] > 50
        assert calls[dtype, 1, True, "the rois with x2 + 1, y2 + 1"] > 50
        assert calls[dtype, 1, True, "the box in feature cells, plus the 0.5 that aligned=True takes off"] > 5
        assert calls[dtype, 0, False, "the rois as they are"] > 5
    assert any("the index that MindSpore rounds to" in kind[-1] for kind in calls)
    for _, explained, expected in without_call["never written"]:
        assert not expected.any()
        assert (np.abs(explained.roi[[1, 3]]) < 0.001).all()
    assert all(np.isnan(expected).all() for *_, expected in without_call["NaN (no samples)"])
    assert not any(expected.any() for *_, expected in without_call["0 (no samples)"])
    assert not any(expected.any() for *_, expected in without_call["0 (not finite)"])
    for case, explained, _ in without_call[None]:
        x, y = explained.mindspore.grid.tolist()
        if case.sample_num > 0:
            # Boxes for which adding 0.5 and taking it off again is not exact; all others have a call.
            assert case.roi_end_mode == 1
            edges = np.stack((explained.mindspore.start, explained.mindspore.end))
            assert (edges + edges.dtype.type(0.5) - edges.dtype.type(0.5) != edges).any()
            assert (explained.mindspore.size < 1).any()
            small += 1
        else:
            assert x != y
            assert f"A bin has {x} x {y} samples" in explained.remark
    assert small > 20


@pytest.mark.needs_mindspore
def test_the_printed_call_returns_the_bits_of_mindspore():
    results, called = {}, 0
    for case, row, explained, _ in _explained_rows(range(300, 340), 20):
        if explained.call is not None:
            if case.name not in results:
                results[case.name] = operators.mindspore(case)
            assert_same_bits(_call(explained, case.features), results[case.name][row])
            called += 1
    assert called > 200


@pytest.mark.needs_mindspore
@pytest.mark.parametrize(
    ("roi", "sample_num", "value"),
    [((0, 1, 1, 2, 9), 0, np.nan), ((0, 9, 1, 3, 9), 0, 0), ((0, np.nan, 1, 3, 9), 2, 0), ((0, 1, 1, 9, np.inf), 2, 0)],
)
def test_what_mindspore_returns_where_there_is_no_average(roi, sample_num, value):
    explained = explain(roi, 4, 3, 1.0, sample_num)
    assert explained.mindspore.problem.split()[0] == {0: "0"}.get(value, "NaN")
    expected = np.full((1, 4, 3), value, np.float32)
    np.testing.assert_array_equal(_with_mindspore(np.ones((1, 1, 12, 12), np.float32), explained), expected)
    module = ROIAlign(4, 3, 1.0, sample_num)
    output = module(torch.ones(1, 1, 12, 12), torch.tensor([roi], dtype=torch.float32))[0].numpy()
    np.testing.assert_array_equal(output, expected)


def test_what_torchvision_does_where_there_is_no_average():
    features = np.ones((1, 1, 12, 12), np.float32)
    refused = explain((0, 9, 1, 3, 9), 2, 2, 1.0, 0)
    assert [placement.problem for placement in refused.torchvision] == [None, "refused: negative"]
    assert refused.torchvision[1].grid.tolist() == [-3, 4]
    with pytest.raises(RuntimeError):
        _with_torchvision(features, refused, aligned=True)
    empty = explain((0, 9, 9, 3, 3), 2, 2, 1.0, 0)
    assert empty.torchvision[1].problem == "0 (no samples)"
    assert not _with_torchvision(features, empty, aligned=True).any()
    negative = explain((-1, 1, 1, 9, 9), 2, 2, 1.0)
    assert [placement.problem for placement in negative.placements] == ["index refused"] * 3
    with pytest.raises(RuntimeError):
        _with_torchvision(features, negative, aligned=False)
    assert explain((0, np.nan, 1, 3, 9), 2, 2, 1.0).torchvision[0].problem == "undefined, may crash"


def test_each_library_reads_the_index_in_its_own_way():
    explained = explain((1.7, 1, 1, 9, 9), 2, 2, 0.5)
    assert [placement.index for placement in explained.placements] == [2, 1, 1]
    assert explained.call.startswith("boxes = torch.tensor([[2.0, 1.0, 1.0, 10.0, 10.0]])\n")


@pytest.mark.parametrize(("placement_of", "pool"), ORIGINALS)
def test_float16_borders_are_those_of_the_library(placement_of, pool):
    explained = explain((0, 2050, 1, 2054, 5), 1, 1, 1.0, 1, 0, dtype="float16", size=(8, 2051))
    placement = placement_of(explained)
    ones = np.ones((1, 1, 8, 2051), np.float16)
    assert pool(ones, explained).tolist() == [[[1 - placement.outside]]]
    assert explained.mindspore.outside == 0
    assert explained.torchvision[0].outside == 1
    assert explained.call is None
    assert "The libraries round features so large" in explained.remark


def test_a_box_of_too_many_samples_is_explained_without_their_positions():
    explained = explain((0, 1, 1, 1e9, 1e9), 1, 1, 1.0, 0)
    assert [placement.problem for placement in explained.placements] == ["too many samples"] * 3
    assert explained.mindspore.grid.tolist() == [1_000_000_000] * 2
    assert explained.mindspore.positions is None
    assert explained.remark.endswith("ms2torch_roi.ROIAlign refuses them.")
    with pytest.raises(RuntimeError, match="adaptive grids, the largest of row 0"):
        ROIAlign(1, 1, 1.0, 0)(torch.ones(1, 1, 4, 4), torch.tensor([[0, 1, 1, 1e9, 1e9]]))


def test_an_adaptive_grid_beyond_torchvisions_memory_has_no_call():
    explained = explain((0, 1, 1, 9001, 9001), 2, 2, 1.0, 0)
    assert explained.mindspore.grid.tolist() == [4500, 4500]
    assert explained.call is None
    assert "a table of 81,000,000 samples" in explained.remark


def test_float16_numbers_in_a_call_mean_the_same_to_torch():
    every = np.arange(2**16, dtype=np.uint16).view(np.float16)
    every = every[np.isfinite(every)]
    again = torch.tensor([float(str(number)) for number in every], dtype=torch.float16)
    np.testing.assert_array_equal(again.numpy(), every)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (((0, 1, 1, 9), 2, 2, 1.0), ValueError, "roi must be 5 numbers"),
        (((0, 1, 1, 9, 9), 2, 0, 1.0), RuntimeError, "pooled height and width must be at least 1, got 2 and 0"),
        (((0, 1, 1, 9, 9), 2, 2, 1.0, 2, 2), ValueError, "roi_end_mode must be 0 or 1, got 2"),
        (((0, 1, 1, 9, 9), 2, 2, 1), TypeError, "spatial_scale must be of type float"),
    ],
)
def test_arguments_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        explain(*arguments)


def test_dtype_and_size_are_refused():
    with pytest.raises(ValueError, match="dtype must be float16 or float32, got 'int8'"):
        explain((0, 1, 1, 9, 9), 2, 2, 1.0, dtype="int8")
    with pytest.raises(ValueError, match="size must be a height and a width of at least 1"):
        explain((0, 1, 1, 9, 9), 2, 2, 1.0, size=(4, 0))
