"""What MAPPING.md says about the two frameworks themselves, asked of the installed versions.

A fault that a newer version no longer has is skipped with a reason: then MAPPING.md wants an update.
"""

import signal

import numpy as np
import pytest
import torch
import torchvision
from helpers import assert_same_bits, run_python

from ms2torch_roi import ROIAlign
from ms2torch_roi.parity import edges, operators
from ms2torch_roi.parity.verdicts import same_bits

FEATURES = np.random.default_rng(0).standard_normal((2, 3, 11, 14)).astype(np.float32)
ROIS = np.array([[1, 2, 3, 17, 14], [0, 6, 6, 7.2, 6.8], [0, -4, 2, 9, 30]], np.float32)


def _mindspore_operator(*arguments):
    operator = operators.import_mindspore().ops.ROIAlign(*arguments)
    operator.add_prim_attr("arguments", repr(arguments))
    return operator


@pytest.mark.needs_mindspore
def test_mindspore_leaves_what_was_in_memory_in_rows_near_zero():
    ms = operators.import_mindspore()
    operator = _mindspore_operator(4, 4, 1.0)
    seen = []
    for value in range(7, 17):
        # Of the size of the output, computed and freed just before.
        (ms.Tensor(np.full((64, 8, 4, 4), value, np.float32)) * 1.0).asnumpy()
        output = operator(ms.Tensor(np.ones((1, 8, 16, 16), np.float32)), ms.Tensor(np.zeros((64, 5), np.float32)))
        seen.append(float(output.asnumpy().max()))
    if max(seen) <= 1:
        pytest.skip(f"MindSpore gave {set(seen)}, which features of ones allow")
    assert max(seen) in range(7, 17)


@pytest.mark.needs_mindspore
def test_mindspore_keeps_subnormal_float32_in_some_calls_and_flushes_it_in_others():
    case = edges.edge_case("subnormal features, float32")
    exact = operators.reference(case)
    assert 0 < np.abs(exact).max() < np.finfo(np.float32).tiny
    results = [operators.mindspore(case) for _ in range(12)]
    for result in results:
        assert (same_bits(result, exact) | (result == 0)).all()
    if all(result.any() for result in results):
        pytest.skip("MindSpore kept them in 12 calls")


@pytest.mark.needs_mindspore
def test_mindspores_gradient_of_mode_0_is_that_of_mode_1():
    ms = operators.import_mindspore()
    weights = np.random.default_rng(1).standard_normal((3, 3, 2, 3)).astype(np.float32)

    def gradient_in_mindspore(mode):
        operator = _mindspore_operator(2, 3, 0.5, 2, mode)
        loss = lambda features: (operator(features, ms.Tensor(ROIS)) * ms.Tensor(weights)).sum()  # noqa: E731
        return ms.grad(loss)(ms.Tensor(FEATURES)).asnumpy()

    def true_gradient(mode):
        features = torch.from_numpy(FEATURES.copy()).requires_grad_()
        (ROIAlign(2, 3, 0.5, 2, mode)(features, torch.from_numpy(ROIS)) * torch.from_numpy(weights)).sum().backward()
        return features.grad.numpy()

    # Sums of a few products in another order.
    np.testing.assert_allclose(gradient_in_mindspore(1), true_gradient(1), rtol=0, atol=1e-6)
    if np.abs(gradient_in_mindspore(0) - true_gradient(0)).max() < 1e-6:
        pytest.skip("MindSpore's gradient of mode 0 is right")
    np.testing.assert_allclose(gradient_in_mindspore(0), true_gradient(1), rtol=0, atol=1e-6)
    assert np.abs(true_gradient(0) - true_gradient(1)).max() > 0.1


