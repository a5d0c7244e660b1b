"""A call is one call, and recorded once, whatever sees it on its way: modes, subclasses and checkpoints."""

import contextlib
import functools
import warnings

import pytest
import torch
from helpers import assert_same_bits
from recordings import FEATURES, OPERATOR, ROIS, pool, read
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts
from torch.utils.flop_counter import FlopCounterMode
from torchvision import tv_tensors

from ms2torch_roi.parity import operators
from ms2torch_roi.parity.recording import record


class FunctionMode(TorchFunctionMode):
    """A mode that notes what it sees."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.seen.append(func)
        return func(*args, **(kwargs or {}))


class HalvingMode(TorchFunctionMode):
    """A mode that changes what the operator is given."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        with torch._C.DisableTorchFunction():
            halves = [arg / 2 if arg is FEATURES else arg for arg in args]
        return func(*halves, **(kwargs or {}))


class DispatchMode(TorchDispatchMode):
    """A mode that notes what it sees."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.append(func)
        return func(*args, **(kwargs or {}))


class PacketDispatchMode(TorchDispatchMode):
    """A mode that calls the operator as Python knows it."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return func.overloadpacket(*args, **(kwargs or {}))


class Subclass(torch.Tensor):
    """A subclass with what torch.Tensor has in __torch_function__."""


@contextlib.contextmanager
def default_device():
    torch.set_default_device("cpu")
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextlib.contextmanager
def three_modes():
    with FunctionMode(), torch.device("cpu"), DispatchMode(), FunctionMode():
        yield


MODES = {
    "torch.device": lambda: torch.device("cpu"),
    "set_default_device": default_device,
    "a function mode": FunctionMode,
    "a function mode that changes the call": HalvingMode,
    "a dispatch mode": DispatchMode,
    "a dispatch mode that calls the operator again": PacketDispatchMode,
    "FlopCounterMode": lambda: FlopCounterMode(display=False),
    "several": three_modes,
}


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_a_call_under_a_mode_is_one_call(tmp_path, mode, gradients):
    with mode():
        expected = pool()
    with record(tmp_path, max_calls=3, gradients=gradients) as recording, mode():
        outputs = [pool() for _ in range(3)]
    assert recording.calls == 3
    for call, output in zip(read(recording), outputs, strict=True):
        assert_same_bits(output.numpy(), expected.numpy())
        assert_same_bits(call.output, output.numpy())
        assert_same_bits(call.output, operators.torchvision(call.case))


@pytest.mark.parametrize("every", [1, 2])
def test_calls_that_are_left_out_are_counted_once_too(tmp_path, every):
    with record(tmp_path, every=every) as recording:
        for mode in MODES.values():
            with mode():
                pool()
                OPERATOR(FEATURES, ROIS, spatial_scale=0.25, pooled_height=3, pooled_width=2, sampling_ratio=2,
                         aligned=False)  # fmt: skip
    assert recording.calls == 2 * len(MODES)
    assert len(read(recording)) == 2 * len(MODES) // every


SUBCLASSES = {
    "features": (lambda features: features.as_subclass(Subclass), lambda rois: rois),
    "rois": (lambda features: features, lambda rois: rois.as_subclass(Subclass)),
    "both": (lambda features: features.as_subclass(Subclass), lambda rois: rois.as_subclass(Subclass)),
    "tv_tensors": (tv_tensors.Image, lambda rois: rois),
    "a parameter": (torch.nn.Parameter, lambda rois: rois),
}


@pytest.mark.parametrize(("of_features", "of_rois"), SUBCLASSES.values(), ids=SUBCLASSES)
def test_a_call_of_subclasses_is_one_call(tmp_path, of_features, of_rois):
    features = of_features(FEATURES.clone()).requires_grad_()
    expected = pool(features, of_rois(ROIS))
    with record(tmp_path, gradients=True) as recording:
        output = pool(features, of_rois(ROIS))
        output.sum().backward()
    assert type(output) is type(expected)
    assert recording.calls == 1
    (call,) = read(recording)
    assert_same_bits(call.case.features, FEATURES.numpy())
    assert_same_bits(call.output, operators.torchvision(call.case))
    assert_same_bits(call.features_gradient, features.grad.numpy())


@pytest.mark.parametrize("mode", [FunctionMode, DispatchMode])
def test_modes_see_nothing_of_the_recording(tmp_path, mode):
    def seen():
        features = FEATURES.clone().requires_grad_()
        with mode() as noting:
            output = pool(features)
            forward = noting.seen.copy()
            output.sum().backward()
        # But for the view of the features whose gradient is recorded.
        return forward, [function for function in noting.seen if function is not torch.ops.aten.view.default]

    expected = seen()
    with record(tmp_path, gradients=True) as recording:
        actual = seen()
    assert actual == expected
    (call,) = read(recording)
    assert call.features_gradient is not None


@pytest.mark.parametrize("tracing_mode", ["real", "fake", "symbolic"])
def test_modes_that_trace_are_not_recorded(tmp_path, tracing_mode):
    trace = make_fx(lambda features, rois: pool(features, rois), tracing_mode=tracing_mode)
    expected = trace(FEATURES, ROIS)
    with warnings.catch_warnings(), record(tmp_path) as recording:
        warnings.filterwarnings("ignore", message=".*nothing was recorded")
        assert trace(FEATURES, ROIS).code == expected.code
        assert recording.calls == 0
        pool()
    assert len(read(recording)) == 1


# Checkpoints.

SELECTIVE = functools.partial(create_selective_checkpoint_contexts, [OPERATOR.default])
HEADS = {"last": pool, "followed": lambda features: pool(features).exp().exp()}


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
@pytest.mark.parametrize("options", [{}, {"context_fn": SELECTIVE}], ids=["all", "selective"])
@pytest.mark.parametrize("gradients", [False, True])
def test_a_call_that_checkpoint_computes_again_is_one_call(tmp_path, head, options, gradients):
    def train():
        features = FEATURES.clone().requires_grad_()
        checkpoint(head, features, use_reentrant=False, **options).sum().backward()
        return features.grad

    expected = train()
    with warnings.catch_warnings(), record(tmp_path, gradients=gradients) as recording:
        warnings.simplefilter("error")
        actual = train()
    assert recording.calls == 1
    (call,) = read(recording)
    assert_same_bits(actual.numpy(), expected.numpy())
    assert_same_bits(call.output, operators.torchvision(call.case))
    assert (call.features_gradient is not None) == gradients
    if gradients:
        assert_same_bits(call.features_gradient, expected.numpy())
