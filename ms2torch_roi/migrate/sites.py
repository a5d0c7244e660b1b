"""Finding the RoIAlign calls in a source, what their arguments are, and what they become."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import libcst as cst

from . import surroundings, values
from .arguments import Argument, hides, notes, without_port
from .forms import BY_NAME_ONLY, LIBRARIES, PACKAGE, PORTS, REQUIRED, Form, form_in, form_of
from .source import Name, Source
from .surroundings import Note


@dataclass(frozen=True)
class Site:
    """A place where an operator is called, or used in another way.

    Args:
        line: where it begins, from 1.
        form: which operator it is.
        text: of the call in the source, or of whatever uses the operator.
        arguments: those given, by the names that the port has for them; by their numbers a splat and what it hides.
        becomes: the port's call, with the values that are known; None if there is none.
        left: why it is not rewritten, None if it is.
        notes: what a person should know about it.
        operator: the node that names the operator, to be rewritten; None where another site has it (an alias).
        call: the node of the call, None if there is none.
    """

    line: int
    form: Form
    text: str
    arguments: Mapping[str, Argument] = field(default_factory=dict)
    becomes: str | None = None
    left: str | None = None
    notes: tuple[Note, ...] = ()
    operator: Name | None = field(default=None, repr=False, compare=False)
    call: cst.Call | None = field(default=None, repr=False, compare=False)

    @property
    def needs_person(self) -> bool:
        return self.left is not None or any(note.needs_person for note in self.notes)


@dataclass(frozen=True)
class Scan:
    """What was found in a source: the sites, and what around them matters to all of them, in the order of lines."""

    sites: tuple[Site, ...]
    notes: tuple[Note, ...]


def scan(text: str) -> Scan:
    r"""Find every RoIAlign of MindSpore, torchvision, detectron2 and mmcv that a source calls or uses by its imports.

    Raises:
        SyntaxError: it is no Python.

    >>> [site] = scan("from mindspore.ops import operations as P\npool = P.ROIAlign(7, 7, 1.0 / 16)").sites
    >>> site.line, site.becomes
    (2, 'ms2torch_roi.ROIAlign(7, 7, 0.0625, 2, 1)')
    """
    return scan_source(Source(text))


def scan_source(source: Source) -> Scan:
    """Find them in a source that is parsed already."""
    sites = tuple(sorted(_Finder(source).sites(), key=lambda site: site.line))
    notes = surroundings.graph_mode(source)
    notes += surroundings.registries(source)
    if sites:
        notes += surroundings.levels(source) + surroundings.padded_rois(source) + surroundings.extractors(source)
    return Scan(sites, tuple(sorted(notes, key=lambda note: note.line)))


# What the text of a use is of.
_AROUND = (cst.BaseSmallStatement, cst.BaseExpression, cst.Arg, cst.AssignTarget, cst.ComparisonTarget)


class _Finder:
    def __init__(self, source: Source) -> None:
        self.source = source
        self.patches = dict(self._patches())
        self.named = dict(self._named())
        asking = filter(source.asks_for_type, sorted(self.named, key=source.start, reverse=True))
        self.asked = {self.named[node][0]: node for node in asking}  # the first of each

    def sites(self) -> Iterator[Site]:
        for node, form in self.patches.items():
            yield self._other_use(node, form, "a monkey patch: it does not reach the port")
        for node, (form, meanings) in self.named.items():
            yield from self._sites_at(node, form, self._doubt(node, form, meanings))
        yield from self._not_by_their_names()

    def _not_by_their_names(self) -> Iterator[Site]:
        """Find operators in calls of getattr, and those that are attributes of a class with an import in its body."""
        for owner, meanings in self._in_strings("getattr"):
            for form in filter(None, meanings):
                yield self._other_use(owner, form, "getattr takes it by its name in a string")
        for node in filter(self.source.is_expression, self.source.nodes(cst.Attribute)):
            names = [] if node in self.named else self.source.imported_in_classes(node)
            for form in filter(None, map(form_of, names)):
                yield self._other_use(node, form, "it is an attribute of a class that imports it")

    def _named(self) -> Iterator[tuple[Name, tuple[Form, list[Form | None]]]]:
        """Find the names of operators, with whatever else they may be."""
        for node in self.source.names():
            if node not in self.patches and self.source.is_expression(node):
                meanings = self._meanings(node)
                for form in [meaning for meaning in meanings if meaning is not None][:1]:
                    yield node, (form, meanings)

    def _meanings(self, node: cst.CSTNode, attribute: str = "") -> list[Form | None]:
        """Return what a name, or an attribute of it, may be: operators, or None for anything else."""
        names = self.source.imported_names(node, attribute)
        if names:
            return [None if name is None else form_of(name) for name in names]
        name = f"{self.source.text(node)}.{attribute}" if attribute else self.source.text(node)
        meanings = []
        for module in self.source.star_imports:
            form = form_in(module, name)
            if form is not None or module.partition(".")[0] not in LIBRARIES | sys.stdlib_module_names:
                meanings.append(form)
        return meanings

    def _doubt(self, node: Name, form: Form, meanings: Sequence[Form | None]) -> str | None:
        """Return why a name may not be the operator that it seems to be, if so."""
        if any(meaning is not form for meaning in meanings):
            return f"{self.source.text(node)} may be something else, by another import or a definition"
        patch = next((patch for patch, patched in self.patches.items() if patched is form), None)
        if patch is not None:
            return f"the operator is changed on line {self.source.line(patch)}"
        if form in self.asked:
            if self.source.asks_for_type(node):
                return "this asks for the original's type, and would be False for the port's objects"
            return f"line {self.source.line(self.asked[form])} asks for this type, which the port's objects are not of"
        if "#" in self.source.text(node):
            return "a comment is within its name"
        line = self.source.other_definition(node, PACKAGE)
        return None if line is None else f"line {line}: {PACKAGE}, by which the port is called, is another name there"

    def _patches(self) -> Iterator[tuple[cst.CSTNode, Form]]:
        """Find what is assigned to an operator, to its place in a module, or to something of it."""
        for stored in filter(self.source.is_stored, self.source.nodes(cst.Attribute)):
            node: cst.BaseExpression | None = stored
            while isinstance(node, cst.Name | cst.Attribute):
                for form in self._meanings(node):
                    if form is not None:
                        yield node, form
                node = node.value if isinstance(node, cst.Attribute) else None
        for owner, meanings in self._in_strings("setattr"):
            yield from ((owner, form) for form in [*self._meanings(owner), *meanings] if form is not None)

    def _in_strings(self, function: str) -> Iterator[tuple[cst.BaseExpression, list[Form | None]]]:
        """Find the calls of getattr or setattr: of what, and what its attribute may be."""
        for call in self.source.nodes(cst.Call):
            if isinstance(call.func, cst.Name) and call.func.value == function and len(call.args) > 1:
                owner, attributes = call.args[0].value, values.possible_values(self.source, call.args[1].value) or ()
                yield owner, [form for name in attributes for form in self._meanings(owner, str(name))]

    def _sites_at(self, node: Name, form: Form, doubt: str | None) -> Iterator[Site]:
        parent = self.source.parent(node)
        if isinstance(parent, cst.Call) and parent.func is node:
            yield self._call(parent, form, node, doubt)
        elif isinstance(parent, cst.Assign | cst.AnnAssign):
            yield from self._alias(node, parent, form, doubt)
        elif not (form.is_function and isinstance(parent, cst.Attribute)):  # a module of that name
            yield self._other_use(node, form, doubt or "it is not called here, but used in another way")

    def _other_use(self, node: cst.CSTNode, form: Form, left: str) -> Site:
        whole = node
        for ancestor in self.source.ancestors(node):
            if isinstance(ancestor, _AROUND):
                whole = ancestor
            else:
                break
        return Site(self.source.line(whole), form, self.source.text(whole), left=left)

    def _alias(self, node: Name, assign: cst.Assign | cst.AnnAssign, form: Form, doubt: str | None) -> Iterator[Site]:
        """Find the calls of an operator by the name that it is assigned to."""
        target, *others = self.source.targets(assign)
        uses = self.source.uses(target) if not others and self.source.definition(target) is target else None
        if uses is None:
            yield self._other_use(node, form, doubt or "it is assigned to what may have another value")
            return
        sites, left = [], doubt if form.keeps_arguments else doubt or "its calls need other arguments"
        for use in uses:
            call = self.source.parent(use)
            if isinstance(call, cst.Call) and call.func is use:
                sites.append(self._call(call, form, None, doubt))
                left = left or (sites[-1].left and f"line {sites[-1].line}: {sites[-1].left}")
            else:
                left = left or f"line {self.source.line(use)}: it is not called there, but used in another way"
        yield Site(
            self.source.line(assign),
            form,
            self.source.text(assign),
            becomes=None if form.target is None else f"{self.source.text(target)} = {PACKAGE}.{form.target}",
            left=left,
            operator=node,
        )
        for site in sites:
            yield replace(site, left=site.left or (left and f"line {self.source.line(assign)}: {left}"))

    def _call(self, call: cst.Call, form: Form, operator: Name | None, doubt: str | None) -> Site:
        arguments, wrong = self._arguments(call, form)
        if not form.keeps_arguments and any(argument.star for argument in call.args):
            doubt = doubt or "the port takes other arguments, and there is a splat among these"
        line = self.source.line(call)
        return Site(
            line,
            form,
            self.source.text(call),
            arguments,
            becomes=None if wrong else self._becomes(call, form, arguments),
            left=doubt or wrong or without_port(form, arguments) or self._use_of_object(call, form),
            notes=tuple(Note(line, *note) for note in notes(form, arguments)),
            operator=operator,
            call=call,
        )

    def _arguments(self, call: cst.Call, form: Form) -> tuple[dict[str, Argument], str | None]:
        """Return what a call passes for each parameter, and what is wrong with it, if something is."""
        arguments: dict[str, Argument] = {}
        parameters, is_hidden = iter(form.parameters), False
        for keyword, argument in self._given(call):
            is_hidden = is_hidden or keyword == "*"
            if keyword == "**" or (is_hidden and keyword in (None, "*")):
                name = f"argument {len(arguments) + 1}"
            else:
                name = next(parameters, "") if keyword is None else form.renamed.get(keyword, keyword)
                if name not in form.parameters or name in arguments:
                    return arguments, f"{form.name} does not take {keyword or argument.text} here"
            arguments[name] = argument
        required = [name for name, default in form.parameters.items() if default is REQUIRED]
        missing = [name for name in required if name not in arguments and not hides(arguments)]
        return arguments, f"{missing[0]} is not given" if missing else None

    def _given(self, call: cst.Call) -> Iterator[tuple[str | None, Argument]]:
        """Yield the arguments of a call, with their keywords, and those within splats; of one that hides them, * or **.

        They are arguments of a splat where it has one value that is known.
        """
        for argument in call.args:
            text, found = self.source.text(argument.value), values.possible_values(self.source, argument.value)
            content = found[0] if argument.star and found is not None and len(found) == 1 else None
            if isinstance(content, dict):
                yield from ((str(key), Argument(repr(value), [value])) for key, value in content.items())
            elif isinstance(content, list | tuple):
                yield from ((None, Argument(repr(value), [value])) for value in content)
            elif argument.star:
                yield argument.star, Argument(argument.star + text, None)
            else:
                yield None if argument.keyword is None else argument.keyword.value, Argument(text, found)

    def _becomes(self, call: cst.Call, form: Form, arguments: Mapping[str, Argument]) -> str | None:
        if form.target is None:
            return None
        if hides(arguments):
            passed = [self.source.text(argument).rstrip(", ") for argument in call.args]
        else:
            defaults = {name: Argument(repr(form.parameters[name]), None) for name in PORTS[form.target]}
            passed = [
                f"{name}=" * (name in BY_NAME_ONLY) + arguments.get(name, default).resolved
                for name, default in defaults.items()
            ]
        return f"{PACKAGE}.{form.target}({', '.join(passed)})"

    def _use_of_object(self, call: cst.Call, form: Form) -> str | None:
        """Return which attribute of the operator that a call makes is used, if the port may not have it."""
        if form.is_function:
            return None
        targets = self.source.targets(self.source.parent(call))
        for use in (call, *(use for target in targets for use in self.source.uses(target) or ())):
            attribute = self.source.parent(use)
            if isinstance(attribute, cst.Attribute) and attribute.attr.value not in {*form.parameters, *form.methods}:
                return f"line {self.source.line(attribute)}: .{attribute.attr.value} is the original's own"
        return None
