"""On-disk cache of values that are expensive to compute: digests of large files, labels of a data set, token ids.

At a real site every message is a new process. A file is known by its path, size and time of change: what is kept of it
is dropped when one of them changes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from fedpurel_app.core.files import home, write_atomically

_cache: Path | None = None


def keep_in(cache: Path) -> None:
    """Choose the cache folder of this process, else ``cache`` of :func:`~fedpurel_app.core.files.home`."""
    global _cache
    _cache = cache


def cache_folder() -> Path:
    """Return the cache folder of this process."""
    return _cache or home() / "cache"


def remembered(key: str, find: Callable[[], Any]) -> Any:
    """Return a fact from the memory on disk, or find it out and keep it.

    Parameters
    ----------
    key : str
        Names all that the fact depends on.
    find : callable
        Gives the fact, in JSON's types.

    Notes
    -----
    The memory lies in ``facts`` of the cache (see :func:`keep_in`), readable by its owner alone. What is damaged is
    found out anew; a full disk costs time, nothing else.
    """
    folder = cache_folder() / "facts"
    path = folder / f"{hashlib.sha256(os.fsencode(key)).hexdigest()[:32]}.json"
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        kept = json.loads(path.read_text("utf-8"))
        if kept["key"] == key:
            return kept["fact"]
    text = json.dumps({"key": key, "fact": find()})
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomically(path, text.encode(), mode=0o600)
    return json.loads(text)["fact"]  # as it will be read back: a tuple is a list


def state_of(files: Iterable[Path]) -> str:
    """Describe files by path, size and time of change, as a part of a key."""
    return "|".join(f"{path.absolute()}:{path.stat().st_size}:{path.stat().st_mtime_ns}" for path in files)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's content, computed once for each state of the file."""

    def digest() -> str:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    found: str = remembered(f"sha256|{state_of([path])}", digest)
    return found
