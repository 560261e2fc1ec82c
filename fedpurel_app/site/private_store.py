"""A site's private branch on the site's own disk, and nowhere else.

One folder for each experiment and site holds the last two generations, each stamped with the round that trained it. The
server's messages name the generation to start from, so a site that was ahead of the server's checkpoint steps back.
No file that cannot be used is ever deleted: a damaged or outdated one is renamed, one of somebody else is left alone.
A generation is deleted only when its own successor is on disk: what a server passes over is renamed, and so kept.
"""

from __future__ import annotations

import itertools
import re
import stat
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from filelock import FileLock

from fedpurel_app.core.errors import DamagedError, StateError, UnusableBranchError
from fedpurel_app.core.files import drop_leftovers, make_folders, sync_folder, write_atomically
from fedpurel_app.core.names import clean, is_safe_name
from fedpurel_app.core.tensor_file import Facts, dump, facts_of, parse, read_bytes
from fedpurel_app.site import run_fence as attempts
from fedpurel_app.site.private_quota import Quota
from fedpurel_app.site.run_fence import Attempt, Work
from fedpurel_app.site.sealing import Key, is_sealed, seal, sealed_facts, unseal
from fedpurel_app.site.state import Named

SCHEMA = 1
_FILE = re.compile(r"private-([0-9]{6,})\.safetensors")  # other files in the folder are not ours
_ELSE = "Else start a new experiment, or let this site begin afresh: --node-config 'private-fallback=\"fresh\"'."
_MISPLACED = "It was left as it is. Move it to where it belongs, or fix state-dir."
_SET_ASIDE = ("damaged", "older-version")  # reasons to rename: nobody can use these as they are
_PASSED_OVER = "passed-over"  # whole, but the server goes on from another generation, or from none


