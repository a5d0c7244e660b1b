"""What docstrings of this package look like on a page: an extension of Griffe's, which ``mkdocs.yml`` names."""

from __future__ import annotations

import re
from typing import Any

import griffe


class Docstrings(griffe.Extension):
    """Print roles as code, and examples as a session of Python's."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            text = re.sub(r":\w+:`~?([\w.]+)`", r"`\1`", obj.docstring.value)
            obj.docstring.value = re.sub(r"^(>>> .*(?:\n.+)*)", r"```pycon\n\1\n```", text, flags=re.MULTILINE)
