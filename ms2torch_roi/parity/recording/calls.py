"""Recorded calls on disk: one ``.npz`` file for each, which NumPy alone can read and write, without pickle.

A file holds the arrays ``features`` (N, C, H, W) and ``rois`` (K, 5), as the operator was given them; ``output``,
unless the call raised an error; and, if they were recorded, ``output_gradient`` and ``features_gradient``, what came
into its backward pass and what went out. A text ``call`` holds the rest as JSON::

    {"format": 1, "operator": "mindspore.ops.ROIAlign", "arguments": {"pooled_height": 7, ...},
     "versions": {"mindspore": "2.10.0", "numpy": "1.26.4", "python": "3.11.2"}, "device": "CPU",
     "error": {"type": "RuntimeError", "message": "..."}}

``operator`` may be ``torchvision.ops.roi_align``, with its own arguments; ``error`` is there if the call raised one.

Files may be in a ``.zip``, as a probe writes them: ``probe.zip/01-float32-graph.npz`` is read in place.
"""

from __future__ import annotations

import io
import json
import math
import stat
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ... import params
from ..cases import Case, MindSporeCase, TorchvisionCase

NDArray = npt.NDArray[Any]

FORMAT = 1
SUFFIX = ".npz"
ARCHIVE_SUFFIX = ".zip"
PARTIAL_SUFFIX = ".partial"

_OPERATORS: dict[str, tuple[str, type[Case]]] = {
    "mindspore.ops.ROIAlign": ("mindspore", MindSporeCase),
    "torchvision.ops.roi_align": ("torchvision", TorchvisionCase),
}
ERRORS = (AssertionError, IndexError, RuntimeError, TypeError, ValueError)
_MEMBERS = ("call", "features", "rois", "output", "output_gradient", "features_gradient")
_DTYPES = ("float16", "float32", "float64")
_DTYPES_OF_ERRORS = (*_DTYPES, "int32", "int64")

# Files may be compressed: to a part of this, if they unpack to more bytes than that. Features that are mostly 0 shrink
# to a tenth, and what is made to fill the memory to a thousandth.
_COMPRESSION = 20
_UNPACKED = 2**26
_TEXT = 2**22  # bytes of the text in a file

_format: Any = np.lib.format


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


def write(path: Path, call: Call) -> None:
    """Write a call to a file, which is there in full or not at all, however the process ends.

    Raises:
        OSError: the file cannot be written.
    """
    case = call.case
    facts = {
        "format": FORMAT,
        "operator": next(name for name, (_, kind) in _OPERATORS.items() if isinstance(case, kind)),
        "arguments": case.arguments,
        "versions": dict(call.versions),
        "device": call.device,
    }
    if case.raises is not None:
        facts["error"] = {"type": case.raises.__name__, "message": call.error_message}
    arrays = {
        "features": case.features,
        "rois": case.rois,
        "output": call.output,
        "output_gradient": call.output_gradient,
        "features_gradient": call.features_gradient,
    }
    present = {name: array for name, array in arrays.items() if array is not None}
    partial = path.with_name(path.name + PARTIAL_SUFFIX)
    try:
        with partial.open("wb") as file:
            np.savez(file, call=np.array(json.dumps(facts)), **present)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def read(path: Path) -> Call:
    """Read a call from a file, which may be in an archive.

    Raises:
        ValueError: it holds no recorded call, or not all of it; the message says what is wrong, and names the file.
        OSError: it cannot be opened.
    """
    try:
        file, packed = _opened(path)
        with file, zipfile.ZipFile(file) as archive:
            return _call(path, archive, packed)
    except Exception as error:  # NumPy and zipfile raise a dozen kinds for a file that is damaged
        if isinstance(error, OSError) and error.filename is not None:
            raise
        raise ValueError(f"{path}: not a recorded call: {type(error).__name__}: {error}") from error


