"""The operators that a case can be run on. Frameworks are imported when they are first used."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import importlib.util
import itertools
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

import ms2torch_roi

from . import round_trips
from .case import Case, MindSporeCase

NDArray = npt.NDArray[Any]
Operator = Callable[[Case], NDArray]


def outcome(operator: Operator, case: Case) -> NDArray | Exception:
    """Run a case, and return the result or the error that it ended in."""
    try:
        return operator(case)
    except Exception as error:
        return error


def original(case: Case) -> NDArray:
    """Run the operator that the case is a call of, in its own framework, on a CPU."""
    return mindspore(case) if isinstance(case, MindSporeCase) else torchvision(case)


def port(case: Case, device: str = "cpu") -> NDArray:
    """Run the port of that operator: :class:`ms2torch_roi.ROIAlign` or, on a CPU, :class:`ms2torch_roi.RoIAlign`.

    ``device`` is one of torch's.
    """
    if isinstance(case, MindSporeCase):
        module = ms2torch_roi.ROIAlign(**case.arguments, **_rules(case))  # first, which says if torch is missing
        import torch

        with _threads(case):
            features, rois = (torch.from_numpy(array).to(device) for array in (case.features, case.rois))
            result: NDArray = module(features, rois).cpu().numpy()
        return _without_crashes(case, result)
    ms = import_mindspore()
    cell = ms2torch_roi.RoIAlign(**case.arguments)
    output: NDArray = cell(ms.Tensor(case.features), ms.Tensor(case.rois)).asnumpy()
    return output


def _without_crashes(case: MindSporeCase, output: NDArray) -> NDArray:
    """Return the output of a port with 0 in the rows that MindSpore is not given, of which it tells nothing."""
    crashes = case.crashes
    if crashes.any() and len(output) == len(crashes):
        output = output.copy()
        output[crashes] = 0
    return output


def _rules(case: MindSporeCase, backward_rule: str | None = None) -> dict[str, Any]:
    """Return the arguments of ROIAlign that MindSpore's operator does not have, where they are not the default."""
    rule = {} if case.rule == "cpu" else {"rule": case.rule}
    return rule if backward_rule is None else {**rule, "backward_rule": backward_rule}


def gradient(
    case: Case,
    output_gradient: NDArray,
    backward_roi_end_mode: int | None = None,
    backward_rule: str | None = None,
    device: str = "cpu",
) -> NDArray:
    """Return the gradient of the port for the features, given that for its output.

    ``backward_roi_end_mode`` and ``backward_rule`` are those of :class:`ms2torch_roi.ROIAlign`; ``device`` is torch's.
    """
    if isinstance(case, MindSporeCase):
        module = ms2torch_roi.ROIAlign(
            **case.arguments, backward_roi_end_mode=backward_roi_end_mode, **_rules(case, backward_rule)
        )
        import torch

        features = torch.from_numpy(case.features).to(device).requires_grad_()
        with _threads(case):
            output = module(features, torch.from_numpy(case.rois).to(device))
            output.backward(torch.from_numpy(output_gradient).to(device))
        result: NDArray = features.grad.cpu().numpy()  # type: ignore[union-attr]
        return result
    ms = import_mindspore()
    cell = ms2torch_roi.RoIAlign(**case.arguments)
    # The sum of output * weights has the weights for its gradient.
    weights, rois = ms.Tensor(output_gradient), ms.Tensor(case.rois)
    differentiate = ms.grad(lambda features: (cell(features, rois) * weights).sum())
    of_features: NDArray = differentiate(ms.Tensor(case.features)).asnumpy()
    return of_features


@contextlib.contextmanager
def _threads(case: Case) -> Iterator[None]:
    """Give torch the number of threads that the case asks for, if it does."""
    import torch

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(case.threads or before)
        yield
    finally:
        torch.set_num_threads(before)


