"""The calls that are timed side by side. Each pools all levels of a case, and converts nothing while it is timed."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from cases import Case, Level
from torchvision.ops import roi_align

import ms2torch_roi
from ms2torch_roi.parity import operators

# Returns one array for each level, something that numpy.asarray takes.
Call = Callable[[], Sequence[Any]]

TORCHVISION, OURS, ONE_THREAD, MINDSPORE, ONNX_RUNTIME = (
    "torchvision",
    "ours",
    "ours, one thread",
    "MindSpore",
    "ONNX Runtime",
)


class Contender(NamedTuple):
    """Both directions of one implementation; without a gradient there is only one.

    ``forward`` returns the pooled features. ``backward`` computes them too, and returns the gradients of the features.
    """

    name: str
    forward: Call
    backward: Call | None = None


class LeftOutError(Exception):
    """A contender cannot take part; the message says why."""


def contenders(case: Case, levels: Sequence[Level]) -> tuple[list[Contender], list[str]]:
    """Return who can pool that, the bare call that the others are measured by in front, and why others cannot."""
    builders = [_mindspore, _way_back, _torchvision] if case.way_back else [_torchvision, ours]
    if case.one_thread and torch.get_num_threads() > 1:
        builders.append(_ours_on_one_thread)
    if not case.way_back:
        builders += [_mindspore, _onnx_runtime] if case.mindspore else [_onnx_runtime]
    able, left_out = [], []
    for build in builders:
        try:
            able.append(build(case, levels))
        except LeftOutError as error:  # noqa: PERF203
            left_out.append(str(error))
    return able, left_out


def output_gradients(case: Case, levels: Sequence[Level]) -> list[torch.Tensor]:
    """Return the gradients that go backward, the same ones each time."""
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(len(rois), case.channels, case.pooled, case.pooled, generator=generator).to(rois.dtype)
        for _, rois, _ in levels
    ]


def ours(case: Case, levels: Sequence[Level], backward_roi_end_mode: int | None = None) -> Contender:
    """Return the port to torch."""
    modules = [
        ms2torch_roi.ROIAlign(
            case.pooled, case.pooled, 1 / stride, case.samples, case.mode, backward_roi_end_mode=backward_roi_end_mode
        )
        for _, _, stride in levels
    ]
    pools = [functools.partial(op, rois=level.rois) for op, level in zip(modules, levels, strict=True)]
    return _of_torch(OURS, case, levels, pools)


def _ours_on_one_thread(case: Case, levels: Sequence[Level]) -> Contender:
    def on_one_thread(call: Call | None) -> Call:
        assert call is not None

        def call_on_one_thread() -> Sequence[Any]:
            threads = torch.get_num_threads()
            torch.set_num_threads(1)
            try:
                return call()
            finally:
                torch.set_num_threads(threads)

        return call_on_one_thread

    _, forward, backward = ours(case, levels)
    return Contender(ONE_THREAD, on_one_thread(forward), on_one_thread(backward))


def _torchvision(case: Case, levels: Sequence[Level]) -> Contender:
    def pool(level: Level) -> Callable[[torch.Tensor], torch.Tensor]:
        boxes = torchvision_boxes(case, level)
        return lambda features: roi_align(features, boxes, case.pooled, 1 / level.stride, case.samples, case.aligned)

    return _of_torch(TORCHVISION, case, levels, [pool(level) for level in levels])


def torchvision_boxes(case: Case, level: Level) -> torch.Tensor:
    """Return the boxes that torchvision samples as MindSpore the rois, but for those below one cell in mode 1."""
    return torch.cat((level.rois[:, :3], level.rois[:, 3:] + case.mode), 1)


def _of_torch(
    name: str, case: Case, levels: Sequence[Level], pools: Sequence[Callable[[torch.Tensor], torch.Tensor]]
) -> Contender:
    leaves = [level.features.detach().requires_grad_() for level in levels]
    gradients = output_gradients(case, levels)

    def forward() -> Sequence[torch.Tensor]:
        return [pool(level.features) for pool, level in zip(pools, levels, strict=True)]

    def backward() -> Sequence[torch.Tensor]:
        return torch.autograd.grad([pool(leaf) for pool, leaf in zip(pools, leaves, strict=True)], leaves, gradients)

    return Contender(name, forward, backward)


def _import_mindspore() -> Any:
    try:
        return operators.import_mindspore()
    except ImportError as error:
        raise LeftOutError(str(error)) from error


def _mindspore(case: Case, levels: Sequence[Level]) -> Contender:
    ms = _import_mindspore()

    def operator(stride: int) -> Any:
        arguments = (case.pooled, case.pooled, 1 / stride, case.samples, case.mode)
        op = ms.ops.ROIAlign(*arguments)
        # Without it, PyNative mode may take one operator for another: see ms2torch_roi.parity.operators.mindspore.
        op.add_prim_attr("arguments", "x".join(map(str, arguments)))
        return op

    return _of_mindspore(ms, MINDSPORE, case, levels, [operator(level.stride) for level in levels])


def _way_back(case: Case, levels: Sequence[Level]) -> Contender:
    ms = _import_mindspore()
    cells = [ms2torch_roi.RoIAlign(case.pooled, 1 / level.stride, case.samples, case.aligned) for level in levels]
    return _of_mindspore(ms, OURS, case, levels, cells)


def _of_mindspore(ms: Any, name: str, case: Case, levels: Sequence[Level], ops: Sequence[Any]) -> Contender:
    features = [ms.Tensor(level.features.numpy()) for level in levels]
    rois = [ms.Tensor(level.rois.numpy()) for level in levels]
    gradients = tuple(ms.Tensor(gradient.numpy()) for gradient in output_gradients(case, levels))

    def pool(*features: Any) -> Any:
        return tuple(op(*inputs) for op, *inputs in zip(ops, features, rois, strict=True))

    differentiate = ms.ops.GradOperation(get_all=True, sens_param=True)(pool)

    # MindSpore has returned before the result is there: asnumpy waits for it.
    def forward() -> Sequence[Any]:
        return [output.asnumpy() for output in pool(*features)]

    def backward() -> Sequence[Any]:
        return [gradient.asnumpy() for gradient in differentiate(*features, gradients)]

    return Contender(name, forward, backward)


def _onnx_runtime(case: Case, levels: Sequence[Level]) -> Contender:
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise LeftOutError(f"{error.name} is not installed") from error
    if levels[0].features.dtype != torch.float32:  # it would compute them in float32, between two casts
        raise LeftOutError("ONNX Runtime has no RoiAlign for float16 on a CPU")

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # Its threads would otherwise go on spinning while the next contender is timed.
    options.add_session_config_entry("session.force_spinning_stop", "1")

    def session(stride: int) -> Any:
        node = onnx.helper.make_node(
            "RoiAlign",
            ["features", "boxes", "index"],
            ["output"],
            mode="avg",
            coordinate_transformation_mode="output_half_pixel",
            output_height=case.pooled,
            output_width=case.pooled,
            sampling_ratio=case.samples,
            spatial_scale=1 / stride,
        )
        of_float, of_index = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64
        types = {"features": (of_float, 4), "boxes": (of_float, 2), "index": (of_index, 1), "output": (of_float, 4)}
        *inputs, output = itertools.starmap(
            onnx.helper.make_tensor_value_info, ((name, of, [None] * rank) for name, (of, rank) in types.items())
        )
        graph = onnx.helper.make_graph([node], "roi_align", inputs, [output])
        # The last version of the operator that every onnxruntime since 1.11 has on a CPU.
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 16)], ir_version=8)
        return onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])

    sessions = [session(level.stride) for level in levels]
    inputs = []
    for level in levels:
        boxes = torchvision_boxes(case, level)
        index = boxes[:, 0].to(torch.int64)
        values = {"features": level.features, "boxes": boxes[:, 1:].contiguous(), "index": index}
        inputs.append({name: value.numpy() for name, value in values.items()})

    def forward() -> Sequence[Any]:
        return [session.run(None, feed)[0] for session, feed in zip(sessions, inputs, strict=True)]

    return Contender(ONNX_RUNTIME, forward)
