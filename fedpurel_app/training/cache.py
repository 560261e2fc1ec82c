"""What frozen towers make of a data set: computed once, kept on disk, mapped into memory.

A file's name is a hash of all that its content depends on (weights, images, transform, kind of device, precision), so
what is cached is never stale. A split is encoded whole, in one order and one batch size, so rows do not depend on which
site asked first. Interrupted work goes on where it stopped.
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
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from filelock import FileLock
from torch import Tensor

from fedpurel_app.files import full_disk_named, reserve, write_atomically
from fedpurel_app.models.backbone import Backbone
from fedpurel_app.training.augment import random_crop

if TYPE_CHECKING:
    from PIL.Image import Image

logger = logging.getLogger("flwr.fedpurel")

Kind = Literal["features", "pixels"]

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


def image_features(split: Images, backbone: Backbone, folder: Path, view: int = 0) -> npt.NDArray[np.float32]:
    """Give the image features of a split, from the cache if they are there.

    Parameters
    ----------
    split : Split
        N images.
    backbone : Backbone
    folder : Path
        Of the cache; made when absent, readable by its owner alone.
    view : int
        0 for CLIP's own evaluation transform, k > 0 for the k-th random view of every image.

    Returns
    -------
    ndarray of float32, shape (N, D)
        Not normalised. Mapped read-only: memory is shared by the processes that use it.
    """

    @torch.no_grad()
    def encode(pixels: Tensor) -> npt.NDArray[Any]:
        return backbone.encode_pixels(pixels).cpu().numpy()

    key = _key("features", split, backbone)
    return _images(split, backbone, folder, key, view, encode, f"Encoding {{}} images once with {backbone.name}")


def image_pixels(split: Images, backbone: Backbone, folder: Path, view: int = 0) -> npt.NDArray[np.uint8]:
    """Give the preprocessed images of a split, for modules that work inside the image tower.

    Parameters
    ----------
    split, backbone, folder, view
        As for :func:`image_features`.

    Returns
    -------
    ndarray of uint8, shape (N, 3, H, W)
        Cropped and resized, before normalisation. Mapped read-only.
    """
    key = _key("pixels", split, backbone)
    doing = "Cropping and resizing {} images once"
    return _images(split, backbone, folder, key, view, lambda pixels: pixels.numpy(), doing)


def text_features(prompts: Sequence[str], backbone: Backbone, folder: Path) -> Tensor:
    """Give the text features of whole prompts, shape (C, D), L2-normalised, on the CPU; from the cache if there."""
    path = _path(folder, f"text|{backbone.fingerprint}|{list(prompts)}")
    with _made_by_one(path):
        features = _open(path, len(prompts))
        if features is None:
            with _all_threads():
                np.save(buffer := io.BytesIO(), backbone.encode_prompts(prompts).cpu().numpy())
            write_atomically(path, buffer.getvalue(), mode=0o600)
            features = _open(path, len(prompts))
    return torch.from_numpy(np.array(_readable(features, path)))


def is_cached(kind: Kind, split: Images, backbone: Backbone, folder: Path, view: int = 0) -> bool:
    """Tell whether a split's features or pixels are in the cache."""
    return _open(_path(folder, f"{_key(kind, split, backbone)}|view {view}"), len(split.labels)) is not None


def _key(kind: Kind, split: Images, backbone: Backbone) -> str:
    if kind == "features":
        return f"features|{backbone.fingerprint}|{split.fingerprint}"
    form = {name: value for name, value in backbone.checkpoint.preprocessing.items() if name not in ("mean", "std")}
    return f"pixels|{backbone.image_size}|{sorted(form.items())}|{split.fingerprint}"


def _images(
    split: Images,
    backbone: Backbone,
    folder: Path,
    key: str,
    view: int,
    encode: Callable[[Tensor], npt.NDArray[Any]],
    doing: str,
) -> npt.NDArray[Any]:
    path = _path(folder, f"{key}|view {view}")
    found = _open(path, len(split.labels))
    if found is None:
        with _made_by_one(path):
            found = _open(path, len(split.labels))  # another process may have been first
            if found is None:
                logger.info("%s ...", doing.format(len(split.labels)))
                with _all_threads():
                    _encode(split, backbone, path, view, encode)
                found = _open(path, len(split.labels))
    return _readable(found, path)


