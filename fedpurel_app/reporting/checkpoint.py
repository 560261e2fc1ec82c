"""The checkpoint of a run: arrays in one file, state in another, and a crash at any point leaves two that match."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy.typing as npt

from fedpurel_app.core.errors import StateError
from fedpurel_app.core.files import write_atomically
from fedpurel_app.core.layout import Layout, among, stored
from fedpurel_app.core.tensor_file import dump, read
from fedpurel_app.reporting.run_files import SCHEMA, read_object, write_object

_PART = "part/"  # before the names, in the file, of what the method's part at the server keeps
Arrays = Mapping[str, npt.NDArray[Any]]
Named = dict[str, npt.NDArray[Any]]
Which = Literal["last", "best"]  # of a run's global models


class Trained(NamedTuple):
    """What a checkpoint says of a global model.

    Attributes
    ----------
    arrays : dict of str to ndarray
        The shared parameters.
    state : dict
        What a resumed run needs beside them, with their ``round``.
    layout : mapping of str to ndarray of int64
        How they are laid out; empty where that never changes.
    """

    arrays: Named
    state: dict[str, Any]
    layout: Layout


class _Generations:
    """A file of arrays that carry their round, and the one before as long as ``state.json`` may name it."""

    def __init__(self, folder: Path, stem: str) -> None:
        self._current, self._previous = (folder / f"{stem}{age}.safetensors" for age in ("", ".previous"))

    def write(self, tensors: Arrays, number: int, named: int | None) -> None:
        """Write the arrays of a round; ``named`` is the round that the state on disk names."""
        # Only a file that the state names may push the one before out: one left over by a crash is overwritten.
        if named is not None and self._round_of(self._current) == named:
            self._current.replace(self._previous)
        write_atomically(self._current, dump(tensors, {"schema": SCHEMA, "round": number}))

    def read(self, number: int) -> Named | None:
        """Return the arrays of a round; None where there are none."""
        for path in (self._current, self._previous):
            with contextlib.suppress(StateError):  # the other one may be whole
                tensors, facts = read(path)
                if facts.get("round") == number:
                    return tensors
        return None

    def settle(self, named: int | None) -> None:
        """Put the file that the state names in the first place: a crash may have left one there of a lost round."""
        if named is None:
            self._current.unlink(missing_ok=True)
        elif self._round_of(self._current) != named and self._round_of(self._previous) == named:
            self._previous.replace(self._current)

    def _round_of(self, path: Path) -> object:
        with contextlib.suppress(StateError):
            return read(path)[1].get("round")
        return None


class Checkpoint:
    """What a resumed run needs, and the best model so far.

    Parameters
    ----------
    folder : Path
        ``checkpoint.safetensors`` holds the arrays of the last round, ``checkpoint-best.safetensors`` the shared
        parameters of the best one, each with a ``.previous.safetensors`` beside it, and ``state.json`` the rest.
    """

    def __init__(self, folder: Path) -> None:
        self._last, self._best = (_Generations(folder, stem) for stem in ("checkpoint", "checkpoint-best"))
        self._state = folder / "state.json"

    def write(self, arrays: Arrays, state: Mapping[str, Any], part: Arrays) -> None:
        """Write all. The files before are kept until the state that names the new ones is on disk.

        Parameters
        ----------
        arrays : mapping of str to ndarray
            The shared parameters.
        state : mapping
            As JSON; it names its round and, as ``best``, the best one: where they are the same, the arrays are kept as
            the best, too.
        part : mapping of str to ndarray
            State of the method's part at the server. How the parameters are laid out, the best ones have beside them,
            too: they may be laid out otherwise than the last.
        """
        number, before = state["round"], dict[str, Any]()
        with contextlib.suppress(StateError):
            before = read_object(self._state)
        tensors = {**arrays, **{_PART + name: value for name, value in part.items()}}
        self._last.write(tensors, number, before.get("round"))
        if best_round(state) == number:
            layout = {_PART + name: value for name, value in stored(among(part)).items()}
            self._best.write({**arrays, **layout}, number, best_round(before))
        write_object(self._state, state, mode=0o600)  # the experiment's secret is in it

    def read(self) -> tuple[Named, dict[str, Any], Named]:
        """Read the last matching arrays, state and state of the part.

        Raises
        ------
        StateError
            When there are none.
        """
        folder, state = self._state.parent, self._read_state()
        tensors = self._last.read(state["round"])
        if tensors is None:
            raise StateError(f"{folder} has no readable checkpoint of round {state['round']}.")
        arrays, part = _apart(tensors)
        return arrays, state, part

    def read_best(self) -> tuple[Named, dict[str, Any], Named]:
        """Read the shared parameters of the best round, the state with ``round`` as that one, and what part is saved.

        Raises
        ------
        StateError
            When no round was chosen, or its file is lost.
        """
        folder, state = self._state.parent, self._read_state()
        number = best_round(state)
        if number is None:
            raise StateError(
                f"{folder} has no best model: none is chosen with validation-share = 0, before an evaluation, or where "
                "the sites tell no score to choose by. Take the last one, --checkpoint last."
            )
        tensors = self._best.read(number)
        if tensors is None:
            raise StateError(f"{folder} has no readable checkpoint-best.safetensors of round {number}.")
        arrays, part = _apart(tensors)
        return arrays, {**state, "round": number}, part

    def read_model(self, which: Which) -> Trained:
        """Read the shared parameters of the last round, or of the best one, and their layout; raises StateError."""
        arrays, state, part = self.read_best() if which == "best" else self.read()
        return Trained(arrays, state, among(part))

    def settle(self) -> None:
        """Put the best file in order before a run goes on: what a crash left of a lost round gives way."""
        self._best.settle(best_round(self._read_state()))

    def _read_state(self) -> dict[str, Any]:
        if not self._state.exists():
            folder = self._state.parent
            raise StateError(f"{folder} has no checkpoint yet: nothing was lost, start it anew with another folder.")
        return read_object(self._state)


def _apart(tensors: Named) -> tuple[Named, Named]:
    """Return the parameters in a file, and what the method's part at the server keeps."""
    arrays = {name: value for name, value in tensors.items() if not name.startswith(_PART)}
    return arrays, {name.removeprefix(_PART): tensors[name] for name in tensors.keys() - arrays.keys()}


def best_round(state: Mapping[str, Any]) -> int | None:
    """Return the round whose global model is the best by a state; None where none is."""
    best = (state.get("best") or {}).get("global")
    return None if best is None else int(best["round"])
