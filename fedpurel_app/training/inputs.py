"""What a client's images are to the training loop: features in memory, or pixels read from disk when asked for."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fedpurel_app.models.peft.base import Logits

_FEATURES_AT_ONCE, _IMAGES_AT_ONCE = 4096, 64


class Pixels:
    """Rows of a file of preprocessed images.

    Parameters
    ----------
    array : ndarray of uint8, shape (N, 3, H, W)
        Usually mapped from disk.
    rows : ndarray of int64, shape (n,)
        The client's.
    """

    def __init__(self, array: npt.NDArray[np.uint8], rows: npt.NDArray[np.int64]) -> None:
        self._array, self._rows = array, rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Tensor | slice) -> Tensor:
        """Read some of the client's images, shape (B, 3, H, W) of uint8."""
        chosen = self._rows[index.cpu().numpy() if isinstance(index, Tensor) else index]
        return torch.from_numpy(np.asarray(self._array[chosen]))


@dataclass(frozen=True)
class LocalData:
    """One client's data, on the device where it trains.

    Attributes
    ----------
    inputs : Tensor, shape (N, D), or Pixels of N images
        Image features of the frozen tower, not normalised; or images.
    labels : Tensor of int64, shape (N,)
    reference_logits : Tensor, shape (N, C)
        Logits of the frozen model that training is measured against: zero-shot z in phase 1, global l_G in phase 2.
    """

    inputs: Tensor | Pixels
    labels: Tensor
    reference_logits: Tensor

    def measured_against(self, logits: Logits) -> LocalData:
        """Put another frozen model's logits in the place of the reference."""
        return replace(self, reference_logits=all_logits(logits, self.inputs))


@torch.no_grad()
def all_logits(logits: Logits, inputs: Tensor | Pixels) -> Tensor:
    """Apply a function to all inputs, a part at a time, so that memory does not grow with their number; (N, C)."""
    size = _IMAGES_AT_ONCE if isinstance(inputs, Pixels) else _FEATURES_AT_ONCE
    return torch.cat([logits(inputs[start : start + size]) for start in range(0, len(inputs), size)])
