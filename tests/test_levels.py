"""Levels by thresholds, against the formulas of real code in the real frameworks."""

import dataclasses
from pathlib import Path

import levels as tool
import numpy as np
import pytest
from helpers import run_python, without
from level_formulas import FORMULAS, mmdet, model_zoo, torchvision

from ms2torch_roi import levels

# The frameworks' logarithms round as the processor has them: the table is of those with AVX-512.
CPU = Path("/proc/cpuinfo")
pytestmark = pytest.mark.skipif(
    not (CPU.exists() and "avx512f" in CPU.read_text()), reason="the table of levels is of processors with AVX-512"
)

LEVELS = 5  # of every formula here, which takes its four lowest thresholds


def assigned(formula, rois, lowest, count=LEVELS):
    with np.errstate(all="ignore"):
        return levels.assign(np, formula, rois, count, lowest)


def boxes_of(formula, quantities):
    """Boxes whose area, or size, are these floats, in the arithmetic of the formula."""
    quantities = quantities.astype(np.float32)
    rois = np.zeros((len(quantities), 5), np.float32)
    if formula.size == "area":
        rois[:, 3:] = np.stack((quantities, np.ones_like(quantities)), 1)
    else:
        rois[:, 3] = (quantities**2 if formula.size == "sides" else quantities) - 1
    assert (levels.quantity(np, formula, rois) == quantities).all()
    return rois


def floats_around(value, count):
    return (np.float32(value).view(np.int32) + np.arange(-count, count + 1, dtype=np.int32)).view(np.float32)


@pytest.fixture(params=FORMULAS)
def formula(request, ms):
    reference, formula, lowest = FORMULAS[request.param]
    return lambda rois, count=LEVELS: reference(ms, rois, count), formula, lowest


@pytest.mark.needs_mindspore
def test_every_float_around_a_threshold_is_on_its_level_wherever_in_an_array_it_stands(formula):
    reference, formula, lowest = formula
    both = np.array(levels.thresholds(formula, lowest, LEVELS))
    for level, pair in enumerate(both.T, 1):
        rois = boxes_of(formula, np.unique(np.concatenate([floats_around(value, 64) for value in pair])))
        expected = assigned(formula, rois, lowest)
        assert {*expected} == {level - 1, level}
        may_differ = np.isin(np.arange(len(rois)), levels.ambiguous(formula, rois, LEVELS, lowest))
        assert may_differ.sum() < 70
        for shift in (0, 1, 67, 105):  # to stand in blocks, in what remains of them, in another thread's part
            found = np.roll(reference(np.roll(rois, shift, 0)), -shift)
            assert (found == expected)[~may_differ].all()
            assert np.isin(found[may_differ], (level - 1, level)).all()


@pytest.mark.needs_mindspore
@pytest.mark.parametrize("name", [name for name, (_, formula, _) in FORMULAS.items() if formula.framework != "torch"])
def test_ambiguous_boxes_are_on_another_level_of_mindspore_alone_than_in_a_block(ms, name):
    reference, formula, lowest = FORMULAS[name]
    both = np.array(levels.thresholds(formula, lowest, LEVELS), np.float32)
    for pair in both.T[both[0] != both[1]]:
        (roi,) = boxes_of(formula, pair.min(keepdims=True))
        assert levels.ambiguous(formula, roi[None], LEVELS, lowest) == [0]
        in_block, alone = (reference(ms, np.tile(roi, (rows, 1)), LEVELS) for rows in (64, 1))
        assert {*in_block} == {*assigned(formula, roi[None], lowest)}
        assert abs(alone[0] - in_block[0]) == 1


@pytest.mark.needs_mindspore
def test_every_box_of_whole_pixels_is_on_its_level(formula):
    reference, formula, lowest = formula
    width, height = np.meshgrid(np.arange(1, 1024), np.arange(1, 1024))
    rois = np.zeros((width.size, 5), np.float32)
    rois[:, 3:] = np.stack((width.ravel(), height.ravel()), 1)
    different = np.flatnonzero(reference(rois) != assigned(formula, rois, lowest))
    assert np.isin(different, levels.ambiguous(formula, rois, LEVELS, lowest)).all()
    # In blocks none is ambiguous.
    assert len(different) < 8


