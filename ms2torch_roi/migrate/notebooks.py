"""The code of Jupyter notebooks, and where it stands in their JSON."""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from .source import split_lines

_STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"')

# Magics of a cell whose other lines are Python.
_MAGICS_OF_PYTHON = ("%%capture", "%%prun", "%%time", "%%timeit")

# Lines that are IPython's: !ls, %matplotlib inline, ?len and len?; and what may stand behind an assignment.
_IPYTHON = re.compile(r"(?P<indent>\s*)(?:!|\?|%%?\w|[\w.]+\?{1,2}\s*$)")
_ASSIGNED = re.compile(r"(?P<target>\s*[\w., ]+=\s*)(?:!|%\w)")

# Lines whose rest is Python: %time y = f(x), and y = %time f(x); but not with options.
_TIMED = re.compile(r"(?P<before>\s*(?:[\w., ]+=\s*)?)(?P<magic>%time(?:it)?[ \t]+)(?P<rest>[^\s-].*)", re.DOTALL)


@dataclass(frozen=True)
class Literal:
    """A string of a JSON text, and from where to where it stands there."""

    value: str
    start: int
    end: int


@dataclass(frozen=True)
class Cell:
    """A code cell.

    Args:
        number: among all cells of the notebook, from 1.
        first_line: in the code of the notebook.
        literals: the strings of its source, one for each line, or one.
        is_list: whether they are in a list.
    """

    number: int
    first_line: int
    literals: Sequence[Literal]
    is_list: bool

    @property
    def text(self) -> str:
        return "".join(literal.value for literal in self.literals)


@dataclass(frozen=True)
class Notebook:
    """A notebook: the text of its file, its cells of Python, and their code, which shares its names.

    In the code, comments and ``pass`` stand for what is IPython's; its lines are those of the cells.
    """

    raw: str
    cells: Sequence[Cell]
    code: str

    def place(self, line: int) -> tuple[int, int]:
        """Return the number of the cell, and the line in it, of a line of the code."""
        cell = [cell for cell in self.cells if cell.first_line <= line][-1]
        return cell.number, line - cell.first_line + 1


def read(raw: str) -> Notebook:
    """Read the text of a notebook's file.

    Raises:
        ValueError: it is no notebook.
    """
    cells, code = [], ""
    for number, literals, is_list in _sources(_parsed(raw)):
        cell = Cell(number, len(split_lines(code)) + 1, literals, is_list)
        python = _as_python(cell.text)
        if python is not None:
            cells.append(cell)
            code += python if python.endswith("\n") else python + "\n"
    return Notebook(raw, cells, code)


def replaced(notebook: Notebook, texts: Sequence[str]) -> str:
    """Return the text of the file with these texts in its cells of Python, and all else byte for byte as it was."""
    raw = notebook.raw
    for cell, text in reversed([*zip(notebook.cells, texts, strict=True)]):
        if text != cell.text:
            raw = raw[: cell.literals[0].start] + _as_json(notebook, cell, text) + raw[cell.literals[-1].end :]
    return raw


def _parsed(raw: str) -> Any:
    """Parse JSON into literals instead of strings."""
    # Both have the strings in the order of the text.
    places = (found.span() for found in _STRING.finditer(raw))

    def located(value: Any) -> Any:
        if isinstance(value, dict):
            return {located(key).value: located(item) for key, item in value.items()}
        if isinstance(value, list):
            return [located(item) for item in value]
        if isinstance(value, str):
            start, end = next(places)
            if json.loads(raw[start:end]) != value:
                raise ValueError("a name stands twice in an object")
            return Literal(value, start, end)
        return value

    return located(json.loads(raw))


def _sources(notebook: Any) -> Iterator[tuple[int, list[Literal], bool]]:
    """Yield the number of each code cell that is not empty, the strings of its source, and whether it is a list."""
    try:
        metadata = notebook.get("metadata", {})
        languages = metadata.get("language_info", {}).get("name"), metadata.get("kernelspec", {}).get("language")
        if any(language is not None and language.value != "python" for language in languages):
            return
        for number, cell in enumerate(notebook["cells"], 1):
            source = cell["source"]
            literals = source if isinstance(source, list) else [source]
            if cell["cell_type"].value == "code" and "".join(literal.value for literal in literals):
                yield number, literals, isinstance(source, list)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"it is no notebook of format 4 ({type(error).__name__}: {error})") from None


def _as_python(text: str) -> str | None:
    """Return the text of a cell without what is IPython's, with as many lines; None if it is another language's."""
    if text.startswith("%%") and not text.startswith(_MAGICS_OF_PYTHON):
        return None
    if _is_python(text):
        return text
    lines, is_continued = [], False
    for line in split_lines(text):
        timed = None if is_continued else _without_time(line)
        if timed is not None:
            lines.append(timed)
            continue
        found, assigned = _IPYTHON.match(line), _ASSIGNED.match(line)
        end = line[len(line.rstrip("\r\n")) :]
        if is_continued or found:
            indent = found["indent"] if found else ""
            lines.append((f"{indent}pass" if indent else "#") + end)
            is_continued = line.rstrip().endswith("\\")
        else:
            lines.append(line if assigned is None else f"{assigned['target']}None{end}")
    return "".join(lines)


def _without_time(line: str) -> str | None:
    """Return a line that is timed as Python of the same length; None if it is none."""
    found = _TIMED.fullmatch(line)
    if found is None:
        return None
    before, magic, rest = found.groups()
    # A statement stays one, at its place.
    line = before + ("" if before.strip() else "if 1:").ljust(len(magic)) + rest
    return line if _is_python(line.strip()) else None


def _is_python(text: str) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            ast.parse(text)
        except (SyntaxError, ValueError):
            return False
    return True


def _as_json(notebook: Notebook, cell: Cell, text: str) -> str:
    """Return the text of a cell as its literals are written, and of lines that are there already as they are."""
    written = {literal.value: notebook.raw[literal.start : literal.end] for literal in cell.literals}
    before = notebook.raw[: cell.literals[0].start]
    separator = "," + before[len(before.rstrip()) :]
    if len(cell.literals) > 1:
        separator = notebook.raw[cell.literals[0].end : cell.literals[1].start]
    lines = split_lines(text) if cell.is_list else [text]
    return separator.join(written.get(line, json.dumps(line, ensure_ascii=notebook.raw.isascii())) for line in lines)
