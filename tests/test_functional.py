"""ROIAlign under torch.func: batches of calls have the bits of a loop over them, derivatives those of backward()."""

import numpy as np
import pytest
import torch
import torchvision
from helpers import Head, assert_same_bits
from torch.autograd import forward_ad
from torch.autograd.functional import jacobian
from torch.func import (
    functional_call,
    functionalize,
    grad,
    jacfwd,
    jacrev,
    jvp,
    linearize,
    stack_module_state,
    vjp,
    vmap,
)
from torch.fx.experimental.proxy_tensor import make_fx

from ms2torch_roi import ROIAlign, params

BATCH, IMAGES, CHANNELS, ROWS = 4, 2, 3, 8
_rng = np.random.default_rng(0)
FEATURES = torch.from_numpy(_rng.standard_normal((BATCH, IMAGES, CHANNELS, 13, 17)).astype(np.float32))


def some_rois(batch, count=ROWS):
    """Return boxes of many cells, of less than one, over the edge, not finite, and padding."""
    start, size = _rng.uniform(-9, 60, (batch, count, 2)), 10 ** _rng.uniform(-1, 2.2, (batch, count, 2))
    rois = np.concatenate((_rng.integers(0, IMAGES, (batch, count, 1)) - 3e-5, start, start + size), 2)
    rois[..., 0] = np.clip(rois[..., 0], 0, None)
    rois[:, -1, 1:] = (4, 5, 50, 47)  # which has samples in an adaptive grid
    rois[0, 0, 1:] = 0
    rois[1, 1, 2] = np.nan
    rois[1, 2, 0] = np.nan
    return torch.from_numpy(rois.astype(np.float32))


ROIS = some_rois(BATCH)
OPS = {
    "mode 1": ROIAlign(3, 2, 0.25),
    "mode 0": ROIAlign(2, 3, 0.25, 3, 0),
    "mode 0, trained as in MindSpore": ROIAlign(2, 3, 0.25, 2, 0, backward_roi_end_mode=1),
    "an adaptive grid": ROIAlign(2, 1, 0.25, 0),
}
BATCHES = {"features": (0, None), "rois": (None, 0), "both": (0, 0)}
every_op = pytest.mark.parametrize("op", OPS.values(), ids=OPS)
every_batch = pytest.mark.parametrize("in_dims", BATCHES.values(), ids=BATCHES)
every_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float16])


def tensors(in_dims, dtype=torch.float32):
    """Return features and rois, with a dimension for the batch if they have one, at its place."""
    return [
        tensor[0] if dim is None else tensor.movedim(0, dim)
        for dim, tensor in zip(in_dims, (FEATURES.to(dtype), ROIS.to(dtype)), strict=True)
    ]


def entries(in_dims, *batches):
    """Return what each call of a loop over the batch would take."""
    return [
        [tensor if dim is None else tensor.select(dim, entry) for dim, tensor in zip(in_dims, batches, strict=True)]
        for entry in range(BATCH)
    ]


def assert_is_loop(actual, function, in_dims, *batches):
    expected = torch.stack([function(*entry) for entry in entries(in_dims, *batches)])
    assert expected.isfinite().any()
    assert_same_bits(actual.detach().numpy(), expected.detach().numpy())


# Batches.


@every_op
@every_batch
@every_dtype
def test_a_batch_has_the_bits_of_a_loop(op, in_dims, dtype):
    batches = tensors(in_dims, dtype)
    assert_is_loop(vmap(op, in_dims)(*batches), op, in_dims, *batches)


def test_a_batch_is_that_of_torchvision():
    op, finite = ROIAlign(2, 3, 0.25, 3, 0), ROIS[2:]
    expected = vmap(lambda features, rois: torchvision.ops.roi_align(features, rois.round(), (2, 3), 0.25, 3))
    assert_same_bits(vmap(op)(FEATURES[2:], finite.round()).numpy(), expected(FEATURES[2:], finite).numpy())


