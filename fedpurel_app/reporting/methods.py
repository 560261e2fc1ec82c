"""Finished runs read as methods, a run for each seed; what does not compare is refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from fedpurel_app.core.errors import StateError
from fedpurel_app.reporting.run_folder import RunFolder
from fedpurel_app.reporting.settings import differing, names, setting, settings

# Keys that make the data, the sites' parts of them and the zero-shot reference, and how Balancedness is computed.
_SAME = (
    "dataset",
    "data",
    "backbone",
    "pretrained",
    "template",
    "image-statistics",
    "imbalance-factor",
    "max-per-class",
    "class-order",
    "keep-empty-classes",
    "group-by",
    "partition",
    "alpha",
    "local-test",
    "num-sites",
    "balancedness-power",
    "balancedness-sigma",
)


@dataclass(frozen=True)
class Run:
    """A completed run.

    Parameters
    ----------
    folder : RunFolder
    settings : dict
        By key, with ``data``, the fingerprint of the data, in the place of ``dataset-path``.
    summary : dict
        Of ``summary.json``.
    """

    folder: RunFolder
    settings: dict[str, Any]
    summary: dict[str, Any]

    @property
    def seed(self) -> int:
        """The run's seed."""
        return int(self.settings["seed"])

    def zero_shot_score(self, column: str) -> float | None:
        """Return a score of zero-shot on the server's test set, in percent; None where it is not known."""
        return (self.summary.get("zero_shot") or {}).get(column)

    def global_score(self, column: str) -> float:
        """Return a score of the global model on the server's test set, in percent; raises StateError without one."""
        value = (self.summary.get("global") or {}).get(column)
        if value is None:
            raise StateError(
                f'{self.folder.path} has no "{column}" of the global model ({self._reason("global")}); leave it out.'
            )
        return float(value)

    def personalized_score(self, column: str, model: str = "personalized") -> float | None:
        """Return a score at the sites, of the personalized models or of ``global_at_sites``, in percent.

        None where no site has trained a private branch, or where the score is not known.
        """
        if not any(row["has_private_branch"] == "1" for row in self.folder.read_csv("sites.csv")):
            return None
        return (self.summary.get(model) or {}).get(column)

    def why_not_personalized(self) -> str:
        """Tell why there is no score of the personalized models."""
        return self._reason("personalized", "no site trained a private branch")

    def _reason(self, model: str, otherwise: str = "not known") -> str:
        reasons = self.summary.get("reasons") or {}
        return next((text for key, text in reasons.items() if key.partition(".")[0] == model), otherwise)


@dataclass(frozen=True)
class Method:
    """Runs of one setting, by seed."""

    name: str
    runs: tuple[Run, ...]

    @property
    def settings(self) -> dict[str, Any]:
        """Settings of the first run; the others differ in free keys only."""
        return self.runs[0].settings


def read_methods(paths: Sequence[Path]) -> list[Method]:
    """Read completed runs that compare: one data set, one division among the sites, the same seeds of each method.

    Parameters
    ----------
    paths : sequence of Path
        Run folders, in any order; methods come in the order of their first run.

    Raises
    ------
    StateError
        When one is no completed run, or when they do not compare; it names the runs and what to do.
    """
    runs = [_completed(path) for path in paths]
    if different := differing([run.settings for run in runs], _SAME):
        lines = [f"{key}: {_by_value(runs, key)}" for key in different]
        raise StateError("\n".join(["these runs do not compare; give runs with one value of each of", *lines]))
    groups: dict[Any, list[Run]] = {}
    for run in runs:
        groups.setdefault(setting(run.settings), []).append(run)
    titles = names([members[0].settings for members in groups.values()], ("algorithm",), None)
    methods = [
        Method(title, tuple(sorted(members, key=lambda run: run.seed)))
        for title, members in zip(titles, groups.values(), strict=True)
    ]
    _same_seeds(methods)
    _same_parts(runs)
    return methods


def mean_sd(values: Sequence[float]) -> tuple[float, float | None]:
    """Return mean and standard deviation over seeds; of one seed, no deviation."""
    return fmean(values), stdev(values) if len(values) > 1 else None


def _completed(path: Path) -> Run:
    folder = RunFolder.open(path)
    config, summary = settings(folder), folder.summary()
    if not summary or summary["outcome"] != "completed":
        raise StateError(f"{path} holds a run that is not completed; complete it, or leave it out.")
    config.pop("dataset-path", None)  # the same data in two places are no difference
    return Run(folder, config, summary)


def _by_value(runs: Sequence[Run], key: str) -> str:
    found: dict[str, Path] = {}
    for run in runs:
        found.setdefault(str(run.settings.get(key)), run.folder.path)
    return ", ".join(f"{value} in {path}" for value, path in found.items())


def _same_seeds(methods: Sequence[Method]) -> None:
    for method in methods:
        for one, other in pairwise(method.runs):
            if one.seed == other.seed:
                raise StateError(
                    f"{method.name}, seed {one.seed}, is there twice: {one.folder.path} and {other.folder.path}; "
                    "leave one out."
                )
    if len({tuple(run.seed for run in method.runs) for method in methods}) > 1:
        lines = [f"{method.name}: {', '.join(str(run.seed) for run in method.runs)}" for method in methods]
        raise StateError("\n".join(["these methods were run with different seeds; give the same of each.", *lines]))


def _same_parts(runs: Sequence[Run]) -> None:
    """Raise if runs with the same seed used different partitions."""
    parts: dict[int, tuple[str, Path]] = {}
    for run in runs:
        if (run.folder.path / "partition.json").exists():  # absent where the server cannot know it
            found = run.folder.read_json("partition.json")["sha256"]
            known, path = parts.setdefault(run.seed, (found, run.folder.path))
            if known != found:
                raise StateError(
                    f"the sites of {path} and {run.folder.path} hold other parts of the data, at equal seeds; "
                    "give runs of one partition."
                )