@pytest.mark.needs_mindspore
def test_mindspores_cache_takes_one_operator_for_another():
    code = (
        "import numpy as np\nfrom ms2torch_roi.parity import operators\nms = operators.import_mindspore()\n"
        "features, rois = ms.Tensor(np.ones((1, 1, 9, 9), np.float32)), ms.Tensor(np.eye(1, 5, 3, np.float32))\n"
        "for pooled in (3, 31), (33, 1):\n"
        "    shape = ms.ops.ROIAlign(*pooled, 0.5)(features, rois).asnumpy().shape\n"
        "print(shape)"
    )
    shape = run_python(code).stdout.strip()
    if shape == "(1, 1, 33, 1)":
        pytest.skip("MindSpore keeps the operators apart")
    assert shape == "(1, 1, 3, 31)"


@pytest.mark.needs_mindspore
def test_mindspore_reports_a_bad_index_when_the_result_is_read():
    ms = operators.import_mindspore()
    result = _mindspore_operator(2, 3, 0.25)(ms.Tensor(FEATURES), ms.Tensor(ROIS + np.float32([9, 0, 0, 0, 0])))
    with pytest.raises(RuntimeError, match=r"image_index .* must be a number in \[0,1\]"):
        result.asnumpy()


@pytest.mark.parametrize("box", ["nan, 1, 4, 4", "1, 1, inf, 4", "-3e38, 1, 3e38, 4"])
@pytest.mark.parametrize("aligned", [False, True])
def test_torchvision_crashes_on_boxes_that_are_not_finite(box, aligned):
    code = (
        "import torch, torchvision\nfrom math import inf, nan\n"
        f"rois = torch.tensor([[0, {box}]])\n"
        f"print(torchvision.ops.roi_align(torch.ones(1, 1, 9, 9), rois, 1, 1.0, 2, {aligned}).item())"
    )
    result = run_python(code)
    if result.returncode == 0:
        pytest.skip(f"torchvision {torchvision.__version__} gives {result.stdout.strip()}")
    assert result.returncode == -signal.SIGSEGV


def test_torchvision_adds_the_first_pixel_for_samples_outside():
    features = torch.ones(1, 1, 9, 9)
    features[0, 0, 0, 0] = float("inf")
    outside = torch.tensor([[0, 40.0, 40, 50, 50]])
    assert torchvision.ops.roi_align(features, outside, 1, 1.0, 2).isnan().all()
    assert not ROIAlign(1, 1, 1.0)(features, outside).any()


def test_torchvision_aligned_loses_samples_of_small_boxes_on_the_border():
    features = torch.full((1, 1, 8, 8), 2.0)
    rois = torch.tensor([[0, 7.958036, 3, 7.0139885, 2.5]])
    shifted = torch.tensor([[0, 7.958036, 3, 7.0139885 + 1, 3.5]]) + torch.tensor([0, 0.5, 0.5, 0.5, 0.5])
    port = torchvision.ops.roi_align(features, shifted, 2, 1.0, 1, aligned=True)
    assert (ROIAlign(2, 2, 1.0, 1)(features, rois) - port).abs().max() == 2


def test_boxes_in_feature_cells_with_scale_1_are_the_same_bits():
    rois = torch.from_numpy(ROIS)
    scaled = torch.cat((rois[:, :1], rois[:, 1:] * 0.37), 1)
    features = torch.from_numpy(FEATURES)
    assert_same_bits(
        torchvision.ops.roi_align(features, scaled, (2, 3), 1.0, 2).numpy(),
        torchvision.ops.roi_align(features, rois, (2, 3), 0.37, 2).numpy(),
    )


@pytest.mark.parametrize(("aligned", "extra"), [(True, 0), (False, 0), (True, 1)])
def test_naive_ports_of_mode_1_are_off_by_a_tenth_at_least_and_mostly_by_more_than_1(aligned, extra):
    rng = np.random.default_rng(0)
    features = torch.from_numpy(rng.standard_normal((1, 4, 50, 76)).astype(np.float32))
    corner, size = rng.uniform(0, 500, (200, 2)), rng.uniform(8, 300, (200, 2))
    rois = torch.from_numpy(np.concatenate((np.zeros((200, 1)), corner, corner + size), 1).astype(np.float32))
    moved = torch.cat((rois[:, :3], rois[:, 3:] + extra), 1)
    port = torchvision.ops.roi_align(features, moved, 7, 1 / 16, 2, aligned)
    difference = (ROIAlign(7, 7, 1 / 16)(features, rois) - port).abs().max()
    assert difference > (1 if aligned else 0.1)


