"""Flower's log of a run, line by line as it grows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
# What Flower's logger writes, behind "(ClientAppActor pid=7)" when Ray passes it on; tracebacks have no level.
_LINE = re.compile(r"(?:\(\w+ [^)]*\) )?(INFO|WARNING|ERROR) *: +(.*)")
# What the cache says while it is filled (training/cache.py), by the server or, in a simulation, by one of the sites.
_ENCODING = re.compile(r"(?:Encoding|Cropping and resizing) \d+ images once.*|\d+ of \d+ images, [\d.]+ min left")
_ENCODED = re.compile(r"(?:Encoded|Cropped and resized) \d+ images in \d+ s")
_OUTLOOK = re.compile(r"[\da-z ]+ images will be encoded, once: later runs find them")  # what the server says of it


class LogLines:
    """Reads what is new in a log; one that begins anew repeats what it said, and is not read twice."""

    def __init__(self) -> None:
        self._size = self._seen = 0

    def new(self, log: Path) -> Iterator[tuple[str, str]]:
        """Yield level and text of the lines that were added; none where there is no log."""
        size = log.stat().st_size if log.exists() else 0
        if size == self._size:
            return
        self._size = size
        lines = log.read_text("utf-8", "replace").split("\n")[:-1]
        fresh, self._seen = lines[self._seen :], max(self._seen, len(lines))
        for line in fresh:
            if match := _LINE.match(_COLOUR.sub("", line)):
                yield match[1], match[2]


def is_over(text: str) -> bool:
    """Tell whether a line says that images have been encoded.

    Examples
    --------
    >>> is_over("Encoded 2629 images in 13 s")
    True
    """
    return bool(_ENCODED.search(text))


def outlook(text: str) -> str:
    """Return what a line says of the images that will be encoded; empty when it speaks of something else.

    Examples
    --------
    >>> outlook("2629 train and 4800 test images will be encoded, once: later runs find them")
    '2629 train and 4800 test images will be encoded, once: later runs find them'
    """
    match = _OUTLOOK.search(text)
    return match[0] if match else ""


def encoding(text: str) -> str:
    """Return what a line says of images that are being encoded; empty when it speaks of something else.

    Examples
    --------
    >>> encoding("4608 of 10000 images, 5.7 min left")
    '4608 of 10000 images, 5.7 min left'
    """
    match = _ENCODING.search(text)
    return match[0] if match else ""
