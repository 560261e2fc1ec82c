"""What a sweep's folder holds: its plan, the runs that are completed, and the cells that are missing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from fedpurel_app.algorithms.registry import METHODS
from fedpurel_app.core.errors import StateError
from fedpurel_app.core.names import clean
from fedpurel_app.reporting.finished import Run
from fedpurel_app.reporting.run_files import read_object
from fedpurel_app.reporting.run_folder import RunFolder
from fedpurel_app.reporting.settings import data_in_words, place_in_words, settings
from fedpurel_app.reporting.site_table import any_branch
from fedpurel_app.reporting.sweep_schemas import Plan

Scores = Mapping[str, float | None]
MODELS = {"global": "GM", "personalized": "PM"}


@dataclass(frozen=True)
class Trial:
    """A completed run in a sweep."""

    run: Run

    @property
    def trains(self) -> bool:
        """Whether its method changes the model at all."""
        method = METHODS.get(self.run.settings["algorithm"])
        return method is None or method.trains

    @property
    def evaluated_on(self) -> str:
        """What the server's set is: "test" or "validation"."""
        return str(self.run.settings.get("evaluate-on", "test"))

    @cached_property
    def has_own_models(self) -> bool:
        """Whether some site has trained a private branch; if none has, a site's model is the global one."""
        method = METHODS.get(self.run.settings["algorithm"])
        if method is None or not method.personalizes:
            return False
        rows = self.run.folder.read_csv("sites.csv")
        return any_branch(rows) if rows else bool(self.run.summary.get("personalized"))

    def scored(self, model: str) -> str:
        """Return the key in ``summary.json`` of what stands for "global" or for "personalized"."""
        return "global_at_sites" if model == "personalized" and not self.has_own_models else model

    def scores(self, model: str) -> Scores:
        """Return the last test scores of "global" or "personalized", in percent; empty where there are none."""
        return self.run.summary.get(self.scored(model)) or {}

    def why_none(self, model: str, score: str) -> str:
        """Tell why a score is not known."""
        key, reasons = self.scored(model), self.run.summary.get("reasons") or {}
        group = "groups" if score in ("many", "medium", "few", "balancedness") else score.partition("_")[0]
        found = (reasons.get(one) for one in (f"{key}.{score}", f"{key}.{group}", key))
        return clean(next((text for text in found if text), "not known"))

    def zero_shot(self, model: str) -> Scores:
        """Return zero-shot's scores on the test data of "global", the server's, or of "personalized", the sites'."""
        if model == "global":
            return self.run.summary.get("zero_shot") or {}
        return self._zero_shot_at_sites

    @cached_property
    def _zero_shot_at_sites(self) -> Scores:
        found = [(line.get("sites") or {}).get("zero_shot") for line in self.run.folder.rounds()]
        return next((scores for scores in reversed(found) if scores), {})

    @cached_property
    def partition(self) -> str:
        """What the sites' parts of the data are, as a digest; empty where the server cannot know them."""
        path = self.run.folder.path
        return str(self.run.folder.read_json("partition.json")["sha256"]) if (path / "partition.json").exists() else ""

    @property
    def seconds(self) -> float | None:
        """The run's wall time."""
        return (self.run.summary.get("seconds") or {}).get("total")

    @property
    def megabytes_up(self) -> float:
        """What all sites sent in all, in MB of 10^6 bytes."""
        return float(self.run.summary.get("bytes_up", 0)) / 1e6


@dataclass(frozen=True)
class Missing:
    """A cell without a completed run."""

    method: str
    seed: int
    why: str


@dataclass(frozen=True)
class Place:
    """A combination of the axes' values, with what there is of each method."""

    at: dict[str, Any]
    trials: dict[str, dict[int, Trial]]  # by method, in the plan's order, and seed
    missing: tuple[Missing, ...]

    @property
    def heading(self) -> str:
        """The combination in words: of data and family the value alone.

        >>> Place({"data": "demo", "peft": "prompt", "alpha": 1.0}, {}, ()).heading
        'demo, prompt, alpha 1'
        """
        return place_in_words(self.at)

    @property
    def setting(self) -> str:
        """What its completed runs have in common, in words; where they differ, all there is."""
        found: dict[str, list[str]] = {}
        for by_seed in self.trials.values():
            for trial in by_seed.values():
                for name, text in _setting(trial.run.settings).items():
                    found.setdefault(name, []).append(text)
        return ", ".join(f"{' or '.join(dict.fromkeys(texts))}{name}" for name, texts in found.items())

    def all_trials(self) -> dict[int, Trial]:
        """Return a completed run of each seed, of the first method that has one."""
        found: dict[int, Trial] = {}
        for by_seed in self.trials.values():
            found = {**by_seed, **found}
        return dict(sorted(found.items()))


