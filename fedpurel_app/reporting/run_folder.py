"""The folder of a run: a stable, versioned contract between the run and everything that reads it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from fedpurel_app.core.errors import DiskFullError, StateError
from fedpurel_app.core.files import drop_leftovers, full_disk_named, home, make_folders, write_atomically, write_csv
from fedpurel_app.core.names import FLOWER_LOG
from fedpurel_app.reporting.checkpoint import Arrays, Checkpoint, Named, Trained, Which
from fedpurel_app.reporting.claim import Claim, going_on, is_own
from fedpurel_app.reporting.run_files import finite, read_object, read_rounds, read_table, write_object

_KILLED = 10.0  # seconds that a killed command's server may live on
LAUNCH = "launch.json"  # what a resumed run must have, too, for the same bits
PERSONALIZED = "personalized-from"  # of config.json: the experiment whose global model a new site began with
_STOP = "stop"  # a file that is there when the run is to end after its round


class RunFolder:
    """Reads and writes the files of one run.

    Parameters
    ----------
    path : Path
        ``config.json`` resolved settings and versions; ``partition.json`` rows of every site; ``rounds.jsonl`` one
        object per round; ``sites.csv`` and ``classes.csv`` the last evaluation; ``summary.json`` the outcome;
        ``checkpoint.safetensors`` and ``state.json`` what a resumed run needs; ``checkpoint-best.safetensors`` the best
        model; ``plots/``; ``private/`` private branches (simulation only).
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, path: Path) -> RunFolder:
        """Make the folder of a new run.

        Raises
        ------
        StateError
            When it holds a run already, or cannot be written.
        """
        try:
            make_folders(path)
            if any((path / name).exists() for name in ("config.json", "rounds.jsonl", "state.json")):
                raise StateError(
                    f"{path} already holds a run. Choose another folder, or continue it: {cls(path).how_to_resume}"
                )
            cls(path)._refuse_others()
            write_atomically(path / ".writable", b"")
            (path / ".writable").unlink()
            cls(path).forget_outcome()  # of a run that ended before it began
        except DiskFullError:
            raise
        except OSError as error:
            raise StateError(f'out = "{path}" cannot be written ({error.strerror}). Choose another folder.') from error
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """Open the folder of an earlier run; raises StateError when it is none."""
        if not (path / "config.json").is_file():
            raise StateError(f"{path} is not a run folder: it has no config.json.")
        return cls(path)

    def claim(self) -> Claim:
        """Claim the folder for a command that starts a run in it; it is made where it is missing.

        Raises
        ------
        StateError
            When another command or a server has it, or when it cannot be written. Nothing in it was touched then.
        """
        try:
            make_folders(self.path)
        except DiskFullError:
            raise
        except OSError as error:
            raise StateError(f"{self.path} cannot be written ({error.strerror}). Choose another folder.") from error
        claim = Claim(self.path, "command")
        claim.acquire()
        deadline = time.monotonic() + _KILLED
        while (holder := self._server.holder()) is not None:  # of a command that was killed: its guard is at work
            if time.monotonic() > deadline:
                claim.release()
                raise StateError(going_on(self.path, holder))
            time.sleep(0.1)
        return claim

    def lock(self) -> Claim:
        """Claim the folder for one server, until released or until the process ends.

        Raises
        ------
        StateError
            When another process has it.
        """
        self._refuse_others()
        self._server.acquire()
        return self._server

    def _refuse_others(self) -> None:
        holder = Claim(self.path, "command").holder()
        if holder is not None and not is_own(holder):
            raise StateError(going_on(self.path, holder))

    @cached_property
    def _server(self) -> Claim:
        return Claim(self.path, "run")

    @property
    def was_begun(self) -> bool:
        """Whether a command has been at work here, whatever came of it."""
        return any((self.path / name).is_file() for name in ("config.json", "command.lock"))

    @property
    def log(self) -> Path:
        """What Flower and the app said, in a simulation on this machine."""
        return self.path / "logs" / FLOWER_LOG

    @property
    def is_running(self) -> bool:
        """Whether a server works in the folder."""
        return Claim(self.path, "run").holder() is not None

    @property
    def is_claimed(self) -> bool:
        """Whether a command or a server works in the folder: a run that begins has no server yet."""
        return self.is_running or Claim(self.path, "command").holder() is not None

    def wait_for_server(self, patience: float) -> None:
        """Wait until no server works in the folder, or ``patience`` seconds: one that was stopped takes a moment."""
        deadline = time.monotonic() + patience
        while self.is_running and time.monotonic() < deadline:
            time.sleep(0.05)

    @property
    def how_to_resume(self) -> str:
        """The command that continues the run, and what it wants besides."""
        more = ", with the --preset and --set it was begun with" if self.is_of_nodes else ""
        return self.resume_command + more

    @property
    def resume_command(self) -> str:
        """The command that continues the run."""
        where = "--superlink CONNECTION " if self.is_of_nodes else ""
        return f"fedpurel run {where}--resume {shlex.quote(str(self.path))}"

    @property
    def is_of_nodes(self) -> bool:
        """Whether sites have data of their own, as far as is known: they are at a SuperLink, in no simulation."""
        config: dict[str, Any] = {}
        roster: dict[str, Any] = {}
        with contextlib.suppress(StateError):  # there may be neither yet
            config = self.read_json("config.json")["config"]
            roster = self.read_json("state.json")["roster"]
        return config.get("dataset") == "sites" or any(one and not one["partitions"] for one in roster.values())

    def drop_leftovers(self) -> None:
        """Remove what writes that were cut off left; only whoever has claimed the folder may."""
        drop_leftovers(self.path)

    def forget_outcome(self) -> None:
        """Delete the previous attempt's outcome so that it cannot be mistaken for the next one's."""
        for name in ("summary.json", "error.txt"):
            (self.path / name).unlink(missing_ok=True)

    # --- the wish to stop -------------------------------------------------------------------------------------------

    def wish_to_stop(self) -> None:
        """Ask the run that goes on to end with the round that it is in."""
        (self.path / _STOP).touch()

    @property
    def is_to_stop(self) -> bool:
        """Whether the run was asked to end."""
        return (self.path / _STOP).exists()

    def forget_wish_to_stop(self) -> None:
        """Take the wish back, or off the list: it is meant for one run."""
        (self.path / _STOP).unlink(missing_ok=True)

    # --- JSON -------------------------------------------------------------------------------------------------------

    def write_json(self, name: str, content: Mapping[str, Any], mode: int = 0o644) -> None:
        """Write a JSON file, whole or not at all."""
        write_object(self.path / name, content, mode)

    def read_json(self, name: str) -> dict[str, Any]:
        """Read a JSON file of this folder; raises StateError when it is absent, damaged or foreign."""
        return read_object(self.path / name)

    def summary(self) -> dict[str, Any] | None:
        """Return ``summary.json``; None while the run goes on or when it was cut off."""
        return self.read_json("summary.json") if (self.path / "summary.json").is_file() else None

    def launch(self) -> dict[str, Any]:
        """Return what each site got when the run was begun; empty for a new one."""
        return self.read_json(LAUNCH) if (self.path / LAUNCH).exists() else {}

    def write_launch(self, threads: int, gpus: float | None) -> None:
        """Write down what each site gets: the number of threads decides the last bits of a result."""
        share = {} if gpus is None else {"gpus-per-site": gpus}
        self.write_json(LAUNCH, {"cpus-per-site": threads, **share})

    # --- rounds -----------------------------------------------------------------------------------------------------

    def append_round(self, line: Mapping[str, Any]) -> None:
        """Append one round to ``rounds.jsonl``."""
        self._append("rounds.jsonl", line)

    def append_site_log(self, number: int, site: str, lines: Sequence[str]) -> None:
        """Append what a site shared of its log, up to the end of a round, to ``site-logs.jsonl``."""
        self._append("site-logs.jsonl", {"round": number, "site": site, "lines": lines})

    def _append(self, name: str, line: Mapping[str, Any]) -> None:
        path, text = self.path / name, json.dumps(finite(line), allow_nan=False) + "\n"
        with full_disk_named(path, len(text)), path.open("a", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())

    def rounds(self) -> list[dict[str, Any]]:
        """Read all whole lines of ``rounds.jsonl``; raises StateError when one of them is no round."""
        return read_rounds(self.path / "rounds.jsonl")

    def drop_rounds_after(self, last: int) -> None:
        """Forget rounds that a checkpoint does not know: they will be run again."""
        kept = [json.dumps(line) + "\n" for line in self.rounds() if line["round"] <= last]
        write_atomically(self.path / "rounds.jsonl", "".join(kept).encode())

    # --- tables -----------------------------------------------------------------------------------------------------

    def write_csv(self, name: str, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Write a table, whole or not at all."""
        write_csv(self.path / name, header, rows)

    def read_csv(self, name: str) -> list[dict[str, str]]:
        """Read a table; empty when it is absent. Raises StateError when it is damaged or foreign."""
        return read_table(self.path / name)

    # --- checkpoint -------------------------------------------------------------------------------------------------

    def write_checkpoint(self, arrays: Arrays, state: Mapping[str, Any], part: Arrays | None = None) -> None:
        """Write arrays, state and that of the method's part; a crash at any point leaves a set that matches."""
        Checkpoint(self.path).write(arrays, state, part or {})

    def read_checkpoint(self) -> tuple[Named, dict[str, Any]]:
        """Read the last matching pair of arrays and state; raises StateError when there is none."""
        return Checkpoint(self.path).read()[:2]

    def read_best(self) -> tuple[Named, dict[str, Any]]:
        """Read the shared parameters of the best round, and the state with that round; raises StateError."""
        return Checkpoint(self.path).read_best()[:2]

    def read_model(self, which: Which) -> Trained:
        """Read the shared parameters of the last round, or of the best one, and their layout; raises StateError."""
        return Checkpoint(self.path).read_model(which)

    def spent(self) -> dict[str, Any] | None:
        """Return what the checkpoint says of the privacy that was spent; None where nothing accounts for it.

        Returns
        -------
        dict or None
            ``spent`` by the rounds that are saved, and ``if_cut_off`` with the one that may have come after.
        """
        state = self.read_json("state.json") if (self.path / "state.json").is_file() else {}
        privacy = state.get("privacy") or {}
        found = {key: privacy.get(key) for key in ("spent", "if_cut_off")}
        return found if all(found.values()) else None


def new_run_path(algorithm: str, peft: str, dataset: str, seed: int) -> Path:
    """Name a folder for a new run: ``<date>_<algorithm>-<peft>_<dataset>_s<seed>``, numbered where it exists."""
    stem = f"{time.strftime('%Y-%m-%d')}_{algorithm}-{peft}_{dataset}_s{seed}"
    base = home() / "runs"
    taken = {path.name for path in base.glob(f"{stem}*")} if base.exists() else set()
    numbers = [1, *(int(m[1]) for name in taken if (m := re.fullmatch(re.escape(stem) + r"-(\d+)", name)))]
    return base / (stem if stem not in taken else f"{stem}-{max(numbers) + 1}")
