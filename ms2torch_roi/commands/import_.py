"""``ms2torch-roi import``."""

from __future__ import annotations

import argparse
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from . import PASSED, CouldNotRunError, arguments

NDArray = npt.NDArray[Any]

HELP = "make recorded calls of arrays that were saved or dumped"
DESCRIPTION = (
    "Make recorded calls, for replay and identify, of the features, rois and output that were saved from a call of"
    " either operator: arrays in .npz files, each file a call; one .npy file for each array; or what MindSpore has"
    " dumped of its operator in graph mode too (MINDSPORE_DUMP_CONFIG, file_format npy), of which FILE is the output."
)
EPILOG = "Exit status: 0, or 2 if something could not be read, is no such call, or could not be written."

# Arguments of the operators by options, and the option that says which operator it is.
_OPTIONS = {
    "--pooled": {"--samples": "sample_num", "--mode": "roi_end_mode"},
    "--output-size": {"--sampling-ratio": "sampling_ratio", "--aligned": "aligned"},
}
_ARRAYS = ("features", "rois", "output", "output_gradient", "features_gradient")

# NAME.TIME.output.0.FORMAT.DTYPE.npy, where NAME says which operator it was, and TIME is the time of each file.
_DUMPED = re.compile(r"(.+)\.(\d+)\.(input\.[01]|output\.0)(\..+)?\.npy")
_KINDS = {"features": "input.0", "rois": "input.1", "output": "output.0"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "files", nargs="*", type=Path, metavar="FILE", help=".npz files, or outputs that MindSpore has dumped as .npy"
    )
    for name in _ARRAYS:
        is_optional = name.endswith("gradient")
        without = "optional" if is_optional else "default: %(default)s"
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            default=None if is_optional else name,
            metavar="NAME",
            help=f"name of the array in the .npz, or a .npy file ({without})",
        )
    operator = parser.add_mutually_exclusive_group(required=True)
    operator.add_argument(
        "--pooled", type=int, nargs=2, metavar=("H", "W"), help="numbers of bins, of a call of mindspore.ops.ROIAlign"
    )
    operator.add_argument(
        "--output-size",
        type=int,
        nargs=2,
        metavar=("H", "W"),
        help="numbers of bins, of a call of torchvision.ops.roi_align",
    )
    parser.add_argument(
        "--scale", type=arguments.scale, required=True, metavar="S", help="its spatial_scale: 0.0625, or 1/16"
    )
    parser.add_argument("--samples", type=int, metavar="N", help="MindSpore's sample_num (default: 2)")
    parser.add_argument(
        "--mode", type=int, choices=(0, 1, 2, 3), help="MindSpore's roi_end_mode, 2 and 3 on Ascend (default: 1)"
    )
    parser.add_argument("--sampling-ratio", type=int, metavar="N", help="torchvision's (default: -1)")
    parser.add_argument("--aligned", action="store_true", default=None, help="torchvision's, if it was True")
    parser.add_argument("--device", default="CPU", metavar="D", help="what it ran on: CPU, GPU, Ascend, ...")
    parser.add_argument("--framework-version", metavar="V", help="version of MindSpore or torchvision that ran it")
    parser.add_argument(
        "--to",
        type=arguments.path,
        required=True,
        metavar="PATH",
        help="folder for the calls, or a .npz file for a single one",
    )


def run(options: argparse.Namespace) -> int:
    """Run it, and return the exit status."""
    from ..parity import remote
    from ..parity.recording import calls, saving

    call = _call(options)
    if not options.files and (named := [name for name in _given(options).values() if not name.endswith(".npy")]):
        raise CouldNotRunError(f"give a .npz file that has {', '.join(named)} in it, or .npy files for them")
    sources = [str(file) for file in options.files] or [options.output]
    written, problems = 0, []
    for source in sources:
        path: Path = options.to
        if path.suffix != calls.SUFFIX:
            path = path / f"{Path(source).stem}{calls.SUFFIX}"
        elif len(sources) > 1:
            raise CouldNotRunError(f"--to: {remote.name(path)} is one file, for {len(sources):,} calls")
        try:
            arrays: dict[str, Any] = dict(_arrays(options, source if options.files else None))
            with remote.errors(path):
                if path.exists():
                    raise FileExistsError(f"{remote.name(path)} is there already: give another --to")
            saving.save_call(path, **arrays, **call)
            written += 1
        except (AssertionError, OSError, RuntimeError, TypeError, ValueError) as error:
            message = str(error).removeprefix("save_call: ")
            problems.append(message if source in message else f"{source}: {message}")
    if written:
        print(f"{written:,} recorded call{'s' * (written > 1)} in {remote.name(options.to)}")
    if problems:
        raise CouldNotRunError("; ".join(problems))
    return PASSED


