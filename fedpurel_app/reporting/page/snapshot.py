"""A run folder as it is at one moment: everything that a page shows is read once, and fits together."""

from __future__ import annotations

import copy
from functools import cached_property
from pathlib import Path
from typing import Any

from fedpurel_app.algorithms.registry import METHODS
from fedpurel_app.config.model import default_settings
from fedpurel_app.core.errors import StateError
from fedpurel_app.core.names import clean
from fedpurel_app.reporting.outcome import state_of
from fedpurel_app.reporting.run_folder import RunFolder
from fedpurel_app.reporting.summary import summarize_run

_READ = (
    *("config.json", "summary.json", "rounds.jsonl", "sites.csv", "classes.csv", "calibration.csv"),
    *("partition.json", "state.json", "launch.json", "classes.json"),
)


class Snapshot(RunFolder):
    """Reads each file of a run once.

    Parameters
    ----------
    path : Path

    Raises
    ------
    StateError
        When it is no run folder, when a file of it is damaged, or when its method is unknown and it has no outcome.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(RunFolder.open(path).path)
        self.goes_on = self.is_running  # before the rest is read: what ends meanwhile is read once more
        self._tables: dict[str, list[dict[str, str]]] = {}

    @property
    def state(self) -> str:
        """Whether it is "completed", "failed", "stopped", "running" or "cut off"."""
        return state_of(self.outcome, self.goes_on)

    @cached_property
    def content(self) -> dict[str, Any]:
        """``config.json``."""
        return self.read_json("config.json")

    @property
    def config(self) -> dict[str, Any]:
        """The settings, by key; what a folder does not say, as one of before there was the key, is at its default."""
        return {**default_settings(), **self.content["config"]}

    @cached_property
    def outcome(self) -> dict[str, Any] | None:
        """``summary.json``; None where there is none yet."""
        return self.summary()

    @cached_property
    def scores(self) -> dict[str, Any]:
        """What ``summary.json`` says, or would say of the rounds that there are."""
        if self.outcome is not None:
            return self.outcome
        rounds, config = self.rounds(), self.config
        if (method := METHODS.get(config["algorithm"])) is None:
            raise StateError(
                f'{self.path} is of algorithm = "{clean(config["algorithm"], 60)}", which this version does not know, '
                "and has no summary.json: show it with the version that made it."
            )
        seconds = sum(line["seconds"]["total"] or 0.0 for line in rounds)
        return summarize_run(rounds, config, "stopped", None, method.personalizes, seconds, self.spent())

    @cached_property
    def _rounds(self) -> list[dict[str, Any]]:
        return super().rounds()

    def rounds(self) -> list[dict[str, Any]]:
        """Return the lines of ``rounds.jsonl``."""
        return self._rounds

    def sparse(self, most: int) -> Snapshot:
        """Return the run with at most about so many of the evaluated rounds, and of the others, evenly spaced."""
        scored = [line for line in self._rounds if line.get("global") or line.get("sites")]
        others = [line for line in self._rounds if not (line.get("global") or line.get("sites"))]
        kept = [*scored[:: 1 + len(scored) // most], *scored[-1:], *others[:: 1 + len(others) // most]]
        found = copy.copy(self)
        found._rounds = sorted({line["round"]: line for line in kept}.values(), key=lambda line: int(line["round"]))
        return found

    @cached_property
    def played(self) -> list[dict[str, Any]]:
        """The rounds, without the start."""
        return [line for line in self._rounds if line["round"]]

    def read_csv(self, name: str) -> list[dict[str, str]]:
        """Return a table; empty where it is absent."""
        if name not in self._tables:
            self._tables[name] = super().read_csv(name)
        return self._tables[name]

    @cached_property
    def partition(self) -> dict[str, Any]:
        """``partition.json``; empty where there is none."""
        return self.optional("partition.json")

    @cached_property
    def roster(self) -> list[dict[str, Any]]:
        """What the sites said of themselves; empty before the first checkpoint."""
        return [one for one in self.optional("state.json").get("roster", {}).values() if one]

    def optional(self, name: str) -> dict[str, Any]:
        """Read a JSON file; empty where there is none."""
        return self.read_json(name) if (self.path / name).is_file() else {}


def stamp(path: Path) -> tuple[object, ...]:
    """Return what is another when a page of the run would be: the state of its files, and whether it goes on."""
    return RunFolder(path).is_running, *(_state_of(path / name) for name in _READ)


def stamp_of_sweep(path: Path) -> tuple[object, ...]:
    """Return what is another when a page of the sweep would be: its plan, and which of its runs have an outcome."""
    outcomes = sorted(path.glob("runs/*/summary.json"))
    return _state_of(path / "plan.json"), *((one, _state_of(one)) for one in outcomes)


def _state_of(file: Path) -> object:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
