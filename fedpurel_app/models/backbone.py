"""The frozen CLIP: what its towers give, and no tower loaded before it is needed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from fedpurel_app.core.disk_memo import sha256_of
from fedpurel_app.core.errors import ConfigError
from fedpurel_app.models.checkpoints import Checkpoint, find_checkpoint, read_shapes
from fedpurel_app.models.fitting import misfits
from fedpurel_app.models.image import ImageTower
from fedpurel_app.models.text import LaidOut, Layout, TextTower
from fedpurel_app.models.tokenizers import Tokenizer

if TYPE_CHECKING:
    from PIL.Image import Image

Precision = Literal["fp32", "bf16", "fp16-autocast"]
Takes = Literal["features", "pixels", "patches"]  # what of an image a module is given
_CIFAR = {"mean": (0.5071, 0.4865, 0.4409), "std": (0.2673, 0.2564, 0.2762)}  # of CIFAR-100's training pixels
_AUTOCAST = {"bf16": torch.bfloat16, "fp16-autocast": torch.float16}


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

    Raises
    ------
    ConfigError
        When the text tower is not of CLIP's causal form.
    """

    name: str
    checkpoint: Checkpoint
    device: torch.device
    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        architecture = self.checkpoint.architecture
        lacks = TextTower.unsupported(architecture["text_cfg"])
        if lacks or "multimodal_cfg" in architecture:
            raise ConfigError(
                f'backbone = "{self.name}" has a text tower of another kind than CLIP\'s causal transformer '
                f"({', '.join(lacks) or 'multimodal_cfg'}): choose a CLIP model, as ViT-B-16."
            )

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the weights and of how they are used: part of the key of everything that is cached."""
        form = (self.checkpoint.architecture, self.checkpoint.preprocessing, self.device.type, self.precision)
        return hashlib.sha256(f"{sha256_of(self.checkpoint.path)}|{form!r}".encode()).hexdigest()

    @cached_property
    def logit_scale(self) -> float:
        """Scale s = exp(logit_scale) of the cosine logits."""
        with self._weights_that_fit():
            return float(self.checkpoint.load("logit_scale")["logit_scale"].exp())

    @property
    def tokenizer(self) -> Tokenizer:
        """From text to token ids."""
        return self.checkpoint.tokenizer

    @cached_property
    def text(self) -> TextTower:
        """The text tower, in fp32."""
        architecture = self.checkpoint.architecture
        self._fits()
        weights = self.checkpoint.load(other_than="visual.")
        with self._weights_that_fit():
            tower = TextTower(weights, architecture["text_cfg"], bool(architecture.get("quick_gelu")))
        return tower.to(self.device)

    @cached_property
    def image(self) -> ImageTower:
        """The image tower, in fp32, open to learned tokens and to adapters of its projections.

        Raises
        ------
        ConfigError
            When it is not a vision transformer of CLIP's own form.
        """
        architecture = self.checkpoint.architecture
        if lacks := ImageTower.unsupported(architecture["vision_cfg"]):
            raise ConfigError(
                f'backbone = "{self.name}": nothing can be put inside its image tower ({", ".join(lacks)}). Use '
                'peft = "prompt", "adapter" or "text-residual", or a vision transformer of CLIP\'s form, as ViT-B-16.'
            )
        self._fits()
        weights = self.checkpoint.load("visual.")
        with self._weights_that_fit():
            tower = ImageTower(weights, architecture["vision_cfg"], bool(architecture.get("quick_gelu")))
        return tower.to(self.device)

    @cached_property
    def preprocess(self) -> Callable[[Image], Tensor]:
        """CLIP's own evaluation transform: PIL image to a tensor of shape (3, H, W), uint8, cropped and resized."""
        # open_clip imports torchvision, timm and more: seconds that a process with cached features never spends.
        from open_clip.transform import image_transform
        from torchvision.transforms import PILToTensor

        options = {name: value for name, value in self.checkpoint.preprocessing.items() if name not in ("mean", "std")}
        *geometry, _, _ = image_transform(self.image_size, is_train=False, **options).transforms  # tensor, normalise

        def transform(image: Image) -> Tensor:
            for step in (*geometry, PILToTensor()):
                image = step(image)
            return image  # type: ignore[return-value]  # the last step's result

        return transform

    @property
    def image_size(self) -> int:
        """Edge of the images that the tower takes [pixels]."""
        size = self.checkpoint.architecture["vision_cfg"]["image_size"]
        return int(size[0] if isinstance(size, list | tuple) else size)

    def normalise(self, pixels: Tensor) -> Tensor:
        """Turn uint8 pixels, shape (B, 3, H, W), into what the tower takes, on its device."""
        mean, std = self._statistics
        return (pixels.to(self.device).float() / 255 - mean) / std

    @cached_property
    def _statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and deviation by channel, each of shape (3, 1, 1): on the device once, not once a batch."""
        kept = self.checkpoint.preprocessing
        mean, std = (torch.tensor(kept[name], device=self.device).view(3, 1, 1) for name in ("mean", "std"))
        return mean, std

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
        normal = self.normalise(pixels)
        with self._autocast():
            features = (tower or self._any_image_tower)(normal)
        return features.float()

    @torch.no_grad()
    def encode_patches(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Encode uint8 pixels, shape (B, 3, H, W), by one pass through the image tower.

        Returns
        -------
        (Tensor, Tensor)
            Features of the images, shape (B, D), projected but not normalised, and of their patches, shape (B, M, D),
            L2-normalised.
        """
        _ = self.patch_count  # an error that names the method's need
        normal = self.normalise(pixels)
        with self._autocast():
            features, patches = self.image.with_patches(normal)
        return features.float(), functional.normalize(patches.float(), dim=-1)

    @torch.no_grad()
    def seen(self, pixels: Tensor, takes: Takes) -> Tensor:
        """Turn uint8 pixels, shape (B, 3, H, W), into what a module takes: these, or features of images or patches."""
        if takes == "patches":
            return self.encode_patches(pixels)[1]
        return pixels if takes == "pixels" else self.encode_pixels(pixels)

    @property
    def patch_count(self) -> int:
        """Number of patches of an image, M.

        Raises
        ------
        ConfigError
            When the image tower has no features of patches.
        """
        vision = self.checkpoint.architecture["vision_cfg"]
        if lacks := ImageTower.unsupported(vision):
            raise ConfigError(
                f'backbone = "{self.name}" has no features of patches, on which this method works: its image tower is '
                f"not of CLIP's own form ({', '.join(lacks)}). Use a vision transformer, as ViT-B-16, or another "
                "method."
            )
        return int((self.image_size // int(vision["patch_size"])) ** 2)

    def encode_text(self, prompts: LaidOut, tower: TextTower | None = None) -> Tensor:
        """Encode prompts in this backbone's precision, to (C, D), L2-normalised, by a changed tower if given."""
        with self._autocast():
            features = (tower or self.text).encode(prompts)
        return functional.normalize(features.float(), dim=-1)

    def lay_out(self, prompts: Sequence[str]) -> LaidOut:
        """Turn whole prompts into embeddings."""
        rows = [[*ids, self.tokenizer.end] for ids in self.tokenizer.encode_all(prompts)]
        longest = max(range(len(rows)), key=lambda index: len(rows[index]))
        if 1 + len(rows[longest]) > len(self.text.positions):
            raise ConfigError(
                f'the prompt "{prompts[longest]}" has {1 + len(rows[longest])} tokens, and the text tower of '
                f'"{self.name}" takes {len(self.text.positions)}: shorten the class name, or the template.'
            )
        layout = Layout.of([len(row) for row in rows], self.device)
        suffixes = self.text.embed([token for index in layout.order for token in rows[index]])
        return LaidOut(self.text.embed([self.tokenizer.start]), suffixes, layout)

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Tensor:
        """Encode whole prompts.

        Parameters
        ----------
        prompts : sequence of str, length C

        Returns
        -------
        Tensor, shape (C, D)
            L2-normalised text features.
        """
        return self.encode_text(self.lay_out(prompts))

    def check(self) -> None:
        """Load all weights now, so that a bad checkpoint fails before the run starts.

        Raises
        ------
        ConfigError
            When the checkpoint is of another model.
        StateError
            When it cannot be read.
        """
        self._fits()
        _ = self.logit_scale, self.text, self._any_image_tower

    def _fits(self) -> None:
        """Raise ConfigError when the file is of another architecture than the one that was named, by shapes alone.

        Towers are built from what a file holds: one of another patch size or depth would be run under this name.
        """
        if self._misfits:
            raise ConfigError(
                f'{self.checkpoint.path} does not hold the weights of "{self.name}" in open_clip\'s form: '
                f"{'; '.join(self._misfits)}. Bring open_clip's file of it, or name the backbone that the file is of."
            )

    @cached_property
    def _misfits(self) -> list[str]:
        architecture = self.checkpoint.architecture
        own_form = not ImageTower.unsupported(architecture["vision_cfg"])
        return misfits(read_shapes(self.checkpoint.path), architecture, own_form)

    @contextmanager
    def _weights_that_fit(self) -> Iterator[None]:
        """Say of which model a checkpoint should have been, when names or shapes are wrong."""
        try:
            yield
        except (KeyError, RuntimeError) as error:
            raise ConfigError(
                f'{self.checkpoint.path} does not hold the weights of "{self.name}" in open_clip\'s form '
                f"({type(error).__name__}: {str(error).splitlines()[-1].strip()}). Bring open_clip's file of it."
            ) from error

    def _autocast(self) -> AbstractContextManager[Any]:
        dtype = _AUTOCAST.get(self.precision)
        return nullcontext() if dtype is None else torch.autocast(self.device.type, dtype)

    @cached_property
    def _any_image_tower(self) -> Callable[[Tensor], Tensor]:
        """Return the own image tower, or open_clip's where it is of another form."""
        architecture = self.checkpoint.architecture
        if not ImageTower.unsupported(architecture["vision_cfg"]):
            return self.image
        self._fits()
        from open_clip.model import _build_vision_tower

        tower = _build_vision_tower(
            architecture["embed_dim"], architecture["vision_cfg"], bool(architecture.get("quick_gelu"))
        )
        weights = self.checkpoint.load("visual.")
        with self._weights_that_fit():
            tower.load_state_dict({name.removeprefix("visual."): value for name, value in weights.items()})
        return tower.eval().requires_grad_(False).to(self.device)


def load_backbone(
    name: str, device: torch.device, pretrained: str = "", precision: Precision = "fp32", statistics: str = "clip"
) -> Backbone:
    """Find a backbone by its name in the run config.

    Parameters
    ----------
    name : str
        "demo", or the name of an open_clip model.
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
        When there is no such model or checkpoint, or its text tower is of another kind.
    StateError
        When the weights of the demo CLIP are not installed.
    """
    if precision == "fp16-autocast" and device.type == "cpu":
        raise ConfigError('precision = "fp16-autocast" needs a GPU: use "bf16" or "fp32" on a CPU.')
    checkpoint = find_checkpoint(name, pretrained)
    if statistics == "cifar":
        checkpoint = replace(checkpoint, preprocessing={**checkpoint.preprocessing, **_CIFAR})
    return Backbone(name, checkpoint, device, precision)