@pytest.mark.parametrize("in_dims", [(1, 2), (-1, 1), (3, -1), (2, None), (None, -2)])
def test_a_batch_in_any_dimension(in_dims):
    op, batches = OPS["mode 1"], tensors(in_dims)
    assert_is_loop(vmap(op, in_dims)(*batches), op, in_dims, *batches)
    output = vmap(op, in_dims, out_dims=2)(*batches)
    assert_is_loop(output.movedim(2, 0), op, in_dims, *batches)


@pytest.mark.parametrize("in_dims", [(0, 0), (0, None), (None, 0)])
def test_a_batch_of_no_calls(in_dims):
    op = OPS["mode 1"]
    features, rois = (
        tensor[0] if dim is None else tensor[:0] for tensor, dim in zip((FEATURES, ROIS), in_dims, strict=True)
    )
    assert vmap(op, in_dims)(features, rois).shape == (0, *op(FEATURES[0], ROIS[0]).shape)
    gradient = vmap(grad(lambda features, rois: op(features, rois).sum()), in_dims)(features, rois)
    assert gradient.shape == (0, *FEATURES.shape[1:])
    features = features.clone().requires_grad_()
    vmap(op, in_dims)(features, rois).sum().backward()
    assert features.grad.shape == features.shape
    assert not features.grad.any()


@pytest.mark.parametrize("outer", BATCHES.values(), ids=BATCHES)
@pytest.mark.parametrize("inner", BATCHES.values(), ids=BATCHES)
@pytest.mark.parametrize("sample_num", [2, 0])
def test_batches_of_batches(outer, inner, sample_num):
    op = ROIAlign(2, 1, 0.25, sample_num)
    batches = []
    for tensor, *dims in zip((FEATURES, ROIS), outer, inner, strict=True):
        both = torch.stack((tensor, tensor.flip(0)))
        batches.append(both[tuple(0 if dim is None else slice(None) for dim in dims)])
    expected = []
    for number in range(2):
        batch = [tensor if dim is None else tensor[number] for dim, tensor in zip(outer, batches, strict=True)]
        expected.append(torch.stack([op(*entry) for entry in entries(inner, *batch)]))
    assert_same_bits(vmap(vmap(op, inner), outer)(*batches).numpy(), torch.stack(expected).numpy())


@pytest.mark.parametrize("dtypes", [("float16", "float32"), ("bfloat16", "float32"), ("float64", "float64")])
def test_dtypes_of_a_batch(dtypes):
    features, rois = (tensor.to(getattr(torch, dtype)) for tensor, dtype in zip((FEATURES, ROIS), dtypes, strict=True))
    output = vmap(OPS["mode 1"])(features, rois)
    assert output.dtype == features.dtype
    assert_is_loop(output.double(), lambda *entry: OPS["mode 1"](*entry).double(), (0, 0), features, rois)


@every_batch
def test_a_batch_without_rois(in_dims):
    features, rois = tensors(in_dims)
    output = vmap(OPS["mode 1"], in_dims)(features, rois[..., :0, :])
    assert output.shape == (BATCH, 0, CHANNELS, 3, 2)


def test_a_batch_of_more_images_than_float16_counts():
    features = torch.from_numpy(_rng.standard_normal((1500, 2, 1, 3, 2))).half()
    rois = torch.tensor([[0, 1, 1, 2, 2], [1, 0.5, 0, 1, 2]]).half().expand(1500, 2, 5)
    output = vmap(OPS["mode 1"])(features, rois)
    for entry in (0, 1, 1023, 1024, 1100, 1499):
        assert_same_bits(output[entry].numpy(), OPS["mode 1"](features[entry], rois[entry]).numpy())


@every_batch
@pytest.mark.parametrize("calls_at_once", [1, 3])
def test_a_batch_of_more_values_than_one_call_may_have(monkeypatch, in_dims, calls_at_once):
    monkeypatch.setattr(params, "INT32_MAX", calls_at_once * FEATURES[0].numel())
    batches = tensors(in_dims)
    output = vmap(OPS["mode 1"], in_dims)(*batches)
    assert_is_loop(output, OPS["mode 1"], in_dims, *batches)
    per_entry = vmap(lambda *entry: vjp(lambda features: OPS["mode 1"](features, entry[1]), entry[0])[1](entry[2])[0],
                     (*in_dims, 0))  # fmt: skip
    assert_is_loop(per_entry(*batches, output), gradient_of(OPS["mode 1"]), (*in_dims, 0), *batches, output)


