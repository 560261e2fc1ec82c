"""From a preset and what a user asks for to the checked settings of a run, and to its folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedpurel_app.config import RunConfig, load_config, read_value, require_same, stored_config, to_run_config
from fedpurel_app.config.presets import anchored, load_preset, merged
from fedpurel_app.core.errors import ConfigError, StateError
from fedpurel_app.core.names import listed
from fedpurel_app.reporting.run_folder import LAUNCH, RunFolder, new_run_path

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130  # exit codes


def settings(preset: str, changes: Sequence[str]) -> RunConfig:
    """Settle settings from a preset and changes to it, as KEY=VALUE.

    Raises
    ------
    ConfigError
        Naming all that is wrong with them.
    """
    return load_config(merged(load_preset(preset), assignments(changes)))


def begun(preset: str, asked: Mapping[str, Any], out: Path | None) -> tuple[RunConfig, Path]:
    """Settle the settings and the folder of a new run, in which all sites are simulated.

    Parameters
    ----------
    preset : str
    asked : mapping
        Settings over it.
    out : Path, optional
        Absolute; else a dated folder is named.

    Raises
    ------
    ConfigError
        Naming all that is wrong with them.
    """
    values = merged(load_preset(preset), asked)
    if values.get("partition") == "natural" and "num-sites" not in asked:
        values.pop("num-sites", None)  # of the preset; the data have their own
    config = simulated(values)
    path = out or new_run_path(config.algorithm, config.peft, config.dataset, config.seed)
    return load_config({**values, "num-sites": config.num_sites, "out": str(path)}), path


def simulated(values: Mapping[str, Any]) -> RunConfig:
    """Check the settings of a simulation, and settle its number of sites.

    Raises
    ------
    ConfigError
        Naming all that is wrong with them.
    DataError
        When the data say how many there are, and cannot be read.
    """
    config = load_config(values)
    _refuse_own_sites(config, "")
    return load_config({**values, "num-sites": _natural_sites(config) or config.num_sites or config.suggested_sites})


def _natural_sites(config: RunConfig) -> int:
    """Count the sites that the data themselves name; 0 where they are dealt out to any number."""
    if config.partition != "natural":
        return 0
    from fedpurel_app.data.sources.catalog import load_source

    source = load_source(config.model_dump(by_alias=True))
    names = source.centres.names if source.centres else ()
    if config.num_sites not in (0, len(names)):
        raise ConfigError(
            f'num-sites = {config.num_sites}: with partition = "natural" there are the sites that '
            f"{config.dataset_path} names, {len(names)} ({listed(names, 6)}). Drop num-sites, or set it to 0."
        )
    return len(names)


def resumed(path: Path, asked: Mapping[str, Any]) -> RunConfig:
    """Take the settings of an earlier run; only where and on what it runs may be changed.

    Parameters
    ----------
    path : Path
        Its folder.
    asked : mapping
        Settings of now.

    Raises
    ------
    ConfigError, StateError
        When there is no such run, it is complete, was made elsewhere, or other settings are asked for.
    """
    folder = RunFolder.open(path)
    stored = stored_config(folder.read_json("config.json")["config"])
    _refuse_own_sites(stored, f" --resume {path}")
    wanted = load_config({**stored.model_dump(by_alias=True), **asked, "resume-from": str(path)})
    require_same(stored, wanted, path)
    if (summary := folder.summary()) and summary["outcome"] == "completed":
        raise StateError(f"{path} is complete; there is nothing to resume.")
    _, state = folder.read_checkpoint()
    if not (folder.path / LAUNCH).exists():
        raise StateError(
            f"{path} was not begun by fedpurel run. Resume it where it was: flwr run . --stream "
            f"--federation-config 'num-supernodes={len(state['roster'])}' --run-config '{to_run_config(wanted)}'"
            f"\nOn nodes of a SuperLink: fedpurel run --superlink CONNECTION --resume {path}"
        )
    return wanted


def _refuse_own_sites(config: RunConfig, more: str) -> None:
    """Refuse a simulation of sites that bring their own data; ``more`` is added to the command that has them."""
    if config.dataset == "sites":
        raise ConfigError(
            'dataset = "sites": every site brings its own data, which a simulation has not: submit to real nodes with '
            f"`fedpurel run --superlink CONNECTION{more}`, or choose another data set."
        )


def assignments(pairs: Sequence[str]) -> dict[str, Any]:
    """Read KEY=VALUE pairs; what is not TOML is text. Relative paths become absolute here, where the user is."""
    values: dict[str, Any] = {}
    for pair in pairs:
        key, sign, text = pair.partition("=")
        if not sign:
            raise ConfigError(f'--set "{pair}": write KEY=VALUE, for example --set seed=1.')
        if key in ("out", "resume-from"):
            raise ConfigError(f"--set {pair}: use {'--out DIR' if key == 'out' else '--resume DIR'} instead.")
        values[key] = anchored(key, read_value(text), Path.cwd())
    return values
