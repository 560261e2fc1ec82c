"""The frozen CLIP: what its towers give, and no tower loaded before it is needed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from fedpurel_app.core.disk_memo import sha256_of
from fedpurel_app.core.errors import ConfigError
from fedpurel_app.models.causal_text import CausalText
from fedpurel_app.models.checkpoints import Checkpoint, find_checkpoint
from fedpurel_app.models.forms import closed_text_tower, text_lacks
from fedpurel_app.models.image import ImageTower
from fedpurel_app.models.image_side import ImageSide
from fedpurel_app.models.named_weights import NamedWeights, Precision
from fedpurel_app.models.open_clip_towers import OpenClipText
from fedpurel_app.models.text import LaidOut, TextTower
from fedpurel_app.models.tokenizers import Tokenizer

if TYPE_CHECKING:
    from PIL.Image import Image

Takes = Literal["features", "pixels", "patches"]  # what of an image a module is given
_CIFAR = {"mean": (0.5071, 0.4865, 0.4409), "std": (0.2673, 0.2564, 0.2762)}  # of CIFAR-100's training pixels


@dataclass(frozen=True)
class Backbone:
    """A frozen CLIP whose towers are loaded when first used.

    Attributes
    ----------
    name : str
        As in the run config.
    checkpoint : Checkpoint
    device : torch.device
    precision : {"fp32", "bf16", "fp16-autocast"}
        Of the towers' matrix products; weights, features and everything after them stay fp32.

    Notes
    -----
    All towers that open_clip has give features. Towers of CLIP's own form are this package's and can be opened, for
    prompts and adapters inside them; the others are open_clip's, and who asks for their inside is refused.
    """

    name: str
    checkpoint: Checkpoint
    device: torch.device
    precision: Precision = "fp32"

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the weights and of how they are used: part of the key of everything that is cached."""
        form = (self.checkpoint.architecture, self.checkpoint.preprocessing, self.device.type, self.precision)
        identity = f"|{self._texts.identity}" if self._texts.identity else ""
        return hashlib.sha256(f"{sha256_of(self.checkpoint.path)}|{form!r}{identity}".encode()).hexdigest()

    @cached_property
    def _weights(self) -> NamedWeights:
        return NamedWeights(self.name, self.checkpoint, self.device, self.precision)

    @cached_property
    def logit_scale(self) -> float:
        """Scale s = exp(logit_scale) of the cosine logits: about 100 for CLIP, 117 for SigLIP."""
        return self._scalar("logit_scale").exp().item()

    @cached_property
    def logit_bias(self) -> float:
        """What SigLIP adds to every logit, b in sigmoid(s·cos + b); 0 for a backbone without one.

        The same number on all classes changes neither their softmax nor their order, and so nothing that is trained,
        scored or calibrated here. It is kept for who takes an exported model's classes each by itself.
        """
        has_one = self.checkpoint.architecture.get("init_logit_bias") is not None
        return self._scalar("logit_bias").item() if has_one else 0.0

    def _scalar(self, name: str) -> Tensor:
        with self._weights.expected():
            return self.checkpoint.load(name)[name].reshape(())

    # --- text -------------------------------------------------------------------------------------------------------

    @cached_property
    def _texts(self) -> CausalText | OpenClipText:
        kind = OpenClipText if text_lacks(self.checkpoint.architecture) else CausalText
        return kind(self._weights)

    @property
    def _open_texts(self) -> CausalText:
        """The text side, for what works inside the tower."""
        if isinstance(self._texts, OpenClipText):
            raise closed_text_tower(self.name, self.checkpoint.architecture)
        return self._texts

    @property
    def tokenizer(self) -> Tokenizer:
        """From text to token ids; raises ConfigError for a text tower of another form than CLIP's."""
        return self._open_texts.tokenizer

    @property
    def text(self) -> TextTower:
        """The text tower, in fp32, open to learned prompts and to adapters of its projections.

        Raises
        ------
        ConfigError
            When it is not CLIP's causal transformer.
        """
        return self._open_texts.tower

    def lay_out(self, prompts: Sequence[str]) -> LaidOut:
        """Turn whole prompts into embeddings, for :meth:`encode_text`; raises ConfigError as :attr:`text`."""
        return self._open_texts.lay_out(prompts)

    def encode_text(self, prompts: LaidOut, tower: TextTower | None = None) -> Tensor:
        """Encode prompts in this backbone's precision, to (C, D), L2-normalised, by a changed tower if given."""
        return self._open_texts.encode(prompts, tower)

    def encode_prompts(self, prompts: Sequence[str]) -> Tensor:
        """Encode whole prompts, by a text tower of any form.

        Parameters
        ----------
        prompts : sequence of str, length C

        Returns
        -------
        Tensor, shape (C, D)
            L2-normalised text features.

        Raises
        ------
        ConfigError
            When a prompt is too long.
        """
        return self._texts.encode_prompts(prompts)

    # --- images -----------------------------------------------------------------------------------------------------

    @cached_property
    def _images(self) -> ImageSide:
        return ImageSide(self._weights)

    @property
    def image(self) -> ImageTower:
        """The image tower, in fp32, open to learned tokens and to adapters of its projections.

        Raises
        ------
        ConfigError
            When it is not a vision transformer of CLIP's own form.
        """
        return self._images.tower

    @property
    def preprocess(self) -> Callable[[Image], Tensor]:
        """The checkpoint's evaluation transform: PIL image to a tensor of shape (3, H, W), uint8, cropped, resized."""
        return self._images.pixels.preprocess

    @property
    def image_size(self) -> int:
        """Edge of the images that the tower takes [pixels]."""
        return self._images.pixels.size

    @property
    def patch_count(self) -> int:
        """Number of patches of an image, M; raises ConfigError when the image tower has no features of patches."""
        return self._images.patch_count

    def normalise(self, pixels: Tensor) -> Tensor:
        """Turn uint8 pixels, shape (B, 3, H, W), into what the tower takes, on its device."""
        return self._images.pixels.normalise(pixels)

    @torch.no_grad()
    def encode_images(self, images: Sequence[Image]) -> Tensor:
        """Encode images.

        Parameters
        ----------
        images : sequence of PIL images, length B

        Returns
        -------
        Tensor, shape (B, D), fp32, on the CPU
            Image features, projected but not normalised.
        """
        return self.encode_pixels(torch.stack([self.preprocess(image) for image in images])).cpu()

    def encode_pixels(self, pixels: Tensor, tower: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Encode uint8 pixels, (B, 3, H, W) to (B, D), in this backbone's precision, by a changed tower if given."""
        return self._images.encode(pixels, tower)

    def encode_patches(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Encode uint8 pixels to features of images and of patches; see :meth:`ImageSide.encode_patches`."""
        return self._images.encode_patches(pixels)

    @torch.no_grad()
    def seen(self, pixels: Tensor, takes: Takes) -> Tensor:
        """Turn uint8 pixels, shape (B, 3, H, W), into what a module takes: these, or features of images or patches."""
        if takes == "patches":
            return self.encode_patches(pixels)[1]
        return pixels if takes == "pixels" else self.encode_pixels(pixels)

    def check(self, towers: Collection[str] = ()) -> None:
        """Load all weights now, so that a bad checkpoint fails before the run starts.

        Parameters
        ----------
        towers : collection of str
            Those, of "vision" and "text", that something is put inside.

        Raises
        ------
        ConfigError
            When the checkpoint is of another model, or a tower of these takes nothing inside.
        StateError
            When it cannot be read.
        """
        self._weights.require_fit()
        _ = self.logit_scale, self.logit_bias
        self._texts.load()
        self._images.load()
        _ = "text" in towers and self.text, "vision" in towers and self.image


def load_backbone(
    name: str, device: torch.device, pretrained: str = "", precision: Precision = "fp32", statistics: str = "clip"
) -> Backbone:
    """Find a backbone by its name in the run config.

    Parameters
    ----------
    name : str
        "demo", the name of an open_clip model, or "hf-hub:OWNER/NAME".
    device : torch.device
    pretrained : str
        Path of a checkpoint, or one of open_clip's tags.
    precision : {"fp32", "bf16", "fp16-autocast"}
    statistics : {"clip", "cifar"}
        Mean and deviation of the image transform: the checkpoint's own, or those of CIFAR-100's pixels.

    Returns
    -------
    Backbone

    Raises
    ------
    ConfigError
        When there is no such model or checkpoint.
    StateError
        When the weights of the demo CLIP are not installed.
    """
    if precision == "fp16-autocast" and device.type == "cpu":
        raise ConfigError('precision = "fp16-autocast" needs a GPU: use "bf16" or "fp32" on a CPU.')
    checkpoint = find_checkpoint(name, pretrained)
    if statistics == "cifar":
        checkpoint = replace(checkpoint, preprocessing={**checkpoint.preprocessing, **_CIFAR})
    return Backbone(name, checkpoint, device, precision)
