"""What frozen towers make of a data set: computed once for every image that is used, kept on disk, mapped into memory.

A file's name is a hash of all that its content depends on (weights, images, transform, kind of device, precision), so
what is cached is never stale. What comes of a row does not depend on who asked for which rows first, to the last bit.
Interrupted work goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from filelock import FileLock
from torch import Tensor

from fedpurel_app.core.errors import DiskFullError, StateError
from fedpurel_app.core.files import write_atomically
from fedpurel_app.core.progress import Event, tell
from fedpurel_app.models.backbone import Backbone, Takes
from fedpurel_app.training.encoding import Images, Rows, Task, all_threads, encode_rows
from fedpurel_app.training.row_store import RowStore

if TYPE_CHECKING:
    pass

logger = logging.getLogger("flwr.fedpurel")


_FORMAT = 3  # raise when the stored form changes, or the last bits of what towers give


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

    task = Task(split, backbone, view, encode, f"Encoding {{}} images once with {backbone.name}", "Encoded")
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
    task = Task(split, backbone, view, lambda pixels: pixels.numpy(), doing, "Cropped and resized")
    return _images(task, _path(folder, _key("pixels", split, backbone), view), rows)


def image_patches(
    split: Images, backbone: Backbone, folder: Path, view: int = 0, rows: Rows | None = None
) -> npt.NDArray[np.float16]:
    """Return the features of all patches of the images of a split, for modules that look at patches.

    Parameters
    ----------
    split, backbone, folder, view, rows
        As for :func:`image_features`.

    Returns
    -------
    ndarray of float16, shape (N, M, D)
        L2-normalised before they were rounded; rows that were not asked for may hold anything. Mapped read-only.
    """

    def encode(pixels: Tensor) -> npt.NDArray[Any]:
        return backbone.encode_patches(pixels)[1].half().cpu().numpy()

    doing = f"Encoding the patches of {{}} images once with {backbone.name}"
    task = Task(split, backbone, view, encode, doing, "Encoded the patches of")
    return _images(task, _path(folder, _key("patches", split, backbone), view), rows)


def text_features(prompts: Sequence[str], backbone: Backbone, folder: Path) -> Tensor:
    """Return the text features of whole prompts, shape (C, D), L2-normalised, on the CPU; from the cache if there."""
    path = _file(folder, f"text|{backbone.fingerprint}|{list(prompts)}")
    store = RowStore(path, len(prompts))
    features, _ = store.open()
    if features is None:
        with _made_by_one(path):
            features, _ = store.open()  # another process may have been first
            if features is None:
                with all_threads():
                    np.save(buffer := io.BytesIO(), backbone.encode_prompts(prompts).cpu().numpy())
                write_atomically(path, buffer.getvalue(), mode=0o600)
                features, _ = store.open()
    return torch.from_numpy(np.array(_readable(features, path)))


def count_missing(
    kind: Takes, split: Images, backbone: Backbone, folder: Path, view: int = 0, rows: Rows | None = None
) -> int:
    """Count the images of a split, or of some rows of it, of which a kind of arrays is not in the cache."""
    store = RowStore(_path(folder, _key(kind, split, backbone), view), len(split.labels))
    _, done = store.open()
    return int((~(done if rows is None else done[np.unique(rows)])).sum())


def _key(kind: Takes, split: Images, backbone: Backbone) -> str:
    if kind != "pixels":
        return f"{kind}|{backbone.fingerprint}|{split.fingerprint}"
    form = {name: value for name, value in backbone.checkpoint.preprocessing.items() if name not in ("mean", "std")}
    return f"pixels|{backbone.image_size}|{sorted(form.items())}|{split.fingerprint}"


def _images(task: Task, path: Path, rows: Rows | None) -> npt.NDArray[Any]:
    wanted = np.arange(task.count) if rows is None else np.unique(rows)
    store = RowStore(path, task.count)
    found = store.find(wanted)
    if found is None:
        with _made_by_one(path):
            _, done = store.open()  # another process may have been first
            missing = wanted[~done[wanted]]
            if len(missing) or not task.count:
                tell(logger, Event.ENCODING, f"{task.doing.format(len(missing))} ...")
                with all_threads():
                    encode_rows(task, store, missing)
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
