"""The data set ``shapes``: images that are rendered when asked for."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property, lru_cache
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from fedpurel_app.core.errors import DataError
from fedpurel_app.data.shapes import shapes
from fedpurel_app.data.sources.source import PLAIN_TEMPLATE, Ints, Source

if TYPE_CHECKING:
    from PIL.Image import Image

SHAPES_TRAIN, SHAPES_TEST = 250, 100  # images per class

_RENDERING = Lock()


@dataclass(frozen=True)
class RenderedSplit:
    """A split of ``shapes``: the same number of images of every class, rendered when asked for."""

    split: str
    per_class: int

    @cached_property
    def labels(self) -> Ints:
        """Class indices, shape (N,), ascending."""
        return np.repeat(np.arange(len(shapes.CLASS_NAMES)), self.per_class)

    @property
    def fingerprint(self) -> str:
        """Name of the content."""
        domain = hashlib.sha256(repr(shapes.HARD).encode()).hexdigest()[:16]
        return f"shapes-{shapes.VERSION}-{domain}-{self.split}-{self.per_class}"

    def images(self, rows: Ints) -> list[Image]:
        """Render images by row number."""
        from PIL import Image

        return [Image.fromarray(self._picture(*divmod(int(row), self.per_class))) for row in rows]

    def _picture(self, label: int, number: int) -> npt.NDArray[np.uint8]:
        with _RENDERING:  # threads that ask for one block at once shall not all render it
            return _block(self.split, label, number // shapes.BLOCK)[number % shapes.BLOCK]


@lru_cache(maxsize=512)  # of 150 kB each: rows are asked for in any order, and a block is rendered as one
def _block(split: str, label: int, block: int) -> npt.NDArray[np.uint8]:
    return shapes.block_of(split, label, block, shapes.HARD, 0)


def load_shapes(path: str, max_per_class: int) -> Source:
    """Make the rendered data set: ``max_per_class`` (0: 250) training and 100 test images of each of 48 classes."""
    if path:
        raise DataError(f'dataset-path = "{path}": the data set "shapes" is rendered and takes no path.')
    train = RenderedSplit("train", max_per_class or SHAPES_TRAIN)
    superclass = tuple(colour for colour, _ in shapes.CLASSES)
    return Source(
        "shapes",
        shapes.CLASS_NAMES,
        PLAIN_TEMPLATE,
        train,
        RenderedSplit("test", SHAPES_TEST),
        superclass=superclass,
        validation=RenderedSplit("validation", SHAPES_TEST),
    )
