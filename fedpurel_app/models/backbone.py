"""The frozen CLIP: what its towers give, and no tower loaded before it is needed."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from fedpurel_app.errors import ConfigError, StateError
from fedpurel_app.models.text import TextTower

if TYPE_CHECKING:
    from PIL.Image import Image

NAMES = ("demo",)


class Tokenizer(Protocol):
    """What a prompt learner needs to know of a tokenizer."""

    start: int
    end: int

    def encode(self, text: str) -> list[int]:
        """Turn text into token ids, without the start and end tokens."""
        ...


class WordTokenizer:
    """Tokens are whole words of a closed vocabulary; the last word is the end-of-text token.

    Parameters
    ----------
    words : sequence of str
        The vocabulary, with "<pad>" first, "<start>" second, "<end>" last, and "<spare...>" words that stand in for
        words it lacks.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self._ids = {word: index for index, word in enumerate(words)}
        self._spare = [index for word, index in self._ids.items() if word.startswith("<spare")]
        self.start, self.end = self._ids["<start>"], self._ids["<end>"]

    def encode(self, text: str) -> list[int]:
        """Turn text into token ids. A word outside the vocabulary becomes a spare one, which means nothing."""
        return [self._ids.get(word, self._stand_in(word)) for word in text.lower().replace(".", " . ").split()]

    def unknown(self, text: str) -> list[str]:
        """List the words outside the vocabulary."""
        return [word for word in text.lower().replace(".", " . ").split() if word not in self._ids]

    def _stand_in(self, word: str) -> int:
        return self._spare[zlib.crc32(word.encode()) % len(self._spare)]


@dataclass(frozen=True)
class Backbone:
    """A frozen CLIP whose towers are loaded when first used.

    Attributes
    ----------
    name : str
        As in the run config.
    weights_path : Path
        The ``.safetensors`` file of an open_clip ``CLIP`` model.
    architecture : mapping
        open_clip's model config: ``embed_dim``, ``vision_cfg``, ``text_cfg``.
    tokenizer : Tokenizer
    device : torch.device
    """

    name: str
    weights_path: Path
    architecture: Mapping[str, Any]
    tokenizer: Tokenizer
    device: torch.device

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the weights file: part of the key of everything that is cached."""
        with self.weights_path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    @cached_property
    def logit_scale(self) -> float:
        """Scale s = exp(logit_scale) of the cosine logits."""
        with safe_open(self.weights_path, framework="pt") as file:
            return float(file.get_tensor("logit_scale").float().exp())

    @cached_property
    def text(self) -> TextTower:
        """The text tower, in fp32."""
        config = self.architecture["text_cfg"]
        tower = TextTower(self._weights(), config["heads"], bool(self.architecture.get("quick_gelu", False)))
        return tower.to(self.device)

    @cached_property
    def _image_tower(self) -> Callable[[Tensor], Tensor]:
        # open_clip imports torchvision, timm and more: seconds that a process with cached features never spends.
        from open_clip.model import CLIP

        model = CLIP(**self.architecture)
        model.load_state_dict(self._weights())
        return model.visual.eval().requires_grad_(False).to(self.device)

    @cached_property
    def preprocess(self) -> Callable[[Image], Tensor]:
        """CLIP's own evaluation transform: PIL image to a normalised tensor of shape (3, H, W)."""
        from open_clip.transform import image_transform

        size = self.architecture["vision_cfg"]["image_size"]
        transform: Callable[[Image], Tensor] = image_transform(size, is_train=False)
        return transform

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
        batch = torch.stack([self.preprocess(image) for image in images]).to(self.device)
        return self._image_tower(batch).float().cpu()

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
        rows = [[self.tokenizer.start, *self.tokenizer.encode(text), self.tokenizer.end] for text in prompts]
        tokens, ends = pad_tokens(rows, self.device)
        return functional.normalize(self.text.encode(self.text.embed(tokens), ends), dim=-1)

    def _weights(self) -> dict[str, Tensor]:
        return {name: value.float() for name, value in load_file(self.weights_path).items()}


def pad_tokens(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Pad token rows with 0 to the longest.

    Returns
    -------
    tokens : Tensor of int64, shape (N, L)
    ends : Tensor of int64, shape (N,)
        Position of each row's last token.
    """
    length = max(len(row) for row in rows)
    tokens = torch.tensor([[*row, *[0] * (length - len(row))] for row in rows], device=device)
    return tokens, torch.tensor([len(row) - 1 for row in rows], device=device)


def load_backbone(name: str, device: torch.device) -> Backbone:
    """Find a backbone by its name in the run config.

    Parameters
    ----------
    name : str
        One of ``NAMES``.
    device : torch.device

    Returns
    -------
    Backbone

    Raises
    ------
    StateError
        When the weights of the demo CLIP are not installed.
    """
    if name not in NAMES:
        raise ConfigError(f'backbone = "{name}": choose one of {", ".join(NAMES)}.')
    try:
        folder = Path(str(resources.files("fedpurel_demo")))
        settings = json.loads((folder / "clip.json").read_text("utf-8"))
        weights = folder / "clip.safetensors"
        if not weights.is_file():
            raise FileNotFoundError(weights)
    except (ModuleNotFoundError, FileNotFoundError) as error:
        raise StateError(
            "The weights of the demo CLIP are not installed (Flower's app bundles carry no binary files). "
            "Install the package where this process runs: pip install -e . in the project, or its wheel."
        ) from error
    return Backbone(name, weights, settings["architecture"], WordTokenizer(settings["vocabulary"]), device)
