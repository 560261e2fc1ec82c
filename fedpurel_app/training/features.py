"""Image features of a frozen tower: encoded once per source split, kept on disk, mapped into memory.

The file's name is a hash of the backbone's weights, the split's content, the transform and the kind of device, so a
cached feature is never stale. A split is encoded whole, in one order and one batch size, so rows do not depend on which
site asked first.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt
import torch
from filelock import FileLock

from fedpurel_app.models.backbone import Backbone

if TYPE_CHECKING:
    from PIL.Image import Image

logger = logging.getLogger("flwr.fedpurel")

_BATCH = 256
_FORMAT = 1  # raise when the stored form changes


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


def image_features(split: Images, backbone: Backbone, folder: Path) -> npt.NDArray[np.float32]:
    """Give the image features of a split, from the cache if they are there.

    Parameters
    ----------
    split : Split
        N images.
    backbone : Backbone
    folder : Path
        Of the cache; made when absent, readable by its owner alone.

    Returns
    -------
    ndarray of float32, shape (N, D)
        Not normalised. Mapped read-only: memory is shared by the processes that use it.
    """
    key = f"{_FORMAT}|{backbone.fingerprint}|{split.fingerprint}|clip-evaluation-transform|{backbone.device.type}|fp32"
    path = folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.npy"
    features = _open(path, len(split.labels))
    if features is None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.chmod(0o700)
        with FileLock(f"{path}.lock", mode=0o600):
            features = _open(path, len(split.labels))  # another process may have been first
            if features is None:
                _encode(split, backbone, path)
                features = _open(path, len(split.labels))
    if features is None:
        raise OSError(f"the feature cache {path} cannot be read back")
    return features


def _open(path: Path, rows: int) -> npt.NDArray[np.float32] | None:
    """Map a cache file; None when it is absent or damaged."""
    if not path.exists():
        return None
    try:
        features = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        logger.warning("The feature cache %s is damaged (%s) and is made again.", path, error)
        return None
    return features if len(features) == rows else None


def _encode(split: Images, backbone: Backbone, path: Path) -> None:
    count = len(split.labels)
    logger.info("Encoding %d images once with %s ...", count, backbone.name)
    for leftover in path.parent.glob(f"{path.stem}.*.tmp"):  # of a crash; the lock is ours
        leftover.unlink(missing_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f"{path.stem}.", suffix=".tmp", dir=path.parent)  # mode 0600
    os.close(descriptor)
    scratch = Path(name)
    target: np.memmap | None = None
    try:
        with _all_threads():
            for start in range(0, count, _BATCH):
                rows = np.arange(start, min(start + _BATCH, count))
                features = backbone.encode_images(split.images(rows)).numpy()
                if target is None:
                    target = np.lib.format.open_memmap(scratch, "w+", np.float32, (count, features.shape[1]))
                target[rows] = features
        if target is not None:
            target.flush()
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


@contextmanager
def _all_threads() -> Iterator[None]:
    """Use every core: the other processes wait for this one. The number decides the last bits, so it is always this."""
    before = torch.get_num_threads()
    torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
