"""``fedpurel run``: settle settings and folder, hand over to the conductor, tell how it ended."""

from __future__ import annotations

import argparse
import contextlib
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from fedpurel_app import __version__
from fedpurel_app.config import (
    RunConfig,
    describe_keys,
)
from fedpurel_app.config.presets import DEFAULT_PRESET, load_preset, merged, preset_names
from fedpurel_app.core.errors import ConfigError, DiskFullError
from fedpurel_app.launch.choose import FAILED, INTERRUPTED, assignments, begun, resumed
from fedpurel_app.launch.processes import count_gpus, ray_address
from fedpurel_app.models.peft.registry import FAMILIES
from fedpurel_app.reporting.console import counting, show, text_lines
from fedpurel_app.reporting.outcome import Outcome, how_to_go_on, write_outcome
from fedpurel_app.reporting.run_folder import RunFolder
from fedpurel_app.reporting.terminal import Terminal, complain

if TYPE_CHECKING:
    from fedpurel_app.data.sources.source import Source

_GROUPS = {"paper": "as the paper describes it", "reference": "as the method's released code runs it"}


def _print_presets() -> None:
    """List presets by their folder, the default first."""
    names = sorted(preset_names(), key=lambda name: ("/" in name, name != DEFAULT_PRESET, name))
    group = ""
    for name in names:
        folder = name.rpartition("/")[0]
        if folder != group:
            print(f"\n{folder}/: {_GROUPS[folder]}")
            group = folder
        print(f"  {name:<26} {load_preset(name).title}{' (default)' if name == DEFAULT_PRESET else ''}")


InProcess = Callable[[RunConfig, Path, int | None], None]  # of checked settings, a folder, and threads


def run(options: argparse.Namespace, in_process: InProcess) -> int:
    """Run in a simulation here, resume, or list what there is.

    Parameters
    ----------
    options : Namespace
        Of the command line.
    in_process : callable
        Runs all sites in this process.

    Returns
    -------
    int
        The exit code.
    """
    if options.list_presets:
        _print_presets()
        return 0
    if options.list_keys:
        section = ""
        for heading, key, default, meaning in describe_keys():
            if heading != section:
                print(f"\n{heading}")
                section = heading
            print(f"  {key:<24} {default:<12} {meaning}")
        return 0
    with contextlib.ExitStack() as claims:
        if options.resume and (folder := RunFolder(options.resume.absolute())).was_begun:
            claims.enter_context(folder.claim())
        config, path, expect = _resume(options) if options.resume else _new(options)
        if options.in_process:
            claims.close()  # it claims the folder itself
            return _play(in_process, config, path, options.cpus_per_site, expect)
        preflight(config)
        if not options.resume:
            claims.enter_context(RunFolder(path).claim())
            RunFolder.create(path)
        return _conduct(options, config, path, expect)


def _new(options: argparse.Namespace) -> tuple[RunConfig, Path, str]:
    """Settle the settings and the folder of a new run, and what its preset says to expect."""
    preset = options.preset or DEFAULT_PRESET
    config, path = begun(preset, assignments(options.set), options.out.absolute() if options.out else None)
    return config, path, "" if options.set else load_preset(preset).expect


def _resume(options: argparse.Namespace) -> tuple[RunConfig, Path, str]:
    """Take up an earlier run, with what the command line says anew."""
    asked = assignments(options.set)
    asked = merged(load_preset(options.preset), asked) if options.preset else asked
    return resumed(options.resume.absolute(), asked), options.resume.absolute(), ""


def cpus(text: str) -> int:
    """Read ``--cpus-per-site``."""
    most = os.cpu_count() or 1
    if ray_address() and text.isdigit() and int(text) > most:
        return int(text)  # a cluster's machines may have more than this one
    if not text.isdigit() or not 1 <= int(text) <= most:
        raise argparse.ArgumentTypeError(f"{text}: choose 1 to {most}, what this machine has")
    return int(text)


def gpus(text: str) -> float:
    """Read ``--gpus-per-site``."""
    with contextlib.suppress(ValueError):
        value = float(text)
        if 0 <= value < math.inf:
            return value
    raise argparse.ArgumentTypeError(f"{text}: choose a number of at least 0; 0.25 lets four sites share one GPU")


