"""Which run a site serves: attempts at one experiment are numbered, and of two with one number the first is served.

A run begins as attempt 1 and every resumption counts one up, so a site that has seen a later attempt knows an earlier
one for a run that was given up. The token, drawn anew each time, tells two runs of the same attempt apart.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from fedpurel_app.errors import AttemptError, StateError
from fedpurel_app.files import write_atomically

FILE = "attempt.json"


@dataclass(frozen=True)
class Attempt:
    """One attempt at an experiment.

    Attributes
    ----------
    number : int
        From 1; 0 = the server counts none.
    token : str
        Random, of the server's process.
    """

    number: int = 0
    token: str = ""


def seen(folder: Path) -> Attempt:
    """Give the latest attempt that a folder is bound to; number 0 when none.

    Raises
    ------
    StateError
        When the file that says so is damaged.
    """
    path = folder / FILE
    try:
        content = json.loads(path.read_text("utf-8"))
        return Attempt(int(content["number"]), str(content["token"]))
    except FileNotFoundError:
        return Attempt()
    except (ValueError, KeyError, TypeError) as error:
        raise StateError(
            f"{path} is damaged ({error}). It keeps a second run of the experiment away: when you know that there is "
            "none, delete this file."
        ) from error


def refuse_other(folder: Path, attempt: Attempt, experiment_id: str) -> None:
    """Raise AttemptError for an attempt that is over, or for another run of the same one."""
    latest = seen(folder)
    if attempt.number < latest.number:
        raise AttemptError(
            f'attempt {attempt.number} of experiment "{experiment_id}" came after attempt {latest.number} had been '
            "here: the run was resumed elsewhere, and this one must end. If the other one is gone for good, resume "
            "this one; every resumption counts one up."
        )
    if attempt.number == latest.number and attempt.token != latest.token:
        raise AttemptError(
            f'another run of experiment "{experiment_id}" has been here (attempt {latest.number}). Two would overwrite '
            "each other's private branches: resume that one, or give this one an experiment-id of its own."
        )


def bind(folder: Path, attempt: Attempt, experiment_id: str) -> None:
    """Bind a folder to an attempt from now on; raises as :func:`refuse_other`. One process at a time may call it."""
    refuse_other(folder, attempt, experiment_id)
    if attempt != seen(folder):
        write_atomically(folder / FILE, json.dumps(asdict(attempt)).encode(), mode=0o600)
