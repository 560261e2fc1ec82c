"""The data set ``shapes``: images that are rendered when asked for."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from fedpurel_app.core.errors import DataError
from fedpurel_app.data.shapes import shapes
from fedpurel_app.data.sources.source import PLAIN_TEMPLATE, Ints, Source

if TYPE_CHECKING:
    from PIL.Image import Image

SHAPES_TRAIN, SHAPES_TEST = 250, 100  # images per class
SHAPES_EVALUATED = "test"  # the benchmark that chooses defaults puts "validation" here


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

        found: dict[int, Image.Image] = {}
        for label in np.unique(self.labels[rows]):
            wanted = [int(row) for row in rows if self.labels[row] == label]
            first, offset = min(wanted), int(label) * self.per_class
            pictures = shapes.images(self.split, int(label), first - offset, max(wanted) - offset + 1)
            found |= {row: Image.fromarray(pictures[row - first]) for row in wanted}
        return [found[int(row)] for row in rows]


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
        RenderedSplit(SHAPES_EVALUATED, SHAPES_TEST),
        superclass=superclass,
    )
