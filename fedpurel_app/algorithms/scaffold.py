"""SCAFFOLD: control variates take out of every step what sets a site's gradient apart from the federation's.

    y <- y - eta (g(y) + c - c_k)                                                                  (Algorithm 1, line 9)
    c_k' = c_k - c + (x - y) / (K eta)                                             (line 12, option II; stays at site k)
    c' = c + sum over S of n_k/n (c_k' - c_k)                                                   (line 17, at the server)

x: the shared parameters as received; y: after K steps; S: the cohort; n_k of all n images are at site k.

The server finds c_k' - c_k from what site k sends anyway. So c_k is no secret from it, and stays at the site because it
is needed there. A site whose c_k is lost (``private-fallback = "fresh"``) begins again at 0, and c keeps the share of
the old one.

References
----------
S. P. Karimireddy, S. Kale, M. Mohri, S. J. Reddi, S. U. Stich, A. T. Suresh, "SCAFFOLD: Stochastic Controlled Averaging
for Federated Learning", ICML 2020.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fedpurel_app.algorithms.base import Algorithm, Batch, Facts, Memory, Metrics, Visit, Visited
from fedpurel_app.algorithms.fedavg import task_step
from fedpurel_app.core.phase import Phase


def controlled_step(batch: Batch) -> tuple[list[Tensor], Metrics]:
    """Return g + c - c_k; raises ValueError when c has other shapes than the parameters."""
    gradients, metrics = task_step(batch)
    names, c, c_k = [name for name, _ in batch.module.named_parameters()], batch.facts.brief, batch.memory
    if any(name in c and c[name].shape != task.shape for name, task in zip(names, gradients, strict=True)):
        raise ValueError("the server's control variate has other shapes than the parameters")
    return [
        task + (c[name] - c_k[name]) if name in c else task  # what is not sent has no c
        for name, task in zip(names, gradients, strict=True)
    ], metrics


def next_control(visited: Visited) -> None:
    """Put c_k' in the place of c_k."""
    for name, x, y in zip(visited.names, visited.before, visited.after, strict=True):
        if name in visited.facts.brief:
            visited.memory[name] += (x - y) / visited.travel - visited.facts.brief[name]


def no_control(parameters: Mapping[str, Tensor], facts: Facts) -> Memory:
    """Return c_k = 0."""
    return {name: torch.zeros_like(value) for name, value in parameters.items()}


ALGORITHM = Algorithm(
    visits={Phase.GLOBAL: Visit(controlled_step, end=next_control)},
    memory=no_control,
    reading=(
        "The paper weighs all sites alike, in x and in c. Here x is averaged by numbers of images, as by FedAvg, and "
        "so is c, or the two would belong to different objectives. Where steps have momentum, for K eta stands the "
        "way that a constant gradient of 1 goes in them."
    ),
)
