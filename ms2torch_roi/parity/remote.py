"""Files that are elsewhere, at a URL that fsspec knows, beside those of this machine, of which nothing changes.

A URL becomes a path of universal_pathlib, which behaves as :class:`pathlib.Path` does.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
import uuid
from collections.abc import Callable, Hashable, Iterator
from pathlib import Path
from typing import IO, Any, cast

from .. import how_to_install

PARTIAL_SUFFIX = ".partial"

_URL = re.compile(r"[a-zA-Z][\w+.:-]*://")
_PASSWORD = re.compile(r"(?<=://)([^/@:]*):[^/]*@")

# Of this machine: fsspec has two names for it.
_HERE = re.compile(r"(?:file|local):/", re.IGNORECASE)
_LOCAL = re.compile(r"(?:file|local)://(?:localhost)?(/.*)", re.IGNORECASE | re.DOTALL)


def is_path(value: object) -> bool:
    """Tell whether :func:`path` takes this, a path of universal_pathlib included."""
    upath = sys.modules.get("upath")
    return isinstance(value, str | os.PathLike) or (upath is not None and isinstance(value, upath.UPath))


def path(text: str | os.PathLike[str]) -> Path:
    """Return the path of a file or folder, which may be at a URL; one of universal_pathlib stays as it is.

    Raises:
        ImportError: a URL, and universal_pathlib is not installed.
        ValueError: a URL of a kind that fsspec does not know, or of a file of another machine.
    """
    if not isinstance(text, str):
        return Path(text) if isinstance(text, os.PathLike) else text
    if _HERE.match(text):
        local = _LOCAL.fullmatch(text)
        if local is None:
            raise ValueError(f"{text} is no file of this machine: its URL starts with file:/// or file://localhost/")
        from urllib.request import url2pathname  # which takes as long to import as all else here

        return Path(url2pathname(local[1]))
    if not _URL.match(text):
        return Path(text)
    try:
        from upath import UPath
    except ModuleNotFoundError as error:
        raise ImportError(f"{without_password(text)} needs universal_pathlib. {how_to_install('remote')}") from error
    return cast(Path, UPath(text))


def is_remote(path: Path) -> bool:
    """Tell whether a path is one of a URL."""
    return not isinstance(path, Path)


def identity(path: Path) -> tuple[Hashable, ...]:
    """Return what two names of one file have in common, but for hard links."""
    if not is_remote(path):
        # Not Path.resolve, which raises for links that lead to each other; reading those fails, and names them.
        return (os.path.realpath(path),)
    elsewhere: Any = path
    # Its type stands for the protocol, which may have several names, as s3 and s3a.
    return type(path), repr(sorted(elsewhere.storage_options.items())), elsewhere.path


def name(path: Path) -> str:
    """Return what a path is called: its URL with user and host, which its ``str`` may lack, and without a password."""
    if not is_remote(path):
        return str(path)
    elsewhere: Any = path
    options = elsewhere.storage_options
    if not options.get("host"):
        return without_password(str(path))
    user, port = options.get("user") or options.get("username"), options.get("port")
    authority = f"{f'{user}@' if user else ''}{options['host']}{f':{port}' if port else ''}"
    return f"{elsewhere.protocol}://{authority}/{elsewhere.path.lstrip('/')}"


def without_password(text: str) -> str:
    """Return a URL without the password in it."""
    return _PASSWORD.sub(r"\1@", text)


def expression(path: Path) -> str:
    """Return the Python that makes a path."""
    return f"remote.path({name(path)!r})" if is_remote(path) else f"Path({str(path)!r})"


@contextlib.contextmanager
def errors(path: Path) -> Iterator[None]:
    """Raise OSError, which names the file, for what the library of a remote file system raises: any error at all."""
    try:
        yield
    except Exception as error:
        if not is_remote(path) or isinstance(error, ValueError):
            raise
        if isinstance(error, OSError) and name(path) in str(error):
            raise
        if isinstance(error, OSError) and error.strerror:
            raise type(error)(error.errno, error.strerror, name(path)) from error
        raise OSError(f"{name(path)}: {type(error).__name__}: {error}") from error


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


def write(path: Path, fill: Callable[[IO[bytes]], Any]) -> int:
    """Write a file, which is there in full or not at all, however the process ends; return how many bytes it has.

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
        return buffer.tell()
    partial = path.with_name(f".{uuid.uuid4().hex}{PARTIAL_SUFFIX}")  # nobody else's, and not too long
    try:
        with partial.open("xb") as file:
            fill(file)
            size = file.tell()
        partial.replace(path)
        return size
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and str(error.filename) == str(partial):
            raise type(error)(error.errno, error.strerror, str(path)) from error
        raise
