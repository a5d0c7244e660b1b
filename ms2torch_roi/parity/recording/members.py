"""The arrays in a file of NumPy's, which may be in an archive: nothing that they say is believed before it is checked.

Files may be compressed, pipes, links, or made to fill the memory. What a file says of its arrays is read first, and an
array only when it is wanted.
"""

from __future__ import annotations

import io
import math
import stat
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .. import remote

NDArray = npt.NDArray[Any]

ARCHIVE_SUFFIX = ".zip"

# Files may be compressed: to a part of this, if they unpack to more bytes than that. Features that are mostly 0 shrink
# to a tenth, and what is made to fill the memory to a thousandth.
_COMPRESSION = 20
_UNPACKED = 2**26

_format: Any = np.lib.format


class Declared(NamedTuple):
    """What a member of a file says that its array is."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]


class Members(NamedTuple):
    """Those of some names in an open file."""

    archive: zipfile.ZipFile
    declared: dict[str, Declared]

    def read(self, name: str) -> NDArray:
        with self.archive.open(f"{name}.npy") as file:
            array: NDArray = _format.read_array(file, allow_pickle=False)
        return array


@contextmanager
def opened(path: Path, names: Sequence[str]) -> Iterator[Members]:
    """Open a file, and give what it has of these names, the first of which it must have; no array is read.

    Raises:
        ValueError: it has not, or says what cannot be, or would take far more memory than the file.
        OSError: there is no such file.
        zipfile.BadZipFile and others: it is damaged.
    """
    file, packed = _opened(path)
    with file, zipfile.ZipFile(file) as archive:
        found = archive.namelist()
        _check_names(found)
        present = [name for name in names if f"{name}.npy" in found]
        if names[0] not in present:
            others = ", ".join(sorted(name.removesuffix(".npy") for name in found)) or "nothing"
            raise ValueError(f"there is no {names[0]!r} in it, but {others[:200]}")
        _check_unpacked(packed, sum(archive.getinfo(f"{name}.npy").file_size for name in present))
        yield Members(archive, {name: _header(archive, name) for name in present})


def save(file: IO[bytes], arrays: Mapping[str, NDArray]) -> None:
    """Write arrays to an open file, as ``numpy.savez`` does, which is not done with a file that is full."""
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                _format.write_array(member, array, allow_pickle=False)


def in_archive(archive: Path) -> list[Path]:
    """Return paths for what a ``.zip`` holds, in their order, for :func:`opened`; folders are left out.

    Raises:
        ValueError: it is no archive, or one of the names leads out of it.
        OSError: it cannot be opened.
    """
    try:
        check_is_file(archive)
        with archive.open("rb") as opened, zipfile.ZipFile(opened) as file:
            names = [info.filename for info in file.infolist() if not info.is_dir()]
            _check_names(names)
    except (ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{remote.name(archive)}: {error}") from error
    paths = [archive / name for name in sorted(names)]
    for path in paths:
        if not path.is_relative_to(archive) or ".." in path.relative_to(archive).parts:
            raise ValueError(f"{remote.name(archive)}: it holds {remote.name(path)}, which would be outside")
    return paths


def _check_names(names: Sequence[str]) -> None:
    """Raise ValueError if a name stands twice: one of the two would not be looked at."""
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ValueError(f"{twice[0]!r} is in it twice")


def check_is_file(path: Path) -> None:
    """Raise ValueError unless a path is a file, or leads to one: reading a pipe or a device may never end.

    Raises:
        OSError: there is nothing.
    """
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket"}
        raise ValueError(f"it is {kinds.get(stat.S_IFMT(mode), 'a device')}, not a file")


def _opened(path: Path) -> tuple[IO[bytes], int]:
    """Open a file, or a copy in memory of one in an archive; return it and how many bytes it takes on disk."""
    archive = next((parent for parent in path.parents if parent.suffix == ARCHIVE_SUFFIX and parent.is_file()), None)
    if archive is None and remote.is_remote(path):
        content = path.read_bytes()  # in one request
        return io.BytesIO(content), len(content)
    if archive is None:
        check_is_file(path)
        return path.open("rb"), path.stat().st_size
    with archive.open("rb") as opened, zipfile.ZipFile(opened) as file:
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


def _header(archive: zipfile.ZipFile, name: str) -> Declared:
    member = archive.getinfo(f"{name}.npy")
    _check_compression(name, member)
    with archive.open(member) as file:
        read = _format.read_array_header_1_0 if _format.read_magic(file) == (1, 0) else _format.read_array_header_2_0
        shape, _, dtype = read(file)
        held = member.file_size - file.tell()
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != held:
        raise ValueError(f"{name} is {dtype} {shape}, but there are {held} bytes of it")
    return Declared(shape, dtype)
