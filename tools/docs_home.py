"""Show the README as the home page of the docs' site: a hook of mkdocs, named in ``mkdocs.yml``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

_README = Path(__file__).parent.parent / "README.md"


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Return the README for ``index.md``, and any other page as it is."""
    return home(_README.read_text("utf-8")) if page.file.src_uri == "index.md" else markdown


def home(readme: str) -> str:
    """Return a README whose links to the docs are relative to them, and whose links to other files are plain text.

    >>> home("[a](docs/a.md#b), [b](LICENSE), [c](https://c.org), ![d](docs/images/d.png)")
    '[a](a.md#b), b, [c](https://c.org), ![d](images/d.png)'
    """
    inside = re.sub(r"\]\(docs/", "](", readme)
    names = "|".join(re.escape(one.name) for one in _README.parent.iterdir() if one.name != "docs")
    return re.sub(rf"\[([^\]]+)\]\((?:{names})(?:[/#][^)]*)?\)", r"\1", inside)
