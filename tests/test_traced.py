"""ROIAlign exported, traced and compiled: programs, what they take, and what they refuse."""

import io
import itertools
import pickle

import numpy as np
import pytest
import torch
from helpers import Head, assert_same_bits, run_python
from programs import FEATURES, some_rois, traced
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

from ms2torch_roi import ROIAlign, params
from ms2torch_roi.torch import operator

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit", "ignore::torch.jit.TracerWarning")

K = torch.export.Dim("K")


# Compilers and exporters.


@pytest.mark.parametrize("backward_mode", [None, 1])
@pytest.mark.parametrize("mode", [0, 1])
@pytest.mark.parametrize("dynamic", [True, None])
def test_compiled_models_train_without_a_graph_break_on_any_number_of_rois(mode, backward_mode, dynamic):
    head = Head(2, mode, backward_mode)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(head, fullgraph=True, dynamic=dynamic, backend=counter)
    graphs = []
    for count in (5, 2, 3, 7, 30, 100, 1, 0, 4):
        rois = some_rois(count)
        results = []
        for model in (compiled, head):
            head.zero_grad()
            output = model(FEATURES, rois)
            output.square().sum().backward()
            results.append((output.detach(), head.convolution.weight.grad.clone()))
        for actual, expected in zip(*results, strict=True):
            assert_same_bits(actual.numpy(), expected.numpy())
        graphs.append(counter.frame_count)
    # One for the first number, one for every other; 0 and 1 are special to torch.
    assert graphs[1] == graphs[5] <= 3
    assert graphs[-1] <= 5


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("mode", [0, 1])
def test_exported_programs_take_any_number_of_rois(mode, strict):
    head = Head(2, mode).eval()
    program = torch.export.export(head, (FEATURES, some_rois(5)), dynamic_shapes=({}, {0: K}), strict=strict)
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    buffer.seek(0)
    loaded = torch.export.load(buffer).module()
    for count in (0, 1, 2, 300):
        rois = some_rois(count)
        torch.testing.assert_close(loaded(FEATURES, rois), head(FEATURES, rois), rtol=0, atol=1e-5)


@pytest.mark.parametrize("strict", [False, True])
def test_exported_programs_train_with_the_gradient_of_the_backward_mode(strict):
    head = Head(2, 0, backward_roi_end_mode=1)
    exported = torch.export.export(head, (FEATURES, some_rois(5)), strict=strict).module()
    gradients = []
    for model in (head, exported):
        weight = dict(model.named_parameters())["convolution.weight"]
        gradients += torch.autograd.grad(model(FEATURES, some_rois(5)).square().sum(), weight)
    assert gradients[0].abs().max() > 0.1
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sample_num", [2, 0])
def test_the_operators_kernels_are_never_what_is_compiled(sample_num):
    op, rois = ROIAlign(3, 2, 0.25, sample_num), some_rois(5)
    # Once compiled under torch.func, a function is run as it is, and what it calls is offered to the compiler.
    torch.compile(torch.func.grad(lambda features: op(features, rois).sum()), backend="aot_eager")(FEATURES)
    counters = torch._dynamo.utils.counters
    counters.clear()
    output = torch.compile(op, backend="aot_eager")(FEATURES, rois)
    assert_same_bits(output.numpy(), op(FEATURES, rois).numpy())
    assert counters["frames"]["total"] == 1  # forward
    assert not counters["graph_break"]


def test_rois_get_no_gradient_when_compiled():
    features, rois = FEATURES.clone().requires_grad_(), some_rois(5).requires_grad_()
    torch.compile(ROIAlign(3, 2, 0.25), fullgraph=True, backend="aot_eager")(features, rois).sum().backward()
    assert features.grad.any()
    assert rois.grad is None


@pytest.mark.parametrize("mode", [0, 1])
@pytest.mark.filterwarnings("ignore")
def test_onnx_runtime_computes_the_same(mode):
    op = ROIAlign(3, 2, 0.25, 2, mode)
    run = in_onnx_runtime(op, (FEATURES, some_rois(5)))

    special = torch.tensor(
        [[0, 0, 1, 0, 9], [1, float("nan"), 1, 9, 9], [1, 400, 400, 500, 500], [float("nan"), 4, 4, 9, 9]]
    )
    for rois in (some_rois(0), some_rois(1), some_rois(300), special):
        torch.testing.assert_close(run(FEATURES, rois), op(FEATURES, rois), rtol=0, atol=(0, 1e-5)[mode])
    for index in (2.0, -1.0, -0.5):
        with pytest.raises(Exception, match=r"batch_indices value -1 .* out of range"):
            run(FEATURES, torch.tensor([[index, 1, 1, 9, 9]]))


