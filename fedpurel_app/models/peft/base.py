"""What the training loop needs of a parameter-efficient module."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from fedpurel_app.core.errors import ConfigError
from fedpurel_app.models.backbone import Backbone, Takes

Role = Literal["global", "private", "zero-shot"]
Logits = Callable[[Tensor], Tensor]


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
    prompts : tuple of str, length C
        The template prompts; empty without a backbone.
    """

    zero_shot_text: Tensor
    logit_scale: float
    class_names: tuple[str, ...]
    backbone: Backbone | None
    prompts: tuple[str, ...] = ()

    def zero_shot_logits(self, image_features: Tensor) -> Tensor:
        """Compute z = s·f·Tᵀ, shape (B, C), from image features of shape (B, D), normalised or not."""
        return cosine_logits(image_features, self.zero_shot_text, self.logit_scale)

    def towers(self, peft: str) -> Backbone:
        """Return the backbone to a family that runs one of its towers.

        Raises
        ------
        ConfigError
            Where there are precomputed features only.
        """
        if self.backbone is None:
            raise ConfigError(f'peft = "{peft}" needs the towers of a CLIP, and precomputed features come with none.')
        return self.backbone


class PeftModule(Protocol):
    """A small trainable module on a frozen CLIP.

    The names of its parameters are the names on the wire and on disk.

    Attributes
    ----------
    takes : {"features", "pixels", "patches"}
        Its inputs: image features of the frozen tower, shape (B, D), projected but not normalised; of a module that
        works inside the image tower, uint8 pixels of shape (B, 3, H, W); or features of the patches, shape (B, M, D),
        L2-normalised.
    logit_scale : float
        s.
    """

    takes: Takes
    logit_scale: float

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Iterate over the trained parameters; all of them require gradients."""
        ...

    def train(self, mode: bool = True) -> Any:
        """Switch what differs between training and use, as dropout, on or off."""
        ...

    def class_features(self) -> Tensor:
        """Return the text features of all classes, shape (C, D), L2-normalised."""
        ...

    def logits(self, inputs: Tensor) -> Tensor:
        """Return logits of shape (B, C), with gradients."""
        ...

    def with_text(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits, and the text features that they are made of, so that these are encoded once."""
        ...

    def logits_of(self, inputs: Tensor, class_features: Tensor) -> Tensor:
        """Return logits of shape (B, C), with gradients, with other class features in the place of its own."""
        ...

    def frozen(self) -> Logits:
        """Return the function from inputs to logits at the present parameters, for use without gradients.

        What does not depend on the inputs is computed once.
        """
        ...


class FromText(ABC):
    """Logits that are made of text features, which are encoded first."""

    @abstractmethod
    def class_features(self) -> Tensor:
        """Return the text features of all classes, shape (C, D)."""

    @abstractmethod
    def logits_of(self, inputs: Tensor, class_features: Tensor) -> Tensor:
        """Compute logits of other class features, shape (C, D); to (B, C)."""

    def logits(self, inputs: Tensor) -> Tensor:
        """Compute logits, shape (B, C)."""
        return self.with_text(inputs)[0]

    def with_text(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Compute logits, shape (B, C), and text features, shape (C, D)."""
        text = self.class_features()
        return self.logits_of(inputs, text), text

    def frozen(self) -> Logits:
        """Return the function from inputs to logits at the present parameters."""
        with torch.no_grad():
            text = self.class_features()
        return lambda inputs: self.logits_of(inputs, text)


class Branch(FromText, nn.Module):
    """Cosine logits of image and text features; a family changes one or the other.

    Parameters
    ----------
    host : Host
    """

    takes: Takes = "features"
    _text: Tensor

    def __init__(self, host: Host) -> None:
        super().__init__()
        self.logit_scale = host.logit_scale
        self.register_buffer("_text", host.zero_shot_text, persistent=False)

    def class_features(self) -> Tensor:
        """Return the text features of all classes, shape (C, D), L2-normalised: here, zero-shot CLIP's."""
        return self._text

    def image_features(self, inputs: Tensor) -> Tensor:
        """Return image features, shape (B, D): here, the inputs themselves."""
        return inputs

    @property
    def layout(self) -> dict[str, list[int]]:
        """How the parameters are laid out, see :mod:`fedpurel_app.core.layout`: here, in the one way that there is."""
        return {}

    def logits_of(self, inputs: Tensor, class_features: Tensor) -> Tensor:
        """Compute logits of other class features, shape (C, D); to (B, C)."""
        return cosine_logits(self.image_features(inputs), class_features, self.logit_scale)


def cosine_logits(image_features: Tensor, class_features: Tensor, logit_scale: float) -> Tensor:
    """Compute s·normalise(f̃)·Tᵀ; shapes (B, D), (C, D) to (B, C)."""
    return logit_scale * nn.functional.normalize(image_features, dim=-1) @ class_features.T


def summed(model: Sequence[PeftModule]) -> Logits:
    """Return the function from inputs to the sum of modules' logits at their present parameters, shape (B, C)."""
    functions = [part.frozen() for part in model]
    return lambda inputs: torch.stack([function(inputs) for function in functions]).sum(0)


def are_alike(one: PeftModule, other: PeftModule) -> bool:
    """Tell whether two modules have the same parameters, so that one may begin as a copy of the other."""
    first, second = ({name: value.shape for name, value in module.named_parameters()} for module in (one, other))
    return first == second


def parameters_of(module: PeftModule) -> dict[str, Tensor]:
    """Return the trained tensors by name, detached, sharing memory with the module."""
    return {name: value.detach() for name, value in module.named_parameters()}


def to_tensors(arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, Tensor]:
    """Return parameters as tensors, sharing memory with the arrays."""
    return {name: torch.from_numpy(np.asarray(value)) for name, value in arrays.items()}


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
