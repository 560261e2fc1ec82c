"""The numbers of one table: methods by models and scores, at one combination of a sweep's axes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from statistics import fmean

from fedpurel_app.core.names import listed
from fedpurel_app.reporting.columns import digits_of, number
from fedpurel_app.reporting.finished import mean_sd
from fedpurel_app.reporting.leaderboard.paired import Comparison, compare, correct
from fedpurel_app.reporting.leaderboard.published import Published, find_published
from fedpurel_app.reporting.leaderboard.sweep import MODELS, Place, Trial

SCORES = ("all", "many", "medium", "few", "balancedness", "ece")
LOWER_IS_BETTER = frozenset({"ece", "ece_many", "ece_few", "nll", "tail_as_head"})
ZERO_SHOT = "zero-shot"

Column = tuple[str, str]  # "global" or "personalized", and a score


@dataclass(frozen=True)
class Entry:
    """A score of a model by seed, in percent (``nll``: nats); ``why`` says why there is none."""

    by_seed: Mapping[int, float]
    scored: str
    why: str = ""

    @cached_property
    def mean_sd(self) -> tuple[float, float | None]:
        """Mean and standard deviation over seeds; NaN without one, and no deviation of one."""
        return mean_sd(list(self.by_seed.values())) if self.by_seed else (math.nan, None)

    @property
    def is_shared(self) -> bool:
        """Whether the global model stands for personalized ones here."""
        return self.scored == "global_at_sites"


@dataclass(frozen=True)
class Row:
    """A method; ``seconds`` and ``megabytes`` are means over its runs, and None where nothing ran."""

    name: str
    seeds: tuple[int, ...]
    entries: Mapping[Column, Entry]
    seconds: float | None = None
    megabytes: float | None = None
    comparisons: Mapping[Column, Comparison] = field(default_factory=dict)
    published: Published | None = None


@dataclass(frozen=True)
class Board:
    """A table; ``best`` names the rows whose mean is the best of a column, as printed."""

    place: Place
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    against: str
    notes: tuple[str, ...] = ()

    def is_best(self, row: Row, column: Column) -> bool:
        """Tell whether no row has a better mean in a column, to the digits that are printed."""
        better = min if column[1] in LOWER_IS_BETTER else max
        means = {one.name: one.entries[column].mean_sd[0] for one in self.rows if one.entries[column].by_seed}
        digits = digits_of(column[1])
        return row.name in means and number(means[row.name], digits) == number(better(means.values()), digits)


def zero_shot_name(place: Place) -> str:
    """Return what a sweep calls zero-shot, where it is one of its methods, or "zero-shot"."""
    return next((name for name, trials in place.trials.items() if _is_zero_shot(trials)), ZERO_SHOT)


def make_board(place: Place, against: str, columns: Sequence[Column]) -> Board:
    """Fill a table.

    Parameters
    ----------
    place : Place
    against : str
        A method, or :func:`zero_shot_name`: the others are compared with it.
    columns : sequence of (str, str)
        Models and scores.

    Returns
    -------
    Board
        Zero-shot first, then the methods that have a completed run, in the plan's order.
    """
    name = zero_shot_name(place)
    rows = [_zero_shot_row(name, place, columns)]
    rows += [_row(one, trials, columns) for one, trials in place.trials.items() if trials and one != name]
    partitions = {one: {seed: trial.partition for seed, trial in by.items()} for one, by in place.trials.items()}
    partitions[name] = {seed: trial.partition for seed, trial in place.all_trials().items()}
    compared, notes = _compare(rows, against, columns, partitions)
    if len({row.seeds for row in rows}) > 1:
        notes.append("Rows have other numbers of seeds: their means are not of the same seeds, the paired ones are.")
    return Board(place, tuple(columns), tuple(compared), against, tuple(notes))


def _is_zero_shot(trials: Mapping[int, Trial]) -> bool:
    return bool(trials) and all(not one.trains and one.run.settings["balancer"] == "none" for one in trials.values())


def _row(name: str, trials: Mapping[int, Trial], columns: Sequence[Column]) -> Row:
    trials = dict(sorted(trials.items()))
    entries = {}
    for model, score in columns:
        found = {seed: trial.scores(model).get(score) for seed, trial in trials.items()}
        lacking = [trials[seed] for seed, value in found.items() if value is None]
        entries[model, score] = Entry(
            {seed: value for seed, value in found.items() if value is not None},
            "personalized" if any(trial.scored(model) == "personalized" for trial in trials.values())
            else next(iter(trials.values())).scored(model),
            lacking[0].why_none(model, score) if lacking else "",
        )  # fmt: skip
    return Row(name, tuple(trials), entries, *_costs(trials), published=find_published(_settings(trials)))


def _zero_shot_row(name: str, place: Place, columns: Sequence[Column]) -> Row:
    trials = place.all_trials()
    entries = {}
    for model, score in columns:
        found = {seed: trial.zero_shot(model).get(score) for seed, trial in trials.items()}
        known = {seed: value for seed, value in found.items() if value is not None}
        entries[model, score] = Entry(known, "zero_shot", "" if len(known) == len(found) else "not known")
    own = place.trials.get(name, {})
    published = find_published({**_settings(trials), "algorithm": "zero-shot", "balancer": "none"})
    return Row(name, tuple(trials), entries, *_costs(own), published=published)


def _settings(trials: Mapping[int, Trial]) -> dict[str, object]:
    return next((trial.run.settings for trial in trials.values()), {})


def _costs(trials: Mapping[int, Trial]) -> tuple[float | None, float | None]:
    seconds = [one.seconds for one in trials.values() if one.seconds is not None]
    return (
        fmean(seconds) if seconds else None,
        fmean(one.megabytes_up for one in trials.values()) if trials else None,
    )


def _compare(
    rows: Sequence[Row], against: str, columns: Sequence[Column], partitions: Mapping[str, Mapping[int, str]]
) -> tuple[list[Row], list[str]]:
    """Compare all rows with one; seeds at which sites hold other parts of the data are no pairs."""
    base = next((row for row in rows if row.name == against), None)
    others = [row for row in rows if row.name != against]
    if base is None:
        return list(rows), [f"Nothing is compared here: {against} has no completed run."]
    unlike = {row.name: _unlike(partitions[row.name], partitions[against]) for row in others}
    found: dict[str, dict[Column, Comparison]] = {row.name: {} for row in rows}
    for column in columns:
        theirs = base.entries[column].by_seed
        tested = {
            row.name: compare(
                {seed: value for seed, value in row.entries[column].by_seed.items() if seed not in unlike[row.name]},
                theirs,
                column[1] in LOWER_IS_BETTER,
            )
            for row in others
        }
        for name, one in correct(tested).items():
            found[name][column] = one
    notes = [
        f"{name} is not compared at seeds {listed([*map(str, seeds)])}: its sites hold other parts of the data there "
        f"than those of {against}."
        for name, seeds in unlike.items()
        if seeds
    ]
    return [replace(row, comparisons=found[row.name]) for row in rows], notes


def _unlike(ours: Mapping[int, str], theirs: Mapping[int, str]) -> list[int]:
    return [seed for seed in sorted(ours.keys() & theirs.keys()) if ours[seed] and theirs[seed] != ours[seed] != ""]


def all_columns(models: Sequence[str], scores: Sequence[str]) -> list[Column]:
    """Return the columns of a table: the global model's first."""
    return [(model, score) for model in MODELS if model in models for score in dict.fromkeys(scores)]
