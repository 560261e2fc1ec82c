"""One purified training step of any torch model."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from fedpurel_app.functional.alignment import alignment_loss
from fedpurel_app.functional.projection import Scope, purify_with_statistics


class PurifiedStep(NamedTuple):
    """What a step reports.

    Attributes
    ----------
    loss : Tensor, shape ()
        Of the task, before the step.
    conflict : Tensor, shape ()
        Share of inner products that were projected; send its mean as the metric ``conflict``, and the strategy knows
        that this client purifies.
    """

    loss: Tensor
    conflict: Tensor


def purified_step(
    model: Callable[[Tensor], Tensor],
    batch: tuple[Tensor, Tensor],
    zero_shot_logits: Tensor,
    optimizer: torch.optim.Optimizer,
    scope: Scope = "global",
    loss: Callable[[Tensor, Tensor], Tensor] = torch.nn.functional.cross_entropy,
) -> PurifiedStep:
    """Take one step along the task gradient, less what opposes the model's foundation.

    Parameters
    ----------
    model : callable
        From inputs to logits, shape (B, C).
    batch : (Tensor, Tensor)
        Inputs and labels.
    zero_shot_logits : Tensor, shape (B, C)
        Logits of the frozen foundation model on the same inputs.
    optimizer : torch.optim.Optimizer
        Its parameters are trained; weight decay and momentum act after purification.
    scope : {"global", "tensor"}
        One inner product over all parameters, or one for each tensor.
    loss : callable
        From logits and labels to the task's scalar loss.

    Returns
    -------
    PurifiedStep

    References
    ----------
    FedPuReL (CVPR 2026, arXiv 2605.02247), global rounds.

    Examples
    --------
    >>> model = torch.nn.Linear(3, 4)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> inputs, labels = torch.eye(3), torch.tensor([0, 1, 2])
    >>> with torch.no_grad():
    ...     zero_shot_logits = torch.nn.Linear(3, 4)(inputs)
    >>> float(purified_step(model, (inputs, labels), zero_shot_logits, optimizer).loss) > 0
    True
    """
    inputs, labels = batch
    logits = model(inputs)
    trained = [value for group in optimizer.param_groups for value in group["params"] if value.requires_grad]
    value = loss(logits, labels)
    task = torch.autograd.grad(value, trained, retain_graph=True, allow_unused=True)
    align = torch.autograd.grad(alignment_loss(logits, zero_shot_logits), trained, allow_unused=True)
    found = purify_with_statistics(task, align, scope)
    for parameter, gradient in zip(trained, found.gradients, strict=True):
        parameter.grad = gradient
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return PurifiedStep(value.detach(), found.conflict)
