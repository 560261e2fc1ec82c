"""What a method's step sees: the batch, what is known at its site, what the site remembers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from fedpurel_app.functional import cross_entropy, cross_entropy_gradient
from fedpurel_app.models.peft.base import PeftModule

Options = Mapping[str, Any]  # a method's keys and their values
Metrics = dict[str, Tensor]  # scalars, or vectors, averaged over the steps of a visit
Made = TypeVar("Made")
Memory = dict[str, Tensor]  # what a site keeps of a method that is no parameter, and writes with its private state
_SCALE = 2.0**10  # keeps small gradients in the range of half precision; a power of two costs no accuracy


class Facts(NamedTuple):
    """What a method may know where it works.

    Attributes
    ----------
    counts : Tensor of int64, shape (C,), or None
        The site's own training images by class. Never sent for a method's sake. None at the server.
    prior : Tensor, shape (C,), or None
        Training images by class of the whole federation, int64, on the module's device; None at a site with data of its
        own.
    zero_shot_text : Tensor, shape (C, D), or None
        T, the L2-normalised text features of zero-shot CLIP.
    brief : mapping of str to Tensor
        What the method's part at the server sent beside the shared parameters.
    groups : Tensor of int64, shape (C,), or None
        Group of each class, 0 = Many, 1 = Medium, 2 = Few, on the module's device: of the whole federation, and of the
        site's own images at a site with data of its own. None at the server.
    progress : float
        Share of the rounds of this kind that lie behind, in [0, 1).
    """

    counts: Tensor | None = None
    prior: Tensor | None = None
    zero_shot_text: Tensor | None = None
    brief: Mapping[str, Tensor] = MappingProxyType({})
    groups: Tensor | None = None
    progress: float = 0.0


@dataclass(frozen=True)
class Balance:
    """How a balancer changes the task loss, whatever the method.

    Attributes
    ----------
    shift : Tensor, shape (C,), or None
        Added to all logits that the loss is taken of.
    weigh : callable or None
        From the gradient at the logits, shape (B, ..., C), to the one that counts.
    """

    shift: Tensor | None = None
    weigh: Callable[[Tensor], Tensor] | None = None


@dataclass
class Batch:
    """One step: a batch, the forward pass that was made of it, and the ways back to the parameters.

    Attributes
    ----------
    inputs : Tensor
        Image features, shape (B, D), not normalised, or uint8 pixels, shape (B, 3, H, W): what the module takes.
    labels : Tensor of int64, shape (B,)
    output : Tensor, shape (B, C)
        The module's logits with their graph.
    reference : Tensor, shape (B, C)
        Logits of the frozen model that the visit names: zero-shot CLIP, or the global model.
    module : PeftModule
    trained : list of Parameter
        The module's parameters, in the order of their names in it.
    anchor : list of Tensor
        The global branch's parameters as the site received them, in the same order.
    facts : Facts
    options : mapping
        The method's keys.
    rate : float
        The learning rate.
    generator : torch.Generator
        On the CPU; what a rule draws.
    memory : dict of str to Tensor
        What the site keeps of the method; a rule may change it.
    text : Tensor, shape (C, D), or None
        The text features that the logits are made of, with their graph.
    balance : Balance
        What a balancer does to the task loss; by default nothing.
    visit : list
        What :meth:`once` keeps: one list in all steps of a visit.
    velocity : sequence of Tensor or None
        The optimiser's, of every parameter; None before the first step.
    momentum, decay : float
        The optimiser's; see :meth:`carried`.
    """

    inputs: Tensor
    labels: Tensor
    output: Tensor
    reference: Tensor
    module: PeftModule
    trained: list[torch.nn.Parameter]
    anchor: list[Tensor]
    facts: Facts
    options: Options
    rate: float
    generator: torch.Generator
    memory: Memory = field(default_factory=dict)
    text: Tensor | None = None
    balance: Balance = Balance()
    visit: list[Any] = field(default_factory=list)
    velocity: Sequence[Tensor | None] = ()
    momentum: float = 0.0
    decay: float = 0.0
    _cotangent: Tensor | None = None  # of the task loss, once it was asked for,
    _of_task: list[Tensor] | None = None  # and what came of pulling it back

    @property
    def counts(self) -> Tensor:
        """The site's own training images by class, int64, shape (C,), on the module's device; one value all visit."""
        if self.facts.counts is None:
            raise ValueError("this batch has no class counts: train(..., facts=Facts(counts)) gives them.")
        return self.facts.counts

    def once(self, make: Callable[[], Made]) -> Made:
        """Return what a rule needs in every step and makes in the first; a rule has one such thing."""
        if not self.visit:
            self.visit.append(make())
        made: Made = self.visit[0]
        return made

    @property
    def class_features(self) -> Tensor:
        """The module's text features with their graph, shape (C, D): those that were encoded for the logits."""
        return self.module.class_features() if self.text is None else self.text

    @cached_property
    def logits(self) -> Tensor:
        """The module's logits without a graph, shape (B, C), for closed forms."""
        return self.output.detach()

    def task(self, *terms: tuple[float, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the gradient of the task loss at the logits, shape (B, C), by its closed form, and the loss [nats].

        Parameters
        ----------
        *terms : (float, Tensor of shape (B, C))
            Weights and logits; the loss is the weighted sum of their cross-entropies. By default, once ``logits``.
        """
        (weight, logits), *others = [(weight, self._shifted(logits)) for weight, logits in terms or ((1, self.logits),)]
        gradient = weight * cross_entropy_gradient(logits, self.labels)
        loss = weight * cross_entropy(logits, self.labels)
        for weight, logits in others:
            gradient = gradient + weight * cross_entropy_gradient(logits, self.labels)
            loss = loss + weight * cross_entropy(logits, self.labels)
        return self._weighed(gradient), loss

    def task_of_each(self) -> tuple[Tensor, Tensor]:
        """Return the gradient of several task losses, shape (B, n, C), and the losses, shape (n,) [nats].

        For a module that has n logits of shape (B, n, C), each of which is trained on the labels.
        """
        several = [self._shifted(logits) for logits in self.logits.unbind(1)]
        gradient = torch.stack([cross_entropy_gradient(logits, self.labels) for logits in several], 1)
        losses = torch.stack([cross_entropy(logits, self.labels) for logits in several])
        return self._weighed(gradient), losses

    def _weighed(self, gradient: Tensor) -> Tensor:
        self._cotangent = gradient if self.balance.weigh is None else self.balance.weigh(gradient)
        return self._cotangent

    @property
    def task_gradients(self) -> list[Tensor]:
        """The gradient of every parameter of the task loss alone, whatever the step makes of it.

        It is what the rule pulled back by itself; where it pulled back a sum with something else, one more way back.
        """
        if self._of_task is None:
            cotangent = self.task()[0] if self._cotangent is None else self._cotangent
            self._of_task = self.pull_back(cotangent)
        return self._of_task

    def carried(self) -> list[Tensor]:
        """Return what the optimiser adds to the gradient of every parameter in this step: m v + d w."""
        moving = self.velocity or [None] * len(self.trained)
        decays = [self.decay * parameter.detach() for parameter in self.trained]
        return [
            pull if speed is None else self.momentum * speed + pull for speed, pull in zip(moving, decays, strict=True)
        ]

    def _shifted(self, logits: Tensor) -> Tensor:
        return logits if self.balance.shift is None else logits + self.balance.shift

    def pull_back(self, cotangent: Tensor) -> list[Tensor]:
        """Return the gradient of every parameter from a gradient at the logits, shape (B, C).

        Parameters that the logits do not depend on have zeros.
        """
        scaled = (_SCALE * cotangent).to(self.output.dtype)
        found = torch.autograd.grad(
            self.output, self.trained, scaled, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        gradients = [part / _SCALE for part in found]
        if cotangent is self._cotangent:
            self._of_task = gradients
        return gradients

    def gradients(self, loss: Tensor) -> list[Tensor]:
        """Return the gradient of every parameter of a scalar loss, which autograd finds: of output, or of the module.

        Parameters that the loss does not depend on have zeros.
        """
        found = torch.autograd.grad(
            _SCALE * loss, self.trained, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        return [part / _SCALE for part in found]


@dataclass
class Begun:
    """A visit before its first step.

    Attributes
    ----------
    module : PeftModule
        With the parameters as they were received, which may be changed.
    inputs : Tensor, shape (N, D), or None
        Image features of the site's training images, not normalised; None where the module takes something else, or
        images are drawn anew for every batch.
    labels : Tensor of int64, shape (N,)
    facts : Facts
    options : mapping
    memory : dict of str to Tensor
        May be changed.
    """

    module: PeftModule
    inputs: Tensor | None
    labels: Tensor
    facts: Facts
    options: Options
    memory: Memory


@dataclass
class Visited:
    """A visit when its last step is taken.

    Attributes
    ----------
    names : sequence of str
        Of the trained parameters.
    before, after : list of Tensor
        Their values, in the same order.
    travel : float
        The way that steps of a constant gradient of 1 would have gone: learning rate times number of steps, and with
        momentum more.
    facts : Facts
    options : mapping
    memory : dict of str to Tensor
        To be changed in place.
    """

    names: Sequence[str]
    before: list[Tensor]
    after: list[Tensor]
    travel: float
    facts: Facts
    options: Options
    memory: Memory
