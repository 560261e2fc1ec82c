"""Look at every image of a data set by its header, before any work begins, and name all that cannot be read at once."""

from __future__ import annotations

import logging
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Protocol, runtime_checkable

from fedpurel_app.core.disk_memo import remembered
from fedpurel_app.core.errors import DataError
from fedpurel_app.data.sources.opening import RULES, fault_of
from fedpurel_app.data.sources.source import Ints, Source

logger = logging.getLogger("flwr.fedpurel")

Report = Callable[[int, int], None]  # images looked at, and how many there are
_NAMED = 20  # faults that a message spells out
_ALONE = 20_000  # files that one process looks at sooner than others start
_CHUNK = 500
_REPORT = 10.0  # seconds between lines on progress


@runtime_checkable
class Lookable(Protocol):
    """A split whose images are files, or bytes in files."""

    @property
    def state(self) -> str:
        """What changes when an image does, found out without opening any."""
        ...

    def faults(self) -> Iterator[str]:
        """Yield, for every image, what is wrong with it by its header; empty where nothing is."""
        ...

    def encoded(self, rows: Ints) -> list[Path | bytes]:
        """Return the files of some rows, or what is in them."""
        ...


def look_at(source: Source, report: Report | None = None) -> None:
    """Look at all images of a data set; what was found sound is not looked at again until it changes.

    Parameters
    ----------
    source : Source
    report : callable, optional
        Told how far it is, now and then; else the log is.

    Raises
    ------
    DataError
        Naming the images that cannot be read, up to twenty of them, and how many there are.
    """
    splits = {split.state: split for split in (source.train, source.test) if isinstance(split, Lookable)}
    splits.pop("", None)  # looked at already, by who read it

    def look() -> bool:
        faults = (fault for split in splits.values() for fault in split.faults())
        # A site's training and test rows may be of one split, which is then looked at once.
        refuse_faults(faults, len(source.train.labels) + len(source.test.labels), report)
        return True

    if splits:
        remembered(f"looked at, {RULES}|{'|'.join(splits)}", look)


def meet(source: Source) -> None:
    """Say in the log what is left out of a data set, and look at all its images; raises DataError."""
    for note in source.notes:
        logger.info("data: %s", note)
    look_at(source)


def refuse_faults(faults: Iterable[str], total: int, report: Report | None = None) -> None:
    """Raise DataError when any of the images has a fault, once all have been looked at."""
    report = report or _log
    found, last = [], time.monotonic()
    for number, fault in enumerate(faults, 1):
        if fault:
            found.append(fault)
        if time.monotonic() - last > (_REPORT if report is _log else 0.5):
            report(number, total)
            last = time.monotonic()
    if not found:
        return
    lines = found[:_NAMED] + ([f"and {len(found) - _NAMED:,} more"] if len(found) > _NAMED else [])
    raise DataError(
        "\n".join([f"{len(found):,} of {total:,} images cannot be read: mend them, or take them away.", *lines])
    )


def faults_of_files(root: Path, files: Sequence[str]) -> Iterator[str]:
    """Yield, for each of some files, what is wrong with it; many files are divided among all cores."""
    if len(files) < _ALONE or (os.cpu_count() or 1) == 1:
        yield from map(partial(_fault_below, root), files)
        return
    # Started afresh: a copy of this process would take its threads' locks with it.
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(partial(_fault_below, root), files, chunksize=_CHUNK)


def _fault_below(root: Path, name: str) -> str:
    return fault_of(root / name)


def _log(number: int, total: int) -> None:
    logger.info("looked at %s of %s images", f"{number:,}", f"{total:,}")
