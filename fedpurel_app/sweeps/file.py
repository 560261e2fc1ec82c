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
from fedpurel_app.config.presets import PATH_KEYS
from fedpurel_app.core.errors import ConfigError

_SETTLED = ("seed", "out", "resume-from", "experiment-id", "state-dir")  # by the sweep
_MOST_SEEDS = 10_000

Scalar = bool | int | float | str
Values = dict[str, Scalar]


def read_seeds(given: object) -> object:
    """Read ``"200-219"``, ``"1, 2, 5"``, ``"0-4, 9"``, a number or a list of numbers.

    Examples
    --------
    >>> read_seeds("0-2, 9")
    [0, 1, 2, 9]
    """
    if isinstance(given, int) and not isinstance(given, bool):
        return [given]
    if not isinstance(given, str):
        return given
    seeds: list[int] = []
    for part in given.split(","):
        first, dash, last = (text.strip() for text in part.partition("-"))
        if not first.isdigit() or (dash and not last.isdigit()):
            raise ValueError(f'"{given}" is not of the form "200-219", "1, 2, 5" or [1, 2, 5]')
        if int(last or first) - int(first) >= _MOST_SEEDS:
            raise ValueError(f"{part.strip()} are more than {_MOST_SEEDS} seeds")
        seeds += range(int(first), int(last or first) + 1)
    return seeds


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


Seeds = Annotated[list[Annotated[int, Field(ge=0, lt=2**63)]], BeforeValidator(read_seeds), Field(min_length=1)]


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
    grid: dict[str, list[Scalar]]


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
    methods: dict[str, Annotated[Method, _apart("seeds")]] = Field(min_length=1)
    data: dict[str, Annotated[Data, _apart("preset")]] = {}
    grid: dict[str, Annotated[list[Scalar], Field(min_length=1)]] = {}
    tune: Tune | None = None
    tuned: list[Tuned] = []

    @model_validator(mode="before")
    @classmethod
    def _methods_by_name(cls, given: Any) -> Any:
        if isinstance(given, dict) and isinstance(names := given.get("methods"), list):
            by_title = {METHODS[name].title if name in METHODS else str(name): {"algorithm": name} for name in names}
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
        every = [("seeds", self.seeds), *((f"methods.{n}.seeds", m.seeds or []) for n, m in self.methods.items())]
        found += [f"{where}: a seed is named twice." for where, seeds in every if len(set(seeds)) < len(seeds)]
        reported = {seed for _, seeds in every for seed in seeds}
        if self.tune and (both := sorted(reported & {*self.tune.seeds})):
            found.append(f"tune.seeds: {both[0]} is a seed of the sweep, too: choose others than those reported.")
        return found

    def _keys(self) -> list[tuple[str, str]]:
        """List every key that is set, with the table it stands in."""
        tables: dict[str, Mapping[str, Any]] = {"settings": self.settings, "grid": self.grid}
        tables |= {f"data.{name}": data.values for name, data in self.data.items()}
        tables |= {f"methods.{name}": method.values for name, method in self.methods.items()}
        tables |= {"tune.grid": self.tune.grid, "tune.settings": self.tune.settings} if self.tune else {}
        return [(where, key) for where, table in tables.items() for key in table]


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
        found = SweepFile.model_validate(given)
    except ValidationError as error:
        raise ConfigError([f"{path}: {_explain(one)}" for one in error.errors(include_url=False)]) from error
    if problems := found.problems():
        raise ConfigError([f"{path}: {problem}" for problem in problems])
    tables = [found.settings, *(m.values for m in found.methods.values()), *(d.values for d in found.data.values())]
    for table in tables:
        for key in PATH_KEYS & table.keys():
            if table[key]:
                table[key] = str(path.absolute().parent / Path(str(table[key])).expanduser())
    for table in tables if changes else ():
        for key in table.keys() & (changes or {}).keys():
            del table[key]
    found.settings.update(changes or {})
    return found


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
