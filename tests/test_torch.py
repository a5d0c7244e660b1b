"""ms2torch_roi.ROIAlign as a torch module: calls, errors, gradients, and what it hands to torchvision."""

import copy
import pickle

import numpy as np
import pytest
import torch
from helpers import MINDSPORE_EDGE_CASES, assert_same_bits

from ms2torch_roi import ROIAlign, reference
from ms2torch_roi.parity import cases, operators
from ms2torch_roi.torch import cpu

FEATURES = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 3, 11, 14)).astype(np.float32))
ROIS = torch.tensor([[1, 2, 3, 17, 14], [0, 6, 6, 7.2, 6.8], [0, 0, 0, 0, 0]])


@pytest.fixture
def torchvision_calls(monkeypatch):
    calls = []
    real = cpu._roi_align

    def spy(features, boxes, *arguments):
        output = real(features, boxes, *arguments)
        version = None if output.is_inference() else output._version  # which those of parts of a call have not
        calls.append((features, boxes, arguments, output, version))
        return output

    monkeypatch.setattr(cpu, "_roi_align", spy)
    return calls


def test_arguments_by_name_and_by_position():
    by_position = ROIAlign(2, 3, 0.25, 4, 0)
    by_name = ROIAlign(pooled_height=2, pooled_width=3, spatial_scale=0.25, sample_num=4, roi_end_mode=0)
    for op in (by_position, by_name):
        assert (op.pooled_height, op.pooled_width, op.spatial_scale) == (2, 3, 0.25)
        assert (op.sample_num, op.roi_end_mode) == (4, 0)


def test_repr_says_what_it_is():
    expected = "ROIAlign(pooled_height=2, pooled_width=3, spatial_scale=0.5, sample_num=2, roi_end_mode=1)"
    assert repr(ROIAlign(2, 3, 0.5)) == expected
    assert repr(ROIAlign(2, 3, np.float64(0.5))) == expected


@pytest.mark.parametrize("remake", [copy.copy, copy.deepcopy, lambda op: pickle.loads(pickle.dumps(op))])
def test_copies_and_pickles_pool_alike(remake):
    op = ROIAlign(2, 3, 0.5, 0, 0)
    again = remake(op)
    assert repr(again) == repr(op)
    assert_same_bits(again(FEATURES, ROIS).numpy(), op(FEATURES, ROIS).numpy())


def test_state_dict_is_empty():
    op = ROIAlign(2, 3, 0.5)
    assert not op.state_dict()
    assert not list(op.parameters())
    assert not list(op.buffers())


@pytest.mark.parametrize("sample_num", [2, 0])
def test_works_in_inference_mode(sample_num):
    op = ROIAlign(2, 3, 0.5, sample_num)
    expected = op(FEATURES, ROIS)
    with torch.inference_mode():
        assert_same_bits(op(FEATURES, ROIS).numpy(), expected.numpy())


def test_inputs_are_left_as_they_were():
    features, rois = FEATURES.clone(), ROIS.clone()
    ROIAlign(2, 3, 0.5)(features, rois)
    assert torch.equal(features, FEATURES)
    assert torch.equal(rois, ROIS)


def test_output_is_contiguous_and_of_the_dtype_of_features():
    for features_dtype, rois_dtype in ((torch.float16, torch.float32), (torch.float32, torch.float16)):
        output = ROIAlign(2, 3, 0.5)(FEATURES.to(features_dtype), ROIS.to(rois_dtype))
        assert output.dtype == features_dtype
        assert output.is_contiguous()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("arguments", [{}, {"sample_num": 0}], ids=["fixed", "adaptive"])
@pytest.mark.parametrize("copies", [1, 3000], ids=["a small call", "a large call"])
def test_output_and_gradient_are_tensors_that_own_their_memory(copies, arguments, dtype):
    features = FEATURES.to(dtype, copy=True).requires_grad_()
    op = ROIAlign(7, 7, 0.5, **arguments)
    with_gradient = op(features, ROIS.repeat(copies, 1).to(dtype))
    with_gradient.nansum().backward()
    for tensor in (op(FEATURES.to(dtype), ROIS.repeat(copies, 1).to(dtype)), with_gradient.detach(), features.grad):
        size = tensor.numel() * tensor.element_size()
        assert tensor.is_contiguous()
        assert tensor.untyped_storage().resizable()
        assert tensor.untyped_storage().nbytes() == size
        kept = tensor.clone()
        again = pickle.loads(pickle.dumps(tensor))
        assert torch.equal(again.nan_to_num(), kept.nan_to_num())
        tensor.resize_(tensor.numel() + 1000)
        assert torch.equal(tensor[:-1000].nan_to_num(), kept.flatten().nan_to_num())
        tensor.share_memory_()
        assert tensor.is_shared()
        tensor.set_()
        assert not tensor.numel()