class PrivateStore:
    """Private tensors of one site in one experiment.

    Parameters
    ----------
    root : Path
        The site's state folder.
    experiment_id, site : str
        Letters, digits, ".", "_" and "-".
    attempt : Attempt
        The run that the site serves now.
    key : Key, optional
        Encrypts what is written. Plain files are read with or without it.
    quota : Quota, optional
        None: as much as there is room for.

    Raises
    ------
    StateError
        When a name would not make a safe folder name.
    """

    def __init__(
        self,
        root: Path,
        experiment_id: str,
        site: str,
        attempt: Attempt | None = None,
        key: Key | None = None,
        quota: Quota | None = None,
    ) -> None:
        for kind, name in (("experiment id", experiment_id), ("site name", site)):
            if not is_safe_name(name):
                raise StateError(f'{kind} "{clean(name)}": use 1 to 64 letters, digits, ".", "_" or "-".')
        self._identity: Facts = {"schema": SCHEMA, "experiment": experiment_id, "site": site}
        self._experiment_id, self._attempt, self._key = experiment_id, attempt or Attempt(), key
        self._root, self._folder, self._quota = root, root / experiment_id / site, quota

    def admit(self, bind: bool) -> None:
        """Let a run in, or refuse it.

        Parameters
        ----------
        bind : bool
            Whether earlier attempts and other runs are refused from now on.

        Raises
        ------
        AttemptError
            When the site serves another run of this experiment, or a later attempt.
        """
        # A real site books work alone: a question costs it no folder. What it has books of is bound at once.
        bind = bind and (self._quota is None or (self._folder / attempts.FILE).exists())
        if bind and self._attempt.number and not attempts.seen(self._folder).is_of(self._attempt):
            with self._alone():
                drop_leftovers(self._folder)  # of a crash while writing
                attempts.bind(self._folder, self._attempt, self._experiment_id)
        else:
            attempts.refuse_other(self._folder, self._attempt, self._experiment_id)

    def begin(self, work: Work, round_number: int, request: str, method: str) -> None:
        """Let a round's work in once, or refuse it, before it is done.

        Parameters
        ----------
        work : {"train", "evaluate"}
        round_number : int
        request : str
            Digest of all that the message asks: the very same one is let in again.
        method : str
            Says what trains private state; see :class:`fedpurel_app.site.run_fence.Ledger`.

        Raises
        ------
        AttemptError
            As :func:`fedpurel_app.site.run_fence.book`.
        StateError
            When there are as many experiments here as the site allows.
        """
        if self._quota is not None:
            self._quota.require_experiment(self._root, self._experiment_id)
        with self._alone():
            drop_leftovers(self._folder)  # of a crash while writing
            most = self._quota.evaluations if self._quota is not None else round_number
            attempts.book(self._folder, self._attempt, self._experiment_id, work, round_number, request, method, most)

    def stamps(self) -> list[int]:
        """List the rounds of the generations on disk, ascending."""
        found = (_FILE.fullmatch(path.name) for path in self._folder.glob("private-*"))
        return sorted(int(match[1]) for match in found if match)

    def load(self, stamp: int) -> Named:
        """Read one generation; nothing on disk changes.

        Parameters
        ----------
        stamp : int
            The round that wrote it.

        Returns
        -------
        dict of str to ndarray

        Raises
        ------
        UnusableBranchError
            When it is absent, damaged, of another schema, or belongs to another experiment, site or round.
        StateError
            When the disk refuses, or the key is missing or another one: nothing is wrong with the file.
        """
        path = self._path(stamp)
        if not path.exists():
            aside = sorted(one.name for one in self._folder.glob("*.refused-*"))
            raise UnusableBranchError(
                f"The private branch of round {stamp} is not in {self._folder} (there: {self.stamps() or 'none'}"
                f"{', kept aside: ' + ', '.join(aside) if aside else ''}). Give this site the state folder it trained "
                f"with, or restore it from a backup. {_ELSE}",
                "absent",
            )
        content = read_bytes(path)
        try:
            self._refuse_foreign(path, stamp, _clear_facts(content, path))
            tensors, found = parse(unseal(content, self._key, path) if is_sealed(content) else content, path)
        except DamagedError as error:
            raise UnusableBranchError(f"{error} Restore it from a backup. {_ELSE}", "damaged") from error
        self._refuse_foreign(path, stamp, found)
        return tensors

    def take(self, stamp: int) -> Named:
        """Read one generation to go on with it, as :meth:`load`; a damaged or outdated file is renamed, and so kept."""
        try:
            return self.load(stamp)
        except UnusableBranchError as error:
            if error.reason not in _SET_ASIDE:
                raise
            with self._alone():
                kept = self._set_aside(self._path(stamp), error.reason)
            raise UnusableBranchError(f"{error} It is kept as {kept.name}.", error.reason) from error

    def save(self, tensors: Mapping[str, npt.NDArray[np.float32]], stamp: int, previous: int) -> None:
        """Write a generation, durable and readable by its owner alone; keep it and the one it was trained from.

        Older ones are deleted. What stands beside this line of descent is renamed, and so kept: generations that the
        server passed over, and all of them when it begins afresh.

        Parameters
        ----------
        tensors : mapping of str to ndarray
        stamp : int
            The round that trained them.
        previous : int
            The generation they were trained from; 0 for none.

        Raises
        ------
        AttemptError
            When another run or a later attempt came meanwhile.
        StateError
            When a file of somebody else has this generation's name, or the site's quota is used up.
        DiskFullError
            When there is no room; what was there is unchanged.
        """
        facts = {**self._identity, "round": stamp}
        content = dump(tensors, facts)
        if self._key is not None:
            content = seal(content, facts, self._key)
        with self._alone():
            attempts.refuse_other(self._folder, self._attempt, self._experiment_id)
            path = self._path(stamp)
            reason = self._why_not_ours(stamp) if path.exists() else ""
            if reason and reason not in _SET_ASIDE:
                raise StateError(f"{path} is not this site's, and is not overwritten. {_MISPLACED}")
            if self._quota is not None:
                self._quota.require_room(self._root, len(content))
            if path.exists() and (reason or read_bytes(path) != content):
                self._set_aside(path, reason or _PASSED_OVER)
            drop_leftovers(self._folder)  # of a crash while writing
            write_atomically(path, content, mode=0o600)
            there = self.stamps()
            for other in there:
                if other in (stamp, previous) or self._why_not_ours(other):
                    continue
                if other < previous and previous in there:
                    self._path(other).unlink(missing_ok=True)
                else:
                    self._set_aside(self._path(other), _PASSED_OVER)

    # --- parts ------------------------------------------------------------------------------------------------------

    def _path(self, stamp: int) -> Path:
        return self._folder / f"private-{stamp:06d}.safetensors"

    def _alone(self) -> FileLock:
        """Make the folder, closed to others, and keep other processes from writing to it."""
        make_folders(self._folder.parent.parent.parent)
        for folder in (self._folder.parent.parent, self._folder.parent, self._folder):
            make_folders(folder, mode=0o700)
            if folder != self._folder.parent.parent and stat.S_IMODE(folder.stat().st_mode) & 0o077:
                folder.chmod(0o700)  # a backup may have been restored with other permissions
        return FileLock(self._folder / "lock", mode=0o600)

    def _refuse_foreign(self, path: Path, stamp: int, found: Facts) -> None:
        """Raise UnusableBranchError when the facts in a file are not those of this site's generation."""
        schema = found.get("schema")
        if schema != SCHEMA:
            newer = isinstance(schema, int) and schema > SCHEMA
            raise UnusableBranchError(
                f"{path} was written by {'a newer' if newer else 'an older'} version of this app (schema {schema!r} "
                f"instead of {SCHEMA}). {'Upgrade this site.' if newer else 'Go on with that version.'} {_ELSE}",
                "newer-version" if newer else "older-version",
            )
        wanted = {**self._identity, "round": stamp}
        wrong = [
            f"{key} {found.get(key)!r} instead of {value!r}" for key, value in wanted.items() if found.get(key) != value
        ]
        if wrong:
            raise UnusableBranchError(f"{path} does not belong here: {', '.join(wrong)}. {_MISPLACED}", "foreign")

    def _why_not_ours(self, stamp: int) -> str:
        """Say why a generation's file is not one that this site may replace or delete; "" when it is."""
        path = self._path(stamp)
        try:
            self._refuse_foreign(path, stamp, _clear_facts(read_bytes(path), path))
        except UnusableBranchError as error:
            return error.reason
        except DamagedError:
            return "damaged"
        return ""

    def _set_aside(self, path: Path, reason: str) -> Path:
        """Rename a file that cannot be used, to a name that no file has."""
        names = (path.with_name(f"{path.name}.refused-{reason}-{number}") for number in itertools.count(1))
        kept = next(name for name in names if not name.exists())
        if path.exists():  # another process may have been first
            path.rename(kept)
            sync_folder(path.parent)
        return kept


def _clear_facts(content: bytes, path: Path) -> Facts:
    """Read what a file says of itself without a key; raises DamagedError."""
    return sealed_facts(content, path) if is_sealed(content) else facts_of(content, path)