def _path(folder: Path, key: str) -> Path:
    return folder / f"{hashlib.sha256(f'{_FORMAT}|{key}'.encode()).hexdigest()[:32]}.npy"


@contextmanager
def _made_by_one(path: Path) -> Iterator[None]:
    """Let one process at a time make a file; the folder and all in it are its owner's alone."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.parent.chmod(0o700)
    with FileLock(f"{path}.lock", mode=0o600):
        yield


def _readable(found: npt.NDArray[Any] | None, path: Path) -> npt.NDArray[Any]:
    if found is None:
        raise OSError(f"the cache file {path} cannot be read back")
    return found


def _open(path: Path, rows: int) -> npt.NDArray[Any] | None:
    """Map a cache file; None when it is absent or damaged."""
    if not path.exists():
        return None
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        logger.warning("The cache file %s is damaged (%s) and is made again.", path, error)
        return None
    return found if len(found) == rows else None


def _encode(
    split: Images, backbone: Backbone, path: Path, view: int, encode: Callable[[Tensor], npt.NDArray[Any]]
) -> None:
    """Write a file batch by batch, from where an interrupted process stopped."""
    count = len(split.labels)
    partial, progress = path.with_suffix(".partial.npy"), path.with_suffix(".rows")
    target, done = _interrupted(partial, progress, count)
    started = reported = time.monotonic()
    first = done
    try:
        for start, pixels in _batches(split, backbone, done, view):
            values = encode(pixels)
            if target is None:
                progress.unlink(missing_ok=True)  # of a file that is gone
                with full_disk_named(path, count * values[0].nbytes):
                    target = np.lib.format.open_memmap(partial, "w+", values.dtype, (count, *values.shape[1:]))
                reserve(partial)
            target[start : start + len(values)] = values
            done = start + len(values)
            if (now := time.monotonic()) - reported > _REPORT:
                target.flush()
                write_atomically(progress, str(done).encode(), mode=0o600)
                left = (now - started) / (done - first) * (count - done)
                logger.info("%d of %d images, %.1f min left", done, count, left / 60)
                reported = now
    except BaseException:
        if not progress.exists():
            partial.unlink(missing_ok=True)
        raise
    if target is None:
        raise ValueError("there are no images to encode")
    target.flush()
    progress.unlink(missing_ok=True)
    partial.replace(path)
    path.chmod(0o600)


def _interrupted(partial: Path, progress: Path, count: int) -> tuple[np.memmap[Any, Any] | None, int]:
    """Give what an interrupted process left, and how many of its rows are good."""
    try:
        done = int(progress.read_text())
        target = np.lib.format.open_memmap(partial, "r+")
    except (OSError, ValueError, EOFError):
        return None, 0
    return (target, done) if len(target) == count and 0 < done <= count else (None, 0)


def _batches(split: Images, backbone: Backbone, done: int, view: int) -> Iterator[tuple[int, Tensor]]:
    """Load and preprocess images on all cores, a few batches ahead; memory does not grow with the split."""
    count = len(split.labels)
    evaluation = backbone.preprocess

    def preprocess(image: Image, row: int) -> Tensor:
        if not view:
            return evaluation(image)
        return random_crop(image, backbone.image_size, np.random.default_rng([view, row]))

    def load(start: int) -> Tensor:
        rows = np.arange(start, min(start + _BATCH, count))
        pixels = []
        for part in np.array_split(rows, -(-len(rows) // _DECODED)):  # full-size images fill memory quickly
            pixels += [preprocess(image, int(row)) for image, row in zip(split.images(part), part, strict=True)]
        return torch.stack(pixels)

    waiting: deque[tuple[int, Future[Tensor]]] = deque()
    with ThreadPoolExecutor(_cores()) as pool:
        for start in range(done, count, _BATCH):
            waiting.append((start, pool.submit(load, start)))
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