@pytest.mark.parametrize("sample_num", [2, 0])
@pytest.mark.parametrize("mode", [0, 1])
def test_zero_padded_rois_pool_to_zero(sample_num, mode):
    rois = torch.cat((ROIS, torch.tensor([[1, 0, 3, 0, 9], [0, 5e-4, 3, -5e-4, 9]])))
    output = ROIAlign(1, 1, 0.5, sample_num, mode)(FEATURES, rois)
    assert not output[2:].any()
    assert output[0].all()


@pytest.mark.parametrize("mode", [0, 1])
def test_rois_that_are_not_finite_pool_to_zero(mode):
    nan, inf = float("nan"), float("inf")
    rois = torch.tensor([[0, nan, 3, 9, 9], [0, 3, -inf, 9, 9], [0, 3, 3, inf, 9], [0, -3e38, 3, 3e38, 9]])
    assert not ROIAlign(2, 3, 0.5, 2, mode)(FEATURES, rois).any()


def test_bfloat16_is_computed_in_float32():
    for rois in (ROIS, ROIS.bfloat16(), ROIS.half()):
        output = ROIAlign(2, 3, 0.5)(FEATURES.bfloat16(), rois)
        assert torch.equal(output, ROIAlign(2, 3, 0.5)(FEATURES.bfloat16().float(), rois.float()).bfloat16())
    assert ROIAlign(2, 3, 0.5)(FEATURES, ROIS.bfloat16()).dtype == torch.float32


def test_float64_is_the_same_rule():
    for number in range(60):
        case = cases.random_case(2, number)
        features, rois = case.features.astype(np.float64), case.rois.astype(np.float64)
        actual = ROIAlign(**case.arguments)(torch.from_numpy(features), torch.from_numpy(rois))
        assert_same_bits(actual.numpy(), reference.ms_roi_align(features, rois, **case.arguments))


# What is refused in a call. MindSpore is asked for the same where it refuses it too.
CALLS = {
    "rois of 4 columns": ((FEATURES, ROIS[:, 1:]), ValueError, r"rois must have shape \(K, 5\).*got \(3, 4\)"),
    "rois of 6 columns": ((FEATURES, torch.zeros(3, 6)), ValueError, r"rois must have shape \(K, 5\).*got \(3, 6\)"),
    "rois of 1 dimension": ((FEATURES, ROIS[0]), ValueError, r"rois must have shape \(K, 5\).*got \(5,\)"),
    "rois of 3 dimensions": ((FEATURES, ROIS[None]), ValueError, r"rois must have shape \(K, 5\).*got \(1, 3, 5\)"),
    "features of 5 dimensions": ((FEATURES[None], ROIS), ValueError, "features must have 4 dimensions"),
    "float64 rois": ((FEATURES, ROIS.double()), TypeError, "float64 does not mix, got features torch.float32"),
    "int32 rois": ((FEATURES, ROIS.int()), TypeError, "rois must be float16, .* or bfloat16, got torch.int32"),
    "a list of rois": ((FEATURES, ROIS.tolist()), TypeError, "rois must be a tensor of torch .*, got builtins.list"),
    "a list of boxes for each image": ((FEATURES, [ROIS[:, 1:], ROIS[:, 1:]]), TypeError,
                                       r"got builtins.list: concatenate to \(K, 5\), .* RoIAlign, takes a list"),
    "a tuple of boxes for each image": ((FEATURES, (ROIS[:, 1:],)), TypeError, r"concatenate to \(K, 5\)"),
    "no channels": ((FEATURES[:, :0], ROIS), RuntimeError, "features must have at least one channel"),
    "an index too large": ((FEATURES, torch.tensor([[0, 1, 1, 4, 4], [2, 1, 1, 4, 4.0]])), RuntimeError,
                           r"rois row 1: image index 2.0 is out of range, allowed is \[0, 1\]"),
    "an index below 0": ((FEATURES, torch.tensor([[-0.1, 1, 1, 4, 4]])), RuntimeError,
                         r"rois row 0: image index -0.1.* is out of range, allowed is \[0, 1\]"),
    "an index of no image": ((FEATURES[:0], ROIS), RuntimeError, "rois row 0: image index 1.0 .* there are no images"),
}  # fmt: skip
# MindSpore reads out of bounds here.
CALLS_OF_THE_PORT = {
    "features of 3 dimensions": ((FEATURES[0], ROIS), ValueError, r"features must have 4 dimensions \(N, C, H, W\)"),
    "features of height 0": ((FEATURES[:, :, :0], ROIS), ValueError, "features must be at least 1 cell high and wide"),
    "features of width 0": ((FEATURES[..., :0], ROIS), ValueError, "features must be at least 1 cell high and wide"),
    "NaN as an index of no image": ((FEATURES[:0], ROIS[:1] * float("nan")), RuntimeError,
                                    "rois row 0: image index nan .* there are no images"),
    "rois on another device": ((FEATURES, ROIS.to("meta")), ValueError, "features are on cpu but rois on meta"),
    "features of 2**31 values": ((torch.zeros(()).expand(2**11, 2**8, 2**6, 2**6), ROIS), RuntimeError,
                                 "features would hold 2147483648 values; at most 2147483647"),
    "an output of 2**31 values": ((FEATURES[:, :1], torch.zeros(()).expand(2**30, 5)), RuntimeError,
                                  "the output would hold 6442450944 values; at most 2147483647"),
}  # fmt: skip


