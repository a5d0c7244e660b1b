"""MultiScaleRoIAlign on MindSpore: the levels and the bits of torchvision's module."""

import math

import numpy as np
import pytest
import torch
import torchvision
from helpers import assert_same_bits
from pyramids import BOXES, FEATURES, NAMES, SHAPES, in_mindspore, in_torchvision

from ms2torch_roi import levels

pytest.importorskip("mindspore")

from ms2torch_roi import MultiScaleRoIAlign
from ms2torch_roi.mindspore import extractors


@pytest.mark.parametrize(
    "arguments",
    [
        (NAMES, 7, 2),
        (NAMES, (3, 5), 1),
        (["1", "2"], 4, 2),
        (["0", "2"], 4, 2),  # torchvision takes the second map for the second level, and has none for the third
        (["2"], 4, 2),
        (["3", "0", "pool", "2"], 2, 2),  # in the order of the dict
    ],
)
def test_the_output_has_the_bits_of_torchvision(ms, arguments):
    expected = in_torchvision(arguments)
    assert expected.any()
    assert_same_bits(in_mindspore(ms, arguments), expected)


def test_adaptive_grids(ms):
    boxes = [part[part[:, 0] <= part[:, 2]] for part in BOXES]  # torchvision refuses inverted ones
    assert_same_bits(in_mindspore(ms, (NAMES, 7, 0), boxes=boxes), in_torchvision((NAMES, 7, 0), boxes=boxes))


def test_half_precision(ms):
    features, boxes = {name: value.astype(np.float16) for name, value in FEATURES.items()}, [*BOXES]
    boxes = [part.astype(np.float16) for part in boxes]
    assert_same_bits(in_mindspore(ms, (NAMES, 7, 2), features, boxes), in_torchvision((NAMES, 7, 2), features, boxes))


@pytest.mark.parametrize("canonical", [{"canonical_scale": 112}, {"canonical_scale": 100, "canonical_level": 3}])
def test_another_canonical_scale_and_level(ms, canonical):
    expected = in_torchvision((NAMES, 2, 2), **canonical)
    assert not np.array_equal(expected, in_torchvision((NAMES, 2, 2)))
    assert_same_bits(in_mindspore(ms, (NAMES, 2, 2), **canonical), expected)


@pytest.mark.parametrize("counts", [(0, 0), (0, 3), (1, 0)])
def test_few_boxes(ms, counts):
    boxes = [part[:count] for part, count in zip(BOXES, counts, strict=True)]
    assert_same_bits(in_mindspore(ms, (NAMES, 7, 2), boxes=boxes), in_torchvision((NAMES, 7, 2), boxes=boxes))


def test_every_float_around_a_threshold_is_on_the_level_of_torchvision(ms):
    """Features that tell which level they are."""
    features = {name: np.full_like(feature[:1], i + 1) for i, (name, feature) in enumerate(FEATURES.items())}
    both = np.array(levels.thresholds(levels.TORCHVISION, 2, 4), np.float32)
    areas = (both.view(np.int32).reshape(-1, 1) + np.arange(-64, 65)).astype(np.int32).view(np.float32).ravel()
    boxes = np.stack((0 * areas, 0 * areas, areas / 256, 0 * areas + 256), 1)
    expected = in_torchvision((NAMES, 1, 1), features, [boxes])[:, 0, 0, 0]
    output = in_mindspore(ms, (NAMES, 1, 1), features, [boxes])[:, 0, 0, 0]
    may_differ = np.isin(np.arange(len(boxes)), levels.ambiguous(levels.TORCHVISION, boxes, 4, 2))
    assert may_differ.sum() < 5
    assert len({*expected}) > 1
    assert (output == expected)[~may_differ].all()


def test_the_gradient_has_the_bits_of_torchvision(ms):
    weights = np.random.default_rng(0).standard_normal((97, 3, 7, 7)).astype(np.float32)
    module = torchvision.ops.MultiScaleRoIAlign(NAMES, 7, 2)
    x = {name: torch.from_numpy(feature).requires_grad_() for name, feature in FEATURES.items()}
    (module(x, [torch.from_numpy(part) for part in BOXES], SHAPES) * torch.from_numpy(weights)).sum().backward()
    cell = MultiScaleRoIAlign(NAMES, 7, 2)

    def loss(*features):
        x = dict(zip(FEATURES, features, strict=True))
        return (cell(x, [ms.Tensor(part) for part in BOXES], SHAPES) * ms.Tensor(weights)).sum()

    gradients = ms.grad(loss, (0, 1, 2, 3, 4))(*map(ms.Tensor, FEATURES.values()))
    assert not gradients[4].asnumpy().any()
    for name, gradient in zip(NAMES, gradients, strict=False):
        assert gradient.asnumpy().any()
        assert_same_bits(gradient.asnumpy(), x[name].grad.numpy())


