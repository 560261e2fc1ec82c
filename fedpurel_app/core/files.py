"""Atomic, durable file writes, with a clear error when the disk is full."""

from __future__ import annotations

import csv
import errno
import io
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedpurel_app.core.errors import DiskFullError

_FORMULA = re.compile(r"'*[=+\-@\t\r]")  # what spreadsheets take for one, also behind the mark that says it is none
_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?(e[+-]?\d+)?")
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT}


def write_atomically(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Replace a file's content in one step that survives a power loss.

    Parameters
    ----------
    path : Path
        In a folder that exists.
    content : bytes
    mode : int
        Permissions of the file.

    Raises
    ------
    DiskFullError
        When there is no room; the old file is then still there.
    OSError
        When the disk refuses for another reason; so it is then, too.
    """
    with full_disk_named(path, len(content)):
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        try:
            try:
                os.fchmod(descriptor, mode)
                left = memoryview(content)
                while left:
                    left = left[os.write(descriptor, left) :]
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def drop_leftovers(folder: Path, prefix: str = "") -> None:
    """Remove what :func:`write_atomically` left where it was cut off; nobody else may write there meanwhile."""
    for leftover in folder.glob(f".{prefix}*.tmp"):
        leftover.unlink(missing_ok=True)


def make_folders(path: Path, mode: int = 0o777) -> None:
    """Make a folder, and those above it that are missing, so that they survive a power loss.

    Parameters
    ----------
    path : Path
    mode : int
        Permissions of those that are made.
    """
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    for folder in reversed(missing):
        with full_disk_named(folder, 0):
            folder.mkdir(mode=mode, exist_ok=True)
            sync_folder(folder.parent)


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Replace a table in one step; raises OSError when the disk refuses."""
    write_atomically(path, csv_text(header, rows).encode())


def csv_text(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return a table as CSV, in which no text is taken for a formula by a spreadsheet."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([_quoted(cell) for cell in row] for row in rows)
    return text.getvalue()


def _quoted(cell: Any) -> Any:
    return f"'{cell}" if isinstance(cell, str) and _FORMULA.match(cell) and not _NUMBER.fullmatch(cell) else cell


def unquoted(cell: str) -> str:
    """Return the text of a cell that :func:`csv_text` wrote.

    Examples
    --------
    >>> unquoted("'=cmd"), unquoted("-5.0"), unquoted("'tis")
    ('=cmd', '-5.0', "'tis")
    """
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def sync_folder(folder: Path) -> None:
    """Make renames in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def full_disk_named(path: Path, needed: int) -> Iterator[None]:
    """Turn the error of a full disk or quota into one that says what was written where, and what to do.

    Parameters
    ----------
    path : Path
        The file that is written.
    needed : int
        Its size in bytes.

    Raises
    ------
    DiskFullError
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_ROOM or isinstance(error, DiskFullError):
            raise
        free = shutil.disk_usage(next(folder for folder in path.parents if folder.exists())).free
        text = (
            f"{path} could not be written: {os.strerror(error.errno or 0)}. It takes {needed:,} bytes, {free:,} are "
            "free there. What was there before is unchanged. Make room on that disk; a run then goes on with "
            "fedpurel run --resume, a site by itself."
        )
        raise DiskFullError(error.errno, text) from error


def home() -> Path:
    """Return the folder of runs and caches: ``FEDPUREL_HOME``, or ``~/fedpurel``."""
    return Path(os.environ.get("FEDPUREL_HOME") or Path.home() / "fedpurel").expanduser().absolute()


def names_weights(text: str) -> bool:
    """Tell whether a text is the path of a file of weights, by its ending.

    Examples
    --------
    >>> names_weights("/models/clip.safetensors"), names_weights("laion2b_s34b_b88k")
    (True, False)
    """
    return Path(text).suffix in (".safetensors", ".pt", ".pth", ".bin")
