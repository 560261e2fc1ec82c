"""What a client does with its own data in one visit: train the shared parameters, or its private branch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedpurel_app.algorithms import Algorithm, Options
from fedpurel_app.functional import (
    cross_entropy,
    cross_entropy_gradient,
    purify_with_statistics,
    residual_gradient,
    residual_loss,
)
from fedpurel_app.models.peft.base import PeftModule
from fedpurel_app.training.inputs import TrainingData


@dataclass(frozen=True)
class SgdSettings:
    """Plain SGD.

    Attributes
    ----------
    learning_rate : float
    momentum, weight_decay : float
        Both act after purification. Momentum starts at zero at every visit.
    batch_size : int
        The last partial batch is dropped when there is a full one.
    epochs : int
        Passes over the client's data per visit.
    """

    learning_rate: float
    momentum: float
    weight_decay: float
    batch_size: int
    epochs: int


_SCALE = 2.0**10  # keeps small gradients in the range of half precision; a power of two costs no accuracy


class Sgd:
    """Stochastic gradient descent with momentum and weight decay, as ``torch.optim.SGD`` does it.

    Written out because torch's optimisers import its compiler on first use: more than two seconds in every new process,
    and at a real site every message is one.

    Parameters
    ----------
    parameters : list of Tensor
        Updated in place.
    settings : SgdSettings
    """

    def __init__(self, parameters: list[nn.Parameter], settings: SgdSettings) -> None:
        self._parameters, self._settings = parameters, settings
        self._velocity: list[Tensor] = []

    @torch.no_grad()
    def step(self, gradients: list[Tensor]) -> None:
        """Take one step: v <- m v + (g + d w), w <- w - r v; v starts at zero."""
        settings = self._settings
        decayed = [g.add(w, alpha=settings.weight_decay) for w, g in zip(self._parameters, gradients, strict=True)]
        if self._velocity:
            decayed = [v.mul_(settings.momentum).add_(d) for v, d in zip(self._velocity, decayed, strict=True)]
        self._velocity = decayed
        for parameter, velocity in zip(self._parameters, decayed, strict=True):
            parameter.sub_(velocity, alpha=settings.learning_rate)


# From student logits (B, C), reference logits (B, C), labels (B,) and a function that pulls gradients at the logits
# back to the parameters, to the gradients of the parameters and scalars to be averaged over the steps.
StepRule = Callable[[Tensor, Tensor, Tensor, Callable[[Tensor], list[Tensor]]], tuple[list[Tensor], dict[str, Tensor]]]


def global_step(algorithm: Algorithm, options: Options) -> StepRule:
    """Make the step of phase 1: task gradient, regulariser, and the algorithm's way to combine them.

    Notes
    -----
    One forward pass and two vector-Jacobian products from closed-form gradients at the logits.
    """

    def step(
        logits: Tensor, zero_shot: Tensor, labels: Tensor, pull_back: Callable[[Tensor], list[Tensor]]
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        metrics = {"loss": cross_entropy(logits, labels)}
        task_cotangent = cross_entropy_gradient(logits, labels)
        if algorithm.regulariser is None:
            return pull_back(task_cotangent), metrics
        regulariser = algorithm.regulariser(logits, zero_shot, options)
        metrics["align-loss"] = regulariser.loss
        if regulariser.tkl is not None:
            metrics["tkl"] = regulariser.tkl
        if algorithm.gradient_rule == "add":
            return pull_back(task_cotangent + options.penalty_weight * regulariser.gradient), metrics
        purified = purify_with_statistics(
            pull_back(task_cotangent), pull_back(regulariser.gradient), options.projection_scope
        )
        metrics["conflict"] = purified.conflict
        metrics["angle"] = torch.rad2deg(torch.acos(purified.cosine))
        return purified.gradients, metrics

    return step


def residual_step(options: Options) -> StepRule:
    """Make the step of phase 2: the private branch as a residual of the frozen global model."""

    def step(
        logits: Tensor, global_logits: Tensor, labels: Tensor, pull_back: Callable[[Tensor], list[Tensor]]
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        metrics = {"loss": residual_loss(global_logits, logits, labels, options.private_weight)}
        return pull_back(residual_gradient(global_logits, logits, labels, options.private_weight)), metrics

    return step


def train(
    module: PeftModule, data: TrainingData, step: StepRule, settings: SgdSettings, generator: torch.Generator
) -> dict[str, float]:
    """Train a module in place on one client's data.

    Parameters
    ----------
    module : PeftModule
        Its parameters are updated.
    data : TrainingData
    step : callable
        :func:`global_step` or :func:`residual_step`.
    settings : SgdSettings
    generator : torch.Generator
        On the CPU; orders the data, and its seed is that of dropout.

    Returns
    -------
    dict of str to float
        Means over the steps (``loss`` and what the step reports), ``steps``, and ``drift``: the Euclidean distance
        between the parameters before and after.
    """
    parameters = [parameter for _, parameter in module.named_parameters()]
    before = [parameter.detach().clone() for parameter in parameters]
    module.train()
    torch.manual_seed(generator.initial_seed())  # of dropout, where a module has it
    optimizer = Sgd(parameters, settings)
    totals: dict[str, Tensor] = {}
    steps = 0
    for rows in _batches(len(data.labels), settings, generator, data.labels.device):
        inputs, reference = data.batch(rows, generator)
        logits = module.logits(inputs)

        def pull_back(cotangent: Tensor, logits: Tensor = logits) -> list[Tensor]:
            scaled = (_SCALE * cotangent).to(logits.dtype)
            return [part / _SCALE for part in torch.autograd.grad(logits, parameters, scaled, retain_graph=True)]

        gradients, metrics = step(logits.detach(), reference, data.labels[rows], pull_back)
        optimizer.step(gradients)
        del logits, pull_back  # or this step's graph would live beside the next one's
        steps += 1
        for name, value in metrics.items():
            totals[name] = totals[name] + value if name in totals else value
    module.train(False)
    drift = torch.stack([(p.detach() - b).square().sum() for p, b in zip(parameters, before, strict=True)]).sum().sqrt()
    return {**{name: float(value) / steps for name, value in totals.items()}, "steps": steps, "drift": float(drift)}


def _batches(count: int, settings: SgdSettings, generator: torch.Generator, device: torch.device) -> Iterator[Tensor]:
    """Yield row numbers of shuffled batches."""
    for _ in range(settings.epochs):
        order = torch.randperm(count, generator=generator).to(device)
        usable = count - count % settings.batch_size or count  # a client with less than one batch uses what it has
        yield from order[:usable].split(settings.batch_size)