@dataclass(frozen=True)
class Sweep:
    """A sweep as it is on disk; ``runs`` are all that are completed, once each."""

    path: Path
    plan: Plan
    places: tuple[Place, ...]
    runs: dict[str, Trial]


def read_sweep(path: Path) -> Sweep:
    """Read a sweep, whether it is finished or not.

    Parameters
    ----------
    path : Path
        The folder that ``fedpurel sweep`` made.

    Raises
    ------
    StateError
        When there is no sweep, when its plan is damaged, or when none of its runs is completed.
    """
    sweep, problems = look_at_sweep(path)
    if not sweep.runs:
        first = "".join(f" {why}" for why in list(problems.values())[:1])
        raise StateError(f"{path} has no completed run among {len(problems)}; the first:{first}. Let the sweep go on.")
    return sweep


def look_at_sweep(path: Path) -> tuple[Sweep, dict[str, str]]:
    """Read a sweep of which no run need be completed, and tell why each run that is missing is; as :func:`read_sweep`.

    Raises
    ------
    StateError
        When there is no sweep, or when its plan is damaged.
    """
    if not path.is_dir():
        raise StateError(f"{path} is no folder: name the one that fedpurel sweep made.")
    if not (path / "plan.json").is_file():
        raise StateError(f"{path} is no sweep: it has no plan.json. Name the folder that fedpurel sweep made.")
    try:
        plan = Plan.model_validate(read_object(path / "plan.json"))
    except StateError as error:
        raise StateError(f"{error} Call fedpurel sweep again, which writes it anew.") from error
    runs: dict[str, Trial] = {}
    problems: dict[str, str] = {}
    for name in dict.fromkeys(cell.run for cell in plan.cells):
        found = _read(path / "runs" / name)
        if isinstance(found, Trial):
            runs[name] = found
        else:
            problems[name] = found
    return Sweep(path, plan, tuple(_places(plan, runs, problems)), runs), problems


def _read(path: Path) -> Trial | str:
    """Read a run; else tell why it is none to count."""
    try:
        if not (path / "config.json").is_file() and not (path / "summary.json").is_file():
            return "not run yet"
        summary = (folder := RunFolder.open(path)).summary()
        if summary is None:
            return "not finished"
        if summary["outcome"] != "completed":
            error = (summary.get("error") or "").strip().partition("\n")[0]
            return clean(f"{summary['outcome']}: {error}" if error else summary["outcome"])
        trial = Trial(Run(folder, settings(folder), summary))
        _ = trial.has_own_models, trial.partition  # what is damaged shows here
        return trial
    except StateError as error:
        return clean(str(error))


def _places(plan: Plan, runs: Mapping[str, Trial], problems: Mapping[str, str]) -> list[Place]:
    places: dict[tuple[int, ...], Place] = {}
    for cell in sorted(plan.cells, key=lambda cell: plan.place(cell.at)):
        at = {key: cell.at[key] for key in plan.axes}
        place = places.setdefault(plan.place(cell.at), Place(at, {name: {} for name in plan.methods}, ()))
        if cell.run in runs:
            place.trials[cell.method][cell.seed] = runs[cell.run]
        else:
            missing = (*place.missing, Missing(cell.method, cell.seed, problems[cell.run]))
            places[plan.place(cell.at)] = Place(place.at, place.trials, missing)
    return list(places.values())


def _setting(config: Mapping[str, Any]) -> dict[str, str]:
    """Return what a run is like, each text before what it is of."""
    method, rounds = METHODS.get(config["algorithm"]), config.get("global-rounds")
    scored = ", scored on validation data" if config.get("evaluate-on") == "validation" else ""
    found = {
        "": clean(f"{config['peft']} on {config['dataset']}, {data_in_words(config)}{scored}"),
        " sites": f"{config.get('num-sites')}",
        " % of them a round": f"{100 * config.get('fraction-train', 1.0):g}",
        " global rounds": f"{rounds}",
    }
    if method is not None and method.personal_rounds:
        found[" personal rounds"] = (
            f"{rounds if config.get('personal-rounds') == -1 else config.get('personal-rounds')}"
        )
    return found


def cut(name: str, size: int) -> str:
    """Cut a name in its middle: names of variants begin and end unlike.

    >>> cut("FedPuReL, lambda 0.9", 12)
    'FedPuR…a 0.9'
    """
    return name if len(name) <= size else f"{name[: size // 2]}…{name[len(name) - (size - 1) // 2 :]}"
