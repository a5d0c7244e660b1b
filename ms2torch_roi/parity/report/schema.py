"""What a report must hold: readers of JSON values, which name the field that holds something else.

A reader takes where it is and what was found there, and returns what that stands for.
"""

from __future__ import annotations

import math
import re
import reprlib
import sys
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

Reader = Callable[[str, Any], Any]
Made = TypeVar("Made")

# More than anything is counted to, and sums of it are numbers still.
_MOST = 2**63


def _refused(at: str, found: Any, allowed: str) -> ValueError:
    what = "is missing" if found is ... else f"is {reprlib.repr(found)}"
    return ValueError(f"{at or 'the report'} {what}; it must be {allowed}")


def text(at: str, found: Any) -> str:
    """Read a text."""
    if not isinstance(found, str):
        raise _refused(at, found, "a text")
    return found


def whole(at: str, found: Any) -> int:
    """Read how many."""
    if type(found) is not int or not 0 <= found < _MOST:
        raise _refused(at, found, "a whole number of 0 or more")
    return found


def number(at: str, found: Any, most: float = _MOST - 1, allowed: str = "a number of 0 or more") -> float:
    """Read how much."""
    if type(found) not in (int, float) or not 0 <= found <= most:
        raise _refused(at, found, allowed)
    return float(found)


def tolerance(at: str, found: Any) -> float:
    """Read what values may differ by."""
    return number(at, found, sys.float_info.max)


def difference(at: str, found: Any) -> float:
    """Read a difference, for which JSON has no number if it is infinite."""
    allowed = "a number of 0 or more, or 'infinite'"
    return math.inf if found == "infinite" else number(at, found, sys.float_info.max, allowed)


def shard(at: str, found: Any) -> str:
    """Read which part of how many."""
    numbers = re.fullmatch(r"([1-9][0-9]{0,17})/([1-9][0-9]{0,17})", found) if isinstance(found, str) else None
    if numbers is None or int(numbers[1]) > int(numbers[2]):
        raise _refused(at, found, "a text I/N with I from 1 to N")
    return numbers[0]


def heat_map(at: str, found: Any) -> list[list[float]]:
    """Read rows of differences, as many in each."""
    rows: list[list[float]] = list_of(list_of(difference))(at, found)
    if rows and (len({len(row) for row in rows}) > 1 or not rows[0]):
        raise _refused(at, found, "rows of as many numbers each")
    return rows


def plain(at: str, found: Any) -> Any:
    """Read a value, or a list of values, that are no lists themselves."""
    kinds = (str, int, float, bool, type(None))
    if not all(isinstance(value, kinds) for value in (found if isinstance(found, list) else [found])):
        raise _refused(at, found, "a value, or a list of values")
    return found


def one_of(*allowed: str) -> Reader:
    """Return the reader of a word."""

    def read(at: str, found: Any) -> str:
        if found not in allowed:
            raise _refused(at, found, f"one of {', '.join(map(repr, allowed))}")
        return str(found)

    return read


def optional(reader: Reader) -> Reader:
    """Return the reader of something or null."""
    return lambda at, found: None if found is None else reader(at, found)


def list_of(reader: Reader) -> Reader:
    """Return the reader of a list of something."""

    def read(at: str, found: Any) -> list[Any]:
        if not isinstance(found, list):
            raise _refused(at, found, "a list")
        return [reader(f"{at}[{i}]", value) for i, value in enumerate(found)]

    return read


def dict_of(reader: Reader) -> Reader:
    """Return the reader of an object with any names."""

    def read(at: str, found: Any) -> dict[str, Any]:
        if not isinstance(found, dict):
            raise _refused(at, found, "an object")
        return {name: reader(f"{at}.{name}", value) for name, value in found.items()}

    return read


def record_of(make: Callable[..., Made], fields: Mapping[str, Reader]) -> Callable[[str, Any], Made]:
    """Return the reader of an object with these fields, all of them; others are left alone."""

    def read(at: str, found: Any) -> Made:
        if not isinstance(found, dict):
            raise _refused(at, found, "an object")
        prefix = f"{at}." if at else ""
        return make(**{name: reader(prefix + name, found.get(name, ...)) for name, reader in fields.items()})

    return read
