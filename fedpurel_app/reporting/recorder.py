"""Write a run down as it goes: the round's line, the checkpoint, the tables, and at last the outcome."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from logging import INFO, getLogger
from typing import Any

from fedpurel_app.reporting.console import duration, round_line
from fedpurel_app.reporting.run_folder import RunFolder
from fedpurel_app.reporting.trackers import Tracker

logger = getLogger("flwr.fedpurel")
Scores = Mapping[str, float | None]

_PARTS = ("start_up", "features", "training", "evaluation", "flower", "other")


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
        self.folder, self._trackers = folder, trackers
        self._started, self._earlier = started, earlier_seconds
        self._first_round = time.time()
        self._rounds_here = 0

    @property
    def seconds(self) -> float:
        """Time spent on the run, earlier parts of a resumed run included."""
        return self._earlier + time.time() - self._started

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
            eta = left * (time.time() - self._first_round) / self._rounds_here if left else None
        else:
            self._first_round = time.time()
        logger.log(INFO, round_line(line, eta))
        for tracker in self._trackers:
            tracker.log(flat_numbers(line), line["round"])

    def finish(self, summary: dict[str, Any]) -> None:
        """Write the outcome and let go of the trackers."""
        summary["seconds"] = {**time_by_part(self.folder.rounds(), self.seconds), "total": self.seconds}
        self.folder.write_json("summary.json", summary)
        for tracker in self._trackers:
            tracker.close()
        logger.log(INFO, "%s in %s. Run folder: %s", summary["outcome"], duration(self.seconds), self.folder.path)


def flat_numbers(line: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Flatten the numbers of a round to names with slashes: ``global/few``, ``train/loss``."""
    flat: dict[str, float] = {}
    for key, value in line.items():
        if isinstance(value, Mapping):
            flat |= flat_numbers(value, f"{prefix}{key}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            flat[prefix + key] = float(value)
    return flat


def time_by_part(rounds: Sequence[Mapping[str, Any]], total: float) -> dict[str, float]:
    """Split a run's wall time into parts.

    Returns
    -------
    dict of str to float
        ``start_up`` (until the first evaluation), ``features`` (encoding images, at the server and at sites),
        ``training`` and ``evaluation`` (work of the busiest process of the sites, and of the server), ``flower`` (the
        rest of each round: messages, waiting) and ``other``, in seconds.
    """
    parts = dict.fromkeys(_PARTS, 0.0)
    for line in rounds:
        seconds = line["seconds"]
        parts["start_up"] += seconds.get("start_up", 0.0)
        parts["features"] += seconds.get("server_features", 0.0)
        parts["evaluation"] += seconds.get("server", 0.0)
        for part in ("training", "evaluation"):
            encoding = seconds.get(f"{part}_features", 0.0)
            parts["features"] += encoding
            parts[part] += seconds.get(f"{part}_at_sites", 0.0) - encoding
            parts["flower"] += seconds.get(part, 0.0) - seconds.get(f"{part}_at_sites", 0.0)
    parts["other"] = max(0.0, total - sum(parts.values()))
    return parts
