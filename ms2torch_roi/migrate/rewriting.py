"""Rewriting the RoIAlign calls in a source, and nothing else."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import libcst as cst

from .forms import PACKAGE, PORTS, REQUIRED
from .sites import Scan, Site, scan_source
from .source import Source, split_lines


@dataclass(frozen=True, order=True)
class Edit:
    """Text in the place of what stands between two places, each a line, from 1, and a column, from 0."""

    start: tuple[int, int]
    end: tuple[int, int]
    text: str


def rewrite(text: str, direction: str | None = None) -> str:
    r"""Return a source with the port's calls in the place of the originals'.

    A call keeps its arguments where both have the same. It is made by the name of the package, because many a source
    has a class of its own with the name of the operator.

    Args:
        text: the source.
        direction: ``"to-torch"`` or ``"to-mindspore"`` to rewrite the calls of one framework only.

    Raises:
        SyntaxError: it is no Python.

    >>> print(rewrite("from mindspore.ops import operations as P\npool = P.ROIAlign(7, 7, 1.0 / 16)"))
    from mindspore.ops import operations as P
    import ms2torch_roi
    pool = ms2torch_roi.ROIAlign(7, 7, 1.0 / 16)
    """
    source = Source(text)
    return edited(text, edits(source, rewritable(scan_source(source), direction)))


def rewritable(scan: Scan, direction: str | None = None) -> list[Site]:
    """Return the sites that can be rewritten, of one direction or both."""
    return [site for site in scan.sites if site.left is None and direction in (None, site.form.direction)]


def edits(source: Source, sites: Sequence[Site]) -> list[Edit]:
    """Return what is to be edited for sites of a source that can be rewritten."""
    found = [edit for site in sites for edit in _edits_of_site(source, site)]
    modules = {site.form.module for site in sites if site.operator is not None}
    return [*_imports(source, sorted(modules), min(found).start), *found] if found else []


def edited(text: str, edits: Iterable[Edit], first_line: int = 1) -> str:
    """Return a text with the edits that begin in it; ``first_line`` is the number of its first line."""
    lines = split_lines(text)
    starts = [0, *itertools.accumulate(map(len, lines))]
    for edit in sorted(edits, reverse=True):
        if first_line <= edit.start[0] < first_line + len(lines):
            start, end = (starts[line - first_line] + column for line, column in (edit.start, edit.end))
            text = text[:start] + edit.text + text[end:]
    return text


def _edits_of_site(source: Source, site: Site) -> Iterator[Edit]:
    if site.operator is None:  # its alias is rewritten
        return
    yield Edit(source.start(site.operator), source.end(site.operator), f"{PACKAGE}.{site.form.target}")
    if site.call is not None and not site.form.keeps_arguments:
        yield from _edits_of_arguments(source, site, site.call)


def _edits_of_arguments(source: Source, site: Site, call: cst.Call) -> Iterator[Edit]:
    """Yield what makes the arguments of a call the port's: names, what it does not have, and other defaults."""
    form, port = site.form, PORTS[site.form.target or ""]
    parameters = iter(form.parameters)
    kept, removed = 0, None
    for number, argument in enumerate(call.args):
        keyword = argument.keyword
        name = next(parameters) if keyword is None else form.renamed.get(keyword.value, keyword.value)
        if name not in port:
            removed = number
            continue
        kept += 1
        if keyword is None and kept <= number:  # one before it is not there any more
            yield Edit(source.start(argument), source.start(argument), f"{name}=")
        elif keyword is not None and keyword.value != name:
            yield Edit(source.start(keyword), source.end(keyword), name)
    added = ", ".join(
        f"{name}={form.parameters[name]!r}"
        for name, default in port.items()
        if name not in site.arguments and form.parameters[name] is not REQUIRED and form.parameters[name] != default
    )
    end = source.end(call.args[-1])
    if removed is not None and added and removed == len(call.args) - 1:  # these take its place
        yield Edit(source.start(call.args[removed]), end, added)
        return
    if removed is not None:
        yield from _removal(source, call.args, removed)
    if added:
        yield Edit(end, end, f", {added}")


def _removal(source: Source, arguments: Sequence[cst.Arg], number: int) -> Iterator[Edit]:
    """Yield what removes an argument that is not the only one with a comma, and no comment around it."""
    argument = arguments[number]
    start, end = source.start(argument), source.end(argument)
    is_last = number + 1 == len(arguments)
    all_of_it = (source.end(arguments[number - 1]), end) if is_last else (start, source.start(arguments[number + 1]))
    if "#" not in source.between(*all_of_it):
        yield Edit(*all_of_it, "")
        return
    yield Edit(start, end, "")
    if isinstance(argument.comma, cst.Comma):
        yield Edit(source.start(argument.comma), source.end(argument.comma), "")


def _imports(source: Source, modules: Sequence[str], first_use: tuple[int, int]) -> Iterator[Edit]:
    """Yield the imports of modules of the package, after those that a source begins with.

    What the source itself imports before the first use is not imported again.
    """
    body, newline = source.module.body, source.module.default_newline
    there = [name for statement in body for name in _imported(source, statement, first_use)]
    missing = [module for module in modules if not any(f"{name}.".startswith(f"{module}.") for name in there)]
    if not missing:
        return
    imports = newline.join(f"import {module}" for module in missing)
    last, gap = None, ""
    for number, statement in enumerate(body):
        is_docstring = number == 0 and source.module.get_docstring() is not None
        if not (is_docstring or _is_import(statement)):
            break
        last, gap = statement, newline if is_docstring or _is_future(statement) else ""
    if last is not None:
        place = source.end_of_line(last)
        yield Edit(place, place, f"{newline}{gap}{imports}")
    else:
        decorators = body[0].decorators if isinstance(body[0], cst.FunctionDef | cst.ClassDef) else ()
        place = source.line([*decorators, body[0]][0]), 0
        yield Edit(place, place, f"{imports}{newline}{newline}")


def _is_import(statement: cst.BaseStatement | cst.SimpleStatementLine) -> bool:
    return isinstance(statement, cst.SimpleStatementLine) and all(
        isinstance(part, cst.Import | cst.ImportFrom) for part in statement.body
    )


def _is_future(statement: cst.CSTNode) -> bool:
    part = statement.body[0] if isinstance(statement, cst.SimpleStatementLine) else None
    module = part.module if isinstance(part, cst.ImportFrom) else None
    return isinstance(module, cst.Name) and module.value == "__future__"


def _imported(source: Source, statement: cst.CSTNode, before: tuple[int, int]) -> Iterator[str]:
    """Yield the modules that a statement imports by their own names before a place."""
    for part in statement.body if isinstance(statement, cst.SimpleStatementLine) else ():
        if isinstance(part, cst.Import) and source.start(part) < before:
            yield from (alias.evaluated_name for alias in part.names if alias.asname is None)
