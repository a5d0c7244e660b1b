"""What is said of the sites of a project, for people and for machines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from .arguments import Argument
from .files import File
from .sites import Site
from .surroundings import Note


def counted(number: int, noun: str) -> str:
    """Return a number of things in words: ``1 file``, ``2 files``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def notes(file: File, files: Sequence[File]) -> list[Note]:
    """Return the notes on a file that matter: graph mode, if MindSpore's operator is called in any of the files."""
    in_mindspore = any(site.form.library == "mindspore" for file in files for site in file.found.sites)
    return [note for note in file.found.notes if note.kind != "graph-mode" or in_mindspore]


def place(file: File, line: int) -> str:
    """Return a place as ``file:line``, in a notebook as ``file:cell N:line``."""
    cell, line = file.place(line)
    return f"{file.path}:{line}" if cell is None else f"{file.path}:cell {cell}:{line}"


def describe(file: File, site: Site) -> Iterator[str]:
    """Yield lines on a site: where and what it is, its arguments, what it becomes, and what a person should know."""
    yield f"{place(file, site.line)}: {site.form.library}'s {site.form.name}, {site.form.direction}"
    yield f"    {site.text}"
    if site.arguments:
        yield f"    with {', '.join(_described(name, argument) for name, argument in site.arguments.items())}"
    if site.becomes is not None:
        yield f"    becomes {site.becomes}"
    if site.left is not None:
        yield f"    is left to you: {site.left}"
    yield from (f"    {_marked(note)}" for note in site.notes)


def describe_note(file: File, note: Note) -> str:
    """Return a line on what a person should know."""
    return f"{place(file, note.line)}: {_marked(note)}"


def _marked(note: Note) -> str:
    return f"{'needs a person: ' if note.needs_person else ''}{note.text}"


def _described(name: str, argument: Argument) -> str:
    if argument.values is None:
        return f"{name}={argument.text}" if name.isidentifier() else name
    if len(argument.values) == 1:
        return f"{name}={argument.resolved}"
    return f"{name}={argument.text} ({' or '.join(map(repr, argument.values))})"


def as_json(files: Sequence[File], unreadable: Sequence[str]) -> dict[str, Any]:
    """Return what was found, for machines."""
    return {
        "files": len(files),
        "needs_person": needs_person(files),
        "sites": [_site_as_json(file, site) for file in files for site in file.found.sites],
        "notes": [{**_place_as_json(file, n.line), **_note_as_json(n)} for file in files for n in notes(file, files)],
        "unreadable": [*unreadable],
    }


def needs_person(files: Sequence[File]) -> int:
    """Return how many sites and notes need a person."""
    sites = sum(site.needs_person for file in files for site in file.found.sites)
    return sites + sum(note.needs_person for file in files for note in notes(file, files))


def _site_as_json(file: File, site: Site) -> dict[str, Any]:
    return {
        **_place_as_json(file, site.line),
        "library": site.form.library,
        "operator": site.form.name,
        "direction": site.form.direction,
        "source": site.text,
        "arguments": {
            name: {"source": argument.text, "values": argument.values} for name, argument in site.arguments.items()
        },
        "becomes": site.becomes,
        "left": site.left,
        "notes": [_note_as_json(note) for note in site.notes],
        "needs_person": site.needs_person,
    }


def _place_as_json(file: File, line: int) -> dict[str, Any]:
    cell, line = file.place(line)
    return {"file": str(file.path), "cell": cell, "line": line}


def _note_as_json(note: Note) -> dict[str, Any]:
    return {"kind": note.kind, "text": note.text, "needs_person": note.needs_person}