def in_archive(archive: Path) -> list[Path]:
    """Return paths for what a ``.zip`` holds, in their order, for :func:`read`; folders are left out.

    Raises:
        ValueError: it is no archive, or one of the names leads out of it.
        OSError: it cannot be opened.
    """
    try:
        check_is_file(archive)
        with zipfile.ZipFile(archive) as file:
            names = [info.filename for info in file.infolist() if not info.is_dir()]
    except (ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{archive}: {error}") from error
    paths = [archive / name for name in sorted(names)]
    for path in paths:
        if not path.is_relative_to(archive) or ".." in path.relative_to(archive).parts:
            raise ValueError(f"{archive}: it holds {path}, which would be outside")
    return paths


def _opened(path: Path) -> tuple[IO[bytes], int]:
    """Open a file, or a copy in memory of one in an archive; return it and how many bytes it takes on disk."""
    archive = next((parent for parent in path.parents if parent.suffix == ARCHIVE_SUFFIX and parent.is_file()), None)
    if archive is None:
        check_is_file(path)
        return path.open("rb"), path.stat().st_size
    with zipfile.ZipFile(archive) as file:
        member = file.getinfo(path.relative_to(archive).as_posix())
        packed = min(member.compress_size, archive.stat().st_size)
        _check_compression("it", member)
        _check_unpacked(packed, member.file_size)
        return io.BytesIO(file.read(member)), packed


def _check_compression(what: str, member: zipfile.ZipInfo) -> None:
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{what} is compressed in a way that NumPy does not write")


def _check_unpacked(packed: int, unpacked: int) -> None:
    if unpacked > max(_COMPRESSION * packed, _UNPACKED):
        raise ValueError(f"its {packed} bytes would unpack to {unpacked}, more than {_COMPRESSION} times as many")


def check_is_file(path: Path) -> None:
    """Raise ValueError unless a path is a file, or leads to one: reading a pipe or a device may never end.

    Raises:
        OSError: there is nothing.
    """
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket"}
        raise ValueError(f"it is {kinds.get(stat.S_IFMT(mode), 'a device')}, not a file")


def name_of(path: Path) -> str:
    """Return what a call is called after its file: the folder and the file."""
    return "/".join(path.absolute().parts[-2:])


class _Declared(NamedTuple):
    """What a member of a file says that its array is."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]


def _declared(archive: zipfile.ZipFile, packed: int) -> dict[str, _Declared]:
    """Return what the arrays of a file of so many bytes say that they are; this reads none of them.

    Raises:
        ValueError: there is no call, or they say what cannot be, or would take far more memory than the file.
    """
    found = archive.namelist()
    names = [name for name in _MEMBERS if f"{name}.npy" in found]
    if "call" not in names:
        others = ", ".join(sorted(name.removesuffix(".npy") for name in found)) or "nothing"
        raise ValueError(f"there is no 'call' in it, but {others[:200]}")
    _check_unpacked(packed, sum(archive.getinfo(f"{name}.npy").file_size for name in names))
    return {name: _header(archive, name) for name in names}


def _header(archive: zipfile.ZipFile, name: str) -> _Declared:
    member = archive.getinfo(f"{name}.npy")
    _check_compression(name, member)
    with archive.open(member) as file:
        read = _format.read_array_header_1_0 if _format.read_magic(file) == (1, 0) else _format.read_array_header_2_0
        shape, _, dtype = read(file)
        held = member.file_size - file.tell()
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != held:
        raise ValueError(f"{name} is {dtype} {shape}, but there are {held} bytes of it")
    return _Declared(shape, dtype)


def _array(archive: zipfile.ZipFile, name: str) -> NDArray:
    with archive.open(f"{name}.npy") as file:
        array: NDArray = _format.read_array(file, allow_pickle=False)
    return array


def _call(path: Path, archive: zipfile.ZipFile, packed: int) -> Call:
    """Return the call in a file. No array is read before all that the file says fits together."""
    declared = _declared(archive, packed)
    text = declared.pop("call")
    if text.dtype.kind != "U" or text.shape or text.dtype.itemsize > _TEXT:
        raise ValueError(f"its 'call' is {text.dtype} {text.shape}, not a text of {_TEXT} bytes at most")
    facts = json.loads(str(_array(archive, "call")))
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        found = facts.get("format") if isinstance(facts, dict) else facts
        raise ValueError(f"its format is {found!r}; this version of ms2torch_roi reads {FORMAT}")
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
    if not all(map(str.isprintable, (device, *map(str, versions.values())))):
        raise ValueError("its device or versions are not printable")
    arrays = {name: _array(archive, name) for name in declared}
    features = arrays["features"]
    of = f"{'MindSpore' if library == 'mindspore' else library} {versions.get(library, 'unknown')} on {device}"
    case = kind(
        name=name_of(path),
        category="recorded",
        source=f"calls.read(Path({str(path)!r})).case",
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
        versions={str(name): str(version) for name, version in versions.items()},
        device=device,
    )


def _checked(kind: type[Case], arguments: dict[str, Any]) -> dict[str, Any]:
    """Return valid arguments of the operator."""
    if kind is MindSporeCase:
        params.check_mindspore_arguments(**arguments, rule="ascend-static")  # which has all modes that there are
        return arguments
    names = ("output_size", "spatial_scale", "sampling_ratio", "aligned")
    return dict(zip(names, params.torchvision_arguments(**arguments), strict=True))


def _check_dtypes(declared: Mapping[str, _Declared], allowed: tuple[str, ...]) -> None:
    for name, array in declared.items():
        if array.dtype.name not in allowed:
            raise ValueError(f"{name} is {array.dtype}, not one of {', '.join(allowed)}")


def _check_shapes(declared: Mapping[str, _Declared], arguments: Mapping[str, Any]) -> None:
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
