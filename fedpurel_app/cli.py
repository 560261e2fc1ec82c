"""The ``fedpurel`` command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from fedpurel_app import __version__, run_command
from fedpurel_app.errors import FedPurelError, RunError
from fedpurel_app.reporting.console import show
from fedpurel_app.reporting.run_folder import RunFolder


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        code: int = options.command(options)
        return code
    except FedPurelError as error:
        print(f"error: {error}", file=sys.stderr)
        return run_command.FAILED if isinstance(error, RunError) else run_command.BAD_INPUT


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fedpurel", description="Balanced federated fine-tuning of CLIP, under Flower."
    )
    parser.add_argument("--version", action="version", version=f"fedpurel {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="run an experiment in a simulation on this machine, or elsewhere")
    run.set_defaults(command=run_command.run)
    run.add_argument(
        "--preset",
        metavar="NAME",
        help=f"settings to start from (default: {run_command.DEFAULT_PRESET}), or a TOML file",
    )
    run.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="change one setting; repeatable")
    where = run.add_mutually_exclusive_group()
    where.add_argument(
        "--out", metavar="DIR", type=Path, help="run folder (default: a dated one under ~/fedpurel/runs)"
    )
    where.add_argument("--resume", metavar="DIR", type=Path, help="continue the run in this folder")
    run.add_argument(
        "--cpus-per-site", metavar="N", type=run_command.cpus, help="CPUs for each site at work (default: 1)"
    )
    run.add_argument(
        "--gpus-per-site",
        metavar="X",
        type=run_command.gpus,
        help="GPU share of each (default: 0.25 with a GPU, else 0)",
    )
    run.add_argument(
        "--superlink",
        metavar="CONNECTION",
        help="run on the SuperLink of this connection of Flower's configuration; DIR is then a path at its ServerApp",
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

    doctor = commands.add_parser("doctor", help="print what a setting needs on this machine, and what is there")
    doctor.set_defaults(command=_doctor)
    doctor.add_argument("--preset", metavar="NAME", default=run_command.DEFAULT_PRESET, help="as for run")
    doctor.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="as for run")
    return parser


def _doctor(options: argparse.Namespace) -> int:
    config = run_command.settings(options.preset, options.set)
    from fedpurel_app.doctor import examine  # loads torch

    for line in examine(config):
        print(line)
    return 0


# --- reading runs -----------------------------------------------------------------------------------------------------


def _show(options: argparse.Namespace) -> int:
    show(RunFolder.open(options.run.absolute()))
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
        return run_command.INTERRUPTED
    show(folder)
    return 0


def _compare(options: argparse.Namespace) -> int:
    from fedpurel_app.reporting.compare import compare

    for line in compare([path.absolute() for path in options.run], options.out.absolute()):
        print(line)
    return 0


def _plot(options: argparse.Namespace) -> int:
    from fedpurel_app.reporting.plots import draw

    for path in draw(RunFolder.open(options.run.absolute())):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
