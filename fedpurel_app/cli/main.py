"""The ``fedpurel`` command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from fedpurel_app import __version__
from fedpurel_app.core.errors import ConfigError, DiskFullError, FedPurelError, RunError
from fedpurel_app.launch import choose, simulate
from fedpurel_app.reporting.console import show, spare_streams
from fedpurel_app.reporting.run_folder import RunFolder
from fedpurel_app.reporting.terminal import BriefConsole, complain, silence

# Pictures of several runs.
_ACROSS = {
    "balancedness": "Balancedness of global and personalized models by method",
    "sweep": "accuracy of personalized models against private-weight",
    "convergence": "accuracy of the global model over rounds by method",
}

if TYPE_CHECKING:
    from fedpurel_app.config import RunConfig
    from fedpurel_app.inference.trained import TrainedModel


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    spare_streams()
    try:
        try:
            return _call(arguments)
        finally:
            sys.stdout.flush()  # what is printed later than this would fail with nobody to tell
    except BrokenPipeError:  # whoever reads has enough, as in `fedpurel show DIR | head -1`
        silence()
        return 0
    except KeyboardInterrupt:
        complain("stopped")
        return choose.INTERRUPTED


def _call(arguments: Sequence[str] | None) -> int:
    options = _parser().parse_args(arguments)
    try:
        code: int = options.command(options)
        return code
    except FedPurelError as error:
        complain(f"error: {error}")
        return choose.FAILED if isinstance(error, RunError | DiskFullError) else choose.BAD_INPUT
    except PermissionError as error:  # files of another user: whoever opens one of them first meets it
        complain(f"error: {error.filename or 'a file'} is not open to this user: run as its owner, or have it opened.")
        return choose.BAD_INPUT
    except (MemoryError, ImportError) as error:  # a limit of memory keeps libraries from being loaded, too
        complain(f"error: {type(error).__name__}: {error}. Either there is too little memory, or a package is broken.")
        return choose.FAILED


class _Parser(argparse.ArgumentParser):
    """Says what to write instead where an option is a key of the settings."""

    def error(self, message: str) -> NoReturn:
        from fedpurel_app.config import known_keys

        for word in message.split():
            key = word.removeprefix("--").partition("=")[0]
            if word.startswith("--") and key in known_keys():
                message += f'\n"{key}" is a setting, not an option. Did you mean --set {key}=VALUE?'
        super().error(message)


def _command(commands: Any, name: str, does: str, example: str, run: Callable[[argparse.Namespace], int]) -> _Parser:
    """Add a sub-command, whose help is a sentence and an example."""
    parser: _Parser = commands.add_parser(
        name,
        help=does,
        description=f"{does[0].upper()}{does[1:]}.",
        epilog=f"example:\n  fedpurel {name} {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(command=run)
    return parser


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="fedpurel", description="Balanced federated fine-tuning of CLIP, under Flower.")
    parser.add_argument("--version", action="version", version=f"fedpurel {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)
    _add_run(_command(commands, "run", "run an experiment in a simulation on this machine, or elsewhere",
                      "--preset shapes --set algorithm=ditto --set seed=1", _run))  # fmt: skip
    _add_reading(commands)
    _add_using(commands)
    doctor = _command(commands, "doctor", "print what a setting needs on this machine, and what is there",
                      "--preset paper/cifar100-lora", _doctor)  # fmt: skip
    doctor.add_argument("--preset", metavar="NAME", help="as for run")
    doctor.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="as for run")
    doctor.add_argument(
        "--node-config",
        metavar="TEXT",
        help="look at a node instead, started with this text: its settings, data and folders, and with --preset or "
        "--set whether it serves such a run",
    )
    keygen = _command(commands, "keygen", "write a new key file, for a site that encrypts its private branch",
                      "/etc/fedpurel/site.key", _keygen)  # fmt: skip
    keygen.add_argument("file", metavar="FILE", type=Path)
    return parser


def _add_run(run: argparse.ArgumentParser) -> None:
    run.add_argument(
        "--preset",
        metavar="NAME",
        help=f"settings to start from (default: {choose.DEFAULT_PRESET}), or a TOML file",
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


def _add_reading(commands: Any) -> None:
    show = _command(commands, "show", "print the outcome of a run", "~/fedpurel/runs/2026-11-21_...", _show)
    show.add_argument("run", type=Path)
    watch = _command(commands, "watch", "follow a run that goes on elsewhere on this machine",
                     "~/fedpurel/runs/2026-11-21_...", _watch)  # fmt: skip
    watch.add_argument("run", type=Path)
    compare = _command(commands, "compare", "print a table of runs; seeds of one setting are averaged",
                       "~/fedpurel/runs/* --out table", _compare)  # fmt: skip
    compare.add_argument("run", type=Path, nargs="+")
    compare.add_argument("--out", metavar="STEM", type=Path, help="also write STEM.csv and STEM.md")
    does = "draw a run's curves, classes and sites into its plots/, or one picture of several runs"
    plot = _command(commands, "plot", does, "~/fedpurel/runs/* --across balancedness --out picture", _plot)
    plot.add_argument("run", type=Path, nargs="+")
    kinds = "; ".join(f"{name}: {title}" for name, title in _ACROSS.items())
    plot.add_argument("--across", metavar="KIND", choices=_ACROSS, help=f"seeds of one setting are averaged; {kinds}")
    plot.add_argument("--out", metavar="STEM", type=Path,
                      help="with --across: write STEM.png, STEM.svg and STEM.csv (default: KIND)")  # fmt: skip


def _add_using(commands: Any) -> None:
    predict = _command(commands, "predict", "classify images with the model of a run",
                       "--run ~/fedpurel/runs/2026-11-21_... --site site-07 photo.jpg", _predict)  # fmt: skip
    _name_model(predict)
    predict.add_argument("--top", metavar="K", type=_positive, default=5, help="classes to print (default: 5)")
    predict.add_argument("--json", action="store_true", help="print JSON")
    predict.add_argument("image", type=Path, nargs="+", metavar="IMAGE")
    export = _command(commands, "export", "write the model of a run as files for other programs",
                      "--run ~/fedpurel/runs/2026-11-21_... --out model/", _export)  # fmt: skip
    _name_model(export)
    export.add_argument("--out", metavar="DIR", type=Path, required=True, help="a folder that is absent or empty")


def _run(options: argparse.Namespace) -> int:
    if options.superlink and not (options.list_presets or options.list_keys):
        from fedpurel_app.launch.submit import run_remote

        return run_remote(options)
    return simulate.run(options, _in_process)


def _in_process(config: RunConfig, path: Path, threads: int | None) -> None:
    from fedpurel_app.api import play  # loads torch and Flower

    play(config, path, threads)


def _keygen(options: argparse.Namespace) -> int:
    from fedpurel_app.site.sealing import make_key_file

    path = options.file.absolute()
    key = make_key_file(path)
    print(f"key {key.name} is in {path}. Keep a copy elsewhere: without it, what it encrypts is lost.")
    print(f"Start the site with --node-config 'key-file=\"{path}\"'.")
    return 0


def _name_model(command: argparse.ArgumentParser) -> None:
    """Add what names a trained model to a command."""
    command.add_argument("--run", metavar="DIR", type=Path, required=True, help="run folder")
    command.add_argument("--site", metavar="NAME", default="", help="a site's personalized model; else the global one")
    command.add_argument(
        "--state-dir",
        metavar="DIR",
        type=Path,
        help="where that site keeps its private branch (default: the run's own)",
    )
    command.add_argument("--key-file", metavar="FILE", type=Path, help="key that the site encrypts its branch with")
    command.add_argument(
        "--pretrained", metavar="FILE", type=Path, help="the backbone's weights here (default: where the run had them)"
    )


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: choose a whole number of at least 1")
    return int(text)


def _doctor(options: argparse.Namespace) -> int:
    config = choose.settings(options.preset or choose.DEFAULT_PRESET, options.set)
    if options.node_config is None:
        from fedpurel_app.cli.doctor import examine  # loads torch

        findings = examine(config)
    else:
        from fedpurel_app.cli.node_doctor import examine_node

        findings = examine_node(options.node_config, config if options.preset or options.set else None)
    lacking = False
    for finding in findings:
        print(finding.text)
        lacking |= finding.lacking
    return 1 if lacking else 0


# --- using models -----------------------------------------------------------------------------------------------------


def _load(options: argparse.Namespace) -> TrainedModel:
    from fedpurel_app.inference.trained import load_trained  # loads torch

    given = (options.state_dir, options.key_file, options.pretrained)
    paths = (path.expanduser().absolute() if path else None for path in given)
    return load_trained(options.run.absolute(), options.site, *paths)


def _predict(options: argparse.Namespace) -> int:
    from fedpurel_app.inference.predict import as_json, as_text, predict

    model = _load(options)
    predictions = predict(model, options.image, options.top)
    print(as_json(model, predictions) if options.json else as_text(predictions))
    return 0


def _export(options: argparse.Namespace) -> int:
    from fedpurel_app.inference.export import export

    for path in export(_load(options), options.out.absolute()):
        print(path)
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
        with LiveView(BriefConsole()) as view:
            while folder.summary() is None:
                view.update(folder)
                time.sleep(0.5)
            view.update(folder)
    except KeyboardInterrupt:
        return choose.INTERRUPTED
    show(folder)
    return 0


def _compare(options: argparse.Namespace) -> int:
    from fedpurel_app.reporting.compare import compare

    for line in compare([path.absolute() for path in options.run], options.out.absolute() if options.out else None):
        print(line)
    return 0


def _plot(options: argparse.Namespace) -> int:
    from fedpurel_app.reporting.plots import PICTURES, draw

    if options.across:
        return _draw_across(options)
    if options.out or len(options.run) > 1:
        raise ConfigError(
            "without --across, plot draws one run into its own plots/: name one folder and drop --out, or say which "
            f"picture of several runs to draw, --across {{{','.join(_ACROSS)}}}."
        )
    drawn = draw(RunFolder.open(options.run[0].absolute()))
    for path in drawn:
        print(path)
    if missing := [name for name in PICTURES if all(path.stem != name for path in drawn)]:
        print(f"not drawn, for the run has no numbers for them: {', '.join(missing)}", file=sys.stderr)
    return 0


def _draw_across(options: argparse.Namespace) -> int:
    from fedpurel_app.reporting.across import draw_across

    stem = (options.out or Path(options.across)).absolute()
    for path in draw_across(options.across, [path.absolute() for path in options.run], stem):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