@pytest.mark.parametrize(("tensors", "error", "match"), [*CALLS.values(), *CALLS_OF_THE_PORT.values()],
                         ids=[*CALLS, *CALLS_OF_THE_PORT])  # fmt: skip
def test_calls_are_refused(tensors, error, match):
    with pytest.raises(error, match=match):
        ROIAlign(2, 3, 0.5)(*tensors)


def test_rois_of_2_to_the_31_values_are_refused():
    rois = torch.zeros(()).expand(2**31 // 5 + 1, 5)
    with pytest.raises(RuntimeError, match="rois would hold 2147483650 values; at most 2147483647"):
        ROIAlign(1, 1, 0.5)(FEATURES[:, :1], rois)


@pytest.mark.needs_mindspore
@pytest.mark.parametrize(("tensors", "error"), [row[:2] for row in CALLS.values()], ids=CALLS)
def test_mindspore_refuses_them_with_the_same_type(tensors, error):
    ms = operators.import_mindspore()

    def to_mindspore(tensor):
        return ms.Tensor(tensor.numpy()) if isinstance(tensor, torch.Tensor) else tensor

    operator = ms.ops.ROIAlign(2, 3, 0.5)
    with pytest.raises(error):
        operator(*map(to_mindspore, tensors)).asnumpy()


@pytest.mark.parametrize(
    ("box", "grid"), [([-3e8, 2, 3e8, 30], "42857144 x 2"), ([-1e10, -1e10, 1e10, 1e10], "1428571392 x 1428571392")]
)
def test_adaptive_grids_beyond_reason_are_refused(torchvision_calls, box, grid):
    rois = torch.tensor([[0, 1, 1, 9, 9], [0, *box]])
    with pytest.raises(
        RuntimeError, match=f"2 boxes with adaptive grids, the largest of row 1, {grid} samples in each of 7 x 7 bins"
    ):
        ROIAlign(7, 7, 0.5, 0)(FEATURES, rois)
    assert not any(len(boxes) for _, boxes, *_ in torchvision_calls)


# Gradients.

GRADIENT_ROIS = torch.tensor(
    [[0, 1, 1, 7, 8], [1, 2.2, 2.1, 2.3, 2.2], [0, 0, 0, 0, 0], [1, -3, 2, 4, 20], [0, 5.25, 5.5, 5, 5.25],
     [0, 1, 2, 9, 5], [1, float("nan"), 2, 9, 5]], dtype=torch.float64
)  # fmt: skip


@pytest.mark.parametrize("sample_num", [2, 0])
@pytest.mark.parametrize("mode", [0, 1])
def test_gradient_is_the_true_gradient(mode, sample_num):
    features = torch.randn(2, 2, 6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    op = ROIAlign(2, 3, 0.5, sample_num, mode)
    defined = op(features, GRADIENT_ROIS).isnan().flatten(1).any(1).logical_not()
    assert defined.sum() >= 3
    assert torch.autograd.gradcheck(lambda f: op(f, GRADIENT_ROIS[defined]), features.requires_grad_())


@pytest.mark.parametrize("sample_num", [2, 0])
@pytest.mark.parametrize("mode", [0, 1])
def test_gradient_of_float32_is_that_of_float64(mode, sample_num):
    op = ROIAlign(2, 3, 0.5, sample_num, mode)
    gradients = []
    for dtype in (torch.float32, torch.float64):
        features = FEATURES.to(dtype, copy=True).requires_grad_()
        op(features, GRADIENT_ROIS.to(dtype)).nansum().backward()
        gradients.append(features.grad.double())
    # A sum of at most a few hundred products, each rounded to float32.
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sample_num", [2, 0])
def test_rows_that_pool_to_zero_have_no_gradient_but_can_be_trained_on(sample_num):
    features = FEATURES.clone().requires_grad_()
    ROIAlign(2, 3, 0.5, sample_num)(features, torch.zeros(4, 5)).sum().backward()
    assert not features.grad.any()


@pytest.mark.parametrize("sample_num", [2, 0])
def test_no_rois_can_be_trained_on(sample_num):
    features = FEATURES.clone().requires_grad_()
    ROIAlign(2, 3, 0.5, sample_num)(features, torch.zeros(0, 5)).sum().backward()
    assert not features.grad.any()


def test_rois_get_no_gradient():
    features, rois = FEATURES.clone().requires_grad_(), ROIS.clone().requires_grad_()
    ROIAlign(2, 3, 0.5)(features, rois).sum().backward()
    assert features.grad.any()
    assert rois.grad is None


@pytest.mark.parametrize("call", [lambda op: op, lambda op: torch.compile(op, backend="aot_eager", fullgraph=True)])
def test_rois_that_want_a_gradient_cost_none_where_features_are_frozen(call):
    torch.compiler.reset()
    rois = ROIS.clone().requires_grad_()
    boxes = rois * 1
    output = call(ROIAlign(2, 3, 0.5))(FEATURES, boxes)
    assert not output.requires_grad
    with torch.autocast("cpu"):
        assert not call(ROIAlign(2, 3, 0.5))(FEATURES.half(), boxes.half()).requires_grad
    boxes.mul_(2)  # nothing keeps them


# What reaches torchvision.


def test_nothing_that_torchvision_crashes_on_reaches_it(torchvision_calls):
    for case in MINDSPORE_EDGE_CASES:
        operators.outcome(operators.port, case)
    assert len(torchvision_calls) > 250
    for features, boxes, (scale, _, _, sampling_ratio, _), *_ in torchvision_calls:
        assert sampling_ratio > 0
        boxes = boxes * torch.tensor([1, scale, scale, scale, scale], dtype=boxes.dtype)
        size = boxes[:, 3:] - boxes[:, 1:3]
        assert boxes.isfinite().all()
        assert size.isfinite().all()
        assert (boxes[:, 0] >= 0).all()
        assert (boxes[:, 0] < max(features.shape[0], 1)).all()


@pytest.mark.parametrize("mode", [0, 1])
def test_ordinary_boxes_are_one_torchvision_call_and_its_very_output(torchvision_calls, mode):
    rois = torch.tensor([[1, 2, 3, 17, 14], [0, 4.5, 0.1, 9.3, 21.7]])
    output = ROIAlign(2, 3, 0.5, 2, mode)(FEATURES, rois)
    assert len(torchvision_calls) == 1
    features, boxes, arguments, made, version = torchvision_calls[0]
    assert features.data_ptr() == FEATURES.data_ptr()
    assert torch.equal(boxes, rois + torch.tensor([0, 0, 0, mode, mode]))
    assert arguments == (0.5, 2, 3, 2, False)
    assert output.data_ptr() == made.data_ptr()
    assert output._version == version  # not written to since


def test_small_calls_of_plain_boxes_are_where_the_rule_puts_them(monkeypatch):
    """These are told by margins, without the rule: calls of all kinds of boxes around them have the same bits by it."""
    rng = np.random.default_rng(0)
    calls = []
    for _ in range(600):
        scale, mode = float(10 ** rng.uniform(-2, 1)), int(rng.integers(2))
        corner = rng.uniform(-1, 1, (3, 2)) * 10 ** rng.uniform(-4, 5) / scale
        size = rng.choice((1, 1.05, 1.06, 5, -1)) * rng.uniform(0.999, 1.001, (3, 2)) / scale - mode
        corner[rng.random(3) < 0.1] = rng.choice((0, 0.001, 0.0011, 0.0012))
        rois = np.hstack((rng.integers(0, 2, (3, 1)), corner, corner + size)).astype(np.float32)
        height, width = (int(length) for length in rng.integers(1, 12, 2))
        features = torch.from_numpy(rng.standard_normal((2, 3, height, width), np.float32))
        calls.append((ROIAlign(2, 3, scale, 2, mode), features, torch.from_numpy(rois)))
    plain = []
    plain_boxes = cpu._plain_boxes
    monkeypatch.setattr(cpu, "_plain_boxes", lambda *given: [plain.append(plain_boxes(*given)), plain[-1]][1])
    outputs = [op(features, rois) for op, features, rois in calls]
    monkeypatch.setattr(cpu, "_plain_boxes", lambda *_: None)
    for (op, features, rois), output in zip(calls, outputs, strict=True):
        assert torch.equal(output, op(features, rois)), (op, rois)
    assert 100 < sum(boxes is not None for boxes in plain) < 500