def test_float16_computed_in_float32_is_off_by_far_more_than_rounding():
    rng = np.random.default_rng(0)
    features = torch.from_numpy(rng.standard_normal((1, 4, 50, 76)).astype(np.float16))
    corner, size = rng.uniform(0, 700, (200, 2)), rng.uniform(8, 300, (200, 2))
    rois = torch.from_numpy(np.concatenate((np.zeros((200, 1)), corner, corner + size), 1).astype(np.float16))
    op = ROIAlign(7, 7, 1 / 16)
    difference = (op(features, rois) - op(features.float(), rois.float()).half()).abs().max()
    assert difference > 0.05


def test_half_precision_is_computed_on_half_precision_coordinates():
    # 1001 * 0.1 in float16, on a ramp whose value is its column.
    features = torch.arange(128.0).half().expand(1, 1, 3, 128)
    rois = torch.tensor([[0, 1001, 0, 1001, 20]]).half()
    middle = np.float16(1001) * np.float16(0.1) + np.float16(0.5)
    assert ROIAlign(1, 1, 0.1, 1, 0)(features, rois).item() == middle


def test_torchvision_computes_float16_in_float32_under_autocast():
    case = edges.edge_case("boxes of several cells, mode 0, float16")
    features, rois = torch.from_numpy(case.features), torch.from_numpy(case.rois)
    arguments = ((case.pooled_height, case.pooled_width), case.spatial_scale, case.sample_num)
    with torch.autocast("cpu"):
        output = torchvision.ops.roi_align(features, rois, *arguments)
    assert torch.equal(output, torchvision.ops.roi_align(features.float(), rois.float(), *arguments).half())
    assert (output != torchvision.ops.roi_align(features, rois, *arguments)).any()


F, R = torch.ones(2, 3, 9, 9), torch.tensor([[0, 1, 1, 4, 4.0]])
TORCHVISION_CALLS = {
    "an output size of 0": ((F, R, (0, 2)), (1, 3, 0, 2)),
    "an output size below 0": ((F, R, (-1, 2)), RuntimeError),
    "an output size that is a float": ((F, R, 2.5), RuntimeError),
    "a scale that is an int": ((F, R, 2, 1), (1, 3, 2, 2)),
    "a scale that is no number": ((F, R, 2, "1"), RuntimeError),
    "boxes of 4 columns": ((F, R[:, 1:], 2), AssertionError),
    "boxes of 1 dimension": ((F, R[0], 2), IndexError),
    "features of 3 dimensions": ((F[0], R, 2), RuntimeError),
    "features of 5 dimensions": ((F[None], R, 2), (1, 2, 2, 2)),
    "bfloat16": ((F.bfloat16(), R.bfloat16(), 2), RuntimeError),
    "integers": ((F.int(), R.int(), 2), RuntimeError),
    "two dtypes": ((F, R.half(), 2), RuntimeError),
    "NumPy features": ((F.numpy(), R, 2), AttributeError),
    "NumPy boxes": ((F, R.numpy(), 2), AssertionError),
    "no channels": ((F[:, :0], R, 2), (1, 0, 2, 2)),
    "an index too large": ((F, R + 2, 2), RuntimeError),
    "an adaptive grid too large": ((F, R * 1e9, 2), RuntimeError),
}


@pytest.mark.parametrize(("arguments", "outcome"), TORCHVISION_CALLS.values(), ids=TORCHVISION_CALLS)
def test_what_torchvision_raises(arguments, outcome):
    if isinstance(outcome, tuple):
        assert torchvision.ops.roi_align(*arguments).shape == outcome
    else:
        with pytest.raises(outcome):
            torchvision.ops.roi_align(*arguments)
