"""Completed runs as tables and pictures of several runs read them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from fedpurel_app.core.errors import StateError
from fedpurel_app.reporting.run_folder import RunFolder
from fedpurel_app.reporting.settings import setting, settings
from fedpurel_app.reporting.site_table import any_branch


@dataclass(frozen=True)
class Run:
    """A completed run.

    Parameters
    ----------
    folder : RunFolder
    settings : dict
        By key, with ``data``, the fingerprint of the data.
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
        if not any_branch(self.folder.read_csv("sites.csv")):
            return None
        return (self.summary.get(model) or {}).get(column)

    def why_not_personalized(self) -> str:
        """Tell why there is no score of the personalized models."""
        return self._reason("personalized", "no site trained a private branch")

    def _reason(self, model: str, otherwise: str = "not known") -> str:
        reasons = self.summary.get("reasons") or {}
        return next((text for key, text in reasons.items() if key.partition(".")[0] == model), otherwise)


def completed(path: Path, places: dict[str, str]) -> Run:
    """Read a run.

    Parameters
    ----------
    path : Path
    places : dict of str to str
        By fingerprint of data, the path where runs that were read before had them, to which this run's is added: the
        same data in two places are no difference.

    Raises
    ------
    StateError
        When the folder holds no completed run.
    """
    folder = RunFolder.open(path)
    config, summary = settings(folder), folder.summary()
    if not summary or summary["outcome"] != "completed":
        raise StateError(f"{path} holds a run that is not completed: resume it first.")
    config["dataset-path"] = places.setdefault(config["data"], config.get("dataset-path", ""))
    return Run(folder, config, summary)


def grouped(runs: Iterable[Run], keys: Iterable[str] | None = None) -> list[list[Run]]:
    """Put runs together that agree in some keys, else in all that are not free, in the order of the first of each."""
    chosen = None if keys is None else list(keys)
    groups: dict[tuple[tuple[str, str], ...], list[Run]] = {}
    for run in runs:
        groups.setdefault(setting(run.settings, chosen), []).append(run)
    return list(groups.values())


def mean_sd(values: Sequence[float]) -> tuple[float, float | None]:
    """Return mean and standard deviation over seeds; of one seed, no deviation."""
    return fmean(values), stdev(values) if len(values) > 1 else None
