"""Published numbers, beside which a run's own are printed where data, family, backbone and method agree."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from fedpurel_app.algorithms.balancers.registry import BALANCERS
from fedpurel_app.algorithms.registry import METHODS


@dataclass(frozen=True)
class Published:
    """What was published of a method.

    Parameters
    ----------
    name : str
        As its authors call it.
    source : str
    scores : mapping of str to mapping of str to float
        By "global" and "personalized", then by score, in percent.
    unlike : str
        Settings of the publication that the run does not share, in words; empty where it has them all.
    """

    name: str
    source: str
    scores: Mapping[str, Mapping[str, float]]
    unlike: str = ""


def find_published(settings: Mapping[str, Any]) -> Published | None:
    """Return what was published under the settings of a run; None where nothing was.

    Parameters
    ----------
    settings : mapping
        Of the run, by key. A method's further options have to be at their defaults: a variant was not published.
    """
    known = _read()
    if settings.get("partition") == "iid":  # where alpha has no use
        return None
    name = next((name for name, needed in known["methods"].items() if _agrees(settings, needed)), None)
    if name is None or not _agrees(settings, known["data"]) or not _is_plain(settings, known["methods"][name]):
        return None
    for numbers in known["numbers"]:
        if name in numbers and _agrees(settings, numbers["data"]):
            unlike = {key: value for key, value in known["published_with"].items() if settings.get(key) != value}
            words = [f"{key} {value:g}, here {settings.get(key, '–')}" for key, value in unlike.items()]
            return Published(name, known["source"], numbers[name], "; ".join(words))
    return None


@cache
def _read() -> dict[str, Any]:
    return tomllib.loads(files(__package__).joinpath("published.toml").read_text("utf-8"))


def _agrees(settings: Mapping[str, Any], needed: Mapping[str, Any]) -> bool:
    return all(settings.get(key) == value for key, value in needed.items())


def _is_plain(settings: Mapping[str, Any], named: Mapping[str, Any]) -> bool:
    defaults = {**METHODS[named["algorithm"]].defaults(), **BALANCERS[named["balancer"]].defaults()}
    return all(settings.get(key, value) == value for key, value in defaults.items() if key not in named)
