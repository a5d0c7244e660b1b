"""torch.ops.ms2torch_roi: well-made operators, the kernel that runs on each device, and compiled bits of eager."""

import contextlib
import io
import shutil
import warnings

import numpy as np
import pytest
import torch
from helpers import Head, assert_same_bits, run_python, without
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from ms2torch_roi import ROIAlign, engine, rules
from ms2torch_roi.parity import cases, operators
from ms2torch_roi.torch import cpu, operator, torchvision

FEATURES = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 5, 20, 30)).astype(np.float32))
K = torch.export.Dim("K")


def some_rois(count, seed=0):
    """Return boxes of less than a cell to sixty cells at a scale of 1/4, some of them of rows that pool to 0."""
    rng = np.random.default_rng(seed)
    start, size = rng.uniform(-20, 120, (count, 2)), 10 ** rng.uniform(-1.4, 2.4, (count, 2))
    rois = np.hstack((rng.integers(0, 2, (count, 1)), start, start + size)).astype(np.float32)
    rois[5::7, 1:] = 0
    rois[6::11, 3] = np.nan
    return torch.from_numpy(rois)


ROIS = some_rois(40)
MANY_ROIS = some_rois(8000)  # enough for the engine
LARGE_ROIS = some_rois(400)
LARGE_ROIS = LARGE_ROIS[(LARGE_ROIS[:, 3:] - LARGE_ROIS[:, 1:3] > 13).all(1)]  # no adaptive grid of 3 bins is empty

every_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
every_mode = pytest.mark.parametrize("mode", [0, 1])
fixed_and_adaptive = pytest.mark.parametrize("sample_num", [2, 0])


# Schemas, fake kernels, derivatives and what compilers make of them.


@pytest.mark.parametrize("requires_grad", [False, True])
@fixed_and_adaptive
@every_mode
@every_dtype
def test_opcheck(dtype, mode, sample_num, requires_grad):
    features, rois = FEATURES.to(dtype, copy=True).requires_grad_(requires_grad), LARGE_ROIS[:4].to(dtype)
    names = rules.names("cpu", mode, "cpu", 1 - mode)
    torch.library.opcheck(operator.roi_align, (features, rois, 3, 2, 0.25, sample_num, *names))


@fixed_and_adaptive
@every_mode
@every_dtype
def test_opcheck_of_the_gradient(dtype, mode, sample_num):
    of_output = torch.ones(4, 5, 3, 2, dtype=dtype)
    arguments = (of_output, LARGE_ROIS[:4].to(dtype), 2, 20, 30, 3, 2, 0.25, sample_num, f"cpu, mode {mode}")
    torch.library.opcheck(operator.roi_align_backward, arguments)


def test_opcheck_of_the_index_of_a_batch():
    torch.library.opcheck(torch.ops.ms2torch_roi.whole_index.default, (ROIS[:4, 0].reshape(2, 2), 2, "cpu, mode 1"))


# Compiled.


def output_and_gradient(op, features, rois):
    """Return both; the gradient for the output has a value of its own everywhere."""
    features = features.clone().requires_grad_()
    output = op(features, rois)
    of_output = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).reshape(output.shape)
    return output.detach(), *torch.autograd.grad(output, features, of_output)


def assert_is_eager(compiled, op, features, rois):
    for actual, expected in zip(
        output_and_gradient(compiled, features, rois), output_and_gradient(op, features, rois), strict=True
    ):
        assert_same_bits(actual.numpy(), expected.numpy())
    assert_same_bits(compiled(features, rois).numpy(), op(features, rois).numpy())


@pytest.mark.parametrize("backward_mode", [None, 0, 1])
@fixed_and_adaptive
@every_mode
@every_dtype
def test_a_compiled_module_has_the_bits_of_eager(dtype, mode, sample_num, backward_mode):
    op = ROIAlign(3, 2, 0.25, sample_num, mode, backward_mode)
    compiled = torch.compile(op, fullgraph=True, backend="aot_eager")
    for rois in (ROIS, MANY_ROIS, ROIS[:0]):
        assert_is_eager(compiled, op, FEATURES.to(dtype), rois.to(dtype))


