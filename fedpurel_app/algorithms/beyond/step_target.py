"""Purification of the whole step: what is left of it, momentum and weight decay included, does not oppose CLIP.

    u = g_task + m v + d phi,   v the momentum's velocity, m and d the optimiser's momentum and weight decay
    u' = u - min(0, <u, g_align>) / ||g_align||^2 g_align
    g = u' - m v - d phi,   so that the optimiser takes the step phi <- phi - eta u' and keeps v <- u'

The paper's guarantee, <g, g_align> >= 0, is that of a gradient; with momentum 0.9 nine tenths of the way are those of
earlier batches, whose conflict with this batch's g_align nobody looked at. Here it holds for the step.

References
----------
Ours, of FedPuReL's Eq. (4).
"""

from __future__ import annotations

from torch import Tensor

from fedpurel_app.algorithms.base import Batch


def added(first: list[Tensor], second: list[Tensor], sign: int = 1) -> list[Tensor]:
    """Return first + sign second, parameter by parameter."""
    return [one + sign * other for one, other in zip(first, second, strict=True)]


def with_carried(batch: Batch, tasks: list[list[Tensor]]) -> list[list[Tensor]]:
    """Return what is purified, the whole step: a single task gradient plus what the optimiser adds, else both apart."""
    carried = batch.carried()
    return [added(tasks[0], carried)] if len(tasks) == 1 else [*tasks, carried]
