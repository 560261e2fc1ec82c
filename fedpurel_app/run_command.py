"""``fedpurel run``: settle settings and folder, hand over to the conductor, tell how it ended."""

from __future__ import annotations

import argparse
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from fedpurel_app import __version__
from fedpurel_app.config import RunConfig, describe_keys, load_config, require_same
from fedpurel_app.errors import ConfigError, StateError
from fedpurel_app.presets import load_preset, preset_names
from fedpurel_app.reporting.console import show
from fedpurel_app.reporting.run_folder import RunFolder, new_run_path

DEFAULT_PRESET = "shapes"
FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130  # exit codes
_PATH_KEYS = ("dataset-path", "state-dir")


def run(options: argparse.Namespace) -> int:
    """Run, resume, or list what there is; returns the exit code."""
    if options.list_presets:
        for name in preset_names():
            print(f"{name:<24} {load_preset(name).title}")
        return 0
    if options.list_keys:
        section = ""
        for heading, key, default, meaning in describe_keys():
            if heading != section:
                print(f"\n{heading}")
                section = heading
            print(f"  {key:<24} {default:<12} {meaning}")
        return 0
    config, folder, expect = _resume(options) if options.resume else _new(options)
    _preflight(config, folder)
    return _conduct(options, config, folder, expect)


def _new(options: argparse.Namespace) -> tuple[RunConfig, Path, str]:
    """Settle the settings and the folder of a new run."""
    preset = load_preset(options.preset or DEFAULT_PRESET)
    values = {**preset.values, **_assignments(options.set)}
    config = load_config(values)
    path = (
        options.out.absolute()
        if options.out
        else new_run_path(config.algorithm, config.peft, config.dataset, config.seed)
    )
    sites = config.num_sites or config.suggested_sites
    expect = preset.expect if not options.set else ""
    return load_config({**values, "out": str(path), "num-sites": sites}), path, expect


def _resume(options: argparse.Namespace) -> tuple[RunConfig, Path, str]:
    """Take the settings of an earlier run; refuse any that differ."""
    path = options.resume.absolute()
    folder = RunFolder.open(path)
    stored = folder.read_json("config.json")["config"]
    asked = {**(load_preset(options.preset).values if options.preset else {}), **_assignments(options.set)}
    config = load_config({**stored, "resume-from": str(path)})
    require_same(config, load_config({**stored, **asked}), path)
    if (summary := folder.summary()) and summary["outcome"] == "completed":
        raise StateError(f"{path} is complete; there is nothing to resume.")
    if not config.num_sites:
        sites = len(folder.read_checkpoint()[1]["roster"])
        raise StateError(
            f"{path} was run on a federation of its own with {sites} sites. Resume it there: flwr run . --stream "
            f"--run-config 'resume-from=\"{path}\"'"
        )
    return config, path, ""


def _assignments(pairs: Sequence[str]) -> dict[str, Any]:
    """Read KEY=VALUE pairs; what is not TOML is text. Relative paths become absolute here, where the user is."""
    values: dict[str, Any] = {}
    for pair in pairs:
        key, sign, text = pair.partition("=")
        if not sign:
            raise ConfigError(f'--set "{pair}": write KEY=VALUE, for example --set seed=1.')
        if key in ("out", "resume-from"):
            raise ConfigError(f"--set {pair}: use {'--out DIR' if key == 'out' else '--resume DIR'} instead.")
        try:
            values[key] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            values[key] = text
        if key in _PATH_KEYS and text:
            values[key] = str(Path(str(values[key])).expanduser().absolute())
    return values


def _preflight(config: RunConfig, folder: Path) -> None:
    """Meet bad data and a bad folder here, before Flower starts."""
    from fedpurel_app.data.catalog import DATASETS

    DATASETS[config.dataset].load(config.dataset_path, config.max_per_class)
    if not config.resume_from:
        RunFolder.create(folder)


def _conduct(options: argparse.Namespace, config: RunConfig, path: Path, expect: str) -> int:
    from fedpurel_app.conductor import Conductor
    from fedpurel_app.processes import count_gpus
    from fedpurel_app.reporting.live import LiveView

    folder, gpus = RunFolder(path), options.gpus_per_site
    if gpus is None:
        gpus = 0.25 if config.device != "cpu" and count_gpus() else 0.0
    print(f"fedpurel {__version__}: run folder {path}")
    print(f"Flower is starting with {config.num_sites} sites; each takes {options.cpus_per_site} CPU, {gpus:g} GPU ...")
    settings = config.model_dump(by_alias=True)
    conductor = Conductor(settings, path, config.num_sites, options.cpus_per_site, gpus)
    status = ""
    try:
        with LiveView(Console()) as view:
            status = conductor.run(view.update)
    except KeyboardInterrupt:
        _mark(folder, "stopped", "interrupted by the user")
        if (folder.summary() or {})["outcome"] == "completed":  # it was quicker
            return _outcome(folder, "finished:completed", expect)
        print(f"\nstopped. Continue with: fedpurel run --resume {path}", file=sys.stderr)
        return INTERRUPTED
    finally:
        _mark(folder, "failed", f"Flower ended the run: {status or 'it did not start'}")
    return _outcome(folder, status, expect)


def _mark(folder: RunFolder, outcome: str, error: str) -> None:
    """Write an outcome where the server could not."""
    if folder.summary() is None:
        folder.write_json("summary.json", {"outcome": outcome, "error": error, "rounds": len(folder.rounds())})


def _outcome(folder: RunFolder, status: str, expect: str) -> int:
    summary = folder.summary() or {}
    if status == "finished:completed" and summary.get("outcome") == "completed":
        show(folder)
        if expect:
            print(f"expect: {expect}")
        return 0
    print(f"error: the run {summary.get('outcome', 'failed')}: {summary.get('error')}", file=sys.stderr)
    print(f"logs: {folder.path / 'logs' / 'flower.log'}", file=sys.stderr)
    if (folder.path / "state.json").exists():
        print(f"continue with: fedpurel run --resume {folder.path}", file=sys.stderr)
    return FAILED