def some_output_gradient(case: Case) -> NDArray:
    """Return a gradient for the output of a case, the same one each time."""
    values = np.random.default_rng(0).standard_normal(case.output_shape, np.float32)
    gradient: NDArray = values.astype(case.features.dtype)
    return gradient


def on_device(port: Callable[..., NDArray], device: str) -> Operator:
    """Return a port that runs on a device."""
    return port if device == "cpu" else functools.partial(port, device=device)


def reference(case: Case) -> NDArray:
    """Run :mod:`ms2torch_roi.reference`."""
    if isinstance(case, MindSporeCase):
        output = ms2torch_roi.reference.ms_roi_align(case.features, case.rois, **case.arguments, rule=case.rule)
        return _without_crashes(case, output)
    return ms2torch_roi.reference.tv_roi_align(case.features, case.rois, **case.arguments)


def round_trip(case: Case, device: str = "cpu") -> NDArray:
    """Run the calls of the other library that sample where this one does on their port, and the port on the rest."""
    calls, rest = round_trips.encode(case)
    output = np.zeros(case.output_shape, case.features.dtype)
    for rows, call in [*calls, (rest, replace(case, rois=case.rois[rest]))]:
        if len(rows):
            output[rows] = on_device(port, device if isinstance(call, MindSporeCase) else "cpu")(call)
    return _without_crashes(case, output) if isinstance(case, MindSporeCase) else output


def mindspore(case: Case) -> NDArray:
    """Run ``mindspore.ops.ROIAlign`` on a CPU, in PyNative mode, without the rows that crash it; those are 0."""
    ms = import_mindspore()
    arguments = case.arguments.values()
    operator = ms.ops.ROIAlign(*arguments)
    # PyNative mode finds compiled operators by a key that joins the attributes without a separator: (1, 12) and (11, 2)
    # are one operator to it. An attribute with the arguments in it keeps them apart.
    operator.add_prim_attr("arguments", "x".join(map(str, arguments)))
    rows = np.flatnonzero(~case.crashes)
    return _in_rows(case, rows, operator(ms.Tensor(case.features), ms.Tensor(case.rois[rows])).asnumpy())


def _in_rows(case: Case, rows: NDArray, part: NDArray) -> NDArray:
    """Return the output of a case of which some rows were run, the others 0."""
    output = np.zeros((len(case.rois), *part.shape[1:]), part.dtype)
    output[rows] = part
    return output


def original_gradient(case: Case, output_gradient: NDArray) -> NDArray:
    """Return the gradient of the original for the features, given that for its output.

    MindSpore's is that of mode 1 in mode 0 too, and an index that can crash it is 0, as in the port. Rows that
    torchvision crashes on are left out.
    """
    if isinstance(case, MindSporeCase):
        return _mindspore_gradient(case, output_gradient)
    import torch
    from torchvision.ops import roi_align

    rows = np.flatnonzero(~case.crashes)
    features = torch.from_numpy(case.features).requires_grad_()
    output = roi_align(features, torch.from_numpy(case.rois[rows]), **case.arguments)
    output.backward(torch.from_numpy(output_gradient[rows]))
    result: NDArray = features.grad.numpy()  # type: ignore[union-attr]
    return result


_operators_made = itertools.count()


def _mindspore_gradient(case: MindSporeCase, output_gradient: NDArray) -> NDArray:
    """Run the operator that ``mindspore.grad`` runs for ROIAlign, in the dtype that it runs it in."""
    ms = import_mindspore()
    from mindspore.ops.operations._grad_ops import ROIAlignGrad

    operator = ROIAlignGrad(*case.pooled, case.spatial_scale, case.sample_num)
    # MindSpore tries out numbers of threads in successive calls of an operator, and with threads the order in which it
    # adds changes from call to call. The first call of a new operator takes one thread.
    operator.add_prim_attr("arguments", f"operator {next(_operators_made)} of ms2torch_roi.parity")
    index = np.where(case.crashes, 0, case.rois[:, 0])
    rois = np.concatenate((index[:, None], case.rois[:, 1:]), 1)
    gradient, rois = (ms.Tensor(array.astype(case.dtype)) for array in (output_gradient, rois))
    result: NDArray = operator(gradient, rois, case.features.shape).asnumpy().astype(case.features.dtype)
    return result


