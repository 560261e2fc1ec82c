"""Put images through a frozen tower, each at its place.

Row r of a split is encoded at place r % 256 of a batch of 256 images, and those of the last, smaller batch of the split
at their place in one of that size; the other places hold what else is wanted, or nothing. So what comes of a row does
not depend on who asked for which rows first, to the last bit, and is what comes of encoding the split whole.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fedpurel_app.core.machine import usable_cores
from fedpurel_app.core.progress import Event, tell
from fedpurel_app.models.backbone import Backbone
from fedpurel_app.training.augment import random_crop
from fedpurel_app.training.row_store import RowStore, RowWriter

if TYPE_CHECKING:
    from PIL.Image import Image

logger = logging.getLogger("flwr.fedpurel")

Rows = npt.NDArray[np.int64]

_BATCH = 256
_DECODED = 16  # images that a thread holds at their full size
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
class Task:
    """What is made of the images of a split, and what is said while it is."""

    split: Images
    backbone: Backbone
    view: int
    encode: Callable[[Tensor], npt.NDArray[Any]]
    doing: str
    done: str

    @property
    def count(self) -> int:
        """Images of the split."""
        return len(self.split.labels)


def encode_rows(task: Task, store: RowStore, rows: Rows) -> None:
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


def _loaded(task: Task, rows: Rows) -> Iterator[tuple[Rows, Tensor]]:
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
    with ThreadPoolExecutor(usable_cores()) as pool:
        for batch in _batches(rows, task.count):
            waiting.append((batch, pool.submit(load, batch)))
            if len(waiting) > usable_cores():
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()


@contextmanager
def all_threads() -> Iterator[None]:
    """Use every core: the other processes wait for this one. The number decides the last bits, so it is always this."""
    before = torch.get_num_threads()
    torch.set_num_threads(usable_cores())
    try:
        yield
    finally:
        torch.set_num_threads(before)
