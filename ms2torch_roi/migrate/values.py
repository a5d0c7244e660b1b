"""What an expression is worth: constants, and what is assigned once to constants in the same source."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import libcst as cst

from .source import Source

Value = TypeVar("Value")

# More values, or steps from one name to the next, are not followed.
_MOST_VALUES = 16
_MOST_STEPS = 16


def _power(base: Any, exponent: Any) -> Any:
    if abs(base) > 2**16 or abs(exponent) > 64:
        raise OverflowError
    return base**exponent


_BINARY: dict[type[cst.BaseBinaryOp], Callable[[Any, Any], Any]] = {
    cst.Add: operator.add,
    cst.Subtract: operator.sub,
    cst.Multiply: operator.mul,
    cst.Divide: operator.truediv,
    cst.FloorDivide: operator.floordiv,
    cst.Modulo: operator.mod,
    cst.Power: _power,
}
_UNARY: dict[type[cst.BaseUnaryOp], Callable[[Any], Any]] = {cst.Minus: operator.neg, cst.Plus: operator.pos}
_CONVERSIONS: dict[str, Callable[[Any], Any]] = {"float": float, "int": int, "bool": bool, "tuple": tuple, "list": list}
_CONSTANTS = {"True": True, "False": False, "None": None}


def possible_values(source: Source, node: cst.CSTNode) -> list[Any] | None:
    """Return the values that an expression may have, None if that cannot be told.

    Several come of conditions, of loops over constants, and of what the callers in this source pass for a parameter.
    Callers elsewhere are not known. Nothing is run.
    """
    return _values(source, node, _MOST_STEPS)


def _values(source: Source, node: cst.CSTNode, steps: int) -> list[Any] | None:
    if steps == 0:
        return None

    def values(node: cst.CSTNode) -> list[Any] | None:
        return _values(source, node, steps - 1)

    if isinstance(node, cst.Integer | cst.Float | cst.SimpleString):
        return [node.evaluated_value]
    if isinstance(node, cst.Tuple | cst.List):
        if not all(isinstance(element, cst.Element) for element in node.elements):
            return None
        make = tuple if isinstance(node, cst.Tuple) else list
        return _combined(lambda *elements: make(elements), *(values(element.value) for element in node.elements))
    if isinstance(node, cst.Dict):
        pairs = [element for element in node.elements if isinstance(element, cst.DictElement)]
        if len(pairs) < len(node.elements):
            return None
        keys = _combined(lambda *keys: keys, *(values(pair.key) for pair in pairs))
        items = _combined(lambda *items: items, *(values(pair.value) for pair in pairs))
        return _combined(lambda keys, items: dict(zip(keys, items, strict=True)), keys, items)
    if isinstance(node, cst.UnaryOperation) and type(node.operator) in _UNARY:
        return _combined(_UNARY[type(node.operator)], values(node.expression))
    if isinstance(node, cst.BinaryOperation) and type(node.operator) in _BINARY:
        sides = values(node.left), values(node.right)
        are_numbers = all(isinstance(value, int | float) for side in sides for value in side or ())
        return _combined(_BINARY[type(node.operator)], *sides) if are_numbers else None
    if isinstance(node, cst.IfExp):
        return _united([values(node.body), values(node.orelse)])
    if isinstance(node, cst.Subscript) and len(node.slice) == 1 and isinstance(node.slice[0].slice, cst.Index):
        return _combined(operator.getitem, values(node.value), values(node.slice[0].slice.value))
    if isinstance(node, cst.Call) and isinstance(node.func, cst.Name) and len(node.args) == 1 and not node.args[0].star:
        convert = _CONVERSIONS.get(node.func.value)
        return None if convert is None else _combined(convert, values(node.args[0].value))
    if isinstance(node, cst.Name) and node.value in _CONSTANTS:
        return [_CONSTANTS[node.value]]
    if isinstance(node, cst.Name | cst.Attribute) and (definition := source.definition(node)) is not None:
        return _values_of_definition(source, definition, steps - 1)
    return None


def _values_of_definition(source: Source, definition: cst.CSTNode, steps: int) -> list[Any] | None:
    value = source.stored_value(definition)
    if value is not None:
        return _values(source, value, steps)
    parent = source.parent(definition)
    if isinstance(parent, cst.For | cst.CompFor) and parent.target is definition:
        return _united(_combined(list, _values(source, parent.iter, steps)) or [None])
    if isinstance(definition, cst.Param):
        return _values_of_parameter(source, definition, steps)
    return None


def _values_of_parameter(source: Source, parameter: cst.Param, steps: int) -> list[Any] | None:
    function = source.enclosing(parameter, cst.FunctionDef)
    calls = None if function is None else _calls(source, function)
    if function is None or not calls:
        return None
    passed = [_argument(source, call, function, parameter) for call in calls]
    return _united([None if value is None else _values(source, value, steps) for value in passed])


def _calls(source: Source, function: cst.FunctionDef) -> list[cst.Call] | None:
    """Return the calls of a function, or of the class that it constructs; None if it is used otherwise too."""
    if function.decorators:  # which may change what is passed
        return None
    owner = source.class_of_method(function)
    uses = source.uses(owner if owner is not None and function.name.value == "__init__" else function)
    calls = []
    for use in uses or ():
        parent = source.parent(use)
        if isinstance(parent, cst.Call) and parent.func is use:
            calls.append(parent)
        elif not _is_in_super(source, use):
            return None
    return calls


def _is_in_super(source: Source, node: cst.CSTNode) -> bool:
    call = source.enclosing(node, cst.Call)
    return call is not None and isinstance(call.func, cst.Name) and call.func.value == "super"


def _argument(
    source: Source, call: cst.Call, function: cst.FunctionDef, parameter: cst.Param
) -> cst.BaseExpression | None:
    """Return what a call passes for a parameter, the default if nothing; None if that cannot be told."""
    if any(argument.star for argument in call.args):
        return None
    for argument in call.args:
        if argument.keyword is not None and argument.keyword.value == parameter.name.value:
            return argument.value
    positional = [*function.params.posonly_params, *function.params.params]
    if parameter in positional:
        place = positional.index(parameter) - (source.class_of_method(function) is not None)
        if place < len(call.args) and call.args[place].keyword is None:
            return call.args[place].value
    return parameter.default


def _combined(make: Callable[..., Value], *operands: list[Any] | None) -> list[Value] | None:
    """Return what a function makes of every combination of the operands' values."""
    known = [operand for operand in operands if operand is not None]
    if len(known) < len(operands):
        return None
    combinations = itertools.islice(itertools.product(*known), _MOST_VALUES + 1)
    try:
        return _united([[make(*values)] for values in combinations])
    except Exception:  # what would fail when it is run has no value
        return None


def _united(alternatives: Iterable[list[Value] | None]) -> list[Value] | None:
    """Return the different values of all alternatives, None if one is not known or there are too many."""
    united: list[Value] = []
    for values in alternatives:
        if values is None:
            return None
        # 1, 1.0 and True are equal, but not the same argument.
        united += [value for value in values if repr(value) not in map(repr, united)]
    return united if len(united) <= _MOST_VALUES else None
