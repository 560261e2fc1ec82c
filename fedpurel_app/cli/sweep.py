"""``fedpurel sweep``: many runs from one file."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from fedpurel_app import __version__
from fedpurel_app.config import RunConfig
from fedpurel_app.core.errors import FedPurelError, StateError
from fedpurel_app.core.files import home, make_folders, write_atomically
from fedpurel_app.launch import choose, simulate
from fedpurel_app.reporting.claim import Claim
from fedpurel_app.reporting.settings import place_in_words
from fedpurel_app.reporting.terminal import Terminal, complain
from fedpurel_app.sweeps.file import SweepFile, load_sweep
from fedpurel_app.sweeps.plan import Cell, Plan, make_plan
from fedpurel_app.sweeps.play import Player
from fedpurel_app.sweeps.room import Room
from fedpurel_app.sweeps.tuning import candidates, check_end, not_tuned, write_down
from fedpurel_app.sweeps.tuning import choose as choose_settings


def sweep(options: argparse.Namespace) -> int:
    """Run what a sweep lacks, or choose its settings; returns the exit code."""
    path = options.file.absolute()
    file = load_sweep(path, choose.assignments(options.set))
    folder = options.out.absolute() if options.out else home() / "sweeps" / path.stem
    if options.tune:
        return _tune(options, path, file, folder)
    plan = make_plan(file)
    _tell(plan, folder)
    if options.dry_run:
        return 0
    with _claimed(folder):
        write_atomically(folder / "sweep.toml", path.read_bytes())
        plan.write(folder, shlex.join(["fedpurel", "sweep", str(options.file), *_changes(options)]))
        code, _ = _play(options, plan.runs, folder / "runs")
    print(f"table: fedpurel table {folder}")
    return code


def _tune(options: argparse.Namespace, path: Path, file: SweepFile, folder: Path) -> int:
    tried = candidates(file)
    runs = {cell.run: cell for one in tried for cell in one.cells}
    print(f"{len(runs)} runs on validation data, for {len({one.method for one in tried})} methods: {folder / 'tune'}")
    if options.dry_run or file.tune is None:
        return 0
    check_end(path)
    with _claimed(folder):
        code, whole = _play(options, runs, folder / "tune")
    if code:
        if whole:
            complain(f"{path} is as it was: what is best of each method is known when all runs are complete.")
        return code
    found, lines = choose_settings(file.tune, tried, folder / "tune")
    write_down(path, file.tune, found, lines)
    for one, line in zip(found, lines, strict=True):
        print(f"{one.method}, {place_in_words(one.at)}: {one.values} of {line}")
    print(f"written into {path}")
    return code


def _changes(options: argparse.Namespace) -> list[str]:
    return [word for pair in options.set for word in ("--set", pair)]


def _claimed(folder: Path) -> Claim:
    """Claim a sweep's folder, which is made where it is missing; raises StateError when another sweep has it."""
    try:
        make_folders(folder)
        claim = Claim(folder, "sweep")
        claim.acquire()
    except NotADirectoryError as error:
        raise StateError(f"{folder} is no folder: choose another --out.") from error
    return claim


def _tell(plan: Plan, folder: Path) -> None:
    """Say what there is to do."""
    runs = plan.runs
    shared = f", {len(plan.cells) - len(runs)} of them the same as another" if len(runs) < len(plan.cells) else ""
    print(f"fedpurel {__version__}: {len(plan.cells)} cells{shared}; {folder}")
    for one in plan.left_out:
        print(f"left out: {one['method']}, {place_in_words(one['at'])}: {one['why']}")
    if untuned := not_tuned(plan):
        complain(f"not tuned, as others are: {', '.join(untuned)}. Call fedpurel sweep FILE --tune again.")


def _play(options: argparse.Namespace, runs: dict[str, Cell], folder: Path) -> tuple[int, bool]:
    """Run, and tell how it ended; returns the exit code, and whether all was played."""
    data, barred = _looked_at(runs)
    make_folders(folder)
    terminal = Terminal("nobody reads the output any more; the sweep goes on.")
    room = Room(options.jobs, options.cpus_per_run, any(cell.config.device != "cpu" for cell in runs.values()))
    able = {name: cell for name, cell in runs.items() if name not in barred}
    player = Player(folder, able, data, room, options.cpus_per_run, terminal.say)
    whole = player.play()
    if not whole:
        complain("stopped; the same command goes on where it stopped")
        return choose.INTERRUPTED, False
    failed = {**barred, **player.failed}
    print(f"{len(runs) - len(failed)} of {len(runs)} runs are complete, {player.skipped} of them from before")
    for name, why in failed.items():
        complain(f"failed: {runs[name].title}: {why}\n  log: {folder / name / 'logs'}")
    return (choose.FAILED if failed else 0), True


def _needs(config: RunConfig) -> tuple[str, ...]:
    """Return what of settings decides which data and which backbone a run needs."""
    names = ["dataset", "dataset_path", "max_per_class", "evaluate_on", "backbone", "pretrained"]
    if config.dataset == "manifest":
        names += ["classes", "image_root", "path_column", "label_column", "split_column", "site_column"]
        names += ["partition", "seed"]
    return tuple(str(getattr(config, name)) for name in names)


def _looked_at(runs: dict[str, Cell]) -> tuple[dict[str, str], dict[str, str]]:
    """Look at all data and backbones.

    Returns
    -------
    (dict, dict) of str to str
        By name of run, the fingerprint of its data, and why it cannot start.

    Raises
    ------
    FedPurelError
        When none can.
    """
    met: dict[tuple[str, ...], str | FedPurelError] = {}
    data, barred = dict[str, str](), dict[str, str]()
    for name, cell in runs.items():
        one = cell.config
        needs = _needs(one)
        if needs not in met:
            try:
                met[needs] = simulate.preflight(one).fingerprint
            except FedPurelError as error:
                met[needs] = error
        if isinstance(found := met[needs], str):
            data[name] = found
        else:
            barred[name] = str(found).splitlines()[0]
    if runs and not data:
        raise next(error for error in met.values() if isinstance(error, FedPurelError))
    return data, barred
