"""The checkpoint of a run: arrays in one file, state in another, and a crash at any point leaves two that match."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt

from fedpurel_app.core.errors import StateError
from fedpurel_app.core.files import write_atomically
from fedpurel_app.core.tensor_file import dump, read
from fedpurel_app.reporting.run_files import SCHEMA, read_object, write_object

_PART = "part/"  # before the names, in the file, of what the method's part at the server keeps
Arrays = Mapping[str, npt.NDArray[Any]]
Named = dict[str, npt.NDArray[Any]]


class Checkpoint:
    """What a resumed run needs.

    Parameters
    ----------
    folder : Path
        ``checkpoint.safetensors`` holds the arrays, ``checkpoint.previous.safetensors`` those before, and
        ``state.json`` the rest.
    """

    def __init__(self, folder: Path) -> None:
        self._current, self._previous = (folder / f"checkpoint{age}.safetensors" for age in ("", ".previous"))
        self._state = folder / "state.json"

    def write(self, arrays: Arrays, state: Mapping[str, Any], part: Arrays) -> None:
        """Write all. The checkpoint before is kept until the state that names the new one is on disk.

        Parameters
        ----------
        arrays : mapping of str to ndarray
            The shared parameters.
        state : mapping
            As JSON; it names its round.
        part : mapping of str to ndarray
            State of the method's part at the server.
        """
        with contextlib.suppress(StateError):
            # Only a file that the state names may push the one before out: one left over by a crash is overwritten.
            if read(self._current)[1].get("round") == read_object(self._state)["round"]:
                self._current.replace(self._previous)
        tensors = {**arrays, **{_PART + name: value for name, value in part.items()}}
        write_atomically(self._current, dump(tensors, {"schema": SCHEMA, "round": state["round"]}))
        write_object(self._state, state, mode=0o600)  # the experiment's secret is in it

    def read(self) -> tuple[Named, dict[str, Any], Named]:
        """Read the last matching arrays, state and state of the part.

        Raises
        ------
        StateError
            When there are none.
        """
        folder = self._state.parent
        if not self._state.exists():
            raise StateError(f"{folder} has no checkpoint yet: nothing was lost, start it anew with another folder.")
        state = read_object(self._state)
        for path in (self._current, self._previous):
            with contextlib.suppress(StateError):  # the other one may be whole
                tensors, facts = read(path)
                if facts.get("round") == state["round"]:
                    arrays = {name: value for name, value in tensors.items() if not name.startswith(_PART)}
                    part = {name.removeprefix(_PART): tensors[name] for name in tensors.keys() - arrays.keys()}
                    return arrays, state, part
        raise StateError(f"{folder} has no readable checkpoint of round {state['round']}.")
