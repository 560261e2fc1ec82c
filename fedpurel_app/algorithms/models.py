"""What there is to predict with, and what a site sees of it on the images that it keeps for validation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from fedpurel_app.algorithms.step import Options
from fedpurel_app.models.peft.base import PeftModule

Model = tuple[PeftModule, ...]  # modules whose logits add up


@dataclass(frozen=True)
class Models:
    """What a site, or the server, has to predict with.

    Attributes
    ----------
    shared : PeftModule
        The module of global rounds; at a site with what it keeps of it.
    private : PeftModule or None
        That of personal rounds; None at the server, and in methods without such rounds.
    memory : mapping of str to Tensor
        What the site remembers of the method.
    options : mapping
        The method's keys.
    zero_shot : PeftModule or None
        Zero-shot CLIP, on the inputs of the shared module; None where only parameters are asked for.
    at : callable or None
        From values of the shared module's parameters, by name, to another such module with these; raises ValueError for
        those that do not fit. None where only parameters are asked for.
    preference : tuple of float or None
        Among the losses of a method that has several; None: the one that the method predicts by where nobody asks.
    """

    shared: PeftModule
    private: PeftModule | None = None
    memory: Mapping[str, Tensor] = field(default_factory=dict)
    options: Options = field(default_factory=dict)
    zero_shot: PeftModule | None = None
    preference: tuple[float, ...] | None = None
    at: Callable[[Mapping[str, Tensor]], PeftModule] | None = None


@dataclass(frozen=True)
class Held:
    """A site's validation part, as its models see it after a personal visit.

    Attributes
    ----------
    models : Models
    labels : Tensor of int64, shape (N,)
        N >= 1.
    logits : callable
        From a model to its logits on the N images, shape (N, C); nothing is computed before.
    bias : Tensor, shape (C,), or None
        What is added to all logits in predictions.
    """

    models: Models
    labels: Tensor
    logits: Callable[[Model], Tensor]
    bias: Tensor | None = None
