"""A hook of the site, which ``mkdocs.yml`` names: there the pages of the top stand beside the guides in ``docs/``."""

from __future__ import annotations

from typing import Any


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Make links to ``docs/page.md`` ones to ``page.md``."""
    return markdown.replace("](docs/", "](")
