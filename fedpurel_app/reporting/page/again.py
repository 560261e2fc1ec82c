"""The command that makes a run again: a preset, and what the run has otherwise."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Any

from fedpurel_app.config import load_config, stored_config, without_idle, written_value
from fedpurel_app.config.presets import DEFAULT_PRESET, Preset, load_preset, merged, preset_names
from fedpurel_app.core.errors import ConfigError
from fedpurel_app.reporting.page.snapshot import Snapshot
from fedpurel_app.reporting.run_folder import PERSONALIZED
from fedpurel_app.reporting.settings import DEFAULTS

_OWN = ("out", "resume-from", "experiment-id")  # of one run alone


def command(run: Snapshot, places: bool = True) -> str:
    """Return the command that makes a run again in a folder of its own, quoted for a shell.

    Parameters
    ----------
    run : Snapshot
    places : bool
        Whether files and folders are named with those that they lie in.

    Raises
    ------
    ConfigError
        Why there is none: the settings are another version's, nobody knows the number of sites, or it is no run.
    """
    if PERSONALIZED in run.content:
        raise ConfigError(
            "fedpurel personalize made this model, from the global model of another run and the data of one site"
        )
    config = stored_config(run.config).model_dump(by_alias=True)
    is_own = config["dataset"] == "sites"
    sites = config["num-sites"] or (0 if is_own else len(run.roster))
    if not (sites or is_own):
        raise ConfigError("the number of sites is not known, for none had answered")
    wanted = {key: value for key, value in {**config, "num-sites": sites}.items() if key not in _OWN}
    presets = sorted(preset_names(), key=lambda name: (name != DEFAULT_PRESET, name))
    found = {name: asked for name in presets if (asked := _asked(load_preset(name), wanted, is_own)) is not None}
    if not found:
        raise ConfigError("no preset with changes gives these settings in this version")
    name = min(found, key=lambda one: len(found[one]))
    where = ["--superlink", "CONNECTION"] if is_own else _shares(run.launch())
    values = {key: value if places else _without_place(value) for key, value in found[name].items()}
    sets = [word for key, value in values.items() for word in ("--set", f"{key}={written_value(value)}")]
    return shlex.join(["fedpurel", "run", "--preset", name, *sets, *where])


def _asked(preset: Preset, wanted: Mapping[str, Any], is_own: bool) -> dict[str, Any] | None:
    """Return what is to be set beside a preset; None where that does not give what is wanted."""
    base = _settled({**DEFAULTS, **preset.values}, is_own)
    asked = {key: value for key, value in without_idle(wanted).items() if value != base[key]}
    try:
        given = load_config(_settled({**DEFAULTS, **merged(preset, asked)}, is_own)).model_dump(by_alias=True)
    except ConfigError:
        return None
    return asked if all(given[key] == value for key, value in wanted.items()) else None


def _without_place(value: Any) -> Any:
    """Leave of an absolute path its last name."""
    return re.sub(r"^[/~].*/(?=.)", "", value.rstrip("/")) if isinstance(value, str) else value


def _settled(values: dict[str, Any], is_own: bool) -> dict[str, Any]:
    """Put the number of sites that a simulation has where none is given."""
    return values if is_own else {**values, "num-sites": values["num-sites"] or values["suggested-sites"]}


def _shares(launch: Mapping[str, Any]) -> list[str]:
    """Return what each site got: the number of threads decides the last bits."""
    threads, gpus = launch.get("cpus-per-site", 1), launch.get("gpus-per-site")
    return [
        *(["--cpus-per-site", str(threads)] if threads != 1 else []),
        *(["--gpus-per-site", f"{gpus:g}"] if gpus else []),
    ]
