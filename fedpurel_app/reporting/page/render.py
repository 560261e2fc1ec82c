"""From a page's blocks to HTML."""

from __future__ import annotations

from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined

from fedpurel_app.reporting.page.blocks import Page

# Of a page on disk, too: whatever finds its way into it, no script runs and nothing is fetched.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"


@cache
def _templates() -> Environment:
    templates = Environment(
        loader=PackageLoader("fedpurel_app.reporting.page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters["unbroken"] = lambda text: text.replace(" %", "\N{NO-BREAK SPACE}%")
    return templates


def render(page: Page) -> str:
    """Return a page as one HTML document, with style and pictures in it."""
    return _templates().get_template("page.html").render(page=page, policy=POLICY)
