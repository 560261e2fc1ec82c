"""From the file of a sweep to its runs: every combination, each of them once."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedpurel_app.algorithms.registry import METHODS
from fedpurel_app.config import RunConfig, without_idle
from fedpurel_app.config.presets import load_preset
from fedpurel_app.core.errors import ConfigError
from fedpurel_app.launch.choose import simulated
from fedpurel_app.reporting.run_files import write_object
from fedpurel_app.reporting.settings import own_settings, place_in_words
from fedpurel_app.sweeps.file import Data, Method, Scalar, SweepFile, Values


@dataclass(frozen=True)
class Cell:
    """A method with a seed at a place of the sweep.

    Attributes
    ----------
    method : str
        Its name in tables.
    at : dict
        The place: by "data" and the grid's keys.
    seed : int
    run : str
        Name of the run folder; cells whose settings come to the same have one run.
    config : RunConfig
    """

    method: str
    at: Values
    seed: int
    run: str
    config: RunConfig

    @property
    def title(self) -> str:
        """What to call it in a line of output."""
        place = f", {place_in_words(self.at)}" if self.at else ""
        return f"{self.method}{place}, seed {self.seed}"


@dataclass(frozen=True)
class Plan:
    """A sweep's runs.

    Attributes
    ----------
    file : SweepFile
    axes : dict of str to list
        What places differ in, with all values.
    cells : list of Cell
        One seed after the other, so that a sweep that stops half-way has all methods with the seeds it has.
    left_out : list of dict
        Methods that cannot go to a place, each with ``method``, ``at`` and ``why``.
    """

    file: SweepFile
    axes: dict[str, list[Scalar]]
    cells: list[Cell] = field(default_factory=list)
    left_out: list[dict[str, Any]] = field(default_factory=list)

    @property
    def runs(self) -> dict[str, Cell]:
        """The first cell of every run, by the name of its folder."""
        found: dict[str, Cell] = {}
        for cell in self.cells:
            found.setdefault(cell.run, cell)
        return found

    def write(self, folder: Path, command: str) -> None:
        """Write ``plan.json``, which tables are made from, with the command that makes the sweep."""
        content: dict[str, Any] = {
            "command": command,
            "title": self.file.title,
            "against": self.file.against or next(iter(self.file.methods)),
            "methods": list(self.file.methods),
            "axes": self.axes,
            "cells": [
                {"method": cell.method, "at": cell.at, "seed": cell.seed, "run": cell.run} for cell in self.cells
            ],
            "left_out": self.left_out,
        }
        if self.file.tune is not None and self.file.tuned:
            content["tuned"] = {"rule": self.file.tune.rule, "keys": list(self.file.tune.grid)}
        write_object(folder / "plan.json", content)


@dataclass(frozen=True)
class Place:
    """A point of the grid: where it is, and the settings that lie there."""

    at: Values
    preset: str
    values: Values


def make_plan(file: SweepFile) -> Plan:
    """List all runs of a sweep.

    Raises
    ------
    ConfigError
        Naming every method that cannot go to any place, and why.
    """
    plan = Plan(file, _axes(file))
    refused: dict[str, ConfigError] = {}
    settled: dict[tuple[str, int], RunConfig] = {}
    places = list(places_of(file))
    for name, method in file.methods.items():
        fits = []
        for number, place in enumerate(places):
            try:
                check_axes(method, place)
                settled[name, number] = simulated(settle(file, name, method, place))
                fits.append(number)
            except ConfigError as error:
                refused.setdefault(name, error)
                plan.left_out.append({"method": name, "at": place.at, "why": str(error)})
        if fits:
            refused.pop(name, None)
    if refused:
        raise ConfigError([f"methods.{name}: {error}" for name, error in refused.items()])
    every = dict.fromkeys(seed for method in file.methods.values() for seed in method.seeds or file.seeds)
    for seed, number, (name, method) in itertools.product(every, range(len(places)), file.methods.items()):
        if (name, number) in settled and seed in (method.seeds or file.seeds):
            config = settled[name, number].model_copy(update={"seed": seed})
            plan.cells.append(Cell(name, places[number].at, seed, name_of(config), config))
    return plan


def check_axes(method: Method, place: Place) -> None:
    """Raise ConfigError when a method is not at a place: it sets another value of an axis itself."""
    for key in place.at.keys() & method.values.keys():
        if method.values[key] != place.at[key]:
            raise ConfigError(f"it sets {key} = {method.values[key]} itself.")


def _axes(file: SweepFile) -> dict[str, list[Scalar]]:
    return {**({"data": list(file.data)} if file.data else {}), **file.grid}


def places_of(file: SweepFile) -> Iterator[Place]:
    """Yield every point of the grid, on every data set."""
    data: Mapping[str, Data] = file.data or {"": Data(values={})}
    for name, one in data.items():
        for choice in itertools.product(*file.grid.values()):
            chosen = dict(zip(file.grid, choice, strict=True))
            at: Values = {**({"data": name} if name else {}), **chosen}
            yield Place(at, one.preset or file.preset, {**file.settings, **one.values, **chosen})


def settle(
    file: SweepFile, name: str, method: Method, place: Place, more: Mapping[str, Scalar] | None = None
) -> dict[str, Any]:
    """Settle the settings of a method at a place, without a seed and unchecked.

    Settings of the sweep that the method has no use for give way: they are for others. Its own ones are worth an error.

    Parameters
    ----------
    file : SweepFile
    name : str
        Of the method.
    method : Method
    place : Place
    more : mapping, optional
        Settings over all.
    """
    tuned: Values = {}
    for one in file.tuned:
        if one.method == name and one.at.items() <= place.at.items():
            tuned |= one.values
    values = {**load_preset(place.preset).values, **place.values, **tuned, **method.values, **(more or {})}
    return without_idle(values, kept=method.values)


def name_of(config: RunConfig) -> str:
    """Name a run by its settings, so that equal ones are one run in whatever sweep they are asked for.

    Keys that have their default do not count: with a key that a later version brings, the name is the same. Without
    personal rounds, neither do those that are read in them alone.
    """
    values = own_settings(config.model_dump(by_alias=True))
    if not config.total_rounds[1]:
        values = {key: value for key, value in values.items() if key not in METHODS[config.algorithm].personal_keys}
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode())
    return f"{config.algorithm}-{config.peft}-s{config.seed}-{digest.hexdigest()[:10]}"
