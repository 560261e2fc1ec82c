"""The file of a sweep: what is compared, on what, with which seeds."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from fedpurel_app.algorithms.registry import METHODS
from fedpurel_app.config import known_keys
from fedpurel_app.config.presets import anchored
from fedpurel_app.core.errors import ConfigError
from fedpurel_app.sweeps.seeds import Seeds

_SETTLED = ("seed", "out", "resume-from", "experiment-id", "state-dir")  # by the sweep

Scalar = bool | int | float | str
Values = dict[str, Scalar]


def _apart(*own: str) -> BeforeValidator:
    """Put the settings among a table's keys into ``values``, beside the keys that are the table's own."""

    def split(given: object) -> object:
        if not isinstance(given, dict):
            return given
        values = {key: value for key, value in given.items() if key not in own}
        return {key: value for key, value in given.items() if key in own} | {"values": values}

    return BeforeValidator(split)


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


Name = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]*$")]  # that tables can show
Axis = Annotated[list[Scalar], Field(min_length=1)]


class Method(_Part):
    """What makes a row of the tables: settings, and perhaps fewer seeds than the others have."""

    values: Values
    seeds: Seeds | None = None


class Data(_Part):
    """What makes a data set: settings over those of a preset, the sweep's if there is none of its own."""

    values: Values
    preset: str = ""


class Tune(_Part):
    """How settings of every method are chosen.

    Attributes
    ----------
    seeds : list of int
        None of which the sweep itself has.
    by : str
        The score on validation data whose mean over the seeds decides: of the global model, or of that at the sites
        where the server has none.
    grid : dict of str to list
        Values to try, by key; every combination.
    settings : dict
        Of the runs that choose, over those of the sweep: fewer rounds, for example.
    """

    seeds: Seeds
    settings: Values = {}
    by: Literal["all", "many", "medium", "few", "balancedness", "macro_f1"] = "all"
    grid: dict[str, Axis] = Field(min_length=1)

    @property
    def rule(self) -> str:
        """What makes the choice, in words."""
        seeds = ", ".join(map(str, self.seeds))
        return f"best mean {self.by} of the global model on validation data, seeds {seeds}"


class Tuned(_Part):
    """What tuning found for a method, at a place of the sweep."""

    method: str
    at: Values
    values: Values
    score: float


class SweepFile(_Part):
    """A sweep as it is written down.

    Attributes
    ----------
    title : str
    preset : str
        Where all runs begin.
    seeds : list of int
        Of every method that has none of its own.
    against : str
        The method that the others are tested against; by default the first.
    settings : dict
        Of all runs, over the preset.
    methods : dict of str to Method
        By its name in tables. A list of algorithms stands for methods of their titles.
    data : dict of str to Data
        By its name in tables.
    grid : dict of str to list
        Every combination of these values, for every method.
    tune : Tune or None
    tuned : list of Tuned
    """

    title: str = ""
    preset: str = "shapes"
    seeds: Seeds
    against: str = ""
    settings: Values = {}
    methods: dict[Name, Annotated[Method, _apart("seeds")]] = Field(min_length=1)
    data: dict[Name, Annotated[Data, _apart("preset")]] = {}
    grid: dict[str, Axis] = {}
    tune: Tune | None = None
    tuned: list[Tuned] = []

    @model_validator(mode="before")
    @classmethod
    def _methods_by_name(cls, given: Any) -> Any:
        if isinstance(given, dict) and isinstance(names := given.get("methods"), list):
            algorithms = [str(name) for name in names]
            if twice := sorted(name for name in {*algorithms} if algorithms.count(name) > 1):
                raise ValueError(f'methods: "{twice[0]}" is named twice')
            by_title = {METHODS[name].title if name in METHODS else name: {"algorithm": name} for name in algorithms}
            return {**given, "methods": by_title}
        return given

    def problems(self) -> list[str]:
        """List what is wrong with it beyond the form of its tables."""
        known = known_keys()
        found = []
        for where, key in self._keys():
            if key not in known:
                near = difflib.get_close_matches(key, known, 1)
                found.append(f'{where}: unknown key "{key}".' + (f' Did you mean "{near[0]}"?' if near else ""))
            elif key in _SETTLED:
                found.append(f"{where}: {key} is settled by the sweep: drop it.")
        if self.against and self.against not in self.methods:
            found.append(f'against = "{self.against}" is none of the methods: {", ".join(self.methods)}.')
        for where, grid in self.grids.items():
            for key, axis in grid.items():
                found += [f"{where}.{key}: {one} is named twice." for one in {*axis} if axis.count(one) > 1]
        every = [("seeds", self.seeds), *((f"methods.{n}.seeds", m.seeds or []) for n, m in self.methods.items())]
        reported = {seed for _, seeds in every for seed in seeds}
        every += [("tune.seeds", self.tune.seeds)] if self.tune else []
        found += [f"{where}: a seed is named twice." for where, seeds in every if len(set(seeds)) < len(seeds)]
        idle = sorted({*self.grids["tune.grid"]} & {key for one in METHODS.values() for key in one.personal_keys})
        found += [f"tune.grid.{key}: it changes no global model, and by that is chosen: drop it." for key in idle]
        if self.tune and (both := sorted(reported & {*self.tune.seeds})):
            found.append(f"tune.seeds: {both[0]} is a seed of the sweep, too: choose others than those reported.")
        return found

    def _keys(self) -> list[tuple[str, str]]:
        """List every key that is set, with the table it stands in."""
        every: dict[str, Mapping[str, Any]] = {**self.tables, **self.grids}
        return [(where, key) for where, table in every.items() for key in table]

    @property
    def tables(self) -> dict[str, Values]:
        """All tables of settings, by where they stand."""
        found: dict[str, Values] = {"settings": self.settings}
        found |= {f"data.{name}": data.values for name, data in self.data.items()}
        found |= {f"methods.{name}": method.values for name, method in self.methods.items()}
        found |= {f"tuned.{number}": one.values for number, one in enumerate(self.tuned)}
        return {**found, "tune.settings": self.tune.settings} if self.tune else found

    @property
    def grids(self) -> dict[str, dict[str, list[Scalar]]]:
        """Both tables of values to combine, by where they stand."""
        return {"grid": self.grid, "tune.grid": self.tune.grid if self.tune else {}}


