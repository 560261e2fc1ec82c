"""The ``fedpurel`` command."""

from __future__ import annotations

import argparse
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from fedpurel_app import __version__
from fedpurel_app.config import RunConfig, describe_keys, differences, load_config
from fedpurel_app.errors import ConfigError, FedPurelError, RunError, StateError
from fedpurel_app.presets import load_preset, preset_names
from fedpurel_app.reporting.run_folder import RunFolder, new_run_path

DEFAULT_PRESET = "shapes"
_PATH_KEYS = ("dataset-path", "state-dir")
_FAILED, _BAD_INPUT, _INTERRUPTED = 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        code: int = options.command(options)
        return code
    except FedPurelError as error:
        print(f"error: {error}", file=sys.stderr)
        return _FAILED if isinstance(error, RunError) else _BAD_INPUT


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fedpurel", description="Balanced federated fine-tuning of CLIP, under Flower."
    )
    parser.add_argument("--version", action="version", version=f"fedpurel {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="run an experiment in a simulation on this machine")
    run.set_defaults(command=_run)
    run.add_argument(
        "--preset", metavar="NAME", help=f"settings to start from (default: {DEFAULT_PRESET}), or a TOML file"
    )
    run.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="change one setting; repeatable")
    run.add_argument("--out", metavar="DIR", type=Path, help="run folder (default: a dated one under ~/fedpurel/runs)")
    run.add_argument("--resume", metavar="DIR", type=Path, help="continue the run in this folder")
    run.add_argument(
        "--cpus-per-site", metavar="N", type=int, default=1, help="CPUs for each site at work (default: 1)"
    )
    run.add_argument(
        "--gpus-per-site", metavar="X", type=float, help="GPU share of each (default: 0.25 with a GPU, else 0)"
    )
    run.add_argument("--list-presets", action="store_true", help="list presets and exit")
    run.add_argument("--list-keys", action="store_true", help="list all settings with defaults and exit")

    show = commands.add_parser("show", help="print the outcome of a run")
    show.set_defaults(command=_show)
    show.add_argument("run", type=Path)

    watch = commands.add_parser("watch", help="follow a run that goes on elsewhere")
    watch.set_defaults(command=_watch)
    watch.add_argument("run", type=Path)

    compare = commands.add_parser("compare", help="print a table of runs; seeds of one setting are averaged")
    compare.set_defaults(command=_compare)
    compare.add_argument("run", type=Path, nargs="+")
    compare.add_argument(
        "--out", metavar="STEM", type=Path, default=Path("comparison"), help="write STEM.csv and STEM.md"
    )

    plot = commands.add_parser("plot", help="draw a run's curves, classes and sites into its plots/")
    plot.set_defaults(command=_plot)
    plot.add_argument("run", type=Path)
    return parser


# --- run --------------------------------------------------------------------------------------------------------------


def _run(options: argparse.Namespace) -> int:
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
    changed = differences(config, load_config({**stored, **asked}))
    if changed:
        lines = [f"  {key}: the run has {ours!r}, now asked for {theirs!r}" for key, ours, theirs in changed]
        raise StateError("\n".join([f"{path} was made with other settings:", *lines, "Drop them, or start a new run."]))
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
    from fedpurel_app.conductor import Conductor, count_gpus
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
        return _INTERRUPTED
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
        _show_folder(folder)
        if expect:
            print(f"expect: {expect}")
        return 0
    print(f"error: the run {summary.get('outcome', 'failed')}: {summary.get('error')}", file=sys.stderr)
    print(f"logs: {folder.path / 'logs' / 'flower.log'}", file=sys.stderr)
    if (folder.path / "state.json").exists():
        print(f"continue with: fedpurel run --resume {folder.path}", file=sys.stderr)
    return _FAILED


# --- reading runs -----------------------------------------------------------------------------------------------------


def _show(options: argparse.Namespace) -> int:
    return _show_folder(RunFolder.open(options.run.absolute()))


def _show_folder(folder: RunFolder) -> int:
    from fedpurel_app.reporting.console import show_lines

    for line in show_lines(folder):
        print(line)
    return 0


def _watch(options: argparse.Namespace) -> int:
    import time

    from fedpurel_app.reporting.live import LiveView

    folder = RunFolder.open(options.run.absolute())
    try:
        with LiveView(Console()) as view:
            while folder.summary() is None:
                view.update(folder)
                time.sleep(0.5)
            view.update(folder)
    except KeyboardInterrupt:
        return _INTERRUPTED
    return _show_folder(folder)


def _compare(options: argparse.Namespace) -> int:
    from fedpurel_app.reporting.compare import compare

    for line in compare([RunFolder.open(path.absolute()) for path in options.run], options.out):
        print(line)
    return 0


def _plot(options: argparse.Namespace) -> int:
    from fedpurel_app.reporting.plots import draw

    for path in draw(RunFolder.open(options.run.absolute())):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
