"""What frozen towers make of a data set: computed once for every image that is used, kept on disk, mapped into memory.

A file's name is a hash of all that its content depends on (weights, images, transform, kind of device, precision), so
what is cached is never stale. Row r of a split is encoded at place r % 256 of a batch of 256 images, and those of the
last, smaller batch of the split at their place in one of that size; the other places hold what else is wanted, or
nothing. So what comes of a row does not depend on who asked for which rows first, to the last bit, and is what comes of
encoding the split whole. Interrupted work goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from filelock import FileLock
from torch import Tensor

from fedpurel_app.core.errors import DiskFullError, StateError
from fedpurel_app.core.files import write_atomically
from fedpurel_app.core.progress import Event, tell
from fedpurel_app.models.backbone import Backbone
from fedpurel_app.training.augment import random_crop
from fedpurel_app.training.row_store import RowStore, RowWriter

if TYPE_CHECKING:
    from PIL.Image import Image

logger = logging.getLogger("flwr.fedpurel")

Kind = Literal["features", "pixels"]
Rows = npt.NDArray[np.int64]

_BATCH = 256
_DECODED = 16  # images that a thread holds at their full size
_FORMAT = 3  # raise when the stored form changes, or the last bits of what towers give
_REPORT = 10.0  # seconds between lines on progress


class Images(Protocol):
    """What is encoded: a split of any data set."""

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """One for each image."""
        ...

    @property
    def fingerprint(self) -> str:
        """Name of the content."""
        ...

    def images(self, rows: npt.NDArray[np.int64]) -> list[Image]:
        """Load images by row number."""
        ...


@dataclass(frozen=True)
class _Task:
    """What is made of the images of a split, and what is said while it is."""

    split: Images
    backbone: Backbone
    view: int
    encode: Callable[[Tensor], npt.NDArray[Any]]
    doing: str
    done: str

    @property
    def count(self) -> int:
        return len(self.split.labels)


def image_features(
    split: Images, backbone: Backbone, folder: Path, view: int = 0, rows: Rows | None = None
) -> npt.NDArray[np.float32]:
    """Return the image features of a split, from the cache if they are there.

    Parameters
    ----------
    split : Split
        N images.
    backbone : Backbone
    folder : Path
        Of the cache; made when absent, readable by its owner alone.
    view : int
        0 for CLIP's own evaluation transform, k > 0 for the k-th random view of every image.
    rows : ndarray of int64, optional
        Those that are needed; else all.

    Returns
    -------
    ndarray of float32, shape (N, D)
        Not normalised; rows that were not asked for may hold anything. Mapped read-only: memory is shared by the
        processes that use it.
    """

    @torch.no_grad()
    def encode(pixels: Tensor) -> npt.NDArray[Any]:
        return backbone.encode_pixels(pixels).cpu().numpy()

    task = _Task(split, backbone, view, encode, f"Encoding {{}} images once with {backbone.name}", "Encoded")
    return _images(task, _path(folder, _key("features", split, backbone), view), rows)


def image_pixels(
    split: Images, backbone: Backbone, folder: Path, view: int = 0, rows: Rows | None = None
) -> npt.NDArray[np.uint8]:
    """Return the preprocessed images of a split, for modules that work inside the image tower.

    Parameters
    ----------
    split, backbone, folder, view, rows
        As for :func:`image_features`.

    Returns
    -------
    ndarray of uint8, shape (N, 3, H, W)
        Cropped and resized, before normalisation; rows that were not asked for may hold anything. Mapped read-only.
    """
    doing = "Cropping and resizing {} images once"
    task = _Task(split, backbone, view, lambda pixels: pixels.numpy(), doing, "Cropped and resized")
    return _images(task, _path(folder, _key("pixels", split, backbone), view), rows)


def text_features(prompts: Sequence[str], backbone: Backbone, folder: Path) -> Tensor:
    """Return the text features of whole prompts, shape (C, D), L2-normalised, on the CPU; from the cache if there."""
    path = _file(folder, f"text|{backbone.fingerprint}|{list(prompts)}")
    store = RowStore(path, len(prompts))
    features, _ = store.open()
    if features is None:
        with _made_by_one(path):
            features, _ = store.open()  # another process may have been first
            if features is None:
                with _all_threads():
                    np.save(buffer := io.BytesIO(), backbone.encode_prompts(prompts).cpu().numpy())
                write_atomically(path, buffer.getvalue(), mode=0o600)
                features, _ = store.open()
    return torch.from_numpy(np.array(_readable(features, path)))


def count_missing(
    kind: Kind, split: Images, backbone: Backbone, folder: Path, view: int = 0, rows: Rows | None = None
) -> int:
    """Count the images of a split, or of some rows of it, whose features or pixels are not in the cache."""
    store = RowStore(_path(folder, _key(kind, split, backbone), view), len(split.labels))
    _, done = store.open()
    return int((~(done if rows is None else done[np.unique(rows)])).sum())


def _key(kind: Kind, split: Images, backbone: Backbone) -> str:
    if kind == "features":
        return f"features|{backbone.fingerprint}|{split.fingerprint}"
    form = {name: value for name, value in backbone.checkpoint.preprocessing.items() if name not in ("mean", "std")}
    return f"pixels|{backbone.image_size}|{sorted(form.items())}|{split.fingerprint}"


def _images(task: _Task, path: Path, rows: Rows | None) -> npt.NDArray[Any]:
    wanted = np.arange(task.count) if rows is None else np.unique(rows)
    store = RowStore(path, task.count)
    found = store.find(wanted)
    if found is None:
        with _made_by_one(path):
            _, done = store.open()  # another process may have been first
            missing = wanted[~done[wanted]]
            if len(missing) or not task.count:
                tell(logger, Event.ENCODING, f"{task.doing.format(len(missing))} ...")
                with _all_threads():
                    _encode(task, store, missing)
            found = store.find(wanted)
    return _readable(found, path)


def _path(folder: Path, key: str, view: int) -> Path:
    return _file(folder, f"{key}|view {view}")


def _file(folder: Path, key: str) -> Path:
    return folder / f"{hashlib.sha256(f'{_FORMAT}|{key}'.encode()).hexdigest()[:32]}.npy"


@contextmanager
def _made_by_one(path: Path) -> Iterator[None]:
    """Let one process at a time make a file; the folder and all in it are its owner's alone."""
    lock = FileLock(f"{path}.lock", mode=0o600)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.parent.chmod(0o700)
        lock.acquire()
    except DiskFullError:
        raise
    except OSError as error:
        raise StateError(
            f"the cache {path.parent} cannot be written ({error.strerror}): make it yours, or set FEDPUREL_HOME to "
            "another folder."
        ) from error
    try:
        yield
    finally:
        lock.release()


