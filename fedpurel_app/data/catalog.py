"""The data sets by name. A new one is one loader in ``loading`` and one entry in ``DATASETS``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from fedpurel_app.data.loading import load_cifar100, load_features, load_shapes
from fedpurel_app.data.source import Source


@dataclass(frozen=True)
class Entry:
    """What the catalogue knows of a data set.

    Attributes
    ----------
    load : callable
        From ``dataset-path`` ("" where none is set) and ``max-per-class`` to a :class:`Source`.
    group_by : {"counts", "terciles"}
        What ``group-by = "auto"`` means.
    """

    load: Callable[[str, int], Source]
    group_by: Literal["counts", "terciles"]


DATASETS: Mapping[str, Entry] = {
    "shapes": Entry(load_shapes, "terciles"),
    "cifar100": Entry(load_cifar100, "counts"),
    "features": Entry(load_features, "terciles"),
}
