"""``fedpurel run --superlink``: settle settings, have them run by a SuperLink that is there, tell how it ended."""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path

from fedpurel_app import __version__
from fedpurel_app.config import RunConfig, load_config
from fedpurel_app.config.presets import DEFAULT_PRESET, PATH_KEYS
from fedpurel_app.core.errors import ConfigError
from fedpurel_app.core.files import names_weights
from fedpurel_app.launch.choose import FAILED, INTERRUPTED, settings
from fedpurel_app.launch.other_superlink import RemoteRun
from fedpurel_app.launch.simulate import mark
from fedpurel_app.reporting.console import show
from fedpurel_app.reporting.log_view import LogView
from fedpurel_app.reporting.outcome import Outcome
from fedpurel_app.reporting.terminal import Terminal, complain

_PATIENCE = 30.0  # seconds for a server that was stopped to leave its folder


def run_remote(options: argparse.Namespace) -> int:
    """Submit, follow and report; returns the exit code.

    Raises
    ------
    ConfigError
        When settings or options cannot be used there.
    RunError
        When the SuperLink refuses, or is lost.
    """
    config = remote_settings(options)
    run = RemoteRun(config.model_dump(by_alias=True), options.superlink)
    terminal = Terminal(f"nobody reads the output any more; the run on {options.superlink} goes on")
    terminal.say(f"fedpurel {__version__}: submitting to {options.superlink} ({run.address}) ...")
    with LogView(terminal) as view:
        try:
            run.run(view.update)
        except KeyboardInterrupt:
            if run.status != "finished:completed":  # else it was quicker
                return _stopped(options, config, run, view)
    return _outcome(options, config, run, view)


def remote_settings(options: argparse.Namespace) -> RunConfig:
    """Settle the settings of a run elsewhere; paths refer to the ServerApp's machine and are not checked here.

    Raises
    ------
    ConfigError
        Naming all options that have no use there, and relative paths.
    """
    problems = [
        f"--{name} is for a simulation on this machine; with --superlink each node works with what it has: drop it."
        for name in ("cpus-per-site", "gpus-per-site")
        if getattr(options, name.replace("-", "_")) is not None
    ]
    if options.in_process:
        problems.append("--in-process is for this machine alone, --superlink for others: drop one of them.")
    paths = {"--out": options.out, "--resume": options.resume}
    for pair in options.set:
        key, _, text = pair.partition("=")
        text = text.strip("\"'")
        if (key in PATH_KEYS and text) or (key == "pretrained" and names_weights(text)):
            paths[f"--set {key}"] = Path(text)
    problems += [
        f"{name} {path}: with --superlink this is a path on the ServerApp's machine: give an absolute one."
        for name, path in paths.items()
        if path is not None and not path.is_absolute()
    ]
    if problems:
        raise ConfigError(problems)
    preset = options.preset or DEFAULT_PRESET
    # The number of sites of our own presets is that of a simulation; here there are as many as there are.
    sites = [] if preset.endswith(".toml") else ["num-sites=0"]
    config = settings(preset, [*sites, *options.set])
    places = {"out": str(options.out or ""), "resume-from": str(options.resume or "")}
    return load_config({**config.model_dump(by_alias=True), **places})


def _stopped(options: argparse.Namespace, config: RunConfig, run: RemoteRun, view: LogView) -> int:
    _close(config, view, "stopped", "interrupted by the user")
    complain("stopped")
    _say_how_to_go_on(options, view)
    return INTERRUPTED


def _outcome(options: argparse.Namespace, config: RunConfig, run: RemoteRun, view: LogView) -> int:
    if run.status == "finished:completed":
        if view.folder is not None:
            show(view.folder)
        return 0
    how: Outcome = "stopped" if run.status == "finished:stopped" else "failed"
    why = ": ".join(filter(None, [run.details, run.cause]))
    _close(config, view, how, f"Flower ended the run: {why}")
    complain(f"error: the run {how}: {why}")
    complain(f"log: flwr log {run.run_id} {options.superlink} --show")
    _say_how_to_go_on(options, view)
    return FAILED


def _close(config: RunConfig, view: LogView, outcome: Outcome, error: str) -> None:
    """Write an outcome where the server could not, if its folder is here and ours to write.

    Flower tells that a run has ended before the server's process has: until then the folder is in use, and a resume
    that is typed at once would be refused.
    """
    if view.folder is not None:
        view.folder.wait_for_server(_PATIENCE)
        with contextlib.suppress(OSError):
            mark(view.folder, config, outcome, error)


def _say_how_to_go_on(options: argparse.Namespace, view: LogView) -> None:
    if view.path:
        same = " ".join(["--set '" + pair + "'" for pair in options.set])
        preset = f" --preset {options.preset}" if options.preset else ""
        again = f"fedpurel run --superlink {options.superlink} --resume {view.path}{preset} {same}".rstrip()
        complain(f"If a round was finished there, continue with: {again}")
    else:
        complain("The run had not started: run it again." if options.resume is None else "It was not resumed.")
