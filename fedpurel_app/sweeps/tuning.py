"""Choose settings of every method by one rule: the best mean over seeds, on validation data, and write them down."""

from __future__ import annotations

import itertools
import time
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from fedpurel_app.algorithms.registry import METHODS
from fedpurel_app.config import to_toml
from fedpurel_app.core.errors import ConfigError, StateError
from fedpurel_app.core.files import write_atomically
from fedpurel_app.launch.choose import simulated
from fedpurel_app.reporting.run_folder import RunFolder
from fedpurel_app.sweeps.file import SweepFile, Tune, Tuned, Values
from fedpurel_app.sweeps.plan import Cell, Place, Plan, check_axes, name_of, places_of, settle

_AXES = ("data", "peft")  # what settings are chosen anew for; along other axes a method keeps them
_MARK = "# --- what `fedpurel sweep --tune` found; it replaces all below this line ---"


@dataclass(frozen=True)
class Candidate:
    """Values to try for a method, and their runs."""

    method: str
    at: Values
    values: Values
    cells: tuple[Cell, ...]


def candidates(file: SweepFile) -> list[Candidate]:
    """List what is to be tried: for every method and data set and family, each value that has an effect.

    Raises
    ------
    ConfigError
        When the file has no table ``tune``.
    """
    if file.tune is None:
        raise ConfigError(
            "the file has no table [tune], which says how to choose: seeds, by, and in [tune.grid] values by key."
        )
    found: list[Candidate] = []
    for (name, method), place in itertools.product(file.methods.items(), _places(file)):
        tried: dict[str, Candidate] = {}
        untuned = file.model_copy(update={"tuned": []})
        for choice in itertools.product(*file.tune.grid.values()):
            values = dict(zip(file.tune.grid, choice, strict=True))
            # Personal rounds change no score of the global model, by which is chosen.
            more = {**values, "personal-rounds": 0, **file.tune.settings}
            settled = settle(untuned, name, method, place, {**more, **method.values, "evaluate-on": "validation"})
            try:
                check_axes(method, place)
                config = simulated(settled)
            except ConfigError:
                continue  # the plan says which methods cannot go where
            read = {key: value for key, value in values.items() if key in settled and key not in method.values}
            configs = [config.model_copy(update={"seed": seed}) for seed in file.tune.seeds]
            cells = tuple(Cell(name, {**place.at, **read}, c.seed, name_of(c), c) for c in configs)
            if read and METHODS[config.algorithm].trains:
                tried.setdefault(cells[0].run, Candidate(name, place.at, read, cells))
        found += tried.values()
    return found


def not_tuned(plan: Plan) -> list[str]:
    """List the methods that have a cell for which tuning has found nothing, where it has found something for others.

    Methods that do not train, or set all that is tuned themselves, are none of them.
    """
    file = plan.file
    if file.tune is None or not file.tuned:
        return []
    lacking = [
        cell.method
        for cell in plan.cells
        if METHODS[cell.config.algorithm].trains
        and not file.methods[cell.method].values.keys() >= file.tune.grid.keys()
        and not any(one.method == cell.method and one.at.items() <= cell.at.items() for one in file.tuned)
    ]
    return list(dict.fromkeys(lacking))


def _places(file: SweepFile) -> list[Place]:
    """List the places that settings are chosen for: along other axes the first value stands for all."""
    found: dict[tuple[object, ...], Place] = {}
    for place in places_of(file):
        at = {key: place.at[key] for key in _AXES if key in place.at}
        found.setdefault(tuple(at.values()), Place(at, place.preset, place.values))
    return list(found.values())


def choose(tune: Tune, tried: Iterable[Candidate], folder: Path) -> tuple[list[Tuned], list[str]]:
    """Choose the best of what was tried, all of which is complete.

    Returns
    -------
    (list of Tuned, list of str)
        What is best for each method at each place, and a line on each with the scores of all that was tried.

    Raises
    ------
    StateError
        When a run has no such score.
    """
    scores: dict[tuple[str, str], list[tuple[float, Candidate]]] = {}
    for one in tried:
        mean = fmean(_score(folder / cell.run, tune.by) for cell in one.cells)
        scores.setdefault((one.method, repr(one.at)), []).append((mean, one))
    found, lines = [], []
    for group in scores.values():
        best, chosen = max(group, key=lambda pair: pair[0])  # of equal ones the first
        found.append(Tuned(method=chosen.method, at=chosen.at, values=chosen.values, score=round(best, 3)))
        lines.append(", ".join(f"{_inline(one.values)} {score:.2f}" for score, one in group))
    return found, lines


def _score(path: Path, by: str) -> float:
    summary = RunFolder(path).summary() or {}
    score = (summary.get("global") or summary.get("global_at_sites") or {}).get(by)
    if score is None:
        raise StateError(f'{path} has no "{by}" of a global model: choose by another score in [tune].')
    return float(score)


def check_end(path: Path) -> None:
    """Raise ConfigError when something else stands in a sweep's file where :func:`write_down` replaces all."""
    below = path.read_text("utf-8").partition(_MARK)[2]
    if lost := [key for key in tomllib.loads(below) if key != "tuned"]:
        raise ConfigError(f'{path}: [{lost[0]}] stands below "{_MARK}": move it above, or tuning would delete it.')


def write_down(path: Path, tune: Tune, found: Iterable[Tuned], lines: Iterable[str]) -> None:
    """Write what was found at the end of the sweep's file, in the place of what stood there of an earlier time."""
    text = path.read_text("utf-8").partition(_MARK)[0].rstrip()
    head = f"{_MARK}\n# {time.strftime('%Y-%m-%d')}: {tune.rule}"
    tables = [
        f"[[tuned]]  # {line}\nmethod = {to_toml(one.method)}\nat = {_table(one.at)}\nvalues = {_table(one.values)}\n"
        f"score = {one.score}"
        for one, line in zip(found, lines, strict=True)
    ]
    place = path.resolve()
    write_atomically(place, "\n\n".join([text, head, *tables, ""]).encode(), mode=place.stat().st_mode & 0o777)


def _table(values: Mapping[str, bool | int | float | str]) -> str:
    return "{ " + ", ".join(f"{key} = {to_toml(value)}" for key, value in values.items()) + " }" if values else "{}"


def _inline(values: Values) -> str:
    return " ".join(f"{value}" for value in values.values())
