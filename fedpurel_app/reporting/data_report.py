"""What ``fedpurel data check`` prints."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fedpurel_app.core.names import clean

_SPLITS = {"train": "train", "validation": "val", "test": "test"}
_SITES = 8  # columns of sites; of more there is the table of sites alone
_ROWS = 30  # classes; of more the largest and the smallest
_GROUPS = {"counts": "Many > 100, Medium > 20 training images", "terciles": "thirds of the classes by training images"}


def data_lines(found: Mapping[str, Any]) -> list[str]:
    """Lay out what was found of a data set.

    Parameters
    ----------
    found : mapping
        In JSON's types, as :func:`fedpurel_app.data.sources.survey.summary` returns it.

    Returns
    -------
    list of str
        Lines, as wide as the terminal.
    """
    images = found["images"]
    parts = ", ".join(f"{images[split]:,} {word}" for split, word in _words(images).items())
    lines = [f"{found['what']}: {len(found['classes'])} classes, {parts or 'no images'}", ""]
    lines += _class_lines(found) + _site_lines(found["sites"]) + _tail_lines(found) + _sample_lines(found["sample"])
    lines += [f"note: {clean(note, 1000)}" for note in found["notes"]]
    problems = found["problems"]
    if problems:
        lines += ["", f"{len(problems)} problem{'s' if len(problems) > 1 else ''}:"]
        return [*lines, *(f"  - {clean(line, 1000)}" for line in problems)]
    return [*lines, "nothing is wrong"]


def _words(images: Mapping[str, int]) -> dict[str, str]:
    names = {"train": "training", "validation": "validation", "test": "test images"}
    return {split: word for split, word in names.items() if images[split] or split != "validation"}


def _class_lines(found: Mapping[str, Any]) -> list[str]:
    """Make the table of classes, from the most training images to the fewest."""
    classes = sorted(found["classes"].items(), key=lambda one: (-one[1]["train"], one[0]))
    splits = [split for split in _SPLITS if found["images"][split] or split != "validation"]
    sites = list(found["sites"]) if len(found["sites"]) <= _SITES else []
    head = ["class", "group", *(_SPLITS[split] for split in splits), *(f"at {site}" for site in sites)]
    rows = [
        [name, one["group"].capitalize(), *(f"{one[split]:,}" for split in splits),
         *(f"{one['sites'].get(site, 0):,}" for site in sites)]
        for name, one in classes
    ]  # fmt: skip
    if len(rows) > _ROWS:
        middle = [f"... {len(rows) - _ROWS} more, all with --json"]
        rows = [*rows[: _ROWS // 2], [*middle, *[""] * (len(head) - 1)], *rows[-_ROWS // 2 :]]
    return _table(head, rows, left=2)


def _site_lines(sites: Mapping[str, Mapping[str, int]]) -> list[str]:
    if not sites:
        return []
    splits = [split for split in _SPLITS if split != "validation" or any(one[split] for one in sites.values())]
    rows = [[name, *(f"{one[split]:,}" for split in splits), f"{one['classes']}"] for name, one in sites.items()]
    return _table(["site", *(_SPLITS[split] for split in splits), "classes"], rows, left=1)


def _tail_lines(found: Mapping[str, Any]) -> list[str]:
    groups, smallest = found["groups"], found["smallest-class"]
    if smallest is None:
        return []
    sizes = ", ".join(f"{groups[name]} {name.capitalize()}" for name in ("many", "medium", "few"))
    factor = found["imbalance-factor"]
    return [
        f"groups: {sizes} ({_GROUPS[groups['by']]})",
        f"imbalance factor: {'none' if factor is None else f'{factor:g}'}, smallest class "
        f"{clean(smallest['name'], 60)} with {smallest['train']:,} training images",
    ]


def _sample_lines(sample: Mapping[str, Any] | None) -> list[str]:
    if sample is None:
        return []
    modes = ", ".join(f"{count} {mode}" for mode, count in sample["modes"].items())
    spans = [f"{edge} {low} to {high}, median {middle}" for edge in ("width", "height")
             for low, middle, high in [sample[edge]]]  # fmt: skip
    return [f"sample of {sample['images']} images: {clean(modes)}; {'; '.join(spans)} pixels"]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], left: int) -> list[str]:
    """Lay out a table whose first columns are text, and an empty line below it."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for index, title in enumerate(head):
        table.add_column(escape(clean(title, 40)), justify="left" if index < left else "right", overflow="fold")
    for row in rows:
        table.add_row(*(escape(clean(cell, 60)) for cell in row))
    width = max(70, shutil.get_terminal_size((100, 24)).columns)
    console = Console(file=io.StringIO(), width=width, no_color=True)
    with console.capture() as captured:
        console.print(table)
    return [line.rstrip() for line in captured.get().splitlines()] + [""]
