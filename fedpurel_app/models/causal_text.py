"""Text features by CLIP's causal tower, which is open to learned prompts and adapters."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional

from fedpurel_app.core.errors import ConfigError
from fedpurel_app.models.named_weights import NamedWeights
from fedpurel_app.models.text import LaidOut, Layout, TextTower
from fedpurel_app.models.tokenizers import Tokenizer


class CausalText:
    """CLIP's text tower and its tokenizer, loaded when first used.

    Parameters
    ----------
    weights : NamedWeights
    """

    identity = ""  # the weights and the architecture say all

    def __init__(self, weights: NamedWeights) -> None:
        self._weights = weights

    @property
    def tokenizer(self) -> Tokenizer:
        """From text to token ids."""
        return self._weights.checkpoint.tokenizer

    @cached_property
    def tower(self) -> TextTower:
        """The text tower, in fp32."""
        architecture = self._weights.architecture
        weights = self._weights.load(other_than="visual.")
        with self._weights.expected():
            tower = TextTower(weights, architecture["text_cfg"], bool(architecture.get("quick_gelu")))
        return tower.to(self._weights.device)

    def load(self) -> None:
        """Load the tower now; raises ConfigError when the file is of another one."""
        _ = self.tower

    def encode(self, prompts: LaidOut, tower: TextTower | None = None) -> Tensor:
        """Encode prompts, to (C, D), L2-normalised, by a changed tower if given."""
        with self._weights.autocast():
            features = (tower or self.tower).encode(prompts)
        return functional.normalize(features.float(), dim=-1)

    def lay_out(self, prompts: Sequence[str]) -> LaidOut:
        """Turn whole prompts into embeddings.

        Raises
        ------
        ConfigError
            When a prompt is too long for the tower.
        """
        rows = [[*ids, self.tokenizer.end] for ids in self.tokenizer.encode_all(prompts)]
        longest = max(range(len(rows)), key=lambda index: len(rows[index]))
        if 1 + len(rows[longest]) > len(self.tower.positions):
            raise too_long(prompts[longest], 1 + len(rows[longest]), self._weights.name, len(self.tower.positions))
        layout = Layout.of([len(row) for row in rows], self._weights.device)
        suffixes = self.tower.embed([token for index in layout.order for token in rows[index]])
        return LaidOut(self.tower.embed([self.tokenizer.start]), suffixes, layout)

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Tensor:
        """Encode whole prompts, C of them, to (C, D), L2-normalised."""
        return self.encode(self.lay_out(prompts))


def too_long(prompt: str, tokens: int, name: str, most: int) -> ConfigError:
    """Return what to say of a prompt that a text tower has no room for."""
    return ConfigError(
        f'the prompt "{prompt}" has {tokens} tokens, and the text tower of "{name}" takes {most}: shorten the class '
        "name, or the template."
    )
