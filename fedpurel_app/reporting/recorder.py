"""Write a run down as it goes: the round's line, the checkpoint, the tables, and at last the outcome."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from logging import INFO, WARNING, getLogger
from typing import Any

from fedpurel_app.reporting.console import duration, round_line
from fedpurel_app.reporting.run_folder import RunFolder
from fedpurel_app.reporting.trackers import Tracker

logger = getLogger("flwr.fedpurel")
Scores = Mapping[str, float | None]


class Recorder:
    """Keeps the books of one run.

    Parameters
    ----------
    folder : RunFolder
    trackers : sequence of Tracker
    started : float
        ``time.time()`` when the run's process began.
    earlier_seconds : float
        Time spent before a resumption.
    """

    def __init__(
        self,
        folder: RunFolder,
        trackers: Sequence[Tracker],
        started: float,
        earlier_seconds: float = 0.0,
    ) -> None:
        self.folder, self._trackers = folder, list(trackers)
        # From here on by a clock that nobody sets.
        self._started, self._earlier = time.monotonic() - max(0.0, time.time() - started), earlier_seconds
        self._first_round = time.monotonic()
        self._rounds_here = 0

    @property
    def seconds(self) -> float:
        """Time spent on the run, earlier parts of a resumed run included."""
        return self._earlier + time.monotonic() - self._started

    def record(self, line: dict[str, Any], checkpoint: Callable[[], None]) -> None:
        """Write one round: its line, then the checkpoint that makes it count.

        Parameters
        ----------
        line : dict
            An object of ``rounds.jsonl``.
        checkpoint : callable
            Writes the checkpoint of this round.
        """
        self.folder.append_round(line)
        checkpoint()
        eta = None
        if line["round"]:
            self._rounds_here += 1
            left = line["total_rounds"] - line["round"]
            eta = left * (time.monotonic() - self._first_round) / self._rounds_here if left else None
        else:
            self._first_round = time.monotonic()
        logger.log(INFO, round_line(line, eta))
        self._track(lambda tracker: tracker.log(flat_numbers(line), line["round"]))

    def finish(self, summary: dict[str, Any]) -> None:
        """Write the outcome and let go of the trackers."""
        self.close()
        self.folder.write_json("summary.json", summary)
        logger.log(INFO, "%s in %s. Run folder: %s", summary["outcome"], duration(self.seconds), self.folder.path)

    def close(self) -> None:
        """Let go of the trackers; a second time does nothing."""
        self._track(lambda tracker: tracker.close())
        self._trackers.clear()

    def _track(self, use: Callable[[Tracker], None]) -> None:
        """Use the trackers; one that fails (its server is gone) is dropped, and the run goes on."""
        for tracker in list(self._trackers):
            try:
                use(tracker)
            except Exception as error:
                self._trackers.remove(tracker)
                logger.log(WARNING, "%s is not used any more: %s", type(tracker).__name__, error)


def flat_numbers(line: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Flatten the numbers of a round to names with slashes: ``global/few``, ``train/loss``."""
    flat: dict[str, float] = {}
    for key, value in line.items():
        if isinstance(value, Mapping):
            flat |= flat_numbers(value, f"{prefix}{key}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            flat[prefix + key] = float(value)
    return flat
