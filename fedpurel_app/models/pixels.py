"""What becomes of an image before an image tower sees it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from PIL.Image import Image


class PixelForm:
    """The image transform of a checkpoint, in two steps: to uint8 pixels, which can be kept, and to what a tower takes.

    Parameters
    ----------
    vision : mapping
        open_clip's ``vision_cfg``.
    transform : mapping
        ``mean``, ``std``, ``interpolation`` and ``resize_mode``.
    device : torch.device
        Where the tower is.
    """

    def __init__(self, vision: Mapping[str, Any], transform: Mapping[str, Any], device: torch.device) -> None:
        size = vision.get("image_size", 224)
        self.size = int(size[0] if isinstance(size, list | tuple) else size)
        self._transform, self._device = transform, device

    @cached_property
    def preprocess(self) -> Callable[[Image], Tensor]:
        """The evaluation transform: PIL image to a tensor of shape (3, H, W), uint8, cropped and resized."""
        # open_clip imports torchvision, timm and more: seconds that a process with cached features never spends.
        from open_clip.transform import image_transform
        from torchvision.transforms import PILToTensor

        options = {name: value for name, value in self._transform.items() if name not in ("mean", "std")}
        *geometry, _, _ = image_transform(self.size, is_train=False, **options).transforms  # tensor, normalise

        def transform(image: Image) -> Tensor:
            for step in (*geometry, PILToTensor()):
                image = step(image)
            return image  # type: ignore[return-value]  # the last step's result

        return transform

    def normalise(self, pixels: Tensor) -> Tensor:
        """Turn uint8 pixels, shape (B, 3, H, W), into what the tower takes, on its device."""
        mean, std = self._statistics
        return (pixels.to(self._device).float() / 255 - mean) / std

    @cached_property
    def _statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and deviation by channel, each of shape (3, 1, 1): on the device once, not once a batch."""
        mean, std = (torch.tensor(self._transform[name], device=self._device) for name in ("mean", "std"))
        return mean.view(3, 1, 1), std.view(3, 1, 1)
