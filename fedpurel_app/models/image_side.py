"""Features of images, by the own tower or by open_clip's."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional

from fedpurel_app.core.errors import ConfigError
from fedpurel_app.models.forms import closed_image_tower, image_lacks
from fedpurel_app.models.image import ImageTower
from fedpurel_app.models.named_weights import NamedWeights
from fedpurel_app.models.open_clip_towers import image_tower
from fedpurel_app.models.pixels import PixelForm


class ImageSide:
    """An image tower of any form, loaded when first used.

    Parameters
    ----------
    weights : NamedWeights
    """

    def __init__(self, weights: NamedWeights) -> None:
        self._weights = weights
        self._lacks = image_lacks(weights.architecture)
        self.pixels = PixelForm(weights.architecture["vision_cfg"], weights.checkpoint.preprocessing, weights.device)

    @cached_property
    def tower(self) -> ImageTower:
        """The own tower, in fp32; raises ConfigError where it is of another form."""
        architecture = self._weights.architecture
        if self._lacks:
            raise closed_image_tower(self._weights.name, architecture)
        weights = self._weights.load("visual.")
        with self._weights.expected():
            tower = ImageTower(weights, architecture["vision_cfg"], bool(architecture.get("quick_gelu")))
        return tower.to(self._weights.device)

    @cached_property
    def _any_tower(self) -> Callable[[Tensor], Tensor]:
        return image_tower(self._weights) if self._lacks else self.tower

    def load(self) -> None:
        """Load the tower now; raises ConfigError when the file is of another one."""
        _ = self._any_tower

    def encode(self, pixels: Tensor, tower: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Encode uint8 pixels, (B, 3, H, W) to (B, D), projected but not normalised, by a changed tower if given."""
        normal = self.pixels.normalise(pixels)
        with self._weights.autocast():
            features = (tower or self._any_tower)(normal)
        return features.float()

    @torch.no_grad()
    def encode_patches(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Encode uint8 pixels, shape (B, 3, H, W), by one pass through the image tower.

        Returns
        -------
        (Tensor, Tensor)
            Features of the images, shape (B, D), projected but not normalised, and of their patches, shape (B, M, D),
            L2-normalised.

        Raises
        ------
        ConfigError
            When the image tower has no features of patches.
        """
        _ = self.patch_count  # an error that names the method's need
        normal = self.pixels.normalise(pixels)
        with self._weights.autocast():
            features, patches = self.tower.with_patches(normal)
        return features.float(), functional.normalize(patches.float(), dim=-1)

    @property
    def patch_count(self) -> int:
        """Number of patches of an image, M.

        Raises
        ------
        ConfigError
            When the image tower has no features of patches.
        """
        if self._lacks:
            raise ConfigError(
                f'backbone = "{self._weights.name}" has no features of patches, on which this method works: its image '
                f"tower is not of CLIP's own form ({', '.join(self._lacks)}). Use a vision transformer, as ViT-B-16, "
                "or another method."
            )
        return int((self.pixels.size // int(self._weights.architecture["vision_cfg"]["patch_size"])) ** 2)
