"""Fed-GraB: a controller for each tail class re-weights its gradients until positive and negative ones are even.

    w_c+ = f(u_c),  w_c- = f(-u_c),  f(x) = 10 / (1 + 9 exp(-x / 2))          weights of dL/dl_c where y = c, and y != c
    P_c, N_c += sum |w dL/dl_c| over positives, and over negatives of the batch
    e = N_c - P_c,   u_c += K_P (e - e_1) + K_I e + K_D (e - 2 e_1 + e_2)            once a step; e_1, e_2: the last two

f(0) = 1, so with gains of zero it is its host, to the bit. Tail classes are those with fewer images than the mean
class; the others have weights of 1. The state of the controllers stays at the site; personal rounds have their own.

References
----------
Z. Xiao, Z. Chen, S. Liu, H. Wang, Y. Feng, J. Hao, J. T. Zhou, J. Wu, H. H. Yang, Z. Liu, "Fed-GraB: Federated
Long-tailed Learning with Self-Adjusting Gradient Balancer", NeurIPS 2023.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from fedpurel_app.algorithms.balancers.base import balanced, class_counts
from fedpurel_app.algorithms.base import Algorithm, Balance, Batch, Facts, Memory, Options
from fedpurel_app.core.phase import Phase

READING = (
    "Upstream trains by one-vs-rest binary cross-entropy, which is of no use at CLIP's logits (about 20: a "
    "gradient of 1 on every negative, of 1e-8 on positives). Here the host's softmax cross-entropy is kept, and "
    "its gradient at the logits is multiplied by the weights. Tail classes are those with fewer images than the "
    "mean class. "
    "Gradients are those of the batch mean, so that gains go with the batch size."
)
_STATE = ("P", "N", "u", "e1", "e2")


def weight(control: Tensor) -> Tensor:
    """Return f(x) = 10 / (1 + 9 exp(-x / 2)): 1 at 0, from 0 to 10."""
    return 10 / (1 + 9 * torch.exp(-control / 2))


def step_controllers(state: Memory, weighted: Tensor, positive: Tensor, options: Options) -> None:
    """Add a batch's weighted gradients up, and move every u.

    Parameters
    ----------
    state : dict of str to Tensor, each of shape (C,)
        "P", "N", "u", "e1" and "e2"; changed in place.
    weighted : Tensor, shape (B, C)
    positive : Tensor of bool, shape (B, C)
        Where the class is the label.
    options : mapping
        The gains.
    """
    size = weighted.detach().abs()
    state["P"] += (size * positive).sum(0)
    state["N"] += (size * ~positive).sum(0)
    error = state["N"] - state["P"]
    e1, e2 = state["e1"], state["e2"]
    proportional, integral, derivative = (
        options[f"{name}-gain"] for name in ("proportional", "integral", "derivative")
    )
    state["u"] += proportional * (error - e1) + integral * error + derivative * (error - 2 * e1 + e2)
    e2.copy_(e1)
    e1.copy_(error)


def controlled(batch: Batch, phase: Phase) -> Balance:
    """Return the weights of this step, which move the controllers once they are used."""
    state = {name: batch.memory[f"fed-grab/{phase.value}/{name}"] for name in _STATE}
    counts = class_counts(batch.facts, batch.options)
    tail = counts < counts.double().mean()
    positive = one_hot(batch.labels, len(counts)).bool()

    def weigh(gradient: Tensor) -> Tensor:
        at = positive.reshape(len(positive), *[1] * (gradient.ndim - 2), -1).expand_as(gradient)
        factors = torch.where(at, weight(state["u"]), weight(-state["u"]))
        weighted = gradient * torch.where(tail, factors, 1.0)
        step_controllers(state, weighted.flatten(0, -2), at.flatten(0, -2), batch.options)
        return weighted

    return Balance(weigh=weigh)


def balance(host: Algorithm) -> Algorithm:
    """Put it on a method; what the host remembers stays beside what the controllers do."""

    def memory(parameters: Mapping[str, Tensor], facts: Facts) -> Memory:
        of_host = {} if host.memory is None else host.memory(parameters, facts)
        if facts.zero_shot_text is None:
            raise ValueError("the number of classes is not known here.")
        zeros = facts.zero_shot_text.new_zeros(len(facts.zero_shot_text))
        return of_host | {f"fed-grab/{phase.value}/{name}": zeros.clone() for phase in host.visits for name in _STATE}

    return replace(balanced(host, controlled), memory=memory, memory_is_sent=False)
