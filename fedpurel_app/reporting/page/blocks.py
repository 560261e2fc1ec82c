"""What a page is made of; a template writes each kind in its own way and escapes all text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from markupsafe import Markup

from fedpurel_app.core.names import clean
from fedpurel_app.reporting.columns import number


@dataclass(frozen=True)
class Link:
    """A text that leads somewhere: to a part of the page, or to a file beside it."""

    text: str
    href: str


Cell = str | Link


@dataclass(frozen=True)
class Block:
    """A part of a section; ``kind`` names what writes it."""

    kind: ClassVar[str] = ""


@dataclass(frozen=True)
class Text(Block):
    """A paragraph."""

    kind = "text"
    text: str


@dataclass(frozen=True)
class Items(Block):
    """A list."""

    kind = "items"
    items: tuple[str, ...]


@dataclass(frozen=True)
class Terms(Block):
    """Words, and what each means."""

    kind = "terms"
    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Code(Block):
    """A command, or lines of a log."""

    kind = "code"
    text: str
    label: str = "Command"


@dataclass(frozen=True)
class Table(Block):
    """A table; its first column names the rows.

    Attributes
    ----------
    caption : str
    header : tuple of str
    rows : tuple of tuple of (str or Link)
    texts : int
        How many columns, from the left, hold text; the others hold numbers.
    """

    kind = "table"
    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    texts: int = 1


@dataclass(frozen=True)
class Picture(Block):
    """An SVG, with its numbers as a table."""

    kind = "picture"
    svg: Markup
    table: Table


@dataclass(frozen=True)
class Fold(Block):
    """What is shown when it is asked for."""

    kind = "fold"
    summary: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Part(Block):
    """A section of a section."""

    kind = "part"
    id: str
    heading: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Section:
    """A heading and what is below it."""

    id: str
    heading: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Page:
    """A page.

    Attributes
    ----------
    title : str
    state : str
        In a word or two: completed, failed, ...
    lead : tuple of str
        The outcome; the first paragraph says it in one sentence.
    todo : tuple of (str, str)
        Commands that follow from it, each behind what it is for.
    sections : tuple of Section
    foot : str
    refresh : int
        Seconds after which it is to be loaded anew; 0 = never.
    """

    title: str
    state: str
    lead: tuple[str, ...]
    todo: tuple[tuple[str, str], ...]
    sections: tuple[Section, ...]
    foot: str
    refresh: int = field(default=0)


def table(caption: str, header: Sequence[str], rows: Iterable[Sequence[Any]], texts: int = 1) -> Table:
    """Make a table of what files hold: texts are made printable, numbers get one digit, None becomes a dash."""
    return Table(caption, tuple(header), tuple(tuple(map(cell, row)) for row in rows), texts)


def cell(value: Any) -> Cell:
    """Return a value as a cell.

    Examples
    --------
    >>> cell(2.25), cell(7), cell(None), cell("a  b"), cell("")
    ('2.2', '7', '–', 'a b', '–')
    """
    if isinstance(value, Link):
        return value
    if value is None or value == "":
        return number(None)
    return number(value) if isinstance(value, float) else clean(str(value))
