"""The CPU path that sums in another order, exact=False: the semantics of the exact one, and values within a bound."""

import copy
import pickle

import numpy as np
import pytest
import torch
from helpers import MINDSPORE_EDGE_CASES, Head, assert_same_bits
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses import FakeTensorMode

from ms2torch_roi import ROIAlign, cpu
from ms2torch_roi.parity import cases

# Of the largest feature. float32: of a sum of products, each rounded once in either path. float16: of the exact path,
# which rounds every step; the fast one sums in float32.
BOUND = {torch.float32: 1e-5, torch.float16: 2**-8}
# Of the largest gradient. The exact path adds up hundreds of float16 terms in a cell, and their rounding errors.
GRADIENT_BOUND = {torch.float32: 1e-5, torch.float16: 0.05}

FEATURES = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 3, 11, 14)).astype(np.float32))
ROIS = torch.tensor([[1, 2, 3, 17, 14], [0, 6, 6, 7.2, 6.8], [0, -9, 5, 25, 90], [0, 0, 0, 0, 0]])


def both(features, rois, arguments, **more):
    """Return the outputs and gradients of the exact and the fast path, or the errors they end in."""
    found = []
    for exact in (True, False):
        leaf = features.clone(memory_format=torch.preserve_format).requires_grad_()
        try:
            output = ROIAlign(**arguments, exact=exact, **more)(leaf, rois)
        except RuntimeError as error:
            found.append(str(error))
            continue
        output.backward(torch.randn(output.shape, generator=torch.Generator().manual_seed(0)).to(output.dtype))
        found.append((output.detach(), leaf.grad))
    return found


def assert_close(actual, expected, largest, bound):
    assert actual.dtype == expected.dtype
    for kind in (torch.isnan, torch.isposinf, torch.isneginf):
        assert torch.equal(kind(actual), kind(expected)), kind
    finite = expected.isfinite()
    assert ((actual - expected)[finite].abs() <= bound * largest).all()


def largest_finite(tensor):
    return tensor[tensor.isfinite()].double().abs().max() if tensor.isfinite().any() else 0


def assert_alike(features, rois, arguments, **more):
    exact, fast = both(features, rois, arguments, **more)
    if isinstance(exact, str) or isinstance(fast, str):
        assert fast == exact
        return
    assert_close(fast[0].double(), exact[0].double(), largest_finite(features), BOUND[features.dtype])
    assert_close(fast[1].double(), exact[1].double(), largest_finite(exact[1]), GRADIENT_BOUND[features.dtype])


@pytest.mark.parametrize("case", MINDSPORE_EDGE_CASES, ids=str)
def test_edges(case):
    assert_alike(torch.from_numpy(case.features), torch.from_numpy(case.rois), case.arguments)


@settings(max_examples=150)
@given(seed=st.integers(0, 2**32 - 1))
def test_random_cases(seed):
    case = cases.random_case(seed, 0)
    assert_alike(torch.from_numpy(case.features), torch.from_numpy(case.rois), case.arguments)


def test_a_large_call_in_several_blocks(monkeypatch):
    monkeypatch.setattr(cpu, "VALUES_AT_ONCE", 2**12)
    monkeypatch.setattr(cpu.sampling, "TERMS", 2**9)
    monkeypatch.setattr(cpu, "CHANNELS_AT_ONCE", 12)
    features = torch.randn(2, 40, 30, 50, generator=torch.Generator().manual_seed(0))
    corners = torch.rand(90, 2, generator=torch.Generator().manual_seed(1)) * 100
    rois = torch.cat((torch.arange(90)[:, None] % 2, corners, corners + corners.flip(0)), 1)
    for sample_num in (2, 3, 0):
        assert_alike(features, rois, {**_arguments(), "sample_num": sample_num})


def test_the_exact_gradient_has_its_bits_in_several_blocks(monkeypatch):
    features = torch.randn(2, 40, 30, 50, generator=torch.Generator().manual_seed(0))
    corners = torch.rand(90, 2, generator=torch.Generator().manual_seed(1)) * 100
    rois = torch.cat((torch.arange(90)[:, None] % 2, corners, corners + corners.flip(0)), 1)
    expected, _ = both(features, rois, _arguments())
    monkeypatch.setattr(cpu, "VALUES_AT_ONCE", 2**12)
    monkeypatch.setattr(cpu.sampling, "TERMS", 2**9)
    monkeypatch.setattr(cpu, "CHANNELS_AT_ONCE", 12)
    actual, _ = both(features, rois, _arguments())
    assert_same_bits(actual[1].numpy(), expected[1].numpy())


def _arguments():
    return {"pooled_height": 3, "pooled_width": 4, "spatial_scale": 0.25, "sample_num": 2, "roi_end_mode": 1}


def test_features_that_are_channels_last_are_not_copied_and_nor_is_the_output(monkeypatch):
    made = []
    empty = cpu._empty
    monkeypatch.setattr(cpu, "_empty", lambda shape, like: (made.append(tuple(shape)), empty(shape, like))[1])
    op = ROIAlign(3, 4, 0.25, exact=False)
    output = op(FEATURES, ROIS)
    assert made == [(4, 3, 3, 4), (2, 11, 14, 3)]
    assert output.is_contiguous()
    channels_last = op(FEATURES.contiguous(memory_format=torch.channels_last), ROIS)
    assert made[2:] == [(4, 3, 4, 3)]
    assert_same_bits(channels_last.numpy(), output.numpy())
    assert channels_last.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("shape", [(2, 1, 11, 14), (2, 3, 1, 1)], ids=["one channel", "one cell"])