def test_scales_are_inferred_as_torchvision_infers_them():
    for exponent in range(1, 7):
        border = np.float32(2.0 ** -(exponent + 0.5)).view(np.int32)
        for ratio in (border + np.arange(-64, 65)).astype(np.int32).view(np.float32):
            expected = 2 ** float(torch.tensor(float(ratio)).log2().round())
            assert extractors._nearest_power_of_2(float(ratio)) == expected


def test_scales_are_those_of_the_first_call(ms):
    cell, module = MultiScaleRoIAlign(NAMES, 7, 2), torchvision.ops.MultiScaleRoIAlign(NAMES, 7, 2)
    for shapes in (SHAPES, [(512, 640), (512, 640)]):
        x = {name: ms.Tensor(feature) for name, feature in FEATURES.items()}
        output = cell(x, [ms.Tensor(part) for part in BOXES], shapes).asnumpy()
        x = {name: torch.from_numpy(feature) for name, feature in FEATURES.items()}
        assert_same_bits(output, module(x, [torch.from_numpy(part) for part in BOXES], shapes).numpy())
    assert list(cell.scales) == module.scales
    assert math.log2(cell.scales[0]) == -2


@pytest.mark.parametrize("names", [NAMES, ["1"]])
def test_arrays_of_other_libraries_are_pooled_too(ms, names):
    expected = in_mindspore(ms, (names, 7, 2))
    for kind, of in ((np.ndarray, np.asarray), (torch.Tensor, torch.from_numpy)):
        x, boxes = {name: of(feature) for name, feature in FEATURES.items()}, [of(part) for part in BOXES]
        output = MultiScaleRoIAlign(names, 7, 2)(x, boxes, SHAPES)
        assert isinstance(output, kind)
        assert_same_bits(np.asarray(output), expected)
    x = {name: torch.from_numpy(feature).requires_grad_() for name, feature in FEATURES.items()}
    with pytest.raises(RuntimeError, match="MindSpore cannot give the gradient of a torch tensor"):
        MultiScaleRoIAlign(names, 7, 2)(x, boxes, SHAPES)


def test_it_is_written_as_in_torchvision():
    assert repr(MultiScaleRoIAlign(["a"], 7, 2)) == repr(torchvision.ops.MultiScaleRoIAlign(["a"], 7, 2))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x, boxes: (x, boxes, []), ValueError, "image_shapes must hold the"),
        (lambda x, boxes: ({"a": x["0"]}, boxes, SHAPES), IndexError, "x must hold at least one of featmap_names"),
        (lambda x, boxes: (x, boxes[0], SHAPES), TypeError, "boxes must be a list of tensors"),
        (lambda x, boxes: ([*x.values()], boxes, SHAPES), TypeError, "x must be a dict"),
        (lambda x, boxes: (x, [], SHAPES), ValueError, "boxes of at least one image"),
        (lambda x, boxes: (x, [boxes[0][:, :3]], SHAPES), AssertionError, r"boxes\[0\] must have shape \(L, 4\)"),
        (lambda x, boxes: (x, [*boxes, boxes[0]], SHAPES), RuntimeError, "image index 2.0 is out of range"),
        (lambda x, boxes: (x | {"1": x["1"][:, :1]}, boxes, SHAPES), RuntimeError, "same number of channels"),
        (lambda x, boxes: (dict(reversed(x.items())), boxes, SHAPES), ValueError, "in order, the finest first"),
    ],
)
def test_calls_are_refused(ms, call, error, message):
    x = {name: ms.Tensor(feature) for name, feature in FEATURES.items()}
    with pytest.raises(error, match=message):
        MultiScaleRoIAlign(NAMES, 7, 2)(*call(x, [ms.Tensor(part) for part in BOXES]))


def test_arguments_are_refused():
    with pytest.raises(RuntimeError, match="pooled height and width must be at least 1"):
        MultiScaleRoIAlign(NAMES, 0, 2)
