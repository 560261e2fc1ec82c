"""Output that whoever reads it may stop reading: ``fedpurel run | head -1``."""

from __future__ import annotations

import contextlib
import os
import sys

from rich.console import Console

from fedpurel_app.core.names import as_printed

_MOST = 4000  # characters of a line


class Terminal(Console):
    """A console for work that goes on when nobody reads its output any more.

    Parameters
    ----------
    note : str
        What is then said, once, on the other stream.
    """

    def __init__(self, note: str) -> None:
        super().__init__()
        self._note = note

    def say(self, text: str) -> None:
        """Print a line as it is."""
        self.print(text, highlight=False, markup=False, soft_wrap=True)

    def on_broken_pipe(self) -> None:
        """Go on without output."""
        silence()
        complain(self._note)


class BriefConsole(Console):
    """A console for what ends when nobody reads it any more."""

    def on_broken_pipe(self) -> None:
        """Raise the error that Python has for it."""
        raise BrokenPipeError


def silence() -> None:
    """Let what is still printed go nowhere, what waits in a buffer with it."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    with contextlib.suppress(OSError, ValueError):
        os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def complain(text: str) -> None:
    """Print lines on the stream for errors, if anybody reads that one; what files and sites say may be in them."""
    with contextlib.suppress(BrokenPipeError):
        print("\n".join(as_printed(line, _MOST) for line in text.split("\n")), file=sys.stderr, flush=True)