def test_an_index_out_of_range_is_that_of_its_call():
    rois = ROIS.clone()
    rois[2, 3, 0] = IMAGES
    allowed = rf"image index {IMAGES}\.0 is out of range, allowed is \[0, {IMAGES - 1}\]"
    for in_dims in ((None, 0), (0, 0)):
        features, _ = tensors(in_dims)
        with pytest.raises(RuntimeError, match=f"rois of entry 2 of the batch of vmap, row 3: {allowed}"):
            vmap(OPS["mode 1"], in_dims)(features, rois)
    with pytest.raises(RuntimeError, match=rf"rois of entry \(1, 2\) of the batch of vmap, row 3: {allowed}"):
        vmap(vmap(OPS["mode 1"]), (None, 0))(FEATURES, torch.stack((ROIS, rois)))
    with pytest.raises(RuntimeError, match=f"rois row 3: {allowed}"):
        vmap(OPS["mode 1"], (0, None))(FEATURES, rois[2])


def test_shapes_of_a_batch_are_refused_as_those_of_a_call():
    with pytest.raises(ValueError, match=r"rois must have shape \(K, 5\).*got \(8, 4\)"):
        vmap(OPS["mode 1"])(FEATURES, ROIS[..., 1:])
    with pytest.raises(ValueError, match=r"features must have 4 dimensions \(N, C, H, W\), got shape \(3, 13, 17\)"):
        vmap(OPS["mode 1"])(FEATURES[:, 0], ROIS)


# Gradients.


def gradient_of(op):
    """Return a function of features, rois and a gradient for the output, as plain backward() computes it."""

    def gradient(features, rois, of_output):
        features = features.detach().requires_grad_()
        return torch.autograd.grad(op(features, rois), features, of_output)[0]

    return gradient


def of_outputs(op, in_dims, dtype=torch.float32):
    """Return gradients for the outputs of a batch, of which the last one is not finite."""
    output = vmap(op, in_dims)(*tensors(in_dims, dtype))
    of_output = torch.linspace(-1, 1, output.numel()).reshape(output.shape).to(dtype)
    of_output[-1, -1, 0, 0, 0] = float("inf")
    return of_output


@every_op
@every_dtype
def test_grad_and_vjp_are_backward(op, dtype):
    features, rois = FEATURES[0].to(dtype), ROIS[0].to(dtype)
    of_output = of_outputs(op, (0, 0), dtype)[0]
    expected = gradient_of(op)(features, rois, of_output)
    assert expected.any()
    by_grad = grad(lambda features: (op(features, rois) * of_output).sum())(features)
    _, pull = vjp(lambda features: op(features, rois), features)
    for actual in (by_grad, *pull(of_output)):
        assert_same_bits(actual.numpy(), expected.numpy())


def test_rois_have_no_gradient():
    of_features, of_rois = grad(lambda *pair: OPS["mode 1"](*pair).sum(), argnums=(0, 1))(FEATURES[0], ROIS[0])
    assert of_features.any()
    assert not of_rois.any()


@every_op
@every_batch
@every_dtype
def test_a_batch_of_gradients_has_the_bits_of_a_loop(op, in_dims, dtype):
    of_output = of_outputs(op, in_dims, dtype)

    def gradient(features, rois, of_output):
        return vjp(lambda features: op(features, rois), features)[1](of_output)[0]

    in_dims, batches = (*in_dims, 0), (*tensors(in_dims, dtype), of_output)
    assert_is_loop(vmap(gradient, in_dims)(*batches), gradient_of(op), in_dims, *batches)


@every_batch
def test_a_batch_of_gradients_for_one_output(in_dims):
    op = OPS["mode 1"]
    batches = tensors(in_dims)
    actual = vmap(grad(lambda features, rois: op(features, rois).sum()), in_dims)(*batches)
    ones = torch.ones(ROWS, CHANNELS, 3, 2)
    assert_is_loop(actual, lambda *entry: gradient_of(op)(*entry, ones), in_dims, *batches)