# Each makes a program of any number of rois, from an operator and what it pools.


def in_onnx_runtime(op, tensors):
    onnxruntime = pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
    program = torch.onnx.export(op, tensors, dynamo=True, dynamic_shapes=({}, {0: K}), verbose=False)
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    names = [argument.name for argument in session.get_inputs()]

    def run(*tensors):
        (output,) = session.run(None, dict(zip(names, (tensor.numpy() for tensor in tensors), strict=True)))
        return torch.from_numpy(output)

    return run


PROGRAMS = {
    "torch.export": lambda op, tensors: torch.export.export(op, tensors, dynamic_shapes=({}, {0: K})).module(),
    "torch.compile": lambda op, tensors: torch.compile(op, fullgraph=True, dynamic=True, backend="aot_eager"),
    "torch.jit.trace": torch.jit.trace,
    "make_fx": lambda op, tensors: make_fx(op, tracing_mode="symbolic")(*tensors),
    "ONNX Runtime": in_onnx_runtime,
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("mode", [0, 1])
@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.filterwarnings("ignore")
def test_rois_with_nan_and_infinities_pool_as_in_eager_mode(program, mode, dtype):
    if program == "ONNX Runtime" and dtype == torch.float16:
        pytest.skip("its operator on a CPU has no float16")
    op, features, largest = ROIAlign(3, 2, 0.25, 2, mode), FEATURES.to(dtype), torch.finfo(dtype).max
    run = PROGRAMS[program](op, (features, some_rois(7).to(dtype)))
    rows = []
    for columns in itertools.chain(*(itertools.combinations(range(1, 5), count) for count in (1, 2, 4))):
        for values in itertools.product((np.nan, np.inf, -np.inf, largest, -largest), repeat=len(columns)):
            row = [1, 9, 7, 40, 33]
            for column, value in zip(columns, values, strict=True):
                row[column] = value
            rows.append(row)
    rows.append([np.nan, 9, 7, 40, 33])
    rois = torch.tensor(rows, dtype=dtype)
    expected = op(features, rois)
    assert expected.flatten(1).any(1).sum() >= (10, 1)[mode]
    in_one_call = program not in ("torch.compile", "make_fx")
    bound = {torch.float32: 1e-5, torch.float16: 0.1}[dtype] if mode == 1 and in_one_call else 0
    torch.testing.assert_close(run(features, rois), expected, rtol=0, atol=bound)

    for index in (np.inf, -np.inf):
        rois[1, 0] = index
        with pytest.raises(
            Exception, match=r"index (out|-?inf is out) of range|batch.* index must|batch_indices value -1"
        ):
            run(features, rois)


@pytest.mark.parametrize("sample_num", [2, 0])
def test_fx_keeps_one_exact_node(sample_num):
    head = Head(sample_num)
    graph = torch.fx.symbolic_trace(head)
    assert [node.target.__name__ for node in graph.graph.nodes if node.op == "call_function"] == ["_roi_align"]
    rois = some_rois(40)
    for module in (graph, pickle.loads(pickle.dumps(graph))):
        assert_same_bits(module(FEATURES, rois).detach().numpy(), head(FEATURES, rois).detach().numpy())


@pytest.mark.filterwarnings("ignore")
def test_torchscript_can_trace_but_not_script():
    head = Head()
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.trace(head, (FEATURES, some_rois(4))), buffer)
    buffer.seek(0)
    loaded = torch.jit.load(buffer)
    for count in (0, 1, 40):
        rois = some_rois(count)
        torch.testing.assert_close(loaded(FEATURES, rois), head(FEATURES, rois), rtol=0, atol=1e-5)
    with pytest.raises(Exception, match=r"can't take variable number|not supported"):
        torch.jit.script(ROIAlign(3, 2, 0.25))


def test_fake_and_meta_tensors_have_shapes_and_dtypes():
    meta = ROIAlign(3, 2, 0.25)(FEATURES.half().to("meta"), some_rois(6).to("meta"))
    assert (meta.shape, meta.dtype, meta.device.type) == ((6, 3, 3, 2), torch.float16, "meta")
    for rule in ("cpu", "ascend-dynamic"):  # which computes float16 in float32
        meta = ROIAlign(3, 2, 0.25, rule=rule)(FEATURES.half().to("meta"), some_rois(6).half().to("meta"))
        assert (meta.shape, meta.dtype) == ((6, 3, 3, 2), torch.float16)
    with FakeTensorMode():
        fake = Head()(torch.empty(2, 3, 20, 30), torch.empty(6, 5))
    assert fake.shape == (6, 5)


# The limit of 2**31 values. Tests lower it: a program that does not keep it would crash them.