def _call(options: argparse.Namespace) -> dict[str, Any]:
    """Return what is known of each call beside its arrays."""
    is_mindspore = options.pooled is not None
    chosen, other = ("--pooled", "--output-size")[:: 1 if is_mindspore else -1]
    for option in _OPTIONS[other]:
        if _value(options, option) is not None:
            raise CouldNotRunError(f"{option} goes with {other}, not with {chosen}")
    call = {name: _value(options, option) for option, name in _OPTIONS[chosen].items()}
    call = {name: value for name, value in call.items() if value is not None}
    if is_mindspore:
        call["pooled_height"], call["pooled_width"] = options.pooled
    else:
        call["output_size"] = options.output_size
    framework = "mindspore" if is_mindspore else "torchvision"
    versions = {} if options.framework_version is None else {framework: options.framework_version}
    return {**call, "spatial_scale": options.scale, "device": options.device, "versions": versions}


def _value(options: argparse.Namespace, option: str) -> Any:
    return getattr(options, option.removeprefix("--").replace("-", "_"))


def _arrays(options: argparse.Namespace, source: str | None) -> Iterator[tuple[str, NDArray]]:
    """Yield the arrays of a call by name; ``source`` is the file that they are in, but for those given as ``.npy``."""
    given = _given(options)
    files = {name: Path(value) for name, value in given.items() if value.endswith(".npy")}
    names = {name: value for name, value in given.items() if name not in files}
    if source is not None and source.endswith(".npy"):
        files |= _dumped(Path(source), names)
        if unknown := [value for name, value in names.items() if name not in _KINDS or value != name]:
            raise ValueError(f"{source}: a dump has no names: give a .npy file, not {' and not '.join(unknown)}")
    elif source is not None:
        found = _npz(Path(source), names.values())
        yield from ((name, found[value]) for name, value in names.items())
    for name, file in files.items():
        yield name, _npy(file)


def _given(options: argparse.Namespace) -> dict[str, str]:
    """Return the names of arrays and files that the options say."""
    return {name: value for name in _ARRAYS if (value := getattr(options, name)) is not None}


def _npy(file: Path) -> NDArray:
    """Return the array in a file."""
    found = _loaded(file)
    if isinstance(found, np.ndarray):
        return found
    found.close()
    raise ValueError(f"{file}: it holds several arrays: give it as FILE, and by --features the name of each")


def _npz(file: Path, names: Collection[str]) -> dict[str, NDArray]:
    """Return the arrays of these names in a file, of which no other is read."""
    found = _loaded(file)
    if isinstance(found, np.ndarray):
        raise ValueError(f"{file}: it is one array; give .npy files by --features, --rois and --output")
    arrays: dict[str, NDArray] = {}
    with found:
        if missing := [name for name in names if name not in found]:
            there = ", ".join(found) or "nothing"
            raise ValueError(f"{file}: there is no {' and no '.join(missing)} in it, but {there}")
        for name in names:
            with _reading(f"{file}: {name}"):
                arrays[name] = found[name]
    return arrays


def _loaded(file: Path) -> Any:
    """Return the array in a file, or what reads those in it."""
    from ..parity.recording import members

    with _reading(str(file)):
        members.check_is_file(file)
        return np.load(file, allow_pickle=False)


@contextmanager
def _reading(what: str) -> Iterator[None]:
    """Raise ValueError or OSError, which says what was read, for what NumPy raises."""
    try:
        yield
    except Exception as error:  # NumPy and zipfile raise a dozen kinds for a file that is damaged
        if isinstance(error, OSError) and error.filename is not None:
            raise
        raise ValueError(f"{what}: {type(error).__name__}: {error}") from error


def _dumped(output: Path, wanted: Collection[str]) -> dict[str, Path]:
    """Return the wanted files of a call, of which MindSpore has dumped this output: its inputs stand beside it."""
    dumped = _DUMPED.fullmatch(output.name)
    if dumped is None or dumped[3] != _KINDS["output"]:
        raise ValueError(
            f"{output}: it is no output that MindSpore has dumped (ROIAlign.*.output.0.*.npy);"
            " give other .npy files by --features, --rois and --output"
        )
    output.stat()  # which says that it is not there
    # What ran several times in a step has several files of each kind, in the order of their times.
    kinds = {name: kind for name, kind in _KINDS.items() if name in wanted or name == "output"}
    of_kind: dict[str, list[tuple[int, str]]] = {kind: [] for kind in kinds.values()}
    for file in output.parent.iterdir():
        other = _DUMPED.fullmatch(file.name)
        if other is not None and other[1] == dumped[1] and other[3] in of_kind:
            of_kind[other[3]].append((int(other[2]), file.name))
    files = {kind: [file for _, file in sorted(found)] for kind, found in of_kind.items()}
    if len({len(found) for found in files.values()}) > 1:
        counts = ", ".join(f"{len(found)} of {kind}" for kind, found in files.items())
        raise ValueError(f"{output}: beside it there are {counts} of that operator, not as many of each")
    number = files[_KINDS["output"]].index(output.name)
    return {name: output.with_name(files[kind][number]) for name, kind in kinds.items() if name in wanted}