def preflight(config: RunConfig) -> Source:
    """Meet bad data and a missing package here, before Flower starts; returns the data set."""
    from fedpurel_app.data.sources.catalog import load_source
    from fedpurel_app.data.sources.inspection import look_at
    from fedpurel_app.reporting.trackers import require_tracker

    require_tracker(config.tracker)
    # Not a rule of the settings: those are checked at sites as well, which tell a server nothing of its paths.
    if Path(config.state_dir or os.sep).is_file():
        raise ConfigError(
            f'state-dir = "{config.state_dir}" is a file: give a folder, or a path where one can be made.'
        )
    source = load_source(config.model_dump(by_alias=True))
    for note in source.notes:
        complain(f"data: {note}")
    with counting("Looking at images") as report:
        look_at(source, report)
    if config.backbone != "demo":
        import torch  # which the demo does without here

        from fedpurel_app.models.backbone import load_backbone

        inside = FAMILIES[config.peft].towers(config.model_dump(by_alias=True))
        load_backbone(config.backbone, torch.device("cpu"), config.pretrained).check(inside)
    return source


def _resources(options: argparse.Namespace, config: RunConfig, folder: RunFolder) -> tuple[int, float]:
    """Settle what a site takes: as asked, else as in the run that is resumed, else the default.

    The number of CPUs is the number of threads, which decides the last bits of the result.
    """
    before = folder.launch()
    number = options.cpus_per_site or before.get("cpus-per-site", 1)
    share = options.gpus_per_site
    if share is None:
        share = before.get("gpus-per-site") if count_gpus() else 0.0
    if share is None:
        share = 0.25 if config.device != "cpu" else 0.0
    folder.write_launch(number, share)
    return number, share


def _play(in_process: InProcess, config: RunConfig, path: Path, threads: int | None, expect: str) -> int:
    """Run in this process, and tell how it ended."""
    folder = RunFolder(path)
    print(f"fedpurel {__version__}: run folder {path}; all sites in this process", flush=True)
    try:
        in_process(config, path, threads)
    except KeyboardInterrupt:
        complain(f"stopped after round {_last_round(folder)}")
        complain(how_to_go_on(folder))
        return INTERRUPTED
    return _outcome(folder, "finished:completed", expect)


def _conduct(options: argparse.Namespace, config: RunConfig, path: Path, expect: str) -> int:
    from fedpurel_app.launch.own_superlink import Conductor
    from fedpurel_app.reporting.live import LiveView

    folder = RunFolder(path)
    number, share = _resources(options, config, folder)
    terminal = Terminal(f"nobody reads the output any more; the run goes on. Follow it: fedpurel watch {path}")
    terminal.say(f"fedpurel {__version__}: run folder {path}")
    where = f" on the Ray cluster at {address}" if (address := ray_address()) else ""
    takes = f"{config.num_sites} sites; each takes {number} CPU, {share:g} GPU"
    terminal.say(f"Flower is starting{where} with {takes} ...")
    folder.forget_outcome()
    status = why = "it did not start"
    try:
        conductor = Conductor(config.model_dump(by_alias=True), path, config.num_sites, number, share)
        with LiveView(terminal) as view:
            status = conductor.run(view.update)
        why = ": ".join(filter(None, [status, conductor.cause]))
    except KeyboardInterrupt:
        outcome = (folder.summary() or {}).get("outcome", "stopped")
        if outcome != "stopped":  # it was quicker
            return _outcome(folder, f"finished:{outcome}", expect)
        complain(f"stopped after round {_last_round(folder)}")
        complain(how_to_go_on(folder))
        mark(folder, config, "stopped", "interrupted by the user")
        return INTERRUPTED
    except Exception as error:
        why = str(error)
        raise
    finally:
        mark(folder, config, "failed", f"Flower ended the run: {why}")
    return _outcome(folder, status, expect)


def mark(folder: RunFolder, config: RunConfig, outcome: Outcome, error: str) -> None:
    """Write an outcome where the server could not."""
    if folder.summary() is not None:
        return
    try:
        write_outcome(folder, config.model_dump(by_alias=True), outcome, error)
    except DiskFullError as full:  # without an outcome in the folder the run can be resumed all the same
        complain(f"error: {full}")


def _last_round(folder: RunFolder) -> int:
    """Return the number of the last round that is saved."""
    return int(folder.read_json("state.json")["round"]) if (folder.path / "state.json").exists() else 0


def _outcome(folder: RunFolder, status: str, expect: str) -> int:
    summary = folder.summary() or {}
    if status == "finished:completed" and summary.get("outcome") == "completed":
        show(folder)
        if expect:
            print(f"expect: {expect}")
        return 0
    complain(f"error: the run {summary.get('outcome', 'failed')}: {text_lines(summary.get('error') or status)}")
    complain(f"logs: {folder.log}")
    complain(how_to_go_on(folder))
    return FAILED