def _readable(found: npt.NDArray[Any] | None, path: Path) -> npt.NDArray[Any]:
    if found is None:
        raise OSError(f"the cache file {path} cannot be read back")
    return found


def _encode(task: _Task, store: RowStore, rows: Rows) -> None:
    """Write some rows batch by batch, and now and then which are there."""
    if not len(rows):
        raise ValueError("there are no images to encode")
    started = reported = time.monotonic()
    done = 0
    with RowWriter(store, len(rows)) as writer:
        for batch, pixels in _loaded(task, rows):
            writer.put(batch, task.encode(_placed(pixels, batch, task.count))[batch % _BATCH])
            done += len(batch)
            if (now := time.monotonic()) - reported > _REPORT:
                writer.save()
                left = (now - started) / done * (len(rows) - done)
                tell(logger, Event.ENCODING, f"{done} of {len(rows)} images, {left / 60:.1f} min left")
                reported = now
    tell(logger, Event.ENCODED, f"{task.done} {len(rows)} images in {time.monotonic() - started:.0f} s")


def _placed(pixels: Tensor, rows: Rows, count: int) -> Tensor:
    """Put images where a batch of the whole split has them, in a batch of the same size."""
    size = min(_BATCH, count - int(rows[0]) // _BATCH * _BATCH)
    if len(rows) == size:
        return pixels
    batch = pixels.new_zeros((size, *pixels.shape[1:]))
    batch[torch.from_numpy(rows % _BATCH)] = pixels
    return batch


def _batches(rows: Rows, count: int) -> list[Rows]:
    """Divide rows into batches, each of other places: sorted by place, and those of the split's last batch apart."""
    whole = count // _BATCH * _BATCH
    inner, last = rows[rows < whole], rows[rows >= whole]
    place = inner % _BATCH
    order = np.lexsort((inner, place))
    inner, place = inner[order], place[order]
    turn = np.arange(len(inner)) - np.searchsorted(place, place)  # which of its place's rows it is
    batches = [inner[turn == number] for number in range(int(turn.max()) + 1)] if len(inner) else []
    return [*batches, last] if len(last) else batches


def _loaded(task: _Task, rows: Rows) -> Iterator[tuple[Rows, Tensor]]:
    """Load and preprocess images on all cores, a few batches ahead; memory does not grow with the split."""
    evaluation = task.backbone.preprocess

    def preprocess(image: Image, row: int) -> Tensor:
        if not task.view:
            return evaluation(image)
        return random_crop(image, task.backbone.image_size, np.random.default_rng([task.view, row]))

    def load(batch: Rows) -> Tensor:
        pixels = []
        for part in np.array_split(batch, -(-len(batch) // _DECODED)):  # full-size images fill memory quickly
            pixels += [preprocess(image, int(row)) for image, row in zip(task.split.images(part), part, strict=True)]
        return torch.stack(pixels)

    waiting: deque[tuple[Rows, Future[Tensor]]] = deque()
    with ThreadPoolExecutor(_cores()) as pool:
        for batch in _batches(rows, task.count):
            waiting.append((batch, pool.submit(load, batch)))
            if len(waiting) > _cores():
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _all_threads() -> Iterator[None]:
    """Use every core: the other processes wait for this one. The number decides the last bits, so it is always this."""
    before = torch.get_num_threads()
    torch.set_num_threads(_cores())
    try:
        yield
    finally:
        torch.set_num_threads(before)