def test_contiguous_features_that_could_be_channels_last_too_are_contiguous(shape):
    output = ROIAlign(3, 4, 0.25, exact=False)(torch.ones(shape), ROIS)
    assert output.stride() == torch.empty(output.shape).stride()  # is_contiguous would take any for one channel


@pytest.mark.parametrize("mode", [0, 1])
@pytest.mark.parametrize("backward_mode", [0, 1])
def test_the_gradient_is_that_of_the_backward_mode(mode, backward_mode):
    arguments = {**_arguments(), "roi_end_mode": mode}
    assert_alike(FEATURES, ROIS, arguments, backward_roi_end_mode=backward_mode)
    _, of_backward_mode = both(FEATURES, ROIS, {**arguments, "roi_end_mode": backward_mode})
    _, fast = both(FEATURES, ROIS, arguments, backward_roi_end_mode=backward_mode)
    assert_same_bits(fast[1].numpy(), of_backward_mode[1].numpy())


def test_float64_and_bfloat16():
    op, fast = ROIAlign(3, 4, 0.25), ROIAlign(3, 4, 0.25, exact=False)
    wide = FEATURES.double(), ROIS.double()
    torch.testing.assert_close(fast(*wide), op(*wide), rtol=0, atol=1e-14)
    narrow = FEATURES.bfloat16(), ROIS.bfloat16()
    assert fast(*narrow).dtype == torch.bfloat16
    torch.testing.assert_close(fast(*narrow), op(*narrow), rtol=2**-7, atol=2**-9)


def test_training_ends_where_the_exact_path_does():
    images, losses = torch.randn(2, 3, 20, 30, generator=torch.Generator().manual_seed(0)), []
    for exact in (True, False):
        head = Head()
        head.pool = ROIAlign(3, 2, 0.25, exact=exact)
        optimizer = torch.optim.SGD(head.parameters(), lr=0.05)
        for _ in range(20):
            optimizer.zero_grad()
            loss = head(images, ROIS).square().mean()
            loss.backward()
            optimizer.step()
        losses.append(loss.item())
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert losses[0] < 1


def test_it_sums_in_another_order():
    rois = ROIS[:1] * torch.linspace(0.5, 1, 50)[:, None]
    assert not torch.equal(ROIAlign(7, 7, 0.5, 3, exact=False)(FEATURES, rois), ROIAlign(7, 7, 0.5, 3)(FEATURES, rois))


@pytest.mark.parametrize("exact", [0, None, "no"])
def test_exact_is_a_bool(exact):
    with pytest.raises(TypeError, match=f"exact must be of type bool, got {exact!r}"):
        ROIAlign(3, 4, 0.25, exact=exact)


def test_exact_is_kept_and_shown_where_it_is_not_the_default():
    assert "exact" not in repr(ROIAlign(3, 4, 0.25))
    op = ROIAlign(3, 4, 0.25, exact=False)
    assert repr(op).endswith("roi_end_mode=1, exact=False)")
    assert not copy.deepcopy(op).exact
    assert not pickle.loads(pickle.dumps(op)).exact


def test_traced_it_is_the_default():
    op, fast = ROIAlign(3, 4, 0.25), ROIAlign(3, 4, 0.25, exact=False)
    traced = [torch.jit.trace(module, (FEATURES, ROIS))(FEATURES, ROIS) for module in (op, fast)]
    assert_same_bits(traced[1].numpy(), traced[0].numpy())


def test_on_an_accelerator_it_is_the_default(monkeypatch):
    monkeypatch.setattr(cpu, "pool_fast", None)
    with FakeTensorMode():
        features, rois = torch.empty(2, 3, 20, 30, device="cuda"), torch.empty(6, 5, device="cuda")
        assert ROIAlign(3, 4, 0.25, exact=False)(features, rois).device.type == "cuda"


class OnAGpu(torch.Tensor):
    """Says that it is on a GPU; its values are at hand."""

    device = property(lambda self: torch.device("cuda"))


def test_adaptive_grids_on_an_accelerator_take_the_default_path_forward_and_backward(monkeypatch):
    taken = []
    monkeypatch.setattr(cpu, "pool", lambda features, *_: (taken.append("pool"), features.sum((2, 3)))[1])
    monkeypatch.setattr(cpu, "pool_fast", lambda features, *_: (taken.append("fast"), features.sum((2, 3)))[1])
    monkeypatch.setattr(
        cpu, "gradient", lambda _, shape, *__, exact: (taken.append(("exact", exact)), torch.ones(shape))[1]
    )
    features = FEATURES.clone().requires_grad_()
    ROIAlign(3, 4, 0.25, 0, exact=False)(features.as_subclass(OnAGpu), ROIS.as_subclass(OnAGpu)).sum().backward()
    assert taken == ["pool", ("exact", True)]
