"""The files of a project: which hold Python, what is in them, and writing them."""

from __future__ import annotations

import codecs
import io
import os
import re
import shutil
import tempfile
import tokenize
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from . import notebooks, rewriting
from .notebooks import Notebook
from .sites import Scan, Site, scan_source
from .source import Source

# Folders of what is not the project's own; hidden ones are left out too.
_LEFT_OUT = frozenset({"__pycache__", "node_modules", "site-packages"})

# What a file mentions that calls an operator, and one that may set graph mode.
_OPERATORS = re.compile(rb"roi_?(align|pooler)", re.IGNORECASE)
_GRAPH_MODE = re.compile(rb"GRAPH_MODE|mode\s*=\s*0|\bjit\b|ms_function")


@dataclass(frozen=True)
class File:
    """A file of Python, and what was found in it.

    Args:
        path: as it was given, or found in a folder.
        text: without a byte order mark.
        encoding: that the text has in the file.
        source: the Python in it.
        found: in the source.
        notebook: where that is in the text, if it is a notebook.
    """

    path: Path
    text: str
    encoding: str
    source: Source
    found: Scan
    notebook: Notebook | None

    def place(self, line: int) -> tuple[int | None, int]:
        """Return the number of the cell, if it is a notebook, and the line, of a line of the source."""
        return self.notebook.place(line) if self.notebook is not None else (None, line)

    def rewritten(self, sites: Iterable[Site]) -> str:
        """Return the text with sites of it rewritten."""
        edits = rewriting.edits(self.source, [*sites])
        if self.notebook is None:
            return rewriting.edited(self.text, edits)
        cells = self.notebook.cells
        return notebooks.replaced(self.notebook, [rewriting.edited(c.text, edits, c.first_line) for c in cells])


def read_all(paths: Iterable[Path]) -> tuple[list[File], list[str]]:
    """Read the files at some paths, and of folders those in which something can be found.

    Returns:
        The files, and for each that cannot be read a line that says which, where and why.

    Raises:
        FileNotFoundError: there is no such path, or nothing of Python in a folder.
    """
    files = {path: _read(path, None if is_named else _OPERATORS) for path, is_named in _python_files(paths).items()}
    read = [file for file in files.values() if isinstance(file, File)]
    if any(site.form.library == "mindspore" for file in read for site in file.found.sites):
        others = [_read(path, _GRAPH_MODE) for path, file in files.items() if file is None]
        read += [file for file in others if isinstance(file, File)]
    return read, [file for file in files.values() if isinstance(file, str)]


def _python_files(paths: Iterable[Path]) -> dict[Path, bool]:
    """Return the files at some paths and in folders, with whether each was named itself."""
    files: dict[Path, bool] = {}
    for path in paths:
        if path.is_dir():
            found = [*_walk(path)]
            if not found:
                raise FileNotFoundError(f"{path}: there is no Python file and no notebook in it")
            files = {**dict.fromkeys(found, False), **files}
        elif path.exists():
            files[path] = True
        else:
            raise FileNotFoundError(f"{path}: there is no such file or folder")
    return files


def _walk(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in _LEFT_OUT and not name.startswith("."))
        files = (Path(parent, name) for name in sorted(names) if name.endswith((".py", ".ipynb")))
        yield from (file for file in files if file.is_file())  # and no link to nothing


def _read(path: Path, mention: re.Pattern[bytes] | None) -> File | str | None:
    """Read a file if it mentions something, and find what is in it; return in a line why it cannot be read."""
    notebook = None
    try:
        raw = path.read_bytes()
        if mention is not None and not mention.search(raw):
            return None
        encoding = "utf-8-sig" if raw.startswith(codecs.BOM_UTF8) else "utf-8"
        if path.suffix == ".ipynb":
            text = raw.decode(encoding)
            notebook = notebooks.read(text)
        else:
            encoding, _ = tokenize.detect_encoding(io.BytesIO(raw).readline)
            text = raw.decode(encoding)
        source = Source(text if notebook is None else notebook.code)
        return File(path, text, encoding, source, scan_source(source), notebook)
    except SyntaxError as error:
        place = ""
        if error.lineno is not None:
            cell, line = notebook.place(error.lineno) if notebook is not None else (None, error.lineno)
            place = f"{line}:" if cell is None else f"cell {cell}:{line}:"
        return f"{path}:{place} {error.msg}"
    except (RecursionError, MemoryError):
        return f"{path}: it is nested too deeply"
    except OSError as error:
        return f"{path}: {error.strerror}"
    except ValueError as error:
        return f"{path}: {error}"


def check_writable(path: Path) -> None:
    """Raise PermissionError if a file or its folder must not be written, by root neither."""
    if not (path.stat().st_mode & 0o222 and os.access(path, os.W_OK)):
        raise PermissionError(f"{path} is read-only")
    if not os.access(Path(os.path.realpath(path)).parent, os.W_OK):
        raise PermissionError(f"{path} is in a folder that is read-only")


def write(file: File, text: str) -> None:
    """Write another text to a file at once or, if that fails, not at all."""
    path = Path(os.path.realpath(file.path))
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as temporary:
            temporary.write(text.encode(file.encoding))
        shutil.copymode(path, name)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink()
        raise
