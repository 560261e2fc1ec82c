"""What can be written behind ``fedpurel``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from fedpurel_app import __version__
from fedpurel_app.cli.parser_parts import Parser, add_command, port, positive
from fedpurel_app.cli.parser_using import add_using
from fedpurel_app.config.presets import DEFAULT_PRESET
from fedpurel_app.launch import simulate

# Pictures of several runs.
ACROSS = {
    "balancedness": "Balancedness of global and personalized models by method",
    "sweep": "accuracy of personalized models against private-weight",
    "convergence": "accuracy of the global model over rounds by method",
    "tail": "accuracy minus zero-shot's, class by class from head to tail, by method",
}


def make_parser() -> argparse.ArgumentParser:
    """Make the parser; ``command`` of what it reads is the name of the sub-command."""
    parser = Parser(prog="fedpurel", description="Balanced federated fine-tuning of CLIP, under Flower.")
    parser.add_argument("--version", action="version", version=f"fedpurel {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)
    _add_run(add_command(commands, "run", "run an experiment in a simulation on this machine, or elsewhere",
                      "--preset shapes --set algorithm=ditto --set seed=1"))  # fmt: skip
    does = "run what a file of methods, data and seeds asks for, and is not done yet"
    _add_sweep(add_command(commands, "sweep", does, "sweeps/demo.toml --jobs 2"))
    _add_reading(commands)
    add_using(commands)
    doctor = add_command(
        commands,
        "doctor",
        "print what a setting needs on this machine, and what is there",
        "--preset paper/cifar100-lora",
    )
    doctor.add_argument("--preset", metavar="NAME", help="as for run")
    doctor.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="as for run")
    doctor.add_argument(
        "--node-config",
        metavar="TEXT",
        help="look at a node instead, started with this text: its settings, data and folders, and with --preset or "
        "--set whether it serves such a run",
    )
    _add_data(add_command(commands, "data", "say of data what is there, and what is wrong with it, before any run",
                       "check all.csv --set label-column=diagnosis"))  # fmt: skip
    keygen = add_command(
        commands,
        "keygen",
        "write a new key file, for a site that encrypts its private branch",
        "/etc/fedpurel/site.key",
    )
    keygen.add_argument("file", metavar="FILE", type=Path)
    return parser


def _add_data(data: argparse.ArgumentParser) -> None:
    """Add what is done with data; ``action`` of what is read is its name."""
    check = add_command(
        data.add_subparsers(required=True, metavar="ACTION", dest="action"),
        "check",
        "count images class by class and site by site, and name all that is wrong; exit code 1 where something is",
        "all.csv --set label-column=diagnosis",
    )
    check.set_defaults(command="data")
    check.epilog = "example:\n  fedpurel data check all.csv --set label-column=diagnosis"
    check.add_argument(
        "path",
        metavar="PATH",
        type=Path,
        help="a table of images, a folder of classes, of parts or of sites, parquet, or an .npz of features",
    )
    check.add_argument("--set", metavar="KEY=VALUE", action="append", default=[],
                       help="columns of a table, image-root, classes, group-by, seed; repeatable")  # fmt: skip
    check.add_argument("--json", action="store_true", help="print JSON")


def _add_run(run: argparse.ArgumentParser) -> None:
    run.add_argument(
        "--preset",
        metavar="NAME",
        help=f"settings to start from (default: {DEFAULT_PRESET}), or a TOML file",
    )
    run.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="change one setting; repeatable")
    where = run.add_mutually_exclusive_group()
    where.add_argument(
        "--out", metavar="DIR", type=Path, help="run folder (default: a dated one under ~/fedpurel/runs)"
    )
    where.add_argument("--resume", metavar="DIR", type=Path, help="continue the run in this folder")
    run.add_argument("--cpus-per-site", metavar="N", type=simulate.cpus, help="CPUs for each site at work (default: 1)")
    run.add_argument(
        "--gpus-per-site",
        metavar="X",
        type=simulate.gpus,
        help="GPU share of each (default: 0.25 with a GPU, else 0)",
    )
    run.add_argument(
        "--in-process",
        action="store_true",
        help="run all sites in this process, one after the other: no Ray, breakpoints work, the same bits",
    )
    run.add_argument(
        "--superlink",
        metavar="CONNECTION",
        help="run on the SuperLink of this connection of Flower's configuration; DIR is then a path at its ServerApp",
    )
    run.add_argument("--list-presets", action="store_true", help="list presets and exit")
    run.add_argument("--list-keys", action="store_true", help="list all settings with defaults and exit")


def _add_sweep(sweep: argparse.ArgumentParser) -> None:
    sweep.add_argument("file", metavar="FILE", type=Path, help="a TOML file: docs/sweeps.md")
    sweep.add_argument("--out", metavar="DIR", type=Path, help="its folder (default: ~/fedpurel/sweeps/NAME)")
    sweep.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="a setting of all runs")
    sweep.add_argument("--jobs", metavar="N", type=positive, help="runs at a time (default: what this machine holds)")
    sweep.add_argument(
        "--cpus-per-run", metavar="N", type=simulate.cpus, default=1, help="threads of each run (default: 1)"
    )
    sweep.add_argument("--tune", action="store_true", help="choose settings as [tune] says, and write them into FILE")
    sweep.add_argument("--dry-run", action="store_true", help="say what would be run, and exit")


def _add_reading(commands: Any) -> None:
    status = add_command(commands, "status", "list the runs and sweeps on this machine, and what they do", "--json")
    status.add_argument("folder", metavar="DIR", type=Path, nargs="?",
                        help="with runs and sweeps in it (default: ~/fedpurel, or FEDPUREL_HOME)")  # fmt: skip
    status.add_argument("--all", action="store_true", help="also what ended long ago")
    status.add_argument("--json", action="store_true", help="print JSON, all there is")
    show = add_command(commands, "show", "print the outcome of a run", "~/fedpurel/runs/2026-11-21_...")
    show.add_argument("run", type=Path)
    watch = add_command(
        commands, "watch", "follow a run that goes on elsewhere on this machine", "~/fedpurel/runs/2026-11-21_..."
    )
    watch.add_argument("run", type=Path)
    compare = add_command(
        commands, "compare", "print a table of runs; seeds of one setting are averaged", "~/fedpurel/runs/* --out table"
    )
    compare.add_argument("run", type=Path, nargs="+")
    compare.add_argument("--out", metavar="STEM", type=Path, help="also write STEM.csv and STEM.md")
    _add_table(commands)
    _add_report(commands)
    does = "print the card of a run's model, as Markdown"
    model_card = add_command(commands, "card", does, "~/fedpurel/runs/2026-11-21_... > MODEL_CARD.md")
    model_card.add_argument("run", metavar="RUN", type=Path, help="run folder")
    does = "draw a run's curves, classes and sites into its plots/, or one picture of several runs"
    plot = add_command(commands, "plot", does, "~/fedpurel/runs/* --across balancedness --out picture")
    plot.add_argument("run", type=Path, nargs="+")
    kinds = "; ".join(f"{name}: {title}" for name, title in ACROSS.items())
    plot.add_argument("--across", metavar="KIND", choices=ACROSS, help=f"seeds of one setting are averaged; {kinds}")
    plot.add_argument("--out", metavar="STEM", type=Path,
                      help="with --across: write STEM.png, STEM.svg and STEM.csv (default: KIND)")  # fmt: skip


def _add_report(commands: Any) -> None:
    does = "write the page of a run or of a sweep, one HTML file, or show it in a browser while it goes on"
    report = add_command(commands, "report", does, "~/fedpurel/runs/2026-11-21_... --out report.html")
    report.add_argument("folder", metavar="RUN|SWEEP", type=Path, help="folder of a run or of a sweep, finished or not")
    report.add_argument("--out", metavar="FILE", type=Path, help="the file (default: report.html in that folder)")
    report.add_argument(
        "--follow",
        action="store_true",
        help="serve the run's page to this machine alone, at an address that is printed, until Ctrl-C",
    )
    report.add_argument("--port", metavar="N", type=port, help="with --follow: where (default: a free one)")


def _add_table(commands: Any) -> None:
    does = "write the tables of a sweep as Markdown, CSV, LaTeX and a picture, with paired tests over its seeds"
    table = add_command(commands, "table", does, "leaderboard/ --against FedAvg --out leaderboard")
    table.add_argument("sweep", metavar="SWEEP", type=Path, help="the folder of a sweep, finished or not")
    table.add_argument(
        "--against",
        metavar="METHOD",
        default="",
        help="compare the others with this one, or with zero-shot (default: as the sweep says, else its first)",
    )
    table.add_argument("--models", nargs="+", choices=("global", "personalized"), default=["global", "personalized"],
                       help="of which models (default: both)")  # fmt: skip
    table.add_argument("--scores", nargs="+", metavar="SCORE", default=None,
                       help="of docs/metrics.md (default: all many medium few balancedness ece)")  # fmt: skip
    table.add_argument("--out", metavar="STEM", type=Path,
                       help="write STEM.md, .csv, .tex, .png and .svg (default: SWEEP/table)")  # fmt: skip
