"""A source as LibCST reads it: its tree, and what the names in it are."""

from __future__ import annotations

import ast
import itertools
import re
import warnings
from collections.abc import Collection, Iterator, Sequence
from typing import TypeAlias, TypeVar

import libcst as cst
from libcst import metadata

Node = TypeVar("Node", bound=cst.CSTNode)

# A name, which may be dotted.
Name: TypeAlias = cst.Name | cst.Attribute

# Functions whose second argument is a class.
_OF_TYPES = ("isinstance", "issubclass")

# LibCST takes some five Python frames for each level of a syntax tree, and Python allows 1000.
_DEEPEST = 200

_PROVIDERS = (
    metadata.ParentNodeProvider,
    metadata.PositionProvider,
    metadata.ScopeProvider,
    metadata.ExpressionContextProvider,
)


def split_lines(text: str) -> list[str]:
    """Split a text into lines, with their ends, where Python does: not at a form feed, as str.splitlines does."""
    return [line for line in re.split(r"(?<=\n)|(?<=\r)(?!\n)", text) if line]


def _lost_columns(lines: Sequence[str], module: cst.Module) -> dict[int, int]:
    """Return how many form feeds LibCST has lost at the start of lines, by their numbers, from 1.

    Raises:
        SyntaxError: it has lost something else.
    """
    lost: dict[int, int] = {}
    if all(line[:1] != "\f" for line in lines):
        return lost
    for number, pair in enumerate(itertools.zip_longest(lines, split_lines(module.code), fillvalue=""), 1):
        line, kept = (text.rstrip("\r\n") for text in pair)
        if line != kept:
            lost[number] = len(line) - len(kept)
            if line != "\f" * lost[number] + kept:
                raise SyntaxError("LibCST reads something else", (None, number, 1, line))
    return lost


def _depth(tree: ast.AST) -> int:
    depth, level = 0, [tree]
    while level:
        depth, level = depth + 1, [child for node in level for child in ast.iter_child_nodes(node)]
    return depth


def dotted_name(node: cst.CSTNode) -> str | None:
    """Return the code of a name, which may be dotted, and None for other expressions."""
    if isinstance(node, cst.Name):
        return node.value
    holder = dotted_name(node.value) if isinstance(node, cst.Attribute) else None
    return f"{holder}.{node.attr.value}" if isinstance(node, cst.Attribute) and holder is not None else None


