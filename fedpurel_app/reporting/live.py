"""Follow a run in a terminal, from its folder alone: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from fedpurel_app.core.names import as_printed
from fedpurel_app.core.progress import Event, Note, read
from fedpurel_app.reporting.console import round_line
from fedpurel_app.reporting.log_lines import LogLines
from fedpurel_app.reporting.run_folder import RunFolder

_BETWEEN = 60.0  # seconds from one line on progress to the next, where there is no bar


class LiveView:
    """Shows each new round of a run.

    Parameters
    ----------
    console : rich.console.Console
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._shown = 0
        self._log: LogLines | None = None
        self._noted = -_BETWEEN
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
        )
        self._phase = "starting"
        self._task = self._progress.add_task(self._phase, total=None)

    def __enter__(self) -> LiveView:
        if self._console.is_terminal:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._progress.stop()

    def update(self, folder: RunFolder) -> None:
        """Show the rounds that are new in the folder, and how far the encoding of images is, where its log tells."""
        if self._log is None:
            self._log = LogLines()
            list(self._log.new(folder.log))  # of an earlier attempt
        for _, text in self._log.new(folder.log):
            if note := read(text):
                self.note(note)
        rounds = folder.rounds()
        if len(rounds) < self._shown:  # a resumed run forgets rounds that its checkpoint does not know
            self._shown = len(rounds)
        for line in rounds[self._shown :]:
            self._print(round_line(line))
        if rounds[self._shown :]:  # once for all: of an earlier attempt there may be many
            self._phase = str(rounds[-1]["phase"])
            self._progress.update(
                self._task,
                completed=rounds[-1]["round"],
                total=rounds[-1]["total_rounds"],
                description=self._phase,
            )
        self._shown = len(rounds)

    def note(self, note: Note) -> None:
        """Show what a line of the log says of work before a round: beside the bar, or as a line now and then."""
        match note.event:
            case Event.TO_ENCODE:
                self._print(note.text)
            case Event.ENCODED:
                self._progress.update(self._task, description=self._phase)
            case Event.ENCODING:
                self._progress.update(self._task, description=as_printed(note.text))
                if not self._console.is_terminal and time.monotonic() - self._noted >= _BETWEEN:
                    self._noted = time.monotonic()
                    self._print(note.text)

    def _print(self, text: str) -> None:
        self._console.print(as_printed(text), highlight=False, markup=False, soft_wrap=True)