@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="no C++ compiler for inductor")
@fixed_and_adaptive
@every_mode
def test_a_module_compiled_by_inductor_has_the_bits_of_eager(mode, sample_num):
    op = ROIAlign(3, 2, 0.25, sample_num, mode, 1)
    compiled = torch.compile(op, fullgraph=True, dynamic=True)
    for dtype in (torch.float32, torch.float16):
        assert_is_eager(compiled, op, FEATURES.to(dtype), ROIS.to(dtype))


@pytest.mark.parametrize("make", [cases.random_case, cases.workload_case])
def test_compiled_cases_have_the_bits_of_eager(make):
    count, rows = (12, 50) if make is cases.random_case else (2, 50)
    for number in range(count):
        case = make(11, number)
        if isinstance(operators.outcome(operators.port, case), Exception):
            continue
        op = ROIAlign(**case.arguments)
        tensors = torch.from_numpy(case.features), torch.from_numpy(case.rois)
        torch._dynamo.reset()
        compiled = torch.compile(op, fullgraph=True, backend="aot_eager")
        assert_same_bits(compiled(*tensors).numpy(), op(*tensors).numpy())
        if case.features.dtype == case.rois.dtype:
            assert_is_eager(compiled, op, *tensors)
        rows -= len(case.rois)
    assert rows < 0


@fixed_and_adaptive
def test_one_compiled_program_for_any_number_of_rois_and_images_of_any_size(sample_num):
    counter = CompileCounterWithBackend("aot_eager")
    op = ROIAlign(3, 2, 0.25, sample_num)
    compiled = torch.compile(op, fullgraph=True, backend=counter)
    for images, height, count in ((2, 7, 6), (3, 9, 4), (4, 20, 300), (7, 13, 2000)):
        features, rois = FEATURES[:1, :, :height].repeat(images, 1, 1, 1), some_rois(count)
        for tensor, dimension in ((features, 0), (features, 2), (rois, 0)):
            torch._dynamo.mark_dynamic(tensor, dimension)
        assert_same_bits(compiled(features, rois).numpy(), op(features, rois).numpy())
    assert counter.frame_count == 1


def test_a_compiled_model_trains_with_the_bits_of_eager():
    head = Head(0, 0, 1)
    compiled = torch.compile(head, fullgraph=True, dynamic=True, backend="aot_eager")
    results = []
    for model in (head, compiled):
        head.zero_grad()
        model(FEATURES[:, :3], LARGE_ROIS).square().sum().backward()
        results.append(head.convolution.weight.grad.clone())
    assert results[0].isfinite().all()
    assert_same_bits(results[1].numpy(), results[0].numpy())


@pytest.mark.parametrize("index", [2, -1, -0.5, 1.25, float("inf")])
@fixed_and_adaptive
def test_a_bad_index_is_the_error_of_eager_when_a_compiled_program_runs(sample_num, index):
    op = ROIAlign(3, 2, 0.25, sample_num)
    compiled = torch.compile(op, fullgraph=True, backend="aot_eager")
    compiled(FEATURES, ROIS)
    rois = ROIS.clone()
    rois[1, 0] = index
    for call in (op, compiled, make_fx(op, tracing_mode="fake")(FEATURES, ROIS)):
        with pytest.raises(
            RuntimeError, match=rf"rois row 1: image index {index}.* is out of range, allowed is \[0, 1\]"
        ):
            call(FEATURES, rois)


def test_an_adaptive_grid_beyond_reason_is_the_error_of_eager_when_a_compiled_program_runs():
    op = ROIAlign(7, 7, 0.5, 0)
    compiled = torch.compile(op, fullgraph=True, backend="aot_eager")
    compiled(FEATURES, ROIS)
    rois = ROIS.clone()
    rois[1] = torch.tensor([0, -3e8, 2, 3e8, 30])
    with pytest.raises(RuntimeError, match="40 boxes with adaptive grids, the largest of row 1, 42857144 x 2 samples"):
        compiled(FEATURES, rois)


# Programs that must run where this package is not.


def operators_of(program):
    return {str(node.target) for node in program.graph.nodes if node.op == "call_function"}


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("backward_mode", [None, 0, 1])
@every_mode
def test_an_exported_program_calls_torchvision_and_not_this_package(mode, backward_mode, strict):
    op = ROIAlign(3, 2, 0.25, 2, mode, backward_mode)
    program = torch.export.export(op, (FEATURES, ROIS), dynamic_shapes=({}, {0: K}), strict=strict)
    for exported in (program, program.run_decompositions()):
        found = operators_of(exported)
        assert "torchvision.roi_align.default" in found
        assert not [name for name in found if "ms2torch" in name]


