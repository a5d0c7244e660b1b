"""RoIAlign and roi_align on MindSpore in mixed precision: to_float and auto_mixed_precision, in both modes.

MindSpore's own operator decides which dtype is computed in, and torchvision which values.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from features_and_boxes import BOXES, FEATURES, in_torchvision
from helpers import MIXED_PRECISION, assert_same_bits, run_python

pytestmark = pytest.mark.needs_mindspore


@pytest.fixture(params=["PYNATIVE_MODE", "GRAPH_MODE"])
def mode(ms, request):
    ms.set_context(mode=getattr(ms, request.param))
    yield request.param
    ms.set_context(mode=ms.PYNATIVE_MODE)


# Forward.


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("sampling_ratio", [2, -1])
@pytest.mark.parametrize("depth", [0, 2])
def test_to_float_of_a_cell_or_a_parent_is_torchvision_in_that_dtype(
    ms, ours, cells, mode, depth, sampling_ratio, aligned
):
    arguments = ((3, 4), 0.5, sampling_ratio, aligned)
    for dtype, of_inputs in (("float16", "float32"), ("float32", "float16")):
        cell = ours.RoIAlign(*arguments)
        for _ in range(depth):
            cell = cells.Calls(cell)
        cell.to_float(getattr(ms, dtype))
        features, rois = FEATURES.astype(of_inputs), BOXES.astype(of_inputs)
        expected = in_torchvision(features.astype(dtype), rois.astype(dtype), *arguments)
        assert_same_bits(cell(ms.Tensor(features), ms.Tensor(rois)).asnumpy(), expected)


def test_to_float_of_a_parent_of_the_function_too(ms, cells, mode):
    expected = in_torchvision(FEATURES.astype(np.float16), BOXES.astype(np.float16), (3, 4), 0.5, 2, True)
    for cell in (cells.CallsTheFunction(), cells.CallsTheFunctionOfTheModule()):
        output = cell.to_float(ms.float16)(ms.Tensor(FEATURES), ms.Tensor(BOXES))
        assert_same_bits(output.asnumpy(), expected)


def test_to_float_casts_arrays_and_lists_of_boxes_too(ms, ours):
    boxes = [BOXES[:1, 1:], BOXES[1:2, 1:]]
    arguments = ((3, 4), 0.5, 2, True)
    cell = ours.RoIAlign(*arguments).to_float(ms.float16)
    expected = in_torchvision(FEATURES.astype(np.float16), [part.astype(np.float16) for part in boxes], *arguments)
    assert_same_bits(cell(FEATURES, boxes), expected)
    assert_same_bits(cell(ms.Tensor(FEATURES), [ms.Tensor(part) for part in boxes]).asnumpy(), expected)


def test_to_float_of_bfloat16_is_refused_as_by_mindspores_operator(ms, ours, cells):
    for pool in (ours.RoIAlign(2, 0.5, 2), ms.ops.ROIAlign(2, 2, 0.5)):
        with pytest.raises(TypeError, match="BFloat16"):
            cells.Calls(pool).to_float(ms.bfloat16)(ms.Tensor(FEATURES), ms.Tensor(BOXES))


@pytest.mark.parametrize("level", MIXED_PRECISION)
def test_every_level_computes_what_mindspores_operator_does(ms, ours, cells, mode, level):
    """Of mode 0, which is not aligned, and of boxes that it writes."""
    outputs = []
    for pool in (ms.ops.ROIAlign(3, 4, 0.5, 2, 0), ours.RoIAlign((3, 4), 0.5, 2)):
        ms.set_seed(0)
        model = cells.in_mixed_precision(cells.Backbone(cells.Calls(pool)), level)
        outputs.append(model(ms.Tensor(FEATURES), ms.Tensor(BOXES)).asnumpy())
    assert outputs[0].any()
    assert_same_bits(outputs[1], outputs[0])


def in_autocast(features, rois):
    with torch.autocast("cpu", dtype=torch.float16):
        return torchvision.ops.roi_align(torch.from_numpy(features), rois, (3, 4), 0.5, 2, True)


@pytest.mark.parametrize(("of_features", "of_rois"), [("float16", "float32"), ("float32", "float16")])
def test_two_dtypes_are_torchvisions_under_autocast(ms, ours, mode, of_features, of_rois):
    features, rois = FEATURES.astype(of_features), BOXES.astype(of_rois)
    pool = ours.RoIAlign((3, 4), 0.5, 2, True)
    expected = in_autocast(features, torch.from_numpy(rois)).numpy()
    assert expected.dtype == of_features
    assert_same_bits(pool(ms.Tensor(features), ms.Tensor(rois)).asnumpy(), expected)
    listed = [rois[:1, 1:], FEATURES[0, 0, :2, :4] * 9]
    expected = in_autocast(features, [torch.from_numpy(part) for part in listed]).numpy()
    assert_same_bits(pool(ms.Tensor(features), [ms.Tensor(part) for part in listed]).asnumpy(), expected)


# Gradients and training.


@pytest.mark.parametrize("sampling_ratio", [2, -1])
@pytest.mark.parametrize("aligned", [False, True])
def test_gradient_under_to_float_is_torchvisions_in_that_dtype(ms, ours, cells, mode, sampling_ratio, aligned):
    arguments = ((3, 4), 0.5, sampling_ratio, aligned)
    leaf = torch.from_numpy(FEATURES.copy()).requires_grad_()
    output = torchvision.ops.roi_align(leaf.half(), torch.from_numpy(BOXES).half(), *arguments)
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(0))
    (output.float() * weights).sum().backward()
    cell = cells.Calls(ours.RoIAlign(*arguments)).to_float(ms.float16)
    weights = ms.Tensor(weights.numpy())

    def loss(features, rois):
        return (cell(features, rois).astype(ms.float32) * weights).sum()

    of_features, of_rois = ms.grad(loss, (0, 1))(ms.Tensor(FEATURES), ms.Tensor(BOXES))
    assert (of_features.dtype, of_rois.dtype) == (ms.float32, ms.float32)
    assert not of_rois.asnumpy().any()
    expected = leaf.grad.numpy()
    if mode == "PYNATIVE_MODE":
        assert_same_bits(of_features.asnumpy(), expected)
    else:  # sums of float16 numbers, in an order of its own: see test_mindspore_gradients
        np.testing.assert_allclose(of_features.asnumpy(), expected, rtol=0, atol=0.01 * np.abs(expected).max())


def test_gradient_of_two_dtypes_is_torchvisions_under_autocast(ms, ours, mode):
    leaf = torch.from_numpy(FEATURES).half().requires_grad_()
    with torch.autocast("cpu", dtype=torch.float16):
        torchvision.ops.roi_align(leaf, torch.from_numpy(BOXES), (3, 4), 0.5, 2, True).sum().backward()
    pool = ours.RoIAlign((3, 4), 0.5, 2, True)

    def loss(features, rois):
        return pool(features, rois).sum()

    actual = ms.grad(loss)(ms.Tensor(leaf.detach().numpy()), ms.Tensor(BOXES))
    assert actual.dtype == ms.float16
    if mode == "PYNATIVE_MODE":
        assert_same_bits(actual.asnumpy(), leaf.grad.numpy())
    else:  # both add up in float32, in orders of their own, and round once
        np.testing.assert_allclose(actual.asnumpy(), leaf.grad.numpy(), rtol=2**-10, atol=1e-6)


def loss_of(ms, model):
    def loss(images, rois):
        return (model(images, rois).astype(ms.float32) ** 2).mean()

    return loss


WHOLE_BOXES = np.array([[0, 2, 3, 17, 14], [1, 4, 0, 9, 21], [1, 6, 5, 25, 9]], np.float32)


@pytest.mark.parametrize("level", MIXED_PRECISION)
def test_every_level_trains_as_with_mindspores_operator(ms, ours, cells, mode, level):
    """Of mode 1, whose gradient is right, and which has the same boxes if these end a pixel earlier."""
    runs = []
    for pool, rois in (
        (ms.ops.ROIAlign(3, 4, 0.5, 2), WHOLE_BOXES - np.float32([0, 0, 0, 1, 1])),
        (ours.RoIAlign((3, 4), 0.5, 2), WHOLE_BOXES),
    ):
        ms.set_seed(0)
        model = cells.in_mixed_precision(cells.Model(cells.Calls(pool)).set_train(), level)
        optimizer = ms.nn.SGD(model.trainable_params(), 0.1)

        step = ms.value_and_grad(loss_of(ms, model), None, optimizer.parameters)
        losses = []
        for _ in range(3):
            loss, gradients = step(ms.Tensor(FEATURES), ms.Tensor(rois))
            optimizer(gradients)
            losses.append(float(loss))
        runs.append((losses, [gradient.asnumpy() for gradient in gradients]))
    (expected_losses, expected), (losses, actual) = runs
    assert losses[0] == expected_losses[0]
    assert losses[0] > losses[-1] > 0
    # MindSpore adds gradients up in an order that changes from run to run, here in float16.
    np.testing.assert_allclose(losses, expected_losses, rtol=2e-3)
    for gradient, of_theirs in zip(actual, expected, strict=True):
        np.testing.assert_allclose(gradient, of_theirs, rtol=0, atol=5e-3 * np.abs(of_theirs).max())


# O1 copies the source of what a model calls.


@pytest.mark.parametrize("name", ["Calls", "CallsTheFunction", "CallsTheFunctionOfTheModule", "CallsOneOfAList"])
def test_o1_leaves_the_source_of_this_package_alone(ms, ours, cells, mode, name):
    expected = in_torchvision(FEATURES, BOXES, (3, 4), 0.5, 2, True)
    pool = [ours.RoIAlign((3, 4), 0.5, 2, True)] if name == "Calls" else []
    for _ in range(2):
        model = ms.amp.auto_mixed_precision(getattr(cells, name)(*pool), "O1")
        assert type(model) is not getattr(cells, name)
        assert_same_bits(model(ms.Tensor(FEATURES), ms.Tensor(BOXES)).asnumpy(), expected)


# Where it copies source from, it makes importable: that would be our packages torch and mindspore.
OF_O1 = """
import importlib.util
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import mindspore
import mixed_precision_cells as cells
import ms2torch_roi
from ms2torch_roi.mindspore import RoIAlign

pool = RoIAlign((3, 4), 0.5, 2, True)
ours = Path(ms2torch_roi.__file__).parent
models = [cells.CallsTheFunction(), cells.CallsTheFunctionOfTheModule(), cells.CallsOneOfAList()]
for model in (cells.Calls(pool), *models):
    assert type(mindspore.amp.auto_mixed_precision(model, "O1")) is not type(model)
    assert not [path for path in sys.path if Path(path) == ours or ours in Path(path).parents], sys.path

for name in ("mindspore", "torch"):
    for loaded in [module for module in sys.modules if module.split(".")[0] == name]:
        del sys.modules[loaded]
    spec = importlib.util.find_spec(name)
    assert ours not in Path(spec.origin).parents, spec
"""


def test_o1_does_not_put_packages_of_ours_in_place_of_torch_and_mindspore(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run_python(OF_O1, str(Path(__file__).parent))
    assert result.returncode == 0, result.stderr