class Source:
    """The tree of a Python source, with parents, positions and scopes.

    Raises:
        SyntaxError: it is no Python.
        RecursionError: it is nested too deeply.
    """

    def __init__(self, text: str) -> None:
        # Python's parser says more of what is wrong, and LibCST's never comes back from what is nested too deeply.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(text)
        if _depth(tree) > _DEEPEST:
            raise RecursionError
        self._lines = split_lines(text)
        try:
            module = cst.parse_module(text)
        except cst.ParserSyntaxError as error:  # newer syntax than LibCST knows
            raise SyntaxError(error.message, (None, error.raw_line, error.raw_column, None)) from error
        self._wrapper = metadata.MetadataWrapper(module)
        self.module = self._wrapper.module
        self._lost = _lost_columns(self._lines, module)
        self._wrapper.resolve_many(_PROVIDERS)  # in one pass
        self._parents = self._wrapper.resolve(metadata.ParentNodeProvider)
        self._positions = self._wrapper.resolve(metadata.PositionProvider)
        self._scopes = self._wrapper.resolve(metadata.ScopeProvider)
        self._contexts = self._wrapper.resolve(metadata.ExpressionContextProvider)
        self.star_imports = [
            "." * len(node.relative) + (self.text(node.module) if node.module is not None else "")
            for node in self.nodes(cst.ImportFrom)
            if isinstance(node.names, cst.ImportStar)
        ]
        bodies = [self._scopes.get(node.body.body[0]) for node in self.nodes(cst.ClassDef)]
        self._scopes_of_classes_with_imports = [
            scope
            for scope in bodies
            if isinstance(scope, metadata.ClassScope)
            and any(isinstance(assignment, metadata.ImportAssignment) for assignment in scope.assignments)
        ]
        self._attributes_of_self: dict[tuple[cst.ClassDef, str], list[cst.Attribute]] = {}
        for node in self.nodes(cst.Attribute):
            owner = self.class_of_self(node)
            if owner is not None:
                self._attributes_of_self.setdefault((owner, node.attr.value), []).append(node)

    def nodes(self, kind: type[Node]) -> list[Node]:
        """Return all nodes of a kind, in the order of the source."""
        return sorted((node for node in self._parents if isinstance(node, kind)), key=self.start)

    def names(self) -> list[Name]:
        """Return all names and attributes."""
        return [*self.nodes(cst.Name), *self.nodes(cst.Attribute)]

    def text(self, node: cst.CSTNode) -> str:
        """Return the code of a node, in one line."""
        return " ".join(self.module.code_for_node(node).split())

    def start(self, node: cst.CSTNode) -> tuple[int, int]:
        """Return the line, from 1, and the column, from 0, that a node begins at."""
        return self._place(self._positions[node].start)

    def end(self, node: cst.CSTNode) -> tuple[int, int]:
        """Return the line and the column that a node ends before."""
        return self._place(self._positions[node].end)

    def _place(self, position: metadata.CodePosition) -> tuple[int, int]:
        return position.line, position.column + self._lost.get(position.line, 0)

    def end_of_line(self, node: cst.CSTNode) -> tuple[int, int]:
        """Return where the line ends that a node ends in."""
        line, _ = self.end(node)
        return line, len(self._lines[line - 1].rstrip("\r\n"))

    def between(self, start: tuple[int, int], end: tuple[int, int]) -> str:
        """Return the text between two places, each a line and a column."""
        (first, column), (last, end_column) = start, end
        *whole, rest = self._lines[first - 1 : last]
        return "".join([*whole, rest[:end_column]])[column:]

    def line(self, node: cst.CSTNode) -> int:
        return self.start(node)[0]

    def parent(self, node: cst.CSTNode) -> cst.CSTNode | None:
        return self._parents.get(node)

    def ancestors(self, node: cst.CSTNode) -> Iterator[cst.CSTNode]:
        """Return what a node is in, the innermost first."""
        parent = self.parent(node)
        while parent is not None:
            yield parent
            parent = self.parent(parent)

    def enclosing(self, node: cst.CSTNode, kind: type[Node]) -> Node | None:
        """Return the innermost node of a kind that a node is in."""
        return next((ancestor for ancestor in self.ancestors(node) if isinstance(ancestor, kind)), None)

    def is_stored(self, node: cst.CSTNode) -> bool:
        """Whether a name or attribute is assigned to or deleted here."""
        return self._contexts.get(node) in (metadata.ExpressionContext.STORE, metadata.ExpressionContext.DEL)

    def is_expression(self, node: Name) -> bool:
        """Whether a name is read as a value, rather than imported, assigned, a part or keyword, or an annotation."""
        return (
            self._scopes.get(node) is not None
            and not self.is_stored(node)
            and self.enclosing(node, cst.Annotation) is None
        )

    def imported_names(self, node: cst.CSTNode, attribute: str = "") -> list[str | None]:
        """Return in full what a name, which may be dotted, or an attribute of it, is by the imports of the source.

        There is one for each import that it may come from, None for what is no import, and none at all for a name that
        nothing in the source defines. A value of None, as for a package that is not installed, counts for nothing.
        """
        scope, name = self._scopes.get(node), dotted_name(node)
        return [] if scope is None or name is None else self._imported(scope, name, attribute)

    def _imported(self, scope: metadata.Scope, name: str, attribute: str = "") -> list[str | None]:
        prefix, in_full = name, f"{name}.{attribute}" if attribute else name
        while prefix and not scope[prefix]:
            prefix = prefix.rpartition(".")[0]
        names: list[str | None] = []
        for assignment in scope[prefix] if prefix else ():
            if isinstance(assignment, metadata.ImportAssignment):
                names += [found.name for found in assignment.get_qualified_names_for(in_full)]
            elif not (isinstance(assignment, metadata.Assignment) and self._is_none(assignment.node)):
                names.append(None)
        return names

    def imported_in_classes(self, node: cst.Attribute) -> list[str]:
        """Return in full what an attribute of anything is, if it is one of a class that imports it in its body."""
        _, _, name = (dotted_name(node) or "").partition(".")
        found = []
        for scope in self._scopes_of_classes_with_imports:
            if name.partition(".")[0] in scope.assignments:
                found += [in_full for in_full in self._imported(scope, name) if in_full is not None]
        return found

    def asks_for_type(self, node: cst.CSTNode, steps: int = 4) -> bool:
        """Whether a class stands where its objects are told from others, alone or in a tuple, or by a further name."""
        parent = self.parent(node)
        while isinstance(parent, cst.BaseElement | cst.Tuple | cst.List | cst.Set | cst.BinaryOperation | cst.IfExp):
            node, parent = parent, self.parent(parent)
        if isinstance(parent, cst.Arg):
            call = self.parent(parent)
            is_first = isinstance(call, cst.Call) and call.args[0] is parent
            return isinstance(call, cst.Call) and self.text(call.func).rpartition(".")[2] in _OF_TYPES and not is_first
        if isinstance(parent, cst.ComparisonTarget):
            parent = self.parent(parent)
        if isinstance(parent, cst.Comparison):
            sides = [parent.left, *(target.comparator for target in parent.comparisons)]
            return not any(isinstance(side, cst.Name) and side.value == "None" for side in sides)
        if isinstance(parent, cst.Assign | cst.AnnAssign) and steps:
            uses = [use for target in self.targets(parent) for use in self._uses_of_any_value(target)]
            return any(self.asks_for_type(use, steps - 1) for use in uses)
        return isinstance(parent, cst.MatchClass | cst.DictElement) and node in (
            parent.cls if isinstance(parent, cst.MatchClass) else parent.key,
        )

    def _uses_of_any_value(self, target: cst.BaseExpression) -> list[cst.CSTNode]:
        """Return where what is assigned here is used, or another value that is assigned to the same name."""
        scope = self._scopes.get(target)
        assignments = scope[target.value] if isinstance(target, cst.Name) and scope is not None else ()
        return [*(self.uses(target) or ()), *(access.node for some in assignments for access in some.references)]

    def other_definition(self, node: cst.CSTNode, package: str) -> int | None:
        """Return the line of what else the name of a package may be at a node than the package, if there is any.

        An import within a function or class counts too: above it the function has no such name.
        """
        scope = self._scopes.get(node)
        for assignment in scope[package] if scope is not None else ():
            is_package = isinstance(assignment, metadata.ImportAssignment) and [
                found.name for found in assignment.get_qualified_names_for(package)
            ] == [package]
            if not (is_package and isinstance(assignment.scope, metadata.GlobalScope)):
                defined = assignment.node if isinstance(assignment, metadata.Assignment) else node
                return self.line(defined)
        return None

    def _is_none(self, target: cst.CSTNode) -> bool:
        value = self.stored_value(target)
        return isinstance(value, cst.Name) and value.value == "None"

    def class_of_method(self, function: cst.CSTNode) -> cst.ClassDef | None:
        """Return the class that a function is a method of."""
        scope = next((a for a in self.ancestors(function) if isinstance(a, cst.ClassDef | cst.FunctionDef)), None)
        return scope if isinstance(function, cst.FunctionDef) and isinstance(scope, cst.ClassDef) else None

    def class_of_self(self, node: cst.Attribute) -> cst.ClassDef | None:
        """Return the class of ``self`` if the node is an attribute of it."""
        if not isinstance(node.value, cst.Name):
            return None
        for function in self.ancestors(node):
            if isinstance(function, cst.FunctionDef) and (owner := self.class_of_method(function)) is not None:
                parameters = [*function.params.posonly_params, *function.params.params]
                is_self = bool(parameters) and parameters[0].name.value == node.value.value
                return owner if is_self else None
        return None

    def targets(self, assign: cst.CSTNode | None) -> list[cst.BaseExpression]:
        """Return what an assignment assigns to, nothing if it is none."""
        if isinstance(assign, cst.Assign):
            return [target.target for target in assign.targets]
        return [assign.target] if isinstance(assign, cst.AnnAssign) else []

    def uses_of_attribute(self, owner: cst.ClassDef, name: str) -> Sequence[cst.Attribute]:
        """Return every ``self.name`` in a class."""
        return self._attributes_of_self.get((owner, name), ())

    def stored_value(self, target: cst.CSTNode) -> cst.BaseExpression | None:
        """Return what is assigned to a target, if the target is assigned to as a whole."""
        parent = self.parent(target)
        if isinstance(parent, cst.AssignTarget):
            assign = self.parent(parent)
            return assign.value if isinstance(assign, cst.Assign) else None
        if isinstance(parent, cst.AnnAssign | cst.NamedExpr) and parent.target is target:
            return parent.value
        return None

    def definition(self, node: cst.BaseExpression) -> cst.CSTNode | None:
        """Return where a name or an attribute of ``self`` gets its value, if there is one such place in the source.

        That is the name or attribute that is assigned to, a parameter, a class or a function.
        """
        if isinstance(node, cst.Name):
            scope = self._scopes.get(node)
            found = [] if scope is None else [*scope[node.value]]
            return found[0].node if len(found) == 1 and type(found[0]) is metadata.Assignment else None
        if isinstance(node, cst.Attribute) and (owner := self.class_of_self(node)) is not None:
            stored: list[cst.CSTNode] = [
                use for use in self.uses_of_attribute(owner, node.attr.value) if self.is_stored(use)
            ]
            stored += [a.node for a in self._in_body_of(owner, node.attr.value) if isinstance(a, metadata.Assignment)]
            return stored[0] if len(stored) == 1 else None
        return None

    def _in_body_of(self, owner: cst.ClassDef, name: str) -> Collection[metadata.BaseAssignment]:
        scope = self._scopes.get(owner.body.body[0]) if owner.body.body else None
        return scope.assignments[name] if isinstance(scope, metadata.ClassScope) else ()

    def uses(self, definition: cst.CSTNode) -> list[cst.CSTNode] | None:
        """Return where what is defined here is used; None where that cannot be told."""
        if isinstance(definition, cst.Attribute):
            owner = self.class_of_self(definition)
            if owner is None:
                return None
            return [use for use in self.uses_of_attribute(owner, definition.attr.value) if not self.is_stored(use)]
        name = definition.name if isinstance(definition, cst.ClassDef | cst.FunctionDef) else definition
        scope = self._scopes.get(definition)
        if not isinstance(name, cst.Name) or scope is None or len(scope[name.value]) != 1:
            return None
        [assignment] = scope[name.value]
        uses: list[cst.CSTNode] = [access.node for access in assignment.references]
        if isinstance(scope, metadata.ClassScope) and (owner := self.enclosing(definition, cst.ClassDef)) is not None:
            uses += [use for use in self.uses_of_attribute(owner, name.value) if not self.is_stored(use)]
        return uses
