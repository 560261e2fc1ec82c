"""Which run a site serves, and what it has asked for: attempts at one experiment are numbered, and rounds only rise.

A run begins as attempt 1 and every resumption counts one up, so a site that has seen a later attempt knows an earlier
one for a run that was given up. The token, drawn anew each time, tells two runs of the same attempt apart. Within an
attempt a real site trains and is scored at most once a round, whatever a server sends: answers to many questions would
tell what a single one does not. The very same message is answered again, as its answer may have been lost on the way;
it gets the same one. The secret, drawn when an experiment begins and kept with its checkpoint, is known to its own
servers alone: nobody else goes on with it, or shuts them out.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

from fedpurel_app.core.errors import AttemptError, StateError
from fedpurel_app.core.files import write_atomically
from fedpurel_app.core.names import clean

FILE = "attempt.json"
LONGEST_STEP = 20  # attempts that a site may have missed
Work = Literal["train", "evaluate"]


@dataclass(frozen=True)
class Attempt:
    """One attempt at an experiment.

    Attributes
    ----------
    number : int
        From 1; 0 = the server counts none.
    token : str
        Random, of the server's process.
    secret : str
        Random, of the experiment.
    """

    number: int = 0
    token: str = ""
    secret: str = field(default="", repr=False)

    @property
    def seal(self) -> str:
        """What is written down of the secret: its SHA-256, in hexadecimal digits."""
        return hashlib.sha256(self.secret.encode()).hexdigest()


@dataclass(frozen=True)
class Ledger:
    """What a site has been asked for in an experiment.

    Attributes
    ----------
    number, token
        Of the latest attempt.
    trained, evaluated : int
        The last round of that attempt in which the site trained, and was scored; 0 for none.
    training, evaluation : str
        Digests of the messages that asked for it.
    method : str
        What private state was trained by, in words that differ where methods do; empty before the first work.
    evaluations : int
        How often the site was scored, in all attempts.
    seal : str
        Of the experiment's secret; empty before anything.
    """

    number: int = 0
    token: str = ""
    trained: int = 0
    evaluated: int = 0
    method: str = ""
    evaluations: int = 0
    seal: str = ""
    training: str = ""
    evaluation: str = ""

    def is_of(self, attempt: Attempt) -> bool:
        """Tell whether this is the book of an attempt."""
        return (self.number, self.token, self.seal) == (attempt.number, attempt.token, attempt.seal)


def seen(folder: Path) -> Ledger:
    """Return what a folder is bound to; number 0 when nothing.

    Raises
    ------
    StateError
        When the file that says so is damaged.
    """
    path = folder / FILE
    try:
        content = json.loads(path.read_text("utf-8"))
        counts = {name: int(content.get(name, 0)) for name in ("trained", "evaluated", "evaluations")}
        texts = {name: str(content.get(name, "")) for name in ("method", "seal", "training", "evaluation")}
        return Ledger(int(content["number"]), str(content["token"]), **counts, **texts)  # type: ignore[arg-type]
    except FileNotFoundError:
        return Ledger()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StateError(
            f"{path} is damaged ({error}). It keeps a second run of the experiment away: when you know that there is "
            "none, delete this file."
        ) from error


def refuse_other(folder: Path, attempt: Attempt, experiment_id: str) -> None:
    """Raise AttemptError for an attempt that is over, for another run of the same one, and for one far ahead."""
    latest = seen(folder)
    if latest.seal and latest.seal != attempt.seal:
        raise AttemptError(
            f'another run of experiment "{experiment_id}" has been here, which this one is no resumption of: resume '
            "that one, from its run folder, or give this one an experiment-id of its own."
        )
    if attempt.number < latest.number:
        raise AttemptError(
            f'attempt {attempt.number} of experiment "{experiment_id}" came after attempt {latest.number} had been '
            "here: the run was resumed elsewhere, and this one must end. If the other one is gone for good, resume "
            "this one; every resumption counts one up."
        )
    if attempt.number > latest.number + LONGEST_STEP:
        raise AttemptError(
            f'attempt {attempt.number} of experiment "{experiment_id}" is far ahead of {latest.number}, the last one '
            f"here. If it is the right one, its operator may let it in: delete {FILE} of this experiment."
        )
    if attempt.number == latest.number and attempt.token != latest.token and latest != Ledger():
        raise AttemptError(
            f'another run of experiment "{experiment_id}" has been here (attempt {latest.number}). Two would overwrite '
            "each other's private branches: resume that one, or give this one an experiment-id of its own."
        )


def bind(folder: Path, attempt: Attempt, experiment_id: str) -> None:
    """Bind a folder to an attempt from now on; raises as :func:`refuse_other`. One process at a time may call it."""
    refuse_other(folder, attempt, experiment_id)
    latest = seen(folder)
    if not latest.is_of(attempt):
        kept = {"method": latest.method, "evaluations": latest.evaluations}
        _write(folder, Ledger(attempt.number, attempt.token, seal=attempt.seal, **kept))  # type: ignore[arg-type]


def book(
    folder: Path,
    attempt: Attempt,
    experiment_id: str,
    work: Work,
    round_number: int,
    request: str,
    method: str,
    most_evaluations: int,
) -> None:
    """Bind a folder to an attempt and book a round's work, before it is done. One process at a time may call it.

    Parameters
    ----------
    folder : Path
    attempt : Attempt
    experiment_id : str
    work : {"train", "evaluate"}
    round_number : int
    request : str
        Digest of all that the message asks.
    method : str
        See :class:`Ledger`.
    most_evaluations : int
        How often the site is scored in an experiment.

    Raises
    ------
    AttemptError
        As :func:`refuse_other`; when that work of this round, or of a later one, was done already; or when the
        experiment was begun by another method, whose private state this one could take for something to share.
    """
    bind(folder, attempt, experiment_id)
    ledger = seen(folder)
    is_training = work == "train"
    done = ledger.trained if is_training else ledger.evaluated
    if round_number == done and request == (ledger.training if is_training else ledger.evaluation):
        return
    if round_number <= done:
        does = "trains" if is_training else "is scored"
        raise AttemptError(
            f"round {round_number} came after round {done}, and this site {does} once a round: in one attempt rounds "
            "only rise."
        )
    if ledger.method and ledger.method != method:
        raise AttemptError(
            f'experiment "{experiment_id}" was begun here with {clean(ledger.method)}, not with {clean(method)}: start '
            "another experiment."
        )
    ledger = replace(ledger, method=method)
    if is_training:
        _write(folder, replace(ledger, trained=round_number, training=request))
        return
    if ledger.evaluations >= most_evaluations:
        raise AttemptError(
            f'experiment "{experiment_id}" was scored {ledger.evaluations} times here, and this site allows '
            f"{most_evaluations} (max-evaluations in its node config)."
        )
    count = ledger.evaluations + 1
    _write(folder, replace(ledger, evaluated=round_number, evaluation=request, evaluations=count))


def _write(folder: Path, ledger: Ledger) -> None:
    write_atomically(folder / FILE, json.dumps(asdict(ledger)).encode(), mode=0o600)
