"""Write files so that a reader or a crash only ever sees a whole one."""

from __future__ import annotations

import csv
import io
import os
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any


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
    OSError
        When the disk refuses; the old file is then still there.
    """
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Replace a table in one step; raises OSError when the disk refuses."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_atomically(path, text.getvalue().encode())


def sync_folder(folder: Path) -> None:
    """Make renames in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def home() -> Path:
    """Give the folder of runs and caches: ``FEDPUREL_HOME``, or ``~/fedpurel``."""
    return Path(os.environ.get("FEDPUREL_HOME") or Path.home() / "fedpurel").expanduser().absolute()


def names_weights(text: str) -> bool:
    """Tell whether a text is the path of a file of weights, by its ending.

    Examples
    --------
    >>> names_weights("/models/clip.safetensors"), names_weights("laion2b_s34b_b88k")
    (True, False)
    """
    return Path(text).suffix in (".safetensors", ".pt", ".pth", ".bin")