def test_a_saved_program_runs_where_this_package_is_not(tmp_path):
    op = ROIAlign(3, 2, 0.25, 2, 0)
    torch.export.save(torch.export.export(op, (FEATURES, ROIS), dynamic_shapes=({}, {0: K})), tmp_path / "exported.pt2")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(op, (FEATURES, ROIS)), tmp_path / "traced.pt")
    torch.save((FEATURES, MANY_ROIS, op(FEATURES, MANY_ROIS)), tmp_path / "expected.pt")
    code = f"""
import torch, torchvision
features, rois, expected = torch.load({str(tmp_path / "expected.pt")!r})
exported = torch.export.load({str(tmp_path / "exported.pt2")!r}).module()
traced = torch.jit.load({str(tmp_path / "traced.pt")!r})
print(torch.equal(exported(features, rois), expected), torch.equal(traced(features, rois), expected))
"""
    done = run_python(without("ms2torch_roi") + code)
    assert done.stdout.strip() == "True True", done.stderr


def test_a_traced_program_holds_no_operator_of_this_package():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(ROIAlign(3, 2, 0.25), (FEATURES, ROIS))
        buffer = io.BytesIO()
        torch.jit.save(traced, buffer)
    graph = str(traced.inlined_graph)
    assert "torchvision::roi_align" in graph
    assert "ms2torch_roi::" not in graph


def test_a_graph_of_make_fx_holds_the_operator_alone():
    graph = make_fx(ROIAlign(3, 2, 0.25, 0), tracing_mode="symbolic")(FEATURES, ROIS)
    assert operators_of(graph) == {"ms2torch_roi.roi_align.default"}


# Which kernel runs.


@pytest.fixture
def kernels(monkeypatch):
    """The computations that were called, in order."""
    found = []

    def spy(module, name, called):
        real = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *arguments: (found.append(called), real(*arguments))[1])

    spy(engine, "pool", "engine")
    spy(engine, "gradient", "engine's gradient")
    spy(cpu, "_roi_align", "torchvision on a CPU")
    spy(cpu, "_gradient_of_roi_align", "torchvision's gradient on a CPU")
    spy(torchvision, "pool", "torchvision in one call")
    spy(torchvision, "gradient", "torchvision's gradient in one call")
    return found


@contextlib.contextmanager
def another_device(*names):
    """Run what accelerators run, on the CPU: the kernels that are registered for devices without one of their own."""
    with torch.library._scoped_library("ms2torch_roi", "IMPL") as library, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that they are overridden
        for name in names:
            op = getattr(operator, name)

            def redispatch(*arguments, op=op):
                return op.redispatch(torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA), *arguments)

            library.impl(name, redispatch, "CPU", allow_override=True)
        yield


@pytest.mark.parametrize(
    ("rois", "sample_num", "expected"),
    [
        (LARGE_ROIS[:1], 2, ["torchvision on a CPU", "torchvision's gradient on a CPU"]),
        (MANY_ROIS, 2, ["engine", "engine's gradient"]),
        (MANY_ROIS, 0, ["engine", "engine's gradient"]),
    ],
    ids=["small", "large", "large and adaptive"],
)
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_on_a_cpu_small_calls_are_torchvisions_and_large_the_engines(kernels, compiled, rois, sample_num, expected):
    op = ROIAlign(3, 3, 0.25, sample_num, 0)
    output_and_gradient(torch.compile(op, fullgraph=True, backend="aot_eager") if compiled else op, FEATURES, rois)
    assert kernels == expected


@every_mode
def test_another_device_calls_torchvision_once(kernels, mode):
    op = ROIAlign(7, 7, 0.25, 2, mode)
    with another_device("roi_align", "roi_align_backward"):
        output, gradient = output_and_gradient(op, FEATURES, MANY_ROIS)
    assert kernels == ["torchvision in one call", "torchvision's gradient in one call"]
    expected, expected_gradient = output_and_gradient(op, FEATURES, MANY_ROIS)
    if mode == 0:
        assert_same_bits(output.numpy(), expected.numpy())
        assert_same_bits(gradient.numpy(), expected_gradient.numpy())
    else:  # a box that 0.5 is added to is rounded otherwise: test_traced.py has the bound
        torch.testing.assert_close(output, expected, rtol=0, atol=1e-4)
        torch.testing.assert_close(gradient, expected_gradient, rtol=0, atol=1e-2)


