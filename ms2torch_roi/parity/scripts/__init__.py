"""Scripts for machines without this package: NumPy and MindSpore alone, from MindSpore 1.5 and Python 3.7 on.

Each is a module here that imports nothing of the package but its neighbours; :func:`source` makes one text of them.
"""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from collections.abc import Iterable
from importlib import resources


def source(name: str) -> str:
    """Return the text of a script, ``"recorder"`` or ``"probe"``, which holds the neighbours that it imports.

    >>> source("recorder").splitlines()[0][3:49]
    'Record the ROIAlign calls of a MindSpore model'
    """
    docstring, imports, code = _split(name)
    parts = [_split(neighbour) for neighbour in _neighbours(imports)]
    merged = _merged([*imports, *(node for _, its, _ in parts for node in its)])
    return "\n\n".join((docstring, merged, "\n\n\n".join((*(its for _, _, its in parts), code)))) + "\n"


_Imports = list["ast.Import | ast.ImportFrom"]


def _split(name: str) -> tuple[str, _Imports, str]:
    """Return the docstring of a module, its imports, and the code after them."""
    text = resources.files(__name__).joinpath(f"{name}.py").read_text(encoding="utf-8")
    docstring, *statements = ast.parse(text).body
    imports = [node for node in statements if isinstance(node, ast.Import | ast.ImportFrom)]
    lines = text.splitlines()
    return "\n".join(lines[: docstring.end_lineno]), imports, "\n".join(lines[imports[-1].end_lineno :]).strip()


def _neighbours(imports: _Imports) -> list[str]:
    return [str(node.module) for node in imports if isinstance(node, ast.ImportFrom) and node.level]


def _merged(imports: Iterable[ast.Import | ast.ImportFrom]) -> str:
    """Return lines that import the same but for the neighbours: Python's own modules, and then others."""
    whole: set[str] = set()
    parts: defaultdict[str, set[str]] = defaultdict(set)
    for node in imports:
        names = [ast.unparse(alias) for alias in node.names]
        if isinstance(node, ast.Import):
            whole.update(names)
        elif not node.level:
            parts[str(node.module)].update(names)
    future = f"from __future__ import {', '.join(parts.pop('__future__'))}"
    lines = [f"import {name}" for name in sorted(whole)]
    for module in sorted(parts):
        names = sorted(parts[module], key=lambda name: (not name.isupper(), name))
        lines.append(f"from {module} import {', '.join(names)}")
    own = [line for line in lines if line.split()[1] in sys.stdlib_module_names]
    others = [line for line in lines if line not in own]
    return "\n\n".join((future, "\n".join(own), "\n".join(others)))