@every_batch
def test_the_gradient_of_a_batch_is_the_sum_over_its_calls(in_dims):
    op = OPS["mode 1"]
    features, rois = tensors(in_dims)
    of_output = of_outputs(op, in_dims).nan_to_num(posinf=1)
    features.requires_grad_()
    (actual,) = torch.autograd.grad(vmap(op, in_dims)(features, rois), features, of_output)
    if in_dims == (None, 0):  # as one call of all rois
        expected = gradient_of(op)(features, rois.flatten(0, 1), of_output.flatten(0, 1))
        assert_same_bits(actual.numpy(), expected.numpy())
    else:
        assert_is_loop(actual, gradient_of(op), (*in_dims, 0), features, rois, of_output)


@every_op
def test_a_vectorized_jacobian_has_the_bits_of_the_other(op):
    features, rois = FEATURES[0], ROIS[2][:3]
    expected = jacobian(lambda features: op(features, rois), features)
    assert expected.isfinite().any()
    for actual in (
        jacobian(lambda features: op(features, rois), features, vectorize=True),
        jacrev(lambda features: op(features, rois))(features),
        jacrev(lambda features: op(features, rois), chunk_size=5)(features),
    ):
        assert_same_bits(actual.numpy(), expected.numpy())


@pytest.mark.parametrize("sample_num", [2, 0])
def test_batched_gradients(sample_num):
    op, features = ROIAlign(3, 2, 0.25, sample_num), FEATURES[0].clone().requires_grad_()
    of_output = of_outputs(op, (0, 0))
    output = op(features, ROIS[2])
    (actual,) = torch.autograd.grad(output, features, of_output, is_grads_batched=True)
    assert_is_loop(actual, gradient_of(op), (None, None, 0), features, ROIS[2], of_output)


