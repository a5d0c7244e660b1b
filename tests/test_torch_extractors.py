"""SingleRoIExtractor on torch: the bits of the extractors that projects have on MindSpore."""

import types

import numpy as np
import pytest
import torch
from helpers import assert_same_bits

from ms2torch_roi import SingleRoIExtractor, levels
from ms2torch_roi.torch.torchvision import XP

STRIDES = [4, 8, 16, 32]
ROI_LAYER = {"type": "RoIAlign", "out_size": 7, "sample_num": 2, "mask_out_size": 14}
CHANNELS = 5
RNG = np.random.default_rng(0)
FEATURES = [RNG.standard_normal((2, CHANNELS, 416 // s, 640 // s)).astype(np.float32) for s in STRIDES]


def some_rois(count=128):
    """Boxes of all levels, some beyond the image, some of whole pixels and on a border between levels."""
    rng = np.random.default_rng(1)
    centre, size = rng.uniform(0, (640, 416), (count, 2)), np.exp(rng.uniform(np.log(9), np.log(1500), (count, 2)))
    rois = np.concatenate((rng.integers(0, 2, (count, 1)), centre - size / 2, centre + size / 2), 1)
    rois[:, 1:3] = np.where(np.abs(rois[:, 1:3]) < 0.01, 1, rois[:, 1:3])  # MindSpore leaves such rows undefined
    rois[::8] = rois[::8].round()
    rois[::16, 1:3] = rois[::16, 1:3].clip(8, 150)
    rois[::16, 3:] = rois[::16, 1:3] + (224, 224)
    rois[8::16, 3:] = rois[8::16, 1:3] + (111, 111)
    return rois.astype(np.float32)


ROIS = some_rois()


def tensors(arrays):
    return [torch.from_numpy(array) for array in arrays]


def in_torch(extractor, *inputs, **named):
    return extractor(*(tensors(i) if isinstance(i, list) else torch.from_numpy(i) for i in inputs), **named).numpy()


@pytest.fixture(scope="module")
def cells(ms):
    """Imported when MindSpore is there."""
    import mindspore_extractors

    return mindspore_extractors


def in_mindspore(ms, cell, *inputs):
    as_tensors = ([ms.Tensor(part) for part in i] if isinstance(i, list) else ms.Tensor(i) for i in inputs)
    return cell(*as_tensors).asnumpy()


@pytest.mark.needs_mindspore
@pytest.mark.parametrize("graph", [False, True])
def test_the_extractor_of_faster_rcnn(ms, cells, graph):
    arguments = (ROI_LAYER, CHANNELS, STRIDES, 2, 56)
    original = cells.ModelZoo({"roi_sample_num": len(ROIS) // 2, "mode": 1}, *arguments)
    port = SingleRoIExtractor(*arguments)
    assert torch.bincount(port.map_roi_levels(torch.from_numpy(ROIS))).min() > 3
    ms.set_context(mode=ms.GRAPH_MODE if graph else ms.PYNATIVE_MODE)
    try:
        expected = in_mindspore(ms, original, ROIS, *FEATURES)
    finally:
        ms.set_context(mode=ms.PYNATIVE_MODE)
    assert_same_bits(in_torch(port, ROIS, *FEATURES), expected)


@pytest.mark.needs_mindspore
def test_the_extractor_of_the_mask_head_of_mask_rcnn(ms, cells):
    arguments = (CHANNELS, STRIDES, 2, 56, True)
    original = cells.ModelZoo({"roi_sample_num": len(ROIS) // 2, "mode": 0}, ROI_LAYER, *arguments)
    port = SingleRoIExtractor(types.SimpleNamespace(**ROI_LAYER, roi_end_mode=0), *arguments)
    assert_same_bits(in_torch(port, ROIS, *FEATURES), in_mindspore(ms, original, ROIS, *FEATURES))


@pytest.mark.needs_mindspore
@pytest.mark.parametrize(
    ("name", "formula"),
    [
        ("QueryInst", levels.QUERYINST),
        ("mmdet", levels.MMDET_ON_MINDSPORE),
    ],
)
def test_the_extractors_of_queryinst_and_of_ports_of_mmdet(ms, cells, name, formula):
    arguments = (ROI_LAYER, CHANNELS, STRIDES)
    original = cells.OfLevels(*arguments, formula=cells.FORMULAS_OF_PORTS[name])
    port = SingleRoIExtractor(*arguments, formula=formula)
    assert_same_bits(in_torch(port, FEATURES, ROIS), in_mindspore(ms, original, FEATURES, ROIS))


@pytest.mark.needs_mindspore
def test_a_formula_written_anew_pools_boxes_on_another_level(ms, cells):
    """Boxes of 224 x 224 pixels, which torch's log2 puts on the third level: every value is another."""
    original = cells.OfLevels(ROI_LAYER, CHANNELS, STRIDES, formula=cells.FORMULAS_OF_PORTS["mmdet"])
    expected = in_mindspore(ms, original, FEATURES, ROIS)
    in_torchs_formula = SingleRoIExtractor(ROI_LAYER, CHANNELS, STRIDES, formula=levels.MMDET)
    different = (in_torch(in_torchs_formula, FEATURES, ROIS) != expected).any((1, 2, 3))
    assert np.flatnonzero(different).tolist() == list(range(0, len(ROIS), 16))
    port = SingleRoIExtractor(ROI_LAYER, CHANNELS, STRIDES, formula=levels.MMDET_ON_MINDSPORE)
    assert port.ambiguous(torch.from_numpy(ROIS)) == list(range(0, len(ROIS), 16))


@pytest.mark.needs_mindspore
@pytest.mark.parametrize(
    ("name", "formula", "finest_scale", "sample_num"),
    [
        ("mindspore-lab", levels.MINDSPORE_LAB, 56, 2),
        ("LayoutLMv3", levels.DETECTRON2_ON_MINDSPORE, 224, 0),
    ],
)
def test_the_extractors_of_mindspore_lab_and_layoutlm_with_invalid_rois(
    ms, cells, name, formula, finest_scale, sample_num
):
    original = cells.WithMask(
        7, STRIDES, sample_num, finest_scale, formula=cells.FORMULAS_OF_PORTS.get(name, cells.mindspore_lab)
    )
    roi_layer = {"out_size": 7, "sample_num": sample_num, "roi_end_mode": 0}
    port = SingleRoIExtractor(roi_layer, CHANNELS, STRIDES, finest_scale=finest_scale, formula=formula)
    boxes, mask = ROIS[:, 1:].reshape(2, -1, 4), np.arange(len(ROIS)) % 4 > 0
    expected = in_mindspore(ms, original, FEATURES, boxes, mask.reshape(2, -1))
    rois = np.concatenate((np.repeat([[0], [1]], len(ROIS) // 2, 0), ROIS[:, 1:]), 1).astype(np.float32)
    output = in_torch(port, FEATURES, rois, mask=torch.from_numpy(mask))
    assert not output[~mask].any()
    assert_same_bits(output.reshape(expected.shape), expected)


def exact_rois():
    """Boxes whose gradient is a sum without rounding, so that its order, which MindSpore varies, does not matter."""
    rois = [
        (image, 32 * column, 64, 32 * column + side - 1, 63 + side)
        for image in (0, 1)
        for column in range(4)
        for side in (56, 112, 224, 448)
    ]
    return np.array(rois, np.float32)


@pytest.mark.needs_mindspore
@pytest.mark.parametrize("mode", [0, 1])
def test_the_gradient_is_that_of_mindspore(ms, cells, mode):
    rois = exact_rois()
    rois[:, 1:3] += 32 * (rois[:, 1:2] == 0)
    arguments = (ROI_LAYER, CHANNELS, STRIDES, 2)
    original = cells.ModelZoo({"roi_sample_num": len(rois) // 2, "mode": mode}, *arguments)
    weights = np.random.default_rng(0).integers(-8, 8, (len(rois), CHANNELS, 7, 7)).astype(np.float32)
    differentiate = ms.grad(
        lambda *features: (original(ms.Tensor(rois), *features) * ms.Tensor(weights)).sum(), (0, 1, 2, 3)
    )
    expected = [gradient.asnumpy() for gradient in differentiate(*map(ms.Tensor, FEATURES))]
    roi_layer = {**ROI_LAYER, "roi_end_mode": mode}
    port = SingleRoIExtractor(roi_layer, CHANNELS, STRIDES, backward_roi_end_mode=1)
    features = [feature.requires_grad_() for feature in tensors(FEATURES)]
    port(torch.from_numpy(rois), *features).backward(torch.from_numpy(weights))
    for feature, gradient in zip(features, expected, strict=True):
        assert gradient.any()
        assert_same_bits(feature.grad.numpy(), gradient)


def on_all_levels(extractor, rois, features, level):
    """Every roi pooled on all levels, and one selected."""
    result = torch.zeros(())
    for number, (pool, of_level) in enumerate(zip(extractor.roi_layers, features, strict=True)):
        result = torch.where((level == number)[:, None, None, None], pool(of_level, rois), result)
    return result


PORT = SingleRoIExtractor(ROI_LAYER, CHANNELS, STRIDES)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("sample_num", [2, 0])
def test_pooling_on_one_level_is_pooling_on_all_and_selecting(dtype, sample_num):
    port = SingleRoIExtractor({"out_size": 3, "sample_num": sample_num}, CHANNELS, STRIDES)
    rois, features = torch.from_numpy(ROIS).to(dtype), [feature.to(dtype) for feature in tensors(FEATURES)]
    expected = on_all_levels(port, rois, features, port.map_roi_levels(rois))
    assert port(rois, *features).dtype == dtype
    assert torch.equal(port(rois, features).nan_to_num(7), expected.nan_to_num(7))


def test_gradients_of_pooling_on_one_level_are_those_of_all():
    both = []
    for extract in (PORT, lambda rois, *features: on_all_levels(PORT, rois, features, PORT.map_roi_levels(rois))):
        features = [feature.requires_grad_() for feature in tensors(FEATURES)]
        output = extract(torch.from_numpy(ROIS), *features)
        output.backward(torch.randn(output.shape, generator=torch.Generator().manual_seed(0)))
        both.append([feature.grad for feature in features])
    assert all(torch.equal(own, of_all) for own, of_all in zip(*both, strict=True))


def test_a_compiled_extractor_has_the_bits_of_an_eager_one():
    compiled = torch.compile(PORT, fullgraph=True, backend="aot_eager", dynamic=True)
    for count in (128, 50, 0):
        rois, features = torch.from_numpy(ROIS[:count]), tensors(FEATURES)
        assert torch.equal(compiled(rois, *features), PORT(rois, *features))


def test_the_gradient_of_a_compiled_extractor():
    both = []
    for extract in (PORT, torch.compile(PORT, fullgraph=True, backend="aot_eager")):
        features = [feature.requires_grad_() for feature in tensors(FEATURES)]
        extract(torch.from_numpy(ROIS), *features).square().sum().backward()
        both.append([feature.grad for feature in features])
    assert all(torch.equal(*pair) for pair in zip(*both, strict=True))


def test_an_exported_extractor_takes_any_number_of_rois():
    rows = torch.export.Dim("rows", min=2, max=4096)
    rois, features = torch.from_numpy(ROIS), tensors(FEATURES)
    program = torch.export.export(PORT, (rois, *features), dynamic_shapes=({0: rows}, ((None,) * 4)))
    output, expected = program.module()(rois[:50], *features), PORT(rois[:50], *features)
    # A program of torchvision's operator: ROIAlign says how exact it is in mode 1.
    torch.testing.assert_close(output, expected, rtol=0, atol=2**-19 * 640 / 4 * 5)


def test_torch_func_has_the_bits_of_eager():
    rois, features = torch.from_numpy(ROIS), tensors(FEATURES)
    batch = torch.stack((rois, rois.roll(3, 0)))
    output = torch.func.vmap(lambda part: PORT(part, *features))(batch)
    assert torch.equal(output, torch.stack([PORT(part, *features) for part in batch]))


def test_sides_are_rounded_as_numpy_and_mindspore_round_them():
    """A sqrt of float32 in torch is not exact."""
    corners = np.random.default_rng(0).uniform(0, 600, (100_000, 2, 2)).astype(np.float32)
    rois = np.concatenate((corners.min(1), corners.max(1)), 1)
    width, height = (rois[:, 2:] - rois[:, :2] + 1).T
    expected = np.sqrt(width) * np.sqrt(height)
    assert_same_bits(levels.quantity(XP, levels.MODEL_ZOO, torch.from_numpy(rois)).numpy(), expected)


def test_a_roi_on_no_level_pools_to_0():
    """An inverted one, by torch's formulas."""
    port = SingleRoIExtractor(ROI_LAYER, CHANNELS, STRIDES, formula=levels.MMDET)
    rois = torch.tensor([[0, 90, 20, 30, 60], [0, 30, 20, 90, 60.0]])
    assert port.map_roi_levels(rois).tolist() == [-1, 0]
    assert port(rois, *tensors(FEATURES)).flatten(1).any(1).tolist() == [False, True]


def test_a_bad_index_names_its_row():
    rois = torch.from_numpy(ROIS).clone()
    rois[77, 0] = 2
    with pytest.raises(RuntimeError, match=r"rois row 77: image index 2.0 is out of range, allowed is \[0, 1\]"):
        PORT(rois, *tensors(FEATURES))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (({"out_size": 7}, 5, STRIDES), TypeError, "roi_layer must be a mapping, or an object, with sample_num"),
        ((types.SimpleNamespace(rpn_max_num=9), ROI_LAYER, 5), TypeError, "The config .* is left out here"),
        (({"out_size": 7.0, "sample_num": 2}, 5, STRIDES), TypeError, "pooled_height must be of type int, got 7.0"),
        ((ROI_LAYER, 5, []), ValueError, "featmap_strides must hold at least one stride"),
    ],
)
def test_arguments_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        SingleRoIExtractor(*arguments)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda f, r: PORT(r, *f[:3]), ValueError, "there must be 4 feature maps, one for each stride, got 3"),
        (lambda f, r: PORT(r.numpy(), *f), TypeError, "rois must be a torch tensor"),
        (lambda f, r: PORT(r[:, 1:], *f), ValueError, r"rois must have shape \(K, 5\)"),
        (lambda f, r: PORT(r, *f[:3], f[3][:, :2]), ValueError, r"features\[3\] must have 5 channels"),
        (lambda f, r: PORT(r, *f[:3], f[3].half()), ValueError, r"features\[3\] .* got 5 and torch.float16"),
        (lambda f, r: PORT(r, f, mask=torch.ones(3)), ValueError, "mask must have a value for each of 128 rois"),
    ],
)
def test_calls_are_refused(call, error, message):
    with pytest.raises(error, match=message):
        call(tensors(FEATURES), torch.from_numpy(ROIS))
