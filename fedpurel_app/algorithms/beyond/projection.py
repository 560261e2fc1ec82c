"""Eq. (3) and (4) of FedPuReL, and its variants: which gradients are projected, how far, and what becomes of them."""

from __future__ import annotations

import torch
from torch import Tensor

from fedpurel_app.algorithms.base import Batch
from fedpurel_app.algorithms.beyond.groups import by_group
from fedpurel_app.algorithms.beyond.step_target import added, with_carried
from fedpurel_app.algorithms.beyond.strength import strength
from fedpurel_app.functional.projection import Purification, Scope, purify_with_statistics


def projected(batch: Batch, task: Tensor, guide: Tensor) -> Purification[Tensor]:
    """Return the gradient that the optimiser is given, and how much its parts opposed the guide.

    Parameters
    ----------
    batch : Batch
    task, guide : Tensor, shape (B, C)
        Gradients of the task's and of the guide's loss at the logits.

    Returns
    -------
    Purification
        Of several parts, ``conflict`` is the share that were projected, ``cosine`` that of their sum.
    """
    options = batch.options
    is_step, in_groups = options["projection-target"] == "step", options["projection-scope"] == "class-group"
    tasks = [batch.pull_back(part) for part in (by_group(batch, task) if in_groups else [task])]  # Eq. (3)
    aligned = batch.pull_back(guide)
    parts = with_carried(batch, tasks) if is_step else tasks
    scope: Scope = "global" if in_groups else options["projection-scope"]
    factor = strength(options, batch.facts.progress)
    first, *others = [purify_with_statistics(part, aligned, scope, strength=factor) for part in parts]  # Eq. (4)
    gradients, conflict, cosine = first
    if others:
        for one in others:
            gradients = added(gradients, one.gradients)
        whole = [torch.stack(one).sum(0) for one in zip(*parts, strict=True)]
        cosine = purify_with_statistics(whole, aligned).cosine
        conflict = torch.stack([one.conflict for one in (first, *others)]).mean()
    return Purification(added(gradients, batch.carried(), -1) if is_step else gradients, conflict, cosine)