def test_gradients_of_each_sample_of_a_head():
    head = Head()
    parameters = {name: parameter.detach() for name, parameter in head.named_parameters()}
    images, rois = FEATURES[:, :1], torch.cat((torch.zeros(BATCH, ROWS, 1), ROIS[..., 1:]), 2)

    def loss(parameters, images, rois):
        return functional_call(head, parameters, (images, rois)).square().sum()

    each = vmap(grad(loss), (None, 0, 0))(parameters, images, rois)
    for entry in range(BATCH):
        expected = grad(loss)(parameters, images[entry], rois[entry])
        head.zero_grad()
        head(images[entry], rois[entry]).square().sum().backward()
        for name, parameter in head.named_parameters():
            # The layers around it are computed in other orders.
            torch.testing.assert_close(each[name][entry], parameter.grad, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(expected[name], parameter.grad, rtol=1e-5, atol=1e-5)


def test_an_ensemble_of_heads():
    heads = [Head(), Head()]
    torch.nn.init.normal_(heads[1].convolution.weight)
    parameters, buffers = stack_module_state(heads)
    images, rois = FEATURES[0], ROIS[2]
    outputs = vmap(lambda *state: functional_call(heads[0], state, (images, rois)))(parameters, buffers)
    for output, head in zip(outputs, heads, strict=True):
        torch.testing.assert_close(output, head(images, rois), rtol=1e-5, atol=1e-5)


# What is refused.

FORWARD_MODE = {
    "jvp": lambda op, f, r: jvp(lambda f: op(f, r), (f,), (f,)),
    "jvp for rois": lambda op, f, r: jvp(lambda r: op(f, r), (r,), (r,)),
    "jvp of a batch": lambda op, f, r: jvp(lambda f: vmap(op, (0, None))(f, r), (f[None],), (f[None],)),
    "jvp of a batch of rois": lambda op, f, r: jvp(lambda f: vmap(op, (None, 0))(f, r[None]), (f,), (f,)),
    "linearize": lambda op, f, r: linearize(lambda f: op(f, r), f),
    "jacfwd": lambda op, f, r: jacfwd(lambda f: op(f, r))(f),
    "forward over reverse": lambda op, f, r: jacfwd(grad(lambda f: op(f, r).square().sum()))(f),
    "forward over the gradient alone": lambda op, f, r: jvp(vjp(lambda f: op(f, r), f)[1], (op(f, r),), (op(f, r),)),
    "a vectorized jacobian": lambda op, f, r: jacobian(lambda f: op(f, r), f, strategy="forward-mode", vectorize=True),
}


@pytest.mark.parametrize("derivative", FORWARD_MODE.values(), ids=FORWARD_MODE)
@pytest.mark.parametrize("sample_num", [2, 0])
def test_forward_mode_is_refused(derivative, sample_num):
    with pytest.raises(NotImplementedError, match=r"ROIAlign has no derivative in forward mode \(jvp\)"):
        derivative(ROIAlign(2, 1, 0.25, sample_num), FEATURES[0, :, :, :4, :4], ROIS[2])


@pytest.mark.parametrize("run", [lambda op: op, lambda op: torch.compile(op, backend="aot_eager")])
def test_dual_numbers_are_refused_rather_than_lost(run):
    op, features, rois = run(OPS["mode 1"]), FEATURES[0], ROIS[2]
    with forward_ad.dual_level():
        for duals in (
            (forward_ad.make_dual(features, features), rois),
            (features, forward_ad.make_dual(rois, rois)),
        ):
            with pytest.raises(NotImplementedError, match=r"ROIAlign has no derivative in forward mode \(jvp\)"):
                op(*duals)


SECOND_ORDER = {
    "grad of grad": lambda loss, f: grad(lambda f: grad(loss)(f).sum())(f),
    "jacrev of grad": lambda loss, f: jacrev(grad(loss))(f),
    "a batch": lambda loss, f: vmap(grad(lambda f: grad(loss)(f).sum()))(f[None]),
    "hessian": lambda loss, f: torch.autograd.functional.hessian(loss, f),
    "a vectorized hessian": lambda loss, f: torch.autograd.functional.hessian(loss, f, vectorize=True),
}


@pytest.mark.parametrize("derivative", SECOND_ORDER.values(), ids=SECOND_ORDER)
@pytest.mark.parametrize("sample_num", [2, 0])
def test_second_order_is_refused(derivative, sample_num):
    op = ROIAlign(2, 1, 0.25, sample_num)
    with pytest.raises(RuntimeError, match="ROIAlign: trying to differentiate twice"):
        derivative(lambda features: op(features, ROIS[2]).square().sum(), FEATURES[0, :, :, :4, :4])


# Traced.


@every_op
@every_batch
def test_a_batch_can_be_traced(op, in_dims):
    batches = tensors(in_dims)
    traced = make_fx(vmap(op, in_dims), tracing_mode="fake")(*batches)
    assert_is_loop(traced(*batches), op, in_dims, *batches)


def test_a_batch_that_is_traced_or_compiled_has_its_indices_checked_when_it_is_run():
    traced = make_fx(vmap(OPS["mode 0"]), tracing_mode="fake")(FEATURES, ROIS)
    rois = ROIS.clone()
    rois[2, 3, 0] = IMAGES
    for run in (traced, torch.compile(vmap(OPS["mode 0"]), backend="aot_eager", fullgraph=True)):
        with pytest.raises(RuntimeError, match=r"rois of entry 2 of the batch of vmap, row 3: image index 2\.0 is out"):
            run(FEATURES, rois)


@every_op
@every_batch
def test_a_batch_can_be_compiled(op, in_dims):
    batches = tensors(in_dims)
    compiled = torch.compile(vmap(op, in_dims), backend="aot_eager", fullgraph=True)
    assert_is_loop(compiled(*batches), op, in_dims, *batches)


@every_op
def test_gradients_can_be_traced_and_compiled(op):
    features, rois = FEATURES[0], ROIS[2]
    of_features = grad(lambda features, rois: op(features, rois).nansum())
    traced = make_fx(of_features, tracing_mode="fake")(features, rois)
    for function in (traced, torch.compile(of_features, backend="aot_eager")):
        assert_same_bits(function(features, rois).numpy(), of_features(features, rois).numpy())


def test_functionalize():
    features, rois = FEATURES[0], ROIS[0]
    assert_same_bits(functionalize(OPS["mode 0"])(features, rois).numpy(), OPS["mode 0"](features, rois).numpy())
