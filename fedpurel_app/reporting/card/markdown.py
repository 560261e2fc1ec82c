"""The blocks of a page as Markdown."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fedpurel_app.core.names import clean
from fedpurel_app.reporting.page.blocks import Block, Cell, Code, Fold, Items, Link, Section, Table, Terms, Text

_MARKS = "\\`*_{}[]<>#|~&$!"  # that mean something within a line, in Markdown or in the HTML that it lets through
_LINE_START = re.compile(r"^([-+=](?=[\s=-]|$)|\d+[.)](?=\s|$))")  # a list, a rule under a heading


def escaped(text: str) -> str:
    r"""Return text of others so that Markdown shows it as it is, in one line.

    Examples
    --------
    >>> escaped("a|b <img src=x> *c*")
    'a\\|b \\<img src=x\\> \\*c\\*'
    >>> escaped("1. - x"), escaped("- x")
    ('1\\. - x', '\\- x')
    """
    plain = "".join(f"\\{one}" if one in _MARKS else one for one in clean(text, 2000))
    plain = plain.replace("://", ":\\//").replace("www.", "www\\.").replace("@", "\\@")  # no address becomes a link
    return _LINE_START.sub(lambda match: f"{match[0][:-1]}\\{match[0][-1]}", plain)


def as_markdown(sections: Sequence[Section]) -> str:
    """Write sections under headings of the second level; a kind of block that Markdown has no form for is left out."""
    return "\n\n".join(
        "\n\n".join([f"## {escaped(one.heading)}", *(text for block in one.blocks if (text := _block(block)))])
        for one in sections
    )


def _block(block: Block) -> str:
    write = _WRITERS.get(type(block))
    return write(block) if write else ""


def _table(block: Table) -> str:
    marks = ("---" if index < block.texts else "---:" for index in range(len(block.header)))
    rows = [map(escaped, block.header), marks, *(map(_cell, row) for row in block.rows)]
    return "\n".join([f"{escaped(block.caption)}:", "", *(f"| {' | '.join(row)} |" for row in rows)])


def _cell(value: Cell) -> str:
    return escaped(value.text if isinstance(value, Link) else value)


def _code(block: Code) -> str:
    # A fence that is longer than any run of ticks within cannot be closed from within.
    longest = max((len(run) for run in re.findall(r"`+", block.text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}bash\n{clean(block.text, 1_000_000)}\n{fence}"


_WRITERS: Mapping[type[Block], Callable[[Any], str]] = {
    Text: lambda block: escaped(block.text),
    Items: lambda block: "\n".join(f"- {escaped(one)}" for one in block.items),
    Terms: lambda block: "\n".join(f"- **{escaped(word)}**: {escaped(meaning)}" for word, meaning in block.pairs),
    Code: _code,
    Table: _table,
    Fold: lambda block: "\n\n".join(text for one in block.blocks if (text := _block(one))),
}
