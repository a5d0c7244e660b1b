"""Files that are elsewhere, at a URL that fsspec knows, beside those of this machine, of which nothing changes.

A URL becomes a path of universal_pathlib, which behaves as :class:`pathlib.Path` does.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, cast
from urllib.parse import urlsplit
from urllib.request import url2pathname

from .. import how_to_install

PARTIAL_SUFFIX = ".partial"

_URL = re.compile(r"[a-zA-Z][\w+.:-]*://")


def path(text: str | os.PathLike[str]) -> Path:
    """Return the path of a file or folder, which may be at a URL.

    Raises:
        ImportError: a URL, and universal_pathlib is not installed.
        ValueError: a URL of a kind that fsspec does not know.
    """
    if not isinstance(text, str) or not _URL.match(text):
        return Path(text)
    if text.startswith("file://"):
        return Path(url2pathname(urlsplit(text).path))
    try:
        from upath import UPath
    except ModuleNotFoundError as error:
        raise ImportError(f"{text} needs universal_pathlib. {how_to_install('remote')}") from error
    return cast(Path, UPath(text))


def is_remote(path: Path) -> bool:
    """Tell whether a path is one of a URL."""
    return not isinstance(path, Path)


def identity(path: Path) -> str:
    """Return what two names of one file have in common, but for hard links."""
    # Not Path.resolve, which raises for links that lead to each other; reading those fails, and names them.
    return str(path) if is_remote(path) else os.path.realpath(path)


def expression(path: Path) -> str:
    """Return the Python that makes a path."""
    return f"remote.path({str(path)!r})" if is_remote(path) else f"Path({str(path)!r})"


@contextlib.contextmanager
def errors(path: Path) -> Iterator[None]:
    """Raise OSError, which names the file, for what the library of a remote file system raises: any error at all."""
    try:
        yield
    except Exception as error:
        if not is_remote(path) or isinstance(error, ValueError) or str(path) in str(error):
            raise
        if isinstance(error, OSError) and error.strerror:
            raise type(error)(error.errno, error.strerror, str(path)) from error
        raise OSError(f"{path}: {type(error).__name__}: {error}") from error


def make_folder(path: Path) -> None:
    """Make a folder if it is not there; one at a URL not with the folder or bucket that it is in.

    Raises:
        OSError: it cannot be made.
    """
    if not is_remote(path):
        path.mkdir(parents=True, exist_ok=True)
        return
    elsewhere: Any = path
    with errors(path), contextlib.suppress(FileExistsError):
        elsewhere.fs.mkdir(elsewhere.path, create_parents=False)


def write(path: Path, fill: Callable[[IO[bytes]], Any]) -> None:
    """Write a file, which is there in full or not at all, however the process ends.

    So it is where a file system puts a file in one go, as object stores do; where it does not, one that is not whole
    may be left behind.

    Raises:
        OSError: the file cannot be written.
    """
    if is_remote(path):
        buffer = io.BytesIO()
        fill(buffer)
        elsewhere: Any = path
        with errors(path):
            elsewhere.fs.pipe_file(elsewhere.path, buffer.getvalue())
        return
    partial = path.with_name(path.name + PARTIAL_SUFFIX)
    try:
        with partial.open("wb") as file:
            fill(file)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
