"""The ``fedpurel`` command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fedpurel_app.cli.parser import ACROSS, make_parser
from fedpurel_app.config.presets import DEFAULT_PRESET
from fedpurel_app.core.errors import ConfigError, DiskFullError, FedPurelError, RunError
from fedpurel_app.core.names import as_printed
from fedpurel_app.launch import choose, simulate
from fedpurel_app.reporting.console import show, spare_streams
from fedpurel_app.reporting.run_folder import RunFolder
from fedpurel_app.reporting.terminal import BriefConsole, complain, silence

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
    options = make_parser().parse_args(arguments)
    try:
        return _COMMANDS[options.command](options)
    except FedPurelError as error:
        complain(f"error: {error}")
        return choose.FAILED if isinstance(error, RunError | DiskFullError) else choose.BAD_INPUT
    except PermissionError as error:  # files of another user: whoever opens one of them first meets it
        complain(f"error: {error.filename or 'a file'} is not open to this user: run as its owner, or have it opened.")
        return choose.BAD_INPUT
    except (MemoryError, ImportError) as error:  # a limit of memory keeps libraries from being loaded, too
        complain(f"error: {type(error).__name__}: {error}. Either there is too little memory, or a package is broken.")
        return choose.FAILED


def _run(options: argparse.Namespace) -> int:
    if options.superlink and not (options.list_presets or options.list_keys):
        from fedpurel_app.launch.submit import run_remote

        return run_remote(options)
    return simulate.run(options, _in_process)


def _sweep(options: argparse.Namespace) -> int:
    from fedpurel_app.cli.sweep import sweep

    return sweep(options)


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


def _doctor(options: argparse.Namespace) -> int:
    config = choose.settings(options.preset or DEFAULT_PRESET, options.set)
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


def _data(options: argparse.Namespace) -> int:
    from fedpurel_app.cli.data_check import data_check

    return data_check(options)


# --- using models -----------------------------------------------------------------------------------------------------


def _load(options: argparse.Namespace, classes: Sequence[str] = (), preference: Sequence[float] = ()) -> TrainedModel:
    from fedpurel_app.inference.trained import load_trained  # loads torch

    given = (options.state_dir, options.key_file, options.pretrained)
    state_dir, key_file, pretrained = (path.expanduser().absolute() if path else None for path in given)
    where = (options.run.absolute(), options.site, state_dir, key_file, pretrained, options.checkpoint)
    return load_trained(*where, classes, preference)


def _predict(options: argparse.Namespace) -> int:
    from fedpurel_app.inference.other_classes import read_names
    from fedpurel_app.inference.predict import as_json, as_text, predict

    names = read_names(options.classes) if options.classes is not None else ()
    model = _load(options, names, options.preference or ())
    if model.note:
        print(as_printed(model.note), file=sys.stderr)
    predictions = predict(model, options.image, options.top)
    print(as_json(model, predictions) if options.json else as_text(predictions))
    return 0


def _export(options: argparse.Namespace) -> int:
    from fedpurel_app.inference.export import export_each

    models = [_load(options, preference=one) for one in options.preference or [()]]
    for path in export_each(models, options.out.absolute(), options.format):
        print(path)
    return 0


def _personalize(options: argparse.Namespace) -> int:
    from fedpurel_app.cli.personalize import personalize

    return personalize(options)


# --- reading runs -----------------------------------------------------------------------------------------------------


def _status(options: argparse.Namespace) -> int:
    from fedpurel_app.cli.status import status

    return status(options)


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


def _table(options: argparse.Namespace) -> int:
    from fedpurel_app.reporting.leaderboard.table import write_table

    stem = options.out.absolute() if options.out else None
    for line in write_table(options.sweep.absolute(), options.against, options.models, options.scores, stem):
        print(line)
    return 0


def _plot(options: argparse.Namespace) -> int:
    from fedpurel_app.reporting.plots import PAINTERS, draw

    if options.across:
        return _draw_across(options)
    if options.out or len(options.run) > 1:
        raise ConfigError(
            "without --across, plot draws one run into its own plots/: name one folder and drop --out, or say which "
            f"picture of several runs to draw, --across {{{','.join(ACROSS)}}}."
        )
    drawn = draw(RunFolder.open(options.run[0].absolute()))
    for path in drawn:
        print(path)
    if missing := [name for name in PAINTERS if all(path.stem != name for path in drawn)]:
        print(f"not drawn, for the run has no numbers for them: {', '.join(missing)}", file=sys.stderr)
    return 0


def _report(options: argparse.Namespace) -> int:
    from fedpurel_app.cli.report import report

    return report(options)


def _card(options: argparse.Namespace) -> int:
    from fedpurel_app.reporting.card.card import card
    from fedpurel_app.reporting.page.snapshot import Snapshot

    print(card(Snapshot(options.run.absolute())), end="")
    return 0


def _draw_across(options: argparse.Namespace) -> int:
    from fedpurel_app.reporting.across import draw_across

    stem = (options.out or Path(options.across)).absolute()
    for path in draw_across(options.across, [path.absolute() for path in options.run], stem):
        print(path)
    return 0


_COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "run": _run,
    "sweep": _sweep,
    "status": _status,
    "show": _show,
    "watch": _watch,
    "compare": _compare,
    "table": _table,
    "plot": _plot,
    "report": _report,
    "card": _card,
    "predict": _predict,
    "export": _export,
    "personalize": _personalize,
    "data": _data,
    "doctor": _doctor,
    "keygen": _keygen,
}


if __name__ == "__main__":
    sys.exit(main())
