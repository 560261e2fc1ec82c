"""Follow a run elsewhere: its rounds from its folder where that is visible here, else the server's own lines."""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import TracebackType

from rich.console import Console

from fedpurel_app.core.names import as_printed
from fedpurel_app.core.progress import Event, read
from fedpurel_app.reporting.live import LiveView
from fedpurel_app.reporting.log_lines import LogLines
from fedpurel_app.reporting.run_folder import RunFolder

_FLOWERS_OWN = ("Start `flwr-serverapp`", "Starting logstream", "ServerApp raised an exception", "Exit Code")


class LogView:
    """Shows a run from Flower's log of it.

    Parameters
    ----------
    console : rich.console.Console

    Attributes
    ----------
    folder : RunFolder or None
        The run folder, when it is visible here.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = LiveView(console)
        self._open = contextlib.ExitStack()
        self._lines = LogLines()
        self.folder: RunFolder | None = None
        self.path = ""  # of the run folder at the server, as its log says

    def __enter__(self) -> LogView:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def update(self, log: Path) -> None:
        """Show what is new.

        Parameters
        ----------
        log : Path
            Flower's log of the run so far; one that begins anew repeats what it said.
        """
        for level, text in self._lines.new(log):
            self._take(level, text)
        if self.folder is not None:
            self._live.update(self.folder)

    def _take(self, level: str, text: str) -> None:
        if text.startswith(_FLOWERS_OWN):
            return
        note = read(text)
        if self.folder is not None and note is not None:
            self._live.note(note)
        if self.folder is None or level != "INFO":  # rounds and summary are in the folder
            words = text if note is None else note.text
            self._console.print(as_printed(words), highlight=False, markup=False, soft_wrap=True)
        if note is not None and note.event is Event.RUN_FOLDER and not self.path:
            self.path = note.path
            self._look_for(RunFolder(Path(self.path)))

    def _look_for(self, folder: RunFolder) -> None:
        """Take a folder of that name for the run's if a run goes on in it: other machines may have the same paths."""
        with contextlib.suppress(OSError, ValueError):  # no path at all may be a text that a log has
            if folder.is_running:
                self.folder = folder
                self._open.enter_context(self._live)
