"""MultiScaleRoIAlign in MindSpore's graph mode: the levels and the bits of torchvision's module there too."""

import numpy as np
import pytest
import torch
import torchvision
from helpers import assert_same_bits
from pyramids import BOXES, FEATURES, NAMES, SHAPES, in_mindspore, in_torchvision

pytest.importorskip("mindspore")

from ms2torch_roi import MultiScaleRoIAlign


@pytest.mark.parametrize("arguments", [(NAMES, (3, 5), 2), (["2"], 4, 2), (["0", "2"], 4, 1)])
@pytest.mark.usefixtures("graph_mode")
def test_the_output_has_the_bits_of_torchvision(ms, arguments):
    expected = in_torchvision(arguments)
    assert expected.any()
    assert_same_bits(in_mindspore(ms, arguments), expected)


@pytest.mark.usefixtures("graph_mode")
def test_half_precision_and_another_canonical_scale_and_level(ms):
    features = {name: value.astype(np.float16) for name, value in FEATURES.items()}
    boxes = [part.astype(np.float16) for part in BOXES]
    inputs, canonical = ((["1", "2"], 7, 2), features, boxes), {"canonical_scale": 100, "canonical_level": 3}
    assert_same_bits(in_mindspore(ms, *inputs, **canonical), in_torchvision(*inputs, **canonical))


@pytest.mark.usefixtures("graph_mode")
def test_no_boxes(ms):
    boxes = [part[:0] for part in BOXES]
    assert in_mindspore(ms, (NAMES[:2], 7, 2), boxes=boxes).shape == (0, 3, 7, 7)


@pytest.mark.parametrize("names", [NAMES[:2], NAMES[:1]])
@pytest.mark.usefixtures("graph_mode")
def test_no_images_are_refused(ms, names):
    with pytest.raises(ValueError, match="boxes of at least one image"):
        in_mindspore(ms, (names, 7, 2), boxes=[])


@pytest.mark.usefixtures("graph_mode")
def test_maps_of_different_channels_are_refused(ms):
    features = FEATURES | {"1": FEATURES["1"][:, :1]}
    with pytest.raises(RuntimeError, match="same number of channels, got"):
        in_mindspore(ms, (NAMES[:2], 7, 2), features)


def test_the_gradient_in_graph_mode(ms):
    """Of boxes and weights whose sums round to nothing, as MindSpore adds in an order of its own."""
    side = np.array([28, 56, 112, 224], np.float32)
    boxes = np.stack((0 * side + 16, 0 * side + 16, side + 16, side + 16), 1)
    boxes = [np.concatenate((boxes, boxes + 16)), boxes]
    weights = np.random.default_rng(0).integers(-8, 8, (12, 3, 7, 7)).astype(np.float32)
    module = torchvision.ops.MultiScaleRoIAlign(["0", "1"], 7, 2, canonical_scale=112)
    x = {name: torch.from_numpy(FEATURES[name]).requires_grad_() for name in "01"}
    (module(x, [torch.from_numpy(part) for part in boxes], SHAPES) * torch.from_numpy(weights)).sum().backward()
    cell = MultiScaleRoIAlign(["0", "1"], 7, 2, canonical_scale=112)

    @ms.jit
    def loss(fine, coarse, first, second, weights):
        return (cell({"0": fine, "1": coarse}, [first, second], SHAPES) * weights).sum()

    arguments = (FEATURES["0"], FEATURES["1"], *boxes, weights)
    gradients = ms.grad(loss, (0, 1))(*map(ms.Tensor, arguments))
    for name, gradient in zip("01", gradients, strict=True):
        assert gradient.asnumpy().any()
        assert_same_bits(gradient.asnumpy(), x[name].grad.numpy())
