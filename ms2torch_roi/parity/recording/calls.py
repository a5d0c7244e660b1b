"""Recorded calls on disk: one ``.npz`` file for each, which NumPy alone can read and write. FORMAT.md describes it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ... import __version__, params
from .. import remote
from ..case import Case, MindSporeCase, TorchvisionCase
from . import members
from .members import Declared, Members

NDArray = npt.NDArray[Any]

# A call is written in the first format that can hold it: in 2, its features may be in the file of another call.
FORMATS = (1, 2)
SUFFIX = ".npz"

_OPERATORS: dict[str, tuple[str, type[Case]]] = {
    "mindspore.ops.ROIAlign": ("mindspore", MindSporeCase),
    "torchvision.ops.roi_align": ("torchvision", TorchvisionCase),
}
ERRORS = (AssertionError, IndexError, RuntimeError, TypeError, ValueError)
_MEMBERS = ("call", "features", "rois", "output", "output_gradient", "features_gradient")
_DTYPES = ("float16", "float32", "float64")
_DTYPES_OF_ERRORS = (*_DTYPES, "int32", "int64")

_TEXT = 2**22  # bytes of the text in a file


@dataclass(frozen=True, kw_only=True)
class Call:
    """One recorded call: its case, and what came of it; ``output`` is None if it raised ``case.raises``.

    ``versions`` are those of the recording environment, and ``device`` is what the operator ran on, ``"CPU"`` or
    another name.
    """

    case: Case
    output: NDArray | None
    output_gradient: NDArray | None = None
    features_gradient: NDArray | None = None
    error_message: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    device: str = "CPU"

    @property
    def result(self) -> NDArray | Exception:
        """The output, or the error that the call ended in."""
        if self.case.raises is not None:
            return self.case.raises(self.error_message)
        assert self.output is not None
        return self.output


class FeaturesElsewhere(NamedTuple):
    """Where the features of a call are, if another file beside its own has them."""

    file: str  # the name of that file
    sha256: str  # of their bytes


def write(path: Path, call: Call, features_in: FeaturesElsewhere | None = None) -> int:
    """Write a call to a file, as :func:`remote.write` does, and return how many bytes it has.

    Raises:
        OSError: the file cannot be written.
    """
    case = call.case
    facts = {
        "format": FORMATS[0] if features_in is None else FORMATS[1],
        "operator": next(name for name, (_, kind) in _OPERATORS.items() if isinstance(case, kind)),
        "arguments": case.arguments,
        "versions": dict(call.versions),
        "device": call.device,
    }
    if features_in is not None:
        facts["features"] = features_in._asdict()
    if case.raises is not None:
        facts["error"] = {"type": case.raises.__name__, "message": call.error_message}
    arrays = {
        "call": np.array(json.dumps(facts)),
        "features": case.features if features_in is None else None,
        "rois": case.rois,
        "output": call.output,
        "output_gradient": call.output_gradient,
        "features_gradient": call.features_gradient,
    }
    present = {name: array for name, array in arrays.items() if array is not None}
    return remote.write(path, lambda file: members.save(file, present))


def add_gradients(path: Path, output_gradient: NDArray, features_gradient: NDArray) -> None:
    """Write a call again with these, as :func:`write` does.

    Raises:
        OSError: the file cannot be read or written.
    """
    gradients = {"output_gradient": output_gradient, "features_gradient": features_gradient}
    with members.opened(path, _MEMBERS) as own:
        arrays = {name: own.read(name) for name in own.declared} | gradients
    remote.write(path, lambda file: members.save(file, arrays))


def check_printable(device: object, versions: Mapping[Any, Any]) -> None:
    """Raise TypeError or ValueError unless a device, and versions of packages by name, are printable texts."""
    texts = [("device", device), *(("versions", text) for item in versions.items() for text in item)]
    for what, text in texts:
        if not isinstance(text, str):
            raise TypeError(f"{what} must be text, got {text!r} ({type(text).__name__})")
        if not text.isprintable():
            raise ValueError(f"{what} must be printable, got {text!r}")


def sha256(array: NDArray) -> str:
    """Return the digest of the bytes of an array, in the order of C."""
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()


def read(path: Path) -> Call:
    """Read a call from a file, which may be in an archive.

    Raises:
        ValueError: it holds no recorded call, or not all of it; the message says what is wrong, and names the file.
        OSError: it cannot be opened.
    """
    try:
        with ExitStack() as stack:
            own = stack.enter_context(members.opened(path, _MEMBERS))
            facts = _facts(own)
            features_in = _features_elsewhere(facts)
            others = own if features_in is None else stack.enter_context(_opened_features(path, features_in))
            return _call(path, facts, own, others, features_in)
    except Exception as error:  # NumPy and zipfile raise a dozen kinds for a file that is damaged
        if isinstance(error, OSError) and error.filename is not None:
            raise
        raise ValueError(f"{remote.name(path)}: not a recorded call: {type(error).__name__}: {error}") from error


def name_of(path: Path) -> str:
    """Return what a call is called after its file: the folder and the file."""
    return "/".join(part.strip("/") for part in path.absolute().parts[-2:])


def _facts(own: Members) -> dict[str, Any]:
    """Return what the text in a file says."""
    text = own.declared["call"]
    if text.dtype.kind != "U" or text.shape or text.dtype.itemsize > _TEXT:
        raise ValueError(f"its 'call' is {text.dtype} {text.shape}, not a text of {_TEXT} bytes at most")
    facts = json.loads(str(own.read("call")))
    if not isinstance(facts, dict) or facts.get("format") not in FORMATS:
        found = facts.get("format") if isinstance(facts, dict) else facts
        raise ValueError(f"its format is {found!r}; ms2torch_roi {__version__} reads {' and '.join(map(str, FORMATS))}")
    return facts


def _features_elsewhere(facts: dict[str, Any]) -> FeaturesElsewhere | None:
    if facts["format"] == FORMATS[0] or "features" not in facts:
        return None
    where = facts["features"] if isinstance(facts["features"], dict) else {}
    file, digest = where.get("file"), str(where.get("sha256"))
    if not isinstance(file, str) or Path(file).name != file or Path(file).suffix != SUFFIX:
        raise ValueError(f"its features are in {file!r}, which is no name of a recorded call beside it")
    return FeaturesElsewhere(file, digest)


@contextmanager
def _opened_features(path: Path, features_in: FeaturesElsewhere) -> Iterator[Members]:
    """Open the file that has the features of a call."""
    with ExitStack() as stack:
        try:
            others = stack.enter_context(members.opened(path.with_name(features_in.file), ("features",)))
        except Exception as error:
            raise ValueError(f"its features are in {features_in.file}: {type(error).__name__}: {error}") from error
        yield others


def _call(
    path: Path, facts: dict[str, Any], own: Members, others: Members, features_in: FeaturesElsewhere | None
) -> Call:
    """Return the call in a file. No array is read before all that the file says fits together."""
    declared = {name: array for name, array in own.declared.items() if name != "call"}
    if "features" in others.declared:
        declared["features"] = others.declared["features"]
    if facts.get("operator") not in _OPERATORS:
        raise ValueError(f"its operator is {facts.get('operator')!r}, not one of {', '.join(_OPERATORS)}")
    library, kind = _OPERATORS[facts["operator"]]
    versions, arguments, error = facts.get("versions"), facts.get("arguments"), facts.get("error")
    if not isinstance(versions, dict) or not isinstance(arguments, dict):
        raise ValueError("its versions or arguments are missing")
    arguments = _checked(kind, arguments)
    for name in ("features", "rois"):
        if name not in declared:
            raise ValueError(f"there are no {name} in it")
    raises = None
    if error is not None:
        known = {kind.__name__: kind for kind in ERRORS}
        if error["type"] not in known:
            raise ValueError(f"it ended in {error['type']!r}, which is not one of {', '.join(known)}")
        raises = known[error["type"]]
    elif "output" not in declared:
        raise ValueError("there is no output in it")
    _check_dtypes(declared, _DTYPES if raises is None else _DTYPES_OF_ERRORS)
    if raises is None:
        _check_shapes(declared, arguments)
    device = str(facts.get("device", "CPU"))
    versions = {name: str(version) for name, version in versions.items()}
    check_printable(device, versions)
    arrays = {name: (others if name == "features" else own).read(name) for name in declared}
    features = arrays["features"]
    if features_in is not None and sha256(features) != features_in.sha256:
        raise ValueError(f"its features are no longer those in {features_in.file}")
    of = f"{'MindSpore' if library == 'mindspore' else library} {versions.get(library, 'unknown')} on {device}"
    case = kind(
        name=name_of(path),
        category="recorded",
        source=f"calls.read({remote.expression(path)}).case",
        features=features,
        rois=arrays["rois"],
        raises=raises,
        **arguments,
    )
    return Call(
        case=replace(case, category=f"recorded: {of}, {features.dtype.name}, {case.kind}"),
        output=arrays.get("output"),
        output_gradient=arrays.get("output_gradient"),
        features_gradient=arrays.get("features_gradient"),
        error_message=str(error["message"]) if error is not None else "",
        versions=versions,
        device=device,
    )


def _checked(kind: type[Case], arguments: dict[str, Any]) -> dict[str, Any]:
    """Return valid arguments of the operator."""
    if kind is MindSporeCase:
        params.check_mindspore_arguments(**arguments, rule="ascend-static")  # which has all modes that there are
        return arguments
    names = ("output_size", "spatial_scale", "sampling_ratio", "aligned")
    return dict(zip(names, params.torchvision_arguments(**arguments), strict=True))


def _check_dtypes(declared: Mapping[str, Declared], allowed: tuple[str, ...]) -> None:
    for name, array in declared.items():
        if array.dtype.name not in allowed or not array.dtype.isnative:
            raise ValueError(f"{name} is {array.dtype}, not one of {', '.join(allowed)}")


def _check_shapes(declared: Mapping[str, Declared], arguments: Mapping[str, Any]) -> None:
    """Raise ValueError unless the arrays of a call that returned fit together, and its arguments."""
    features, rois, output = (declared[name] for name in ("features", "rois", "output"))
    params.check_shapes("ROIAlign", features.shape, rois.shape)
    pooled = arguments.get("output_size") or (arguments["pooled_height"], arguments["pooled_width"])
    # MindSpore takes operators for each other whose numbers of bins are the same without a space between them.
    if len(output.shape) != 4 or (
        (*output.shape[:2], "".join(map(str, output.shape[2:])))
        != (rois.shape[0], features.shape[1], "".join(map(str, pooled)))
    ):
        raise ValueError(
            f"output has shape {output.shape} for features {features.shape}, rois {rois.shape} and"
            f" {pooled[0]} x {pooled[1]} bins"
        )
    for name, like in (("output_gradient", output), ("features_gradient", features)):
        array = declared.get(name, like)
        if array != like:
            raise ValueError(f"{name} is {array.dtype} {array.shape}, not {like.dtype} {like.shape}")
    if ("output_gradient" in declared) != ("features_gradient" in declared):
        there = "output_gradient" if "output_gradient" in declared else "features_gradient"
        raise ValueError(f"of the gradients, there is only {there}: it must have both, or neither")
