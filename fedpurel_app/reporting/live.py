"""Follow a run in a terminal, from its folder alone: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from fedpurel_app.naming import clean
from fedpurel_app.reporting.console import round_line
from fedpurel_app.reporting.log_lines import LogLines, encoding
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
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
        )
        self._task = self._progress.add_task("starting", total=None)

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
            self.note(encoding(text))
        rounds = folder.rounds()
        if len(rounds) < self._shown:  # a resumed run forgets rounds that its checkpoint does not know
            self._shown = len(rounds)
        for line in rounds[self._shown :]:
            self._show(line)
        self._shown = len(rounds)

    def note(self, progress: str) -> None:
        """Show what is done before a round can begin: beside the bar, or as a line now and then; nothing if empty."""
        if not progress:
            return
        self._progress.update(self._task, description=progress)
        if not self._console.is_terminal and time.monotonic() - self._noted >= _BETWEEN:
            self._noted = time.monotonic()
            self._console.print(clean(progress), highlight=False, markup=False, soft_wrap=True)

    def _show(self, line: dict[str, Any]) -> None:
        self._console.print(round_line(line), highlight=False, markup=False, soft_wrap=True)
        self._progress.update(
            self._task, completed=line["round"], total=line["total_rounds"], description=str(line["phase"])
        )