@pytest.mark.needs_mindspore
def test_the_formula_written_anew_in_torch_puts_boxes_on_another_level(ms):
    """What thresholds are for: a box of 224 x 224 pixels, among many."""
    rois = np.array([[0, 10, 20, 234, 244], [0, 0, 0, 112, 448], [0, 0, 0, 50, 60], [0, 5, 5, 453, 453]] * 16, "f4")
    expected = FORMULAS["mmdet on MindSpore"][0](ms, rois, LEVELS)
    assert (assigned(levels.MMDET_ON_MINDSPORE, rois, 0) == expected).all()
    assert (mmdet(ms, rois, LEVELS) != expected)[:4].tolist() == [True, True, False, True]
    assert levels.ambiguous(levels.MMDET_ON_MINDSPORE, rois[:4], LEVELS).tolist() == [0, 1, 3]


@pytest.mark.needs_mindspore
def test_boxes_without_a_size_are_where_the_framework_puts_them(formula):
    reference, formula, lowest = formula
    nan, huge = np.nan, 1e18
    corners = [
        (5, 5, 5, 5),
        (9, 1, 2, 8),
        (9, 8, 2, 1),
        (5, 5, 4, 4),
        (nan, 1, 2, 3),
        (1, 1, huge, huge),
        (1, 1, 2, nan),
    ]
    rois = np.concatenate((np.zeros((len(corners), 1)), corners), 1).astype(np.float32)
    assert assigned(formula, rois, lowest).tolist() == reference(rois).tolist()


@pytest.mark.needs_mindspore
@pytest.mark.parametrize("count", [1, 2, 4])
def test_the_last_of_any_number_of_levels_takes_all_larger_boxes(formula, count):
    reference, formula, lowest = formula
    rois = np.zeros((300, 5), np.float32)
    rois[:, 3:] = np.random.default_rng(0).uniform(0.5, 2000, (300, 2))
    assert assigned(formula, rois, lowest, count).tolist() == reference(rois, count).tolist()


@pytest.mark.needs_mindspore
@pytest.mark.parametrize("scale", [28, 56, 112, 448])
def test_a_scale_of_twice_the_pixels_has_thresholds_of_twice_the_size(ms, scale):
    formula = levels.MODEL_ZOO.of_scale(scale)
    rois = boxes_of(formula, floats_around(levels.thresholds(formula, 0, 4)[0][0], 64))
    may_differ = np.isin(np.arange(len(rois)), levels.ambiguous(formula, rois, 4))
    assert (assigned(formula, rois, 0, 4) == model_zoo(ms, rois, 4, scale))[~may_differ].all()


def test_thresholds_of_another_scale_are_searched_in_the_framework():
    formula = levels.TORCHVISION.of_scale(100)
    for threshold in levels.thresholds(formula, 2, 4)[1]:  # as torch rounds on this processor
        rois = boxes_of(formula, floats_around(threshold, 64))
        below = floats_around(threshold, 64) < threshold
        assert (np.diff(torchvision(None, rois, 4, 100)) == np.diff(~below)).all()


def test_thresholds_that_are_not_known_need_the_framework():
    code = (
        "from ms2torch_roi import levels\n"
        "print(len(levels.thresholds(levels.TORCHVISION, 2, 4)[0]))\n"
        "levels.thresholds(levels.TORCHVISION.of_scale(100), 2, 4)"
    )
    result = run_python(without("torch") + code)
    assert result.stdout.strip() == "3"
    assert "LevelFormula(framework='torch'" in result.stderr
    assert "are not known here, and to find them torch must be installed" in result.stderr


def test_sides_are_of_mindspore_alone():
    formula = dataclasses.replace(levels.MODEL_ZOO, framework="torch")
    with pytest.raises(ValueError, match="'sides' is a size of MindSpore's"):
        levels.thresholds(formula, 0, 4)


def test_half_precision_boxes_are_decided_in_float32_as_torchvision_does():
    rois = np.zeros((100, 5), np.float16)
    rois[:, 1:] = np.random.default_rng(0).uniform(0, 300, (100, 4))
    assert assigned(levels.TORCHVISION, rois, 2, 4).tolist() == torchvision(None, rois, 4).tolist()


@pytest.mark.needs_mindspore
@pytest.mark.parametrize("name", dict(tool.formulas()))
def test_the_table_is_what_the_frameworks_here_compute(name):
    assert tool.faults(getattr(levels, name), around=8, random=50) == 0


def test_the_tool_sees_a_threshold_that_is_off_by_a_digit(monkeypatch):
    decided, other = levels._THRESHOLDS[levels.MMDET]
    off = decided.replace("0x1.87fff4p+15", "0x1.87fff6p+15")
    monkeypatch.setitem(levels._THRESHOLDS, levels.MMDET, (off, other))
    assert tool.faults(levels.MMDET) == 1  # by the thresholds that decide; the others are as they were
