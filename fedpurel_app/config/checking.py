"""Check settings, and say everything that is wrong with them at once."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from fedpurel_app.config.idle import idle_keys
from fedpurel_app.config.model import REGISTRIES, RunConfig
from fedpurel_app.config.rules import broken_rules
from fedpurel_app.config.text import known_keys, to_toml
from fedpurel_app.core.errors import ConfigError, StateError

# Keys that say where and on what a run runs, not what it computes: they may differ between a run and its resumption.
PLACE_KEYS = frozenset({"out", "resume-from", "device", "console", "tracker", "dataset-path", "image-root"})


def load_config(values: Mapping[str, Any]) -> RunConfig:
    """Check settings.

    Parameters
    ----------
    values : mapping of str to bool, int, float or str
        Kebab-case keys; what is absent takes its default.

    Returns
    -------
    RunConfig

    Raises
    ------
    ConfigError
        Naming every problem: what was given, what is allowed, and the nearest name for a misspelt key.
    """
    problems: list[str] = []
    wrong: set[str] = set()
    try:
        config = RunConfig.model_validate(dict(values))
    except ValidationError as error:
        details = error.errors(include_url=False)
        problems, wrong = _explain(details, values), {str(detail["loc"][0]) for detail in details}
        config = RunConfig.model_validate({key: value for key, value in values.items() if key not in wrong})
    problems += [rule.message for rule in broken_rules(config) if not rule.keys & wrong]
    if problems:
        raise ConfigError(problems)
    return config


def without_idle(values: Mapping[str, Any], kept: Iterable[str] = ()) -> dict[str, Any]:
    """Return settings without the keys that their own method and family have no use for.

    A preset is made for one method and one family; with another one, its options give way.

    Parameters
    ----------
    values : mapping of str to bool, int, float or str
        Kebab-case keys, checked or not.
    kept : iterable of str
        Keys that stay all the same, as the ones that a user asked for: they are worth an error.
    """
    defaults = {str(field.alias): field.default for field in RunConfig.model_fields.values()}
    every: dict[str, Any] = {**defaults, **values}
    if not all(isinstance(every[kind], str) and every[kind] in known for kind, known in REGISTRIES.items()):
        return dict(values)
    idle = idle_keys(every).keys() - set(kept)
    return {key: value for key, value in values.items() if key not in idle}


def stored_config(values: Mapping[str, Any]) -> RunConfig:
    """Check the settings of an earlier run; a key without effect, which older versions let pass, takes its default."""
    return load_config(without_idle(values))


def require_same(old: RunConfig, new: RunConfig, path: Path) -> None:
    """Raise StateError, naming every difference, when a run is to be resumed under other settings.

    Parameters
    ----------
    old, new : RunConfig
        Settings of the run, and those asked for now; keys of place may differ.
    path : Path
        The run's folder, for the message.
    """
    left, right = old.model_dump(by_alias=True), new.model_dump(by_alias=True)
    changed = [key for key in left if key not in PLACE_KEYS and left[key] != right[key]]
    if changed:
        lines = [f"  {key}: the run has {left[key]!r}, now asked for {right[key]!r}" for key in changed]
        head, tail = f"{path} was made with other settings:", "Give these as the run has them, or start a new run."
        raise StateError("\n".join([head, *lines, tail]))


def _explain(details: list[ErrorDetails], values: Mapping[str, Any]) -> list[str]:
    """Turn pydantic's findings into one line per key: given, allowed, meaning, and the nearest name."""
    expected: dict[str, list[str]] = {}
    for detail in details:  # a key of several types has one finding for each
        expected.setdefault(str(detail["loc"][0]), []).append(detail["msg"].replace("Input should be ", ""))
    lines = []
    for key, allowed in expected.items():
        if key not in known_keys():
            hint = _nearest(key, known_keys()) or " fedpurel run --list-keys lists all keys."
            lines.append(f'unknown key "{key}".{hint}')
            continue
        field = RunConfig.model_fields[key.replace("-", "_")]
        given = to_toml(values[key]) if isinstance(values[key], bool | int | float | str) else repr(values[key])
        hint = _nearest(str(values[key]), re.findall(r"'([^']+)'", " ".join(allowed)))
        lines.append(f"{key} = {given}: should be {' or '.join(allowed)} ({field.description}).{hint}")
    return lines


def _nearest(word: str, words: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(words), 1)
    return f' Did you mean "{near[0]}"?' if near else ""