LIMIT = 60_000
FROM_LIMIT = {  # features, rois, and which of them, or the output, has too many values
    "features": (torch.zeros(()).expand(2, 3, 100, 101), some_rois(5)),
    "the output": (FEATURES, some_rois(60_000 // 18 + 1)),
    "rois": (FEATURES[:, :1], some_rois(12_001)),
}


@pytest.fixture
def limit(monkeypatch):
    monkeypatch.setattr(params, "INT32_MAX", LIMIT)


OPEN = (
    {0: torch.export.Dim("N"), 1: torch.export.Dim("C"), 2: torch.export.Dim("H"), 3: torch.export.Dim("W")},
    {0: K},
)
TENSORS = FEATURES, some_rois(7)
OPEN_PROGRAMS = {
    "torch.export": lambda op: torch.export.export(op, TENSORS, dynamic_shapes=OPEN).module(),
    "torch.export, strict": lambda op: torch.export.export(op, TENSORS, dynamic_shapes=OPEN, strict=True).module(),
    "torch.compile": lambda op: torch.compile(op, dynamic=True, backend="aot_eager"),
    "torch.jit.trace": lambda op: torch.jit.trace(op, TENSORS),
    "make_fx": lambda op: make_fx(op, tracing_mode="symbolic")(*TENSORS),
}


@pytest.mark.parametrize("what", FROM_LIMIT)
@pytest.mark.parametrize("program", OPEN_PROGRAMS)
@pytest.mark.filterwarnings("ignore")
def test_more_values_than_32_bits_can_count_are_refused_when_a_program_runs(limit, program, what):
    pooled = (1, 1) if what == "rois" else (3, 2)
    op = ROIAlign(*pooled, 0.25)
    run = OPEN_PROGRAMS[program](op)
    features, rois = FROM_LIMIT[what]
    small = FEATURES[:, : features.shape[1]], rois[: len(rois) // 3 - 1]
    torch.testing.assert_close(run(*small), op(*small), rtol=0, atol=1e-5)
    with pytest.raises(RuntimeError, match=rf"{what} would hold .* values.* {LIMIT} .*allowed in one call"):
        run(features, rois)


@pytest.mark.parametrize("what", FROM_LIMIT)
def test_more_values_than_32_bits_can_count_are_refused_where_the_sizes_are_numbers(limit, what):
    op = ROIAlign(*((1, 1) if what == "rois" else (3, 2)), 0.25)
    tensors = FROM_LIMIT[what]
    message = rf"{what} would hold \d+ values; at most {LIMIT} are allowed in one call"
    with pytest.raises(RuntimeError, match=message):
        torch.export.export(op, tensors)
    with pytest.raises(RuntimeError, match=message):
        op(*(tensor.to("meta") for tensor in tensors))
    with pytest.raises(RuntimeError, match=message):
        torch.compile(op, backend="aot_eager")(*tensors)
    torch._dynamo.reset()
    with pytest.raises(RuntimeError, match=message):
        torch.compile(op, fullgraph=True, backend="aot_eager")(*tensors)


@pytest.mark.parametrize("strict", [False, True])
def test_the_limit_binds_no_program_to_a_range_of_sizes(strict):
    program = torch.export.export(ROIAlign(3, 2, 0.25), TENSORS, dynamic_shapes=OPEN, strict=strict)
    assert len(program.range_constraints) == 5
    for allowed in program.range_constraints.values():
        assert (allowed.lower, str(allowed.upper)) == (0, "int_oo")


def test_one_compiled_program_for_any_size():
    counter = CompileCounterWithBackend("aot_eager")
    op = ROIAlign(3, 2, 0.25)
    compiled = torch.compile(op, fullgraph=True, backend=counter)
    for images, height, count in ((2, 7, 5), (3, 9, 4), (4, 30, 300), (7, 13, 2)):
        features, rois = FEATURES[:1, :, :height].expand(images, -1, -1, -1).contiguous(), some_rois(count)
        torch._dynamo.mark_dynamic(features, 0)
        torch._dynamo.mark_dynamic(features, 2)
        torch._dynamo.mark_dynamic(rois, 0)
        assert_same_bits(compiled(features, rois).numpy(), op(features, rois).numpy())
    assert counter.frame_count == 1


def test_a_compiled_call_of_2_to_the_31_values_is_refused_and_does_not_crash():
    code = """
import torch
from ms2torch_roi import ROIAlign
features, rois = torch.zeros(()).expand(2**11, 2**8, 2**6, 2**6), torch.tensor([[2047.0, 1, 1, 9, 9]])
for dynamic in (False, True):
    torch._dynamo.reset()
    try:
        torch.compile(ROIAlign(1, 1, 1.0), backend="aot_eager", dynamic=dynamic)(features, rois)
    except RuntimeError as error:
        print(error)
"""
    process = run_python(code)
    assert process.stdout == 2 * "features would hold 2147483648 values; at most 2147483647 are allowed in one call\n"


def test_another_default_device_changes_nothing():
    op, rois = ROIAlign(3, 2, 0.25), some_rois(40)
    expected = traced(op, FEATURES, rois)(FEATURES, rois)
    with torch.device("meta"):
        assert_same_bits(traced(op, FEATURES, rois)(FEATURES, rois).numpy(), expected.numpy())
        assert_same_bits(op(FEATURES, rois).numpy(), ROIAlign(3, 2, 0.25)(FEATURES, rois).numpy())


def test_autocast_leaves_float16_alone_when_compiled():
    op, tensors = ROIAlign(3, 2, 0.25), (FEATURES.half(), some_rois(40).half())
    compiled = torch.compile(op, fullgraph=True, backend="aot_eager")
    expected = op(*tensors)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_same_bits(compiled(*tensors).numpy(), expected.numpy())


class _Operations(TorchDispatchMode):
    """Records the operations that run, other than views, and the devices of their tensors."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        output = function(*args, **(kwargs or {}))
        if not function.is_view and function.namespace != "prim":
            devices = {tensor.device.type for tensor in args if isinstance(tensor, torch.Tensor)}
            self.found.append((function.overloadpacket, devices))
        return output


@pytest.mark.parametrize("mode", [0, 1])
def test_on_an_accelerator_everything_stays_there_and_torchvision_is_called_once(mode):
    rule = f"cpu, mode {mode}"
    # Of fake tensors, which need no accelerator, and refuse to be read by the host.
    with FakeTensorMode():
        features, rois = torch.empty(2, 3, 20, 30, device="cuda"), torch.empty(6, 5, device="cuda")
        of_output = torch.empty(6, 3, 3, 2, device="cuda")
        with torch.device("cuda"), _Operations() as operations:
            for kernel, arguments, name in (
                (operator._pool_elsewhere, (features, rois, 3, 2, 0.25, 2, rule, "cpu, mode 1"), "roi_align"),
                (
                    operator._gradient_elsewhere,
                    (of_output, rois, 2, 20, 30, 3, 2, 0.25, 2, rule),
                    "_roi_align_backward",
                ),
            ):
                operations.found = []
                assert kernel(*arguments).device.type == "cuda"
                names, devices = zip(*operations.found, strict=True)
                assert names.count(getattr(torch.ops.torchvision, name)) == 1
                assert len(names) - 1 == {0: 35, 1: 29}[mode]  # constants counted
                assert not {"_to_copy", "copy_", "nonzero", "index"} & {found.__name__ for found in names}
                assert set().union(*devices) == {"cuda"}


# What is refused.


@pytest.mark.parametrize("index", [2, -1, -0.5, 1.01, float("inf")])
def test_a_bad_index_is_an_error_when_it_is_run(index):
    op, rois = ROIAlign(3, 2, 0.25), some_rois(3)
    program = torch.export.export(op, (FEATURES, rois)).module()
    rois[1, 0] = index
    with pytest.raises(RuntimeError, match="ROIAlign: rois with an image index out of range"):
        program(FEATURES, rois)


def test_no_index_is_one_of_no_image():
    op, features = ROIAlign(3, 2, 0.25), FEATURES[:0]
    program = torch.export.export(op, (features, some_rois(3))).module()
    assert traced(op, features, some_rois(0))(features, some_rois(0)).shape == (0, 3, 3, 2)
    for index in (0, -1, float("nan")):
        rois = some_rois(3)
        rois[:, 0] = index
        with pytest.raises(RuntimeError, match="ROIAlign: rois with an image index out of range"):
            program(features, rois)


@pytest.mark.filterwarnings("ignore")
def test_an_adaptive_grid_is_refused_where_a_program_is_torchvisions():
    op, tensors = ROIAlign(3, 2, 0.25, 0), (FEATURES, some_rois(40))
    message = r"an adaptive grid .* depends on the values of the rois"
    for make in (
        lambda: torch.export.export(op, tensors, strict=False),
        lambda: torch.jit.trace(op, tensors),
        lambda: torch.onnx.export(op, tensors, dynamo=True, verbose=False),
    ):
        with pytest.raises(Exception, match=message):
            make()
    with pytest.raises(torch._dynamo.exc.Unsupported, match=message):
        torch.export.export(op, tensors, strict=True)


def test_shapes_are_refused_when_traced():
    with pytest.raises(ValueError, match=r"rois must have shape \(K, 5\)"):
        torch.export.export(ROIAlign(3, 2, 0.25), (FEATURES, some_rois(4)[:, 1:]))
