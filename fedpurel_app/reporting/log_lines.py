"""Flower's log of a run, line by line as it grows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
# What Flower's logger writes, behind "(ClientAppActor pid=7)" when Ray passes it on; tracebacks have no level.
_LINE = re.compile(r"(?:\(\w+ [^)]*\) )?(INFO|WARNING|ERROR) *: +(.*)")


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