@fixed_and_adaptive
def test_another_device_has_adaptive_and_deterministic_calls_computed_on_the_cpu(kernels, sample_num):
    op = ROIAlign(3, 3, 0.25, sample_num, 1)
    torch.use_deterministic_algorithms(sample_num > 0)
    try:
        with another_device("roi_align", "roi_align_backward"):
            actual = output_and_gradient(op, FEATURES, MANY_ROIS)
        forward = "torchvision in one call" if sample_num > 0 else "engine"
        assert kernels == [forward, "engine's gradient"]
        expected = output_and_gradient(op, FEATURES, MANY_ROIS)
    finally:
        torch.use_deterministic_algorithms(False)
    assert_same_bits(actual[1].numpy(), expected[1].numpy())
    if sample_num <= 0:
        assert_same_bits(actual[0].numpy(), expected[0].numpy())


def test_another_device_asserts_the_index():
    rois = ROIS.clone()
    rois[3, 0] = 2
    with (
        another_device("roi_align"),
        pytest.raises(RuntimeError, match="ROIAlign: rois with an image index out of range"),
    ):
        ROIAlign(3, 2, 0.25)(FEATURES, rois)


@pytest.mark.parametrize("device", ["meta", "cpu", "cuda"])
def test_without_values_nothing_is_computed(kernels, device):
    with FakeTensorMode() if device != "meta" else contextlib.nullcontext():
        features = torch.empty(2, 3, 20, 30, device=device, requires_grad=device != "cuda")
        output = ROIAlign(3, 2, 0.25, 0)(features, torch.empty(6, 5, device=device))
        if features.requires_grad:  # which needs a device of the kind
            output.sum().backward()
            assert features.grad.shape == features.shape
    assert (output.shape, output.device.type) == ((6, 3, 3, 2), device)
    assert kernels == []


@pytest.mark.parametrize("strict", [False, True])
def test_what_is_exported_is_torchvision_in_one_call(kernels, strict):
    torch.export.export(ROIAlign(3, 2, 0.25), (FEATURES, ROIS), strict=strict)
    assert set(kernels) <= {"torchvision in one call"}
    if not strict:  # otherwise it is traced rather than called
        assert kernels


# Without Numba.


def test_without_numba_every_call_has_the_same_bits(monkeypatch):
    def results():
        found = []
        for mode, sample_num, dtype, pooled in (
            (0, 2, torch.float32, 7), (1, 2, torch.float32, 7), (1, 0, torch.float32, 3), (0, 0, torch.float16, 3),
            (1, 2, torch.float16, 7), (1, 3, torch.float64, 7),
        ):  # fmt: skip
            op = ROIAlign(pooled, pooled, 0.25, sample_num, mode)
            for rois in (ROIS, some_rois(400)):
                found += output_and_gradient(op, FEATURES.to(dtype), rois.to(dtype))
        return found

    with_numba = results()
    assert engine.is_compiled(np.dtype(np.float32))
    monkeypatch.setattr(engine, "_compiled", lambda: None)
    assert not engine.is_compiled(np.dtype(np.float32))
    for actual, expected in zip(results(), with_numba, strict=True):
        assert_same_bits(actual.numpy(), expected.numpy())


SMALL_AND_LARGE = """
import sys, torch
import ms2torch_roi
from ms2torch_roi import ROIAlign
print("numba" in sys.modules)
torch.manual_seed(0)
features = torch.randn(1, 8, 20, 30, requires_grad=True)
def pool(count, mode=1, sample_num=2):
    rois = torch.rand(count, 5) * torch.tensor([0, 60, 40, 0, 0])
    rois[:, 3:] = rois[:, 1:3] + 8
    ROIAlign(7, 7, 0.25, sample_num, mode)(features, rois).nansum().backward()
pool(1)
pool(30)
print("numba" in sys.modules)
pool(1000)
print("numba" in sys.modules, bool(features.grad.isfinite().all()))
"""


def test_numba_is_imported_by_the_first_large_call():
    done = run_python(SMALL_AND_LARGE)
    assert done.stdout.split() == ["False", "False", "True", "True"], done.stderr


def test_calls_work_where_numba_is_not_installed():
    done = run_python(without("numba") + SMALL_AND_LARGE)
    assert done.stdout.split() == ["False", "False", "False", "True"], done.stderr
