"""A file of as many rows as a data set has images, of which those are there that somebody has asked for.

The file has its full size at once, and takes the room of the rows that were written. A record beside it says which
these are; it is replaced in one step after they have reached the disk. When the last one is there, the file takes its
final name and needs no record.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shutil
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from fedpurel_app.core.files import full_disk_named, sync_folder, write_atomically

logger = logging.getLogger("flwr.fedpurel")

Array = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]
_MAGIC = b"fedpurel rows 1\n"


class RowStore:
    """Reads such a file.

    Parameters
    ----------
    path : Path
        Its final name, which ends in ``.npy``.
    count : int
        Number of rows, N.
    """

    def __init__(self, path: Path, count: int) -> None:
        self.path, self.count = path, count
        self.partial, self.record = path.with_suffix(".partial.npy"), path.with_suffix(".rows")

    def open(self) -> tuple[Array | None, Mask]:
        """Map what there is, read-only.

        Returns
        -------
        (ndarray or None, ndarray of bool)
            All rows, shape (N, ...), and which of them were written, shape (N,). None where no row is there.
        """
        if (whole := self._map(self.path)) is not None:
            return whole, np.ones(self.count, bool)
        done = self._read_record()
        rows = self._map(self.partial) if done.any() else None
        return (None, np.zeros(self.count, bool)) if rows is None else (rows, done)

    def find(self, rows: npt.NDArray[np.int64]) -> Array | None:
        """Map the file when it has some rows at least, all of these; else None."""
        found, done = self.open()
        return found if found is not None and bool(done[rows].all()) else None

    def _map(self, path: Path) -> Array | None:
        try:
            found: Array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (FileNotFoundError, PermissionError):  # the second is told when it is to be written
            return None
        except (ValueError, OSError, EOFError) as error:
            logger.warning("The cache file %s is damaged (%s) and is made again.", path, error)
            return None
        return found if len(found) == self.count else None

    def _read_record(self) -> Mask:
        nothing = np.zeros(self.count, bool)
        try:
            content = self.record.read_bytes()
        except OSError:
            return nothing
        bits = np.frombuffer(content.removeprefix(_MAGIC), np.uint8)
        if not content.startswith(_MAGIC) or len(bits) != -(-self.count // 8):
            return nothing
        return np.unpackbits(bits, count=self.count).astype(bool)


class RowWriter:
    """Adds rows to such a file; one process at a time may, in a ``with`` statement. What was put there is kept.

    Parameters
    ----------
    store : RowStore
    expected : int
        Number of rows that will be put, for the message when there is no room for them.
    """

    def __init__(self, store: RowStore, expected: int) -> None:
        self._store, self._expected = store, expected
        self._done = np.zeros(0, bool)
        self._file = -1
        self._start = self._width = 0

    def __enter__(self) -> RowWriter:
        return self

    def put(self, rows: npt.NDArray[np.int64], values: Array) -> None:
        """Write the values of some rows.

        Raises
        ------
        DiskFullError
            When there is no room for all that will be put.
        """
        with full_disk_named(self._store.partial, self._expected * values[0].nbytes):
            if self._file < 0:
                self._begin(values)
            for row, value in zip(rows.tolist(), np.ascontiguousarray(values), strict=True):
                # A map would have no way to report a full disk but to kill the process.
                left, place = memoryview(value.tobytes()), self._start + row * self._width
                while left:
                    written = os.pwrite(self._file, left, place)
                    left, place = left[written:], place + written
        self._done[rows] = True

    def save(self) -> None:
        """Make what was put so far durable, and have the record say so."""
        os.fsync(self._file)
        bits = np.packbits(self._done).tobytes()
        write_atomically(self._store.record, _MAGIC + bits, mode=0o600)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        store = self._store
        if self._file < 0:
            return
        try:
            if error is None:
                self.save()
            else:
                with contextlib.suppress(OSError):
                    self.save()
        finally:
            os.close(self._file)
        if not store.record.exists():
            store.partial.unlink(missing_ok=True)
        elif self._done.all():
            store.partial.replace(store.path)
            sync_folder(store.path.parent)
            store.record.unlink(missing_ok=True)

    def _begin(self, values: Array) -> None:
        """Open the file, or make it where there is none that the record is of."""
        store = self._store
        needed = self._expected * values[0].nbytes
        if shutil.disk_usage(store.path.parent).free < needed:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        found, self._done = store.open()
        fits = found is not None and found.dtype == values.dtype and found.shape[1:] == values.shape[1:]
        if not fits:
            store.record.unlink(missing_ok=True)  # of a file that is gone
            self._done[:] = False
        flags = os.O_RDWR | (0 if fits else os.O_CREAT | os.O_TRUNC)
        self._file = os.open(store.partial, flags, 0o600)
        self._width = values[0].nbytes
        if not fits:
            with os.fdopen(os.dup(self._file), "wb") as file:
                header = {
                    "descr": np.lib.format.dtype_to_descr(values.dtype),
                    "fortran_order": False,
                    "shape": (store.count, *values.shape[1:]),
                }
                np.lib.format.write_array_header_1_0(file, header)
        self._start = os.lseek(self._file, 0, os.SEEK_CUR) if not fits else _header_size(store.partial)
        os.ftruncate(self._file, self._start + store.count * self._width)


def _header_size(path: Path) -> int:
    with path.open("rb") as file:
        np.lib.format.read_magic(file)
        np.lib.format.read_array_header_1_0(file)
        return file.tell()
