"""``fedpurel status``: the runs and sweeps on this machine, and what they do."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fedpurel_app.core.errors import FedPurelError, StateError
from fedpurel_app.core.files import home
from fedpurel_app.core.names import as_printed, clean
from fedpurel_app.reporting.columns import number
from fedpurel_app.reporting.console import duration
from fedpurel_app.reporting.outcome import can_go_on, state_of
from fedpurel_app.reporting.run_files import read_object
from fedpurel_app.reporting.run_folder import RunFolder
from fedpurel_app.reporting.settings import run_in_words, settings
from fedpurel_app.reporting.sweep_schemas import Plan

_SHOWN = 10  # runs that do not go on


@dataclass(frozen=True)
class RunStatus:
    """A run at one moment.

    Attributes
    ----------
    path : str
    state : str
        "running", "completed", "failed", "stopped", "cut off" (nobody works in it, and it has no outcome), "starting",
        or "damaged".
    what : str
        Method, family, data and seed in words; of a damaged one, what is wrong.
    round, rounds : int
        The last round that is over, and all.
    all, few, personalized : float or None
        Last accuracy of the global model in %, over all classes and over few-shot ones, at the server or else at the
        sites; and of the personalized models.
    changed : float
        When a round was written last [seconds since 1970].
    resumes : bool
        Whether ``fedpurel run --resume`` can go on with it.
    """

    path: str
    state: str
    what: str
    round: int = 0
    rounds: int = 0
    all: float | None = None
    few: float | None = None
    personalized: float | None = None
    changed: float = 0.0
    resumes: bool = False

    @property
    def goes_on(self) -> bool:
        """Whether somebody works in it."""
        return self.state in ("running", "starting")

    def in_words(self) -> tuple[str, str, list[str], list[str]]:
        """Return its state, what it is, facts, and what can be done."""
        known = {"global": self.all, "Few": self.few, "personalized": self.personalized}
        scores = ", ".join(f"{name} {number(value)}" for name, value in known.items() if value is not None)
        rounds = f"round {self.round} of {self.rounds}" if self.rounds else ""
        more = [f"continue it: fedpurel run --resume {shlex.quote(self.path)}"] if self.resumes else []
        return self.state, self.what, [text for text in (rounds, scores) if text], more


@dataclass(frozen=True)
class SweepStatus:
    """A sweep at one moment: its runs, those that are completed and those that go on."""

    path: str
    title: str
    runs: int
    completed: int
    running: int
    changed: float

    @property
    def goes_on(self) -> bool:
        """Whether somebody works in one of its runs."""
        return self.running > 0

    def in_words(self) -> tuple[str, str, list[str], list[str]]:
        """Return its state, what it is, facts, and what can be done."""
        state = "running" if self.goes_on else "completed" if 0 < self.runs == self.completed else "incomplete"
        going = f", {self.running} at work" if self.running else ""
        return state, self.title, [f"{self.completed} of {self.runs} runs{going}"], []


def find(base: Path | None = None) -> tuple[list[RunStatus], list[SweepStatus]]:
    """Look at all runs and sweeps below a folder.

    Parameters
    ----------
    base : Path, optional
        With ``runs`` and ``sweeps`` in it; by default ``~/fedpurel``, or ``FEDPUREL_HOME``.

    Returns
    -------
    (list of RunStatus, list of SweepStatus)
        Those that go on first, then the newest. Runs of sweeps are counted with these alone.

    Raises
    ------
    StateError
        When the folder is none.
    """
    base = base or home()
    if not base.is_dir():
        raise StateError(f"{base} is no folder: nothing was run here, or FEDPUREL_HOME was another.")
    runs = [look_at_run(path) for path in _folders(base / "runs") if _is_run(path)]
    sweeps = [look_at_sweep(path) for path in _folders(base / "sweeps") if (path / "plan.json").is_file()]
    return (
        sorted(runs, key=lambda one: (not one.goes_on, -one.changed)),
        sorted(sweeps, key=lambda one: (not one.goes_on, -one.changed)),
    )


def look_at_run(path: Path) -> RunStatus:
    """Return the state of one run; what is damaged is said in ``what``."""
    folder = RunFolder(path)
    try:
        if not (path / "config.json").is_file():
            state = "starting" if folder.is_claimed else "cut off"
            return RunStatus(str(path), state, "no settings written yet", changed=_changed(path))
        goes_on = folder.is_running  # before the rest: what ends meanwhile has an outcome then
        outcome, lines = folder.summary(), folder.rounds()
        last = lines[-1] if lines else {"round": 0, "total_rounds": 0}
        scores = _last_scores(lines)
        state = state_of(outcome, goes_on)
        resumes = state not in ("completed", "running") and can_go_on(folder)
        counts = (int(last["round"]), int(last["total_rounds"]))
        return RunStatus(str(path), state, clean(run_in_words(settings(folder)), 200), *counts, *scores,
                         changed=_changed(path), resumes=resumes)  # fmt: skip
    except (FedPurelError, KeyError, TypeError) as error:
        return RunStatus(str(path), "damaged", clean(str(error), 200), changed=_changed(path))
    except OSError as error:  # a folder of another user
        return RunStatus(str(path), "damaged", f"it cannot be read ({error.strerror})", changed=_changed(path))


def look_at_sweep(path: Path) -> SweepStatus:
    """Return the state of one sweep; one whose plan is damaged has no runs."""
    try:
        plan = Plan.model_validate(read_object(path / "plan.json"))
    except (FedPurelError, ValueError):
        return SweepStatus(str(path), "its plan.json is damaged: call fedpurel sweep again", 0, 0, 0, _changed(path))
    found = [path / "runs" / name for name in dict.fromkeys(cell.run for cell in plan.cells)]
    done = sum((one / "summary.json").is_file() for one in found)
    going = sum(not (one / "summary.json").is_file() and RunFolder(one).is_claimed for one in found)
    newest = max((_changed(one) for one in found if one.is_dir()), default=_changed(path))
    return SweepStatus(str(path), clean(plan.title or path.name, 120), len(found), done, going, newest)


def as_lines(runs: Sequence[RunStatus], sweeps: Sequence[SweepStatus], everything: bool, now: float) -> list[str]:
    """Say in words what there is: all that go on, and of the others the newest.

    Parameters
    ----------
    runs, sweeps
        As :func:`find` returns them.
    everything : bool
        Also what ended long ago.
    now : float
        Seconds since 1970.
    """
    lines = []
    for name, found in (("run", runs), ("sweep", sweeps)):
        live = [one for one in found if one.goes_on]
        others = [one for one in found if not one.goes_on]
        shown = [*live, *(others if everything else others[:_SHOWN])]
        lines.append(f"{_count(len(found), name)}, {len(live)} of them running")
        lines += [line for one in shown for line in _lines(one, now)]
        if len(shown) < len(found):
            lines.append(f"  ... and {len(found) - len(shown)} that ended before; --all lists them")
    return lines


def as_json(runs: Sequence[RunStatus], sweeps: Sequence[SweepStatus]) -> dict[str, Any]:
    """Return what there is for programs."""
    return {"runs": [asdict(one) for one in runs], "sweeps": [asdict(one) for one in sweeps]}


def _lines(one: RunStatus | SweepStatus, now: float) -> list[str]:
    state, what, facts, more = one.in_words()
    facts.append(f"{duration(max(0.0, now - one.changed))} ago")
    # A folder's name is printed, too, and whoever unpacks one from elsewhere did not choose it.
    return [
        f"  {state:<10} {what}",
        *(f"{'':<13}{as_printed(text, 5000)}" for text in ("; ".join(facts), one.path, *more)),
    ]


def _count(count: int, name: str) -> str:
    return f"{count} {name}{'' if count == 1 else 's'}"


def _last_scores(lines: Sequence[dict[str, Any]]) -> tuple[float | None, float | None, float | None]:
    for line in reversed(lines):
        sites = line.get("sites") or {}
        found = line.get("global") or sites.get("global")
        if found:
            return found.get("all"), found.get("few"), (sites.get("personalized") or {}).get("all")
    return None, None, None


def _folders(base: Path) -> list[Path]:
    return sorted(path for path in base.iterdir() if path.is_dir()) if base.is_dir() else []


def _is_run(path: Path) -> bool:
    """Tell whether a run was begun in a folder; one that is closed to this user counts, for nobody can tell."""
    folder = RunFolder(path)
    try:
        return folder.was_begun or folder.is_claimed
    except OSError:
        return True


def _changed(path: Path) -> float:
    """Return when a run last wrote a round, or its folder was made."""
    for name in ("summary.json", "rounds.jsonl", "config.json", "plan.json", "."):
        try:
            return (path / name).stat().st_mtime
        except OSError:
            continue
    return time.time()
