"""Logits of a memory of labelled image features; nothing of it is trained."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from fedpurel_app.core.errors import ConfigError
from fedpurel_app.models.backbone import Takes
from fedpurel_app.models.peft.base import Logits

_AT_ONCE = 256  # images whose nearness to all that is remembered is in memory


class KeyValueMemory:
    """alpha sum_i exp(-beta (1 - f . F_i)) onehot(y_i), over the images i that are remembered.

    Parameters
    ----------
    keys : Tensor, shape (N, D)
        F, L2-normalised.
    labels : Tensor of int64, shape (N,)
    classes : int
        C.
    weight, sharpness : float
        alpha and beta.
    """

    takes: Takes = "features"
    logit_scale = 1.0

    def __init__(self, keys: Tensor, labels: Tensor, classes: int, weight: float, sharpness: float) -> None:
        self._keys, self._labels, self._classes = keys, labels, classes
        self._weight, self._sharpness = weight, sharpness

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Iterate over nothing."""
        return iter(())

    def train(self, mode: bool = True) -> None:
        """Do nothing: there is nothing that differs."""

    def class_features(self) -> Tensor:
        """Raise ConfigError: no text stands for these logits."""
        raise ConfigError("the logits of remembered images come from no text features: this model has no classifier.")

    def logits(self, inputs: Tensor) -> Tensor:
        """Compute logits, shape (B, C), from image features, shape (B, D)."""
        images = nn.functional.normalize(inputs, dim=-1)
        values = nn.functional.one_hot(self._labels, self._classes).to(images)
        parts = [torch.exp(-self._sharpness * (1 - part @ self._keys.T)) @ values for part in images.split(_AT_ONCE)]
        return self._weight * torch.cat(parts)

    def with_text(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Raise ConfigError, as class_features does."""
        text = self.class_features()
        return self.logits(inputs), text

    def logits_of(self, inputs: Tensor, class_features: Tensor) -> Tensor:
        """Compute logits; class features are of no use here."""
        return self.logits(inputs)

    def frozen(self) -> Logits:
        """Return the function from inputs to logits."""
        return self.logits