def load_sweep(path: Path, changes: Mapping[str, Scalar] | None = None) -> SweepFile:
    """Read the file of a sweep.

    Parameters
    ----------
    path : Path
        Relative paths of data in it are relative to it.
    changes : mapping, optional
        Settings over its own, for all runs.

    Raises
    ------
    ConfigError
        Naming all that is wrong with it.
    """
    try:
        given = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} is not a readable TOML file: {error}") from error
    try:
        found = SweepFile.model_validate(_with_absolute_presets(given, path.absolute().parent))
    except ValidationError as error:
        raise ConfigError([f"{path}: {_explain(one)}" for one in error.errors(include_url=False)]) from error
    if problems := found.problems():
        raise ConfigError([f"{path}: {problem}" for problem in problems])
    for table in found.tables.values():
        table.update({key: anchored(key, value, path.absolute().parent) for key, value in table.items()})
    for grid in found.grids.values():
        grid.update({key: [anchored(key, one, path.absolute().parent) for one in axis] for key, axis in grid.items()})
    _change(found, changes or {})
    return found


def _with_absolute_presets(given: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Let presets that are files be named from the sweep's folder on."""

    def absolute(table: Any) -> Any:
        name = table.get("preset") if isinstance(table, dict) else None
        return {**table, "preset": str(folder / name)} if isinstance(name, str) and name.endswith(".toml") else table

    data = given.get("data")
    named = {"data": {name: absolute(one) for name, one in data.items()}} if isinstance(data, dict) else {}
    return {**absolute(given), **named}


def _change(file: SweepFile, changes: Mapping[str, Scalar]) -> None:
    """Put settings over all of the file; an axis of a grid is then that one value."""
    if settled := sorted(changes.keys() & {*_SETTLED}):
        raise ConfigError(f"--set {settled[0]}: {settled[0]} is settled by the sweep: drop it.")
    for table in file.tables.values():
        for key in table.keys() & changes.keys():
            del table[key]
    for grid in file.grids.values():
        grid.update({key: [changes[key]] for key in grid.keys() & changes.keys()})
    file.settings.update(changes)


def _explain(detail: Any) -> str:
    """Say where in the file something is wrong, what was given and what is allowed."""
    where = ".".join(str(part) for part in detail["loc"] if part != "values") or "the file"
    if detail["type"] == "extra_forbidden":
        near = difflib.get_close_matches(where, list(SweepFile.model_fields), 1)
        return f'unknown table or key "{where}".' + (f' Did you mean "{near[0]}"?' if near else "")
    if detail["type"] == "missing":
        return f"{where} is missing."
    given = repr(detail["input"])
    return f"{where} = {given[:60]}: {detail['msg'].replace('Value error, ', '')}."
