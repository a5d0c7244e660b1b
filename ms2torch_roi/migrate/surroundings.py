"""What around the calls of a source matters to all: graph mode, levels, padded rois, extractors and registries."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import libcst as cst

from .forms import CLASSES
from .source import Name, Source
from .values import possible_values


@dataclass(frozen=True)
class Note:
    """What a person should know, and whether there is something to decide or to mend."""

    line: int
    kind: str
    text: str
    needs_person: bool


def graph_mode(source: Source) -> list[Note]:
    """Return where a source sets MindSpore's graph mode, or compiles for it."""
    text = (
        "graph mode: ms2torch_roi.record sees nothing there but with MS_JIT=0 in the environment, and"
        " ms2torch_roi.ROIAlign takes MindSpore's tensors in PyNative mode only"
    )
    calls = [call for call in source.nodes(cst.Call) if _sets_graph_mode(source, call)]
    compiled = [name for name in source.names() if _is_jit(source, name)]
    return [Note(source.line(node), "graph-mode", text, True) for node in (*calls, *compiled)]


def _sets_graph_mode(source: Source, call: cst.Call) -> bool:
    if not any(re.fullmatch(r"mindspore\.(.+\.)?set_context", name or "") for name in source.imported_names(call.func)):
        return False
    for place, argument in enumerate(call.args):
        is_mode = place == 0 if argument.keyword is None else argument.keyword.value == "mode"
        if is_mode:
            return "GRAPH_MODE" in source.text(argument.value) or possible_values(source, argument.value) == [0]
    return False


def _is_jit(source: Source, node: Name) -> bool:
    return source.is_expression(node) and any(
        re.fullmatch(r"mindspore\.(.+\.)?(jit|ms_function)", name or "") for name in source.imported_names(node)
    )


def levels(source: Source) -> list[Note]:
    """Return the first place that looks as if it assigned rois to levels by a logarithm.

    A guess by names: a logarithm in what is assigned to, or in a function, whose name has ``level`` or ``lvl`` in it.
    """
    text = (
        "levels by a logarithm: the frameworks round it differently, so that some boxes get another level; compare the"
        " levels, or choose them by the thresholds of ms2torch_roi.levels"
    )
    for call in source.nodes(cst.Call):
        if _last_name(call.func) in ("log", "log2"):
            names = [*_assigned_names(source, call)]
            function = source.enclosing(call, cst.FunctionDef)
            names += [] if function is None else [function.name.value]
            if any(re.search(r"lvl|level", name, re.IGNORECASE) for name in names):
                return [Note(source.line(call), "levels", text, True)]
    return []


def padded_rois(source: Source) -> list[Note]:
    """Return the first place that looks as if it padded rois.

    A guess by names: zeros or a Pad in what is assigned to a name with ``roi`` or ``proposal`` in it.
    """
    text = (
        "rois may be padded (zeros or a Pad are in what is assigned here): MindSpore leaves the rows of zero rois"
        " unwritten, so that it differs from itself there; the port returns 0"
    )
    for call in source.nodes(cst.Call):
        if _last_name(call.func) in ("pad", "zeros", "zeroslike", "zeros_like") and any(
            re.search(r"roi|proposal", name, re.IGNORECASE) for name in _assigned_names(source, call)
        ):
            return [Note(source.line(call), "padded-rois", text, False)]
    return []


def extractors(source: Source) -> list[Note]:
    """Return the classes that look like the extractor of MindSpore's detectors: cells of its name."""
    text = (
        "this may be the extractor of MindSpore's detectors: ms2torch_roi.SingleRoIExtractor does the same on torch and"
        " pools each roi once; give it the formula of these levels, and leave out a config in front"
    )
    return [
        Note(source.line(defined), "extractor", text, False)
        for defined in source.nodes(cst.ClassDef)
        if re.search("single_?roi_?extractor", defined.name.value, re.IGNORECASE)
        and any(_is_cell(source, base.value) for base in defined.bases)
    ]


def registries(source: Source) -> list[Note]:
    """Return the dicts with an operator's name as their type, of which registries such as mmdet's make it."""
    notes = []
    nodes: list[cst.Call | cst.Dict] = [*source.nodes(cst.Call), *source.nodes(cst.Dict)]
    for node in nodes:
        for value in _types(node):
            for name in possible_values(source, value) or ():
                if isinstance(name, str) and name.rpartition(".")[2] in CLASSES:
                    text = f"{name} by its name in a config: what a registry makes of it is not found, nor rewritten"
                    notes.append(Note(source.line(node), "registry", text, True))
    return notes


def _types(node: cst.Call | cst.Dict) -> Iterator[cst.BaseExpression]:
    """Yield what a dict that is written here has as its type."""
    if isinstance(node, cst.Dict):
        for element in node.elements:
            key = element.key if isinstance(element, cst.DictElement) else None
            if isinstance(key, cst.SimpleString) and key.evaluated_value == "type":
                yield element.value
    elif isinstance(node.func, cst.Name) and node.func.value == "dict":
        yield from (some.value for some in node.args if some.keyword is not None and some.keyword.value == "type")


def _is_cell(source: Source, base: cst.BaseExpression) -> bool:
    return any(re.fullmatch(r"mindspore\.(.+\.)?Cell", name or "") for name in source.imported_names(base))


def _last_name(function: cst.BaseExpression) -> str:
    """Return the last part of the name of what is called, in small letters: ``log2`` of ``P.Log2()(x)``."""
    while isinstance(function, cst.Call):
        function = function.func
    if isinstance(function, cst.Attribute):
        function = function.attr
    return function.value.lower() if isinstance(function, cst.Name) else ""


def _assigned_names(source: Source, node: cst.CSTNode) -> Iterator[str]:
    """Return what the value that a node is in is assigned to."""
    assign = source.enclosing(node, cst.Assign)
    if assign is not None:
        yield from (source.text(target.target) for target in assign.targets)
