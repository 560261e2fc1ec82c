"""A site's private branch on the site's own disk, and nowhere else.

One folder for each experiment and site holds the last two generations, each stamped with the round that trained it. The
server's messages name the generation to start from, so a site that was ahead of the server's checkpoint steps back.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fedpurel_app.errors import StateError
from fedpurel_app.files import write_atomically
from fedpurel_app.tensor_file import dump, read

SCHEMA = 1
_FILE = re.compile(r"private-([0-9]{6,})\.safetensors")  # other files in the folder are not ours
_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class PrivateStore:
    """Private tensors of one site in one experiment.

    Parameters
    ----------
    root : Path
        The site's state folder.
    experiment_id, site : str
        Letters, digits, ".", "_" and "-".

    Raises
    ------
    StateError
        When a name would not make a safe folder name.
    """

    def __init__(self, root: Path, experiment_id: str, site: str) -> None:
        for kind, name in (("experiment id", experiment_id), ("site name", site)):
            if not _SAFE_NAME.fullmatch(name):
                raise StateError(f'{kind} "{name}": use 1 to 64 letters, digits, ".", "_" or "-".')
        self._identity: dict[str, str | int] = {"schema": SCHEMA, "experiment": experiment_id, "site": site}
        self._folder = root / experiment_id / site

    def stamps(self) -> list[int]:
        """List the rounds of the generations on disk, ascending."""
        found = (_FILE.fullmatch(path.name) for path in self._folder.glob("private-*"))
        return sorted(int(match[1]) for match in found if match)

    def load(self, stamp: int) -> dict[str, npt.NDArray[np.float32]]:
        """Read one generation.

        Parameters
        ----------
        stamp : int
            The round that wrote it.

        Returns
        -------
        dict of str to ndarray

        Raises
        ------
        StateError
            When it is absent, damaged, of another schema, or belongs to another experiment, site or round.
        """
        path = self._path(stamp)
        if not path.exists():
            raise StateError(
                f"The private branch of round {stamp} is not in {self._folder} (there: {self.stamps() or 'none'}). "
                "Give this site the state folder it trained with, or start a new experiment."
            )
        try:
            tensors, found = read(path)
        except StateError as error:
            raise StateError(f"{error} Restore it from a backup, or start a new experiment.") from error
        wanted = {**self._identity, "round": stamp}
        wrong = [
            f"{key} {found.get(key)!r} instead of {value!r}" for key, value in wanted.items() if found.get(key) != value
        ]
        if wrong:
            raise StateError(f"{path} does not belong here: {', '.join(wrong)}. Move it away, or fix state-dir.")
        return tensors

    def save(self, tensors: Mapping[str, npt.NDArray[np.float32]], stamp: int, previous: int) -> None:
        """Write a generation, durable and readable by its owner alone, and drop all but it and the one before.

        Parameters
        ----------
        tensors : mapping of str to ndarray
        stamp : int
            The round that trained them.
        previous : int
            The generation they were trained from; 0 for none.
        """
        for folder in (self._folder.parent.parent, self._folder.parent, self._folder):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomically(self._path(stamp), dump(tensors, {**self._identity, "round": stamp}), mode=0o600)
        for leftover in self._folder.glob(".private-*.tmp"):  # of a crash while writing
            leftover.unlink(missing_ok=True)
        for old in self.stamps():
            if old not in (stamp, previous):
                self._path(old).unlink(missing_ok=True)

    def _path(self, stamp: int) -> Path:
        return self._folder / f"private-{stamp:06d}.safetensors"
