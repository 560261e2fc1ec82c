"""Images that are there more than once, by their content."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fedpurel_app.core.names import clean, listed
from fedpurel_app.data.sources.inspection import Lookable
from fedpurel_app.data.sources.source import Ints, Split
from fedpurel_app.data.sources.subsets import identities

_BLOCK = 256  # rows that are read at a time
Part = tuple[str, str, "Split", "Ints"]  # site, split, images, and their classes


class _Place(NamedTuple):
    site: str
    split: str
    label: int
    name: str


def repeated(parts: Sequence[Part], names: Sequence[str]) -> list[str]:
    """List images that are tested on and trained on, or have two labels, under whatever names.

    Parameters
    ----------
    parts : sequence of (str, str, Split, ndarray)
        Site, split, images, and the class of each.
    names : sequence of str
        Of the classes.

    Returns
    -------
    list of str
        A line for each kind. Only files of one size are read.
    """
    by_size: dict[int, list[tuple[_Place, Path | bytes]]] = defaultdict(list)
    for place, content in _all(parts):
        if isinstance(content, bytes):  # bytes are forgotten, but for what they are known by
            by_size[-1].append((place, hashlib.sha256(content).digest()))
        elif content.is_file():
            by_size[content.stat().st_size].append((place, content))
    by_content: dict[bytes, list[_Place]] = defaultdict(list)
    for members in by_size.values():
        for place, content in members if len(members) > 1 else []:
            by_content[content if isinstance(content, bytes) else _digest(content)].append(place)
    again = [places for places in by_content.values() if len(places) > 1]
    labels = [places for places in again if len({place.label for place in places}) > 1]
    leaks = [places for places in again if {"train", "test"} <= {place.split for place in places}]
    problems = []
    if leaks:
        shown = listed([_said(places) for places in leaks], 3)
        problems.append(f"{len(leaks):,} images are trained on and tested on: {shown}: leave each in one part")
    if labels:
        shown = listed([_said(places, names) for places in labels], 3)
        problems.append(f"{len(labels):,} images have more than one label: {shown}: decide on one")
    return problems


def _said(places: Sequence[_Place], names: Sequence[str] = ()) -> str:
    """Name the places of one image, by their class where those are given and else by their part."""
    return " = ".join(
        dict.fromkeys(f"{clean(one.name, 80)} ({names[one.label] if names else one.split})" for one in places)
    )


def _all(parts: Sequence[Part]) -> Iterator[tuple[_Place, Path | bytes]]:
    for site, split, images, labels in parts:
        if not isinstance(images, Lookable):
            continue
        called = identities(images)
        for start in range(0, len(labels), _BLOCK):
            rows = np.arange(start, min(start + _BLOCK, len(labels)))
            for row, content in zip(rows, images.encoded(rows), strict=True):
                yield _Place(site, split, int(labels[row]), called[int(row)]), content


def _digest(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError:  # said among the images that cannot be read
        return str(path).encode("utf-8", "surrogateescape")
