"""Finished runs as methods, a run for each seed; what does not compare is refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from fedpurel_app.core.errors import StateError
from fedpurel_app.reporting.finished import Run, completed, grouped
from fedpurel_app.reporting.settings import differing, label_runs

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
    "shots",
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
    places: dict[str, str] = {}
    runs = [completed(path, places) for path in paths]
    if different := differing([run.settings for run in runs], _SAME):
        lines = [f"{key}: {_by_value(runs, key)}" for key in different]
        raise StateError("\n".join(["these runs do not compare; give runs with one value of each of", *lines]))
    groups = grouped(runs)
    titles = label_runs([members[0].settings for members in groups], ("algorithm",), None)
    methods = [
        Method(title, tuple(sorted(members, key=lambda run: run.seed)))
        for title, members in zip(titles, groups, strict=True)
    ]
    _same_seeds(methods)
    _same_parts(runs)
    return methods


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