# Up to 0.28 torchvision does not look at image indices, and reads out of bounds; some of its errors were ValueErrors
# before this torch.
FIRST_TORCH_OF_ITS_ERRORS = (2, 15)


def torchvision(case: Case) -> NDArray:
    """Run ``torchvision.ops.roi_align`` on a CPU, without the rows that crash it; those are 0 in the result.

    With a torch older than ``FIRST_TORCH_OF_ITS_ERRORS``, calls that must end in an error do so here, and are not run.
    """
    import torch
    from torchvision.ops import roi_align

    if case.raises is not None and not torchvision_has_its_errors():
        raise case.raises("not run: this torchvision may read out of bounds")
    rows = np.flatnonzero(~case.crashes)
    part = roi_align(torch.from_numpy(case.features), torch.from_numpy(case.rois[rows]), **case.arguments).numpy()
    return _in_rows(case, rows, part)


def torchvision_has_its_errors() -> bool:
    """Tell whether the torch that is installed is one whose torchvision refuses what it should."""
    major, minor = importlib.metadata.version("torch").split(".")[:2]
    return (int(major), int(minor)) >= FIRST_TORCH_OF_ITS_ERRORS


def import_mindspore() -> Any:
    """Import MindSpore, quietly, for the CPU and in PyNative mode.

    Raises:
        ImportError: it is not installed, or does not work here; the message says what to do.
    """
    os.environ.setdefault("GLOG_v", "3")  # errors only, or every refused index is logged as well as raised
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import mindspore as ms
    except ModuleNotFoundError as error:
        if error.name != "mindspore":
            raise
        raise ImportError(f"MindSpore is not installed. {ms2torch_roi.how_to_install('mindspore')}") from error
    ms.set_context(mode=ms.PYNATIVE_MODE)
    if ms.get_context("device_target") != "CPU":  # MindSpore warns of setting it
        ms.set_context(device_target="CPU")
    return ms


def engine(device: str) -> str:
    """Say what ROIAlign computes on, on a device of torch's, which must be one that tensors come back from.

    Raises:
        ImportError: torch or torchvision is not installed.
        ValueError: there is no such device here.
    """
    name = ms2torch_roi.ROIAlign.__name__  # first, so that a missing torch is reported as such
    import torch

    from ..torch import operator

    try:
        torch.zeros(1, device=device).cpu()
    except (AssertionError, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"{name} cannot run on {device!r}: {str(error).splitlines()[0]}") from error
    return operator.engine_on(torch.device(device))


# The packages that a port runs on, by its direction.
PACKAGES = {f"to-{framework}": packages for framework, packages in ms2torch_roi.PACKAGES.items()}


def versions(directions: Iterable[str] = tuple(PACKAGES)) -> dict[str, str]:
    """Return the version of everything that is installed and takes part in ports in these directions, by name."""
    found = {"ms2torch_roi": ms2torch_roi.__version__, "numpy": np.__version__}
    for package in (package for direction, of_it in PACKAGES.items() if direction in directions for package in of_it):
        with contextlib.suppress(ModuleNotFoundError):
            if importlib.util.find_spec(package) is not None:
                found[package] = importlib.metadata.version(package)
    return found


def devices(versions: dict[str, str], of_torch: str = "cpu") -> dict[str, str]:
    """Return what each of the frameworks among these packages runs on."""
    on = {"torch": "CPU" if of_torch == "cpu" else of_torch, "mindspore": "CPU"}
    return {framework: device for framework, device in on.items() if framework in versions}
