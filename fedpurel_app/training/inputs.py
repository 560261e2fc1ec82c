"""What a client's images are to the training loop: features in memory; pixels or patches read when asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fedpurel_app.models.backbone import Backbone, Takes
from fedpurel_app.models.peft.base import Logits
from fedpurel_app.training.augment import random_crop

if TYPE_CHECKING:
    from PIL.Image import Image

_FEATURES_AT_ONCE, _IMAGES_AT_ONCE = 4096, 64


class StoredRows:
    """Rows of a file of preprocessed images, or of features of their patches: a batch is read when it is asked for.

    Parameters
    ----------
    array : ndarray of uint8, shape (N, 3, H, W), or of float16, shape (N, M, D)
        Usually mapped from disk.
    rows : ndarray of int64, shape (n,)
        The client's.
    """

    def __init__(self, array: npt.NDArray[Any], rows: npt.NDArray[np.int64]) -> None:
        self._array, self._rows = array, rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Tensor | slice) -> Tensor:
        """Read what is stored of some of the client's images, shape (B, ...)."""
        chosen = self._rows[index.cpu().numpy() if isinstance(index, Tensor) else index]
        return torch.from_numpy(np.asarray(self._array[chosen]))


class TrainingData(Protocol):
    """What the training loop draws batches from."""

    @property
    def labels(self) -> Tensor:
        """Classes, shape (N,), on the device where training runs."""
        ...

    @property
    def index_device(self) -> torch.device:
        """Where row numbers are wanted: beside features, or on the CPU that reads images from disk."""
        ...

    def batch(self, rows: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return inputs and reference logits, shape (B, C), of some rows."""
        ...

    def measured_against(self, logits: Logits) -> TrainingData:
        """Put another frozen model's logits in the place of the reference."""
        ...


@dataclass(frozen=True)
class LocalData:
    """One client's data, on the device where it trains.

    Attributes
    ----------
    inputs : Tensor, shape (N, D), or StoredRows of N images
        Image features of the frozen tower, not normalised; or images, or features of their patches.
    labels : Tensor of int64, shape (N,)
    reference_logits : Tensor, shape (N, C)
        Logits of the frozen model that training is measured against: zero-shot z in phase 1, global l_G in phase 2.
    """

    inputs: Tensor | StoredRows
    labels: Tensor
    reference_logits: Tensor

    @property
    def index_device(self) -> torch.device:
        """The inputs' own device; the CPU where they are on disk, or every batch would wait for the GPU."""
        return self.inputs.device if isinstance(self.inputs, Tensor) else torch.device("cpu")

    def batch(self, rows: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return inputs and reference logits of some rows; nothing is drawn."""
        return self.inputs[rows], self.reference_logits[rows]

    def measured_against(self, logits: Logits) -> LocalData:
        """Put another frozen model's logits in the place of the reference."""
        return replace(self, reference_logits=all_logits(logits, self.inputs))


@dataclass(frozen=True)
class ManyViews:
    """Several frozen views of every image; a batch is drawn from one of them.

    Attributes
    ----------
    views : tuple of LocalData
        Of the same images in the same order.
    """

    views: tuple[LocalData, ...]

    @property
    def labels(self) -> Tensor:
        """Classes, shape (N,)."""
        return self.views[0].labels

    @property
    def index_device(self) -> torch.device:
        """That of the views."""
        return self.views[0].index_device

    def batch(self, rows: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw a view, and give its inputs and reference logits."""
        view = self.views[int(torch.randint(len(self.views), (), generator=generator))]
        return view.batch(rows, generator)

    def measured_against(self, logits: Logits) -> ManyViews:
        """Put another frozen model's logits in the place of the reference."""
        return ManyViews(tuple(view.measured_against(logits) for view in self.views))


@dataclass(frozen=True)
class FreshCrops:
    """A new random view of every image in every batch, encoded on the fly.

    Attributes
    ----------
    load : callable
        From row numbers of the split to images.
    rows : ndarray of int64, shape (N,)
        The client's.
    labels : Tensor of int64, shape (N,)
    backbone : Backbone
    takes : {"features", "pixels", "patches"}
        Whether inputs are the views' features, the views themselves, or features of their patches.
    zero_shot : callable
        From features of the frozen tower to logits.
    reference : callable or None
        From inputs to the reference logits; None for zero-shot's.
    """

    load: Callable[[npt.NDArray[np.int64]], list[Image]]
    rows: npt.NDArray[np.int64]
    labels: Tensor
    backbone: Backbone
    takes: Takes
    zero_shot: Logits
    reference: Logits | None = None

    @property
    def index_device(self) -> torch.device:
        """The CPU, which loads the images."""
        return torch.device("cpu")

    @torch.no_grad()
    def batch(self, rows: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw views, and give inputs and reference logits of the same views."""
        rng = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
        images = self.load(self.rows[rows.cpu().numpy()])
        pixels = torch.stack([random_crop(image, self.backbone.image_size, rng) for image in images])
        if self.takes == "pixels" and self.reference is not None:
            return pixels, self.reference(pixels)
        if self.takes == "patches":
            features, inputs = self.backbone.encode_patches(pixels)
        else:
            features = self.backbone.encode_pixels(pixels)
            inputs = pixels if self.takes == "pixels" else features
        return inputs, self.zero_shot(features) if self.reference is None else self.reference(inputs)

    def measured_against(self, logits: Logits) -> FreshCrops:
        """Put another frozen model's logits in the place of the reference."""
        return replace(self, reference=logits)


@torch.no_grad()
def all_logits(logits: Logits, inputs: Tensor | StoredRows) -> Tensor:
    """Apply a function to all inputs, a part at a time, so that memory does not grow with their number; (N, C)."""
    size = _IMAGES_AT_ONCE if isinstance(inputs, StoredRows) else _FEATURES_AT_ONCE
    return torch.cat([logits(inputs[start : start + size]) for start in range(0, len(inputs), size)])
