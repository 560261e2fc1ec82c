"""Why Flower ended a run: the cause stands in its log alone."""

from __future__ import annotations

import re
from pathlib import Path

from fedpurel_app.core.names import clean

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_TRACEBACK = "Traceback (most recent call last):"
_LEVEL = re.compile(r"(?:\(\w+ [^)]*\) )?(INFO|DEBUG|WARNING|ERROR) *: +(.*)")
_NO_CAUSE = ("Exit Code",)  # Flower's own number for "an exception was raised"
_TAIL = 1_000_000  # bytes of a log that are looked at


def cause(log: Path) -> str:
    """Return the error that a log ends with, in one line: the first exception of the chain that was logged last.

    Parameters
    ----------
    log : Path

    Returns
    -------
    str
        Empty where the log names none.
    """
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _TAIL))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return ""
    exception, error = "", ""
    in_traceback, chained = False, False
    for line in _COLOUR.sub("", text).splitlines():
        level = _LEVEL.match(line)
        if level:
            chained = False
            if level[1] == "ERROR" and not level[2].startswith((_TRACEBACK, *_NO_CAUSE)):
                error = level[2]
        if line.endswith(_TRACEBACK):
            in_traceback = True
        elif in_traceback and line and not line.startswith(" "):
            in_traceback = False
            if not chained:
                exception, chained = line, True
    return clean(exception or error, 500)
