"""Random views of training images: a crop of random area and shape, resized, and mirrored half of the time."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from PIL.Image import Image

_AREA, _RATIO, _ATTEMPTS = (0.08, 1.0), (3 / 4, 4 / 3), 10


def random_crop(image: Image, size: int, rng: np.random.Generator) -> Tensor:
    """Draw a view of an image, as the usual training transform of CLIP fine-tuning does.

    Written out because torchvision's transform draws from torch's global generator, which threads share.

    Parameters
    ----------
    image : PIL image, RGB
    size : int
        Edge of the view [pixels].
    rng : numpy.random.Generator

    Returns
    -------
    Tensor of uint8, shape (3, size, size)
        A crop of 8 to 100 % of the area and a ratio of 3/4 to 4/3 where one fits, else the largest central one;
        bicubic; mirrored with probability 1/2.
    """
    from PIL.Image import Resampling, Transpose

    width, height = image.size
    box = None
    for _ in range(_ATTEMPTS):
        area = width * height * rng.uniform(*_AREA)
        ratio = math.exp(rng.uniform(math.log(_RATIO[0]), math.log(_RATIO[1])))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            box = (left, top, left + w, top + h)
            break
    if box is None:
        w, h = min(width, round(height * _RATIO[1])), min(height, round(width / _RATIO[0]))
        box = ((width - w) // 2, (height - h) // 2, (width - w) // 2 + w, (height - h) // 2 + h)
    view = image.resize((size, size), Resampling.BICUBIC, box=box)
    if rng.random() < 0.5:
        view = view.transpose(Transpose.FLIP_LEFT_RIGHT)
    return torch.from_numpy(np.array(view)).permute(2, 0, 1)
