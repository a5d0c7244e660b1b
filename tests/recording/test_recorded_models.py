"""Recording changes nothing about the model, which is compiled as ever, and leaves nothing behind."""

import contextlib
import importlib.metadata
import io
import re
import warnings

import numpy as np
import pytest
import torch
import torchvision
from helpers import assert_same_bits
from recordings import FEATURES, MADE_BEFORE, MS_FEATURES, MS_ROIS, OPERATOR, ROIS, pool, read

import ms2torch_roi
from ms2torch_roi import parity
from ms2torch_roi.parity import operators
from ms2torch_roi.parity.recording import record

# Nothing about the model is changed.


def train(dtype=torch.float32):
    """Train a model for a step, with features that are used twice and changed in place; return all that came of it."""
    torch.manual_seed(0)
    convolution = torch.nn.Conv2d(3, 4, 3, padding=1)
    images, rois = torch.randn(2, 3, 16, 20, requires_grad=True), ROIS.clone().requires_grad_()
    features = convolution(images).to(dtype)
    output = pool(features, rois.to(dtype))
    output.register_hook(lambda gradient: gradient * 1.5)
    facts = (output.dtype, output.requires_grad, output.is_contiguous(), output._is_view())
    output.mul_(1.25)
    loss = (output * output).sum() + pool(features * 0.5, rois.to(dtype)).sum() + (features * features).sum()
    loss.backward()
    tensors = [output, loss, images.grad, convolution.weight.grad, convolution.bias.grad]
    return [np.atleast_1d(tensor.detach().float().numpy()) for tensor in tensors], facts, rois.grad is None


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("context", [contextlib.nullcontext, torch.no_grad, lambda: torch.autocast("cpu")])
def test_recording_changes_no_bit_of_a_torch_model(tmp_path, gradients, context):
    def run():
        if context is torch.no_grad:
            with context():
                output = pool(FEATURES.clone().requires_grad_())
                return [output.numpy()], (output.dtype, output.requires_grad), True
        with context():
            return train()

    expected, *expected_facts = run()
    with record(tmp_path, gradients=gradients) as recording:
        actual, *facts = run()
    assert facts == expected_facts
    for left, right in zip(actual, expected, strict=True):
        assert_same_bits(left, right)
    assert all(
        (call.features_gradient is None) == (not gradients or context is torch.no_grad) for call in read(recording)
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_what_autocast_computes_in_float32_is_recorded_in_float32(tmp_path, dtype):
    features = FEATURES.to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = pool(features)
        with record(tmp_path, gradients=True) as recording:
            output = pool(features)
    output.float().sum().backward()
    (call,) = read(recording)
    assert recording.calls == 1
    assert output.dtype == dtype
    assert torch.equal(output, expected)
    assert_same_bits(call.case.features, features.detach().float().numpy())
    assert_same_bits(call.output, operators.torchvision(call.case))
    assert torch.equal(torch.from_numpy(call.output).to(dtype), output)
    assert call.features_gradient.dtype == np.float32
    assert torch.equal(torch.from_numpy(call.features_gradient).to(dtype), features.grad)


@pytest.mark.needs_mindspore
@pytest.mark.parametrize("gradients", [False, True])
def test_recording_changes_no_bit_of_a_mindspore_model(tmp_path, ms, gradients):
    operator, rois = ms.ops.ROIAlign(4, 4, 0.25), ms.Tensor(MS_ROIS)
    weight = ms.Parameter(ms.Tensor(np.float32(2)), name="weight")

    def model(features):
        scaled = features * weight
        output = operator(scaled, rois)
        output.register_hook(lambda gradient: gradient * 4)
        output.mul_(ms.Tensor(2.0))
        return (output * 3).sum() + (output * 5).sum() + (scaled * 2).sum(), output

    def run():
        differentiate = ms.value_and_grad(model, 0, [weight], has_aux=True)
        (loss, output), (of_features, of_weights) = differentiate(ms.Tensor(MS_FEATURES))
        return [np.atleast_1d(tensor.asnumpy()) for tensor in (loss, output, of_features, of_weights[0])]

    expected = run()
    with record(tmp_path, gradients=gradients) as recording:
        actual = run()
    for left, right in zip(actual, expected, strict=True):
        assert_same_bits(left, right)
    (call,) = read(recording)
    assert (call.features_gradient is not None) == gradients
    if gradients:  # with what the model's own hook makes of it
        alone = ms.grad(lambda features: (operator(features, rois) * ms.Tensor(call.output_gradient)).sum())
        assert_same_bits(call.features_gradient, alone(ms.Tensor(call.case.features)).asnumpy())


def test_nothing_is_left_behind(tmp_path):
    original = OPERATOR._op
    code = hash(OPERATOR)
    with record(tmp_path / "outer"):
        with contextlib.suppress(KeyError), record(tmp_path / "inner"):
            pool()
            assert OPERATOR._op is not original
            assert hash(OPERATOR) == code
            raise KeyError
        assert OPERATOR._op is not original
    assert OPERATOR._op is original
    assert len(list((tmp_path / "outer").iterdir())) == len(list((tmp_path / "inner").iterdir())) == 1


@pytest.mark.needs_mindspore
def test_nothing_is_left_behind_in_mindspore(tmp_path, ms):
    with record(tmp_path):
        ms.ops.ROIAlign(4, 4, 0.25)(ms.Tensor(MS_FEATURES), ms.Tensor(MS_ROIS))
        assert "__call__" in vars(ms.ops.ROIAlign)
    assert "__call__" not in vars(ms.ops.ROIAlign)


def test_recordings_may_overlap_in_any_order(tmp_path):
    original = OPERATOR._op
    first, second = record(tmp_path), record(tmp_path)  # in one directory
    recording = first.__enter__()
    pool()
    other = second.__enter__()
    pool()
    first.__exit__(None, None, None)
    pool()
    second.__exit__(None, None, None)
    assert OPERATOR._op is original
    assert (recording.calls, other.calls) == (2, 2)
    assert sorted(recording.paths + other.paths) == sorted(tmp_path.iterdir())
    assert len({*recording.paths, *other.paths}) == 4


# What Python does not call.


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_models_are_compiled_as_ever_while_recording(tmp_path):
    compiled_before = torch.compile(MADE_BEFORE, backend="aot_eager", fullgraph=True)
    expected = compiled_before(FEATURES, ROIS)
    with record(tmp_path) as recording:
        with torch._dynamo.config.patch(error_on_recompile=True):
            assert torch.equal(compiled_before(FEATURES, ROIS), expected)
        compiled = torch.compile(torchvision.ops.RoIAlign((3, 2), 0.25, 2), backend="aot_eager", fullgraph=True)
        compiled(FEATURES, ROIS)
        exported = torch.export.export(MADE_BEFORE, (FEATURES, ROIS))
        scripted = torch.jit.script(MADE_BEFORE)
        scripted(FEATURES, ROIS)
        traced = torch.jit.trace(MADE_BEFORE, (FEATURES, ROIS), check_trace=False)
        assert recording.calls == 0
        pool()
    assert len(read(recording)) == 1
    for save, model in ((torch.export.save, exported), (torch.jit.save, scripted), (torch.jit.save, traced)):
        save(model, io.BytesIO())
    for model in (compiled, exported.module(), scripted, traced):
        model(FEATURES, ROIS)
    assert torch.equal(scripted(FEATURES, ROIS), expected)


def test_a_block_that_records_nothing_says_why_it_may_be(tmp_path):
    message = r"nothing was recorded in .*torchvision\.ops\.roi_align.*torch\.compile"
    with pytest.warns(UserWarning, match=message), record(tmp_path):
        pass
    with warnings.catch_warnings(), contextlib.suppress(KeyError), record(tmp_path):
        warnings.simplefilter("error")
        raise KeyError


@pytest.mark.needs_mindspore
def test_graph_mode_is_refused(tmp_path, ms):
    message = r"MindSpore is in graph mode.*mode=mindspore\.PYNATIVE_MODE.*MS_JIT=0.*mindspore\.jit.*import"
    ms.set_context(mode=ms.GRAPH_MODE)
    try:
        with pytest.raises(RuntimeError, match=message), record(tmp_path / "none"):
            pass
    finally:
        ms.set_context(mode=ms.PYNATIVE_MODE)
    assert not (tmp_path / "none").exists()


@pytest.mark.needs_mindspore
def test_a_model_that_turns_to_graph_mode_in_the_block_is_told_how_to_run_instead(tmp_path, ms):
    def run():
        with record(tmp_path):
            ms.set_context(mode=ms.GRAPH_MODE)
            Head(ms).cell(ms.Tensor(MS_FEATURES), ms.Tensor(MS_ROIS))

    try:
        with pytest.warns(UserWarning, match=r"nothing was recorded .*mode=mindspore\.PYNATIVE_MODE"):
            run()
    finally:
        ms.set_context(mode=ms.PYNATIVE_MODE)


@pytest.mark.needs_mindspore
def test_it_is_told_which_versions_recording_needs():
    requirements = importlib.metadata.requires("ms2torch-roi")
    version = next(re.match(r"mindspore>=([\d.]+)", line)[1] for line in requirements if line.startswith("mindspore>"))
    first, end = ms2torch_roi._MINDSPORE_PYTHONS
    needed = f"MindSpore {version} or later"
    pythons = f"CPython {first[0]}.{first[1]} to {end[0]}.{end[1] - 1}"
    assert f"{needed} on {pythons}" in parity.recording._OUT_OF_GRAPHS
    assert pythons in record.__doc__


class Head:
    """A cell, which MindSpore makes a graph of in graph mode, and a function that it always makes one of."""

    def __init__(self, ms):
        class Cell(ms.nn.Cell):
            def __init__(self):
                super().__init__()
                self.pool = ms.ops.ROIAlign(4, 4, 0.25)

            def construct(self, features, rois):
                return self.pool(features, rois)

        self.cell = cell = Cell()

        @ms.jit
        def pool(features, rois):
            return cell(features, rois)

        self.function = pool


@pytest.mark.needs_mindspore
@pytest.mark.parametrize("in_graph_mode", [False, True])
def test_with_ms_jit_0_all_is_seen_in_every_mode(tmp_path, ms, monkeypatch, in_graph_mode):
    head = Head(ms)
    features, rois = ms.Tensor(MS_FEATURES), ms.Tensor(MS_ROIS)
    expected = ms.ops.ROIAlign(4, 4, 0.25)(features, rois).asnumpy()
    monkeypatch.setenv("MS_JIT", "0")
    if in_graph_mode:
        ms.set_context(mode=ms.GRAPH_MODE)
    try:
        with record(tmp_path) as recording:
            outputs = [run(features, rois).asnumpy() for run in (head.cell, head.function)]
    finally:
        ms.set_context(mode=ms.PYNATIVE_MODE)
    assert len(read(recording)) == 2
    for output in (*outputs, *(call.output for call in read(recording))):
        assert_same_bits(output, expected)


@pytest.mark.needs_mindspore
def test_jit_runs_as_ever_and_is_not_recorded(tmp_path, ms):
    operator = ms.ops.ROIAlign(4, 4, 0.25)

    @ms.jit
    def pool(features, rois):
        return operator(features, rois)

    features, rois = ms.Tensor(MS_FEATURES), ms.Tensor(MS_ROIS)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with record(tmp_path) as recording:
            output = pool(features, rois)
    assert any("nothing was recorded" in str(warning.message) for warning in caught)
    assert_same_bits(output.asnumpy(), operator(features, rois).asnumpy())
    assert recording.calls == 0
