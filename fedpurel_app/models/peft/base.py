"""What the training loop needs of a parameter-efficient module."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from fedpurel_app.models.backbone import Backbone


@dataclass(frozen=True)
class Host:
    """The frozen model that a module is attached to.

    Attributes
    ----------
    zero_shot_text : Tensor, shape (C, D)
        L2-normalised text features of the template prompts, T.
    logit_scale : float
        s.
    class_names : tuple of str, length C
    backbone : Backbone or None
        None where only precomputed features exist.
    """

    zero_shot_text: Tensor
    logit_scale: float
    class_names: tuple[str, ...]
    backbone: Backbone | None

    def zero_shot_logits(self, image_features: Tensor) -> Tensor:
        """Compute z = s·f·Tᵀ, shape (B, C), from image features of shape (B, D), normalised or not."""
        return cosine_logits(image_features, self.zero_shot_text, self.logit_scale)


class PeftModule(Protocol):
    """A small trainable module on a frozen CLIP.

    The names of its parameters are the names on the wire and on disk.
    """

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Iterate over the trained parameters; all of them require gradients."""
        ...

    def class_features(self) -> Tensor:
        """Give the text features of all classes, shape (C, D), L2-normalised."""
        ...

    def logits(self, image_features: Tensor, class_features: Tensor | None = None) -> Tensor:
        """Give logits.

        Parameters
        ----------
        image_features : Tensor, shape (B, D)
            Projected image features of the frozen tower, not normalised.
        class_features : Tensor, shape (C, D), optional
            Result of :meth:`class_features`, to spare its computation where parameters have not changed.

        Returns
        -------
        Tensor, shape (B, C)
        """
        ...


@dataclass(frozen=True)
class Family:
    """A family of modules as data.

    Attributes
    ----------
    name : str
        Value of the run-config key ``peft``.
    build : callable
        From the host, the family's options and a seeded generator to a freshly initialised module.
    learning_rate, private_learning_rate : float
        What "auto" means for the shared and for the private parameters.
    needs_text_tower : bool
        Whether the module runs the text tower, so that precomputed features are not enough.
    paper : str
    """

    name: str
    build: Callable[[Host, Mapping[str, float | int], torch.Generator], PeftModule]
    learning_rate: float
    private_learning_rate: float
    needs_text_tower: bool
    paper: str


def cosine_logits(image_features: Tensor, class_features: Tensor, logit_scale: float) -> Tensor:
    """Compute s·normalise(f̃)·Tᵀ; shapes (B, D), (C, D) to (B, C)."""
    return logit_scale * nn.functional.normalize(image_features, dim=-1) @ class_features.T


def parameters_of(module: PeftModule) -> dict[str, Tensor]:
    """Give the trained tensors by name, detached, sharing memory with the module."""
    return {name: value.detach() for name, value in module.named_parameters()}


def load_parameters(module: PeftModule, state: Mapping[str, Tensor]) -> None:
    """Copy tensors into a module, all of them or none.

    Raises
    ------
    ValueError
        When names or shapes differ from the module's.
    """
    own = dict(module.named_parameters())
    problems = [f"missing: {name}" for name in own if name not in state]
    problems += [f"unknown: {name}" for name in state if name not in own]
    problems += [
        f"{name} has shape {tuple(state[name].shape)}, expected {tuple(own[name].shape)}"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    if problems:
        raise ValueError(f"these parameters do not fit the module: {'; '.join(problems)}")
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(state[name])
