"""Several losses at once: how a preference among them becomes one descent direction, and a smoothed class prior."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Scalarisation = Literal["linear", "tchebycheff"]
_ALL = 0.01  # weight of the plain sum beside the largest term
_LEAST = 1e-4  # of a preference that is divided by


def smoothed_log_prior(counts: Tensor) -> Tensor:
    """Compute log pi, pi_c = (n_c + 1/2) / (n + C/2): class shares that are never zero.

    Parameters
    ----------
    counts : Tensor of int64, shape (C,)
        Images by class.

    Returns
    -------
    Tensor, shape (C,)
        [nats]

    Examples
    --------
    >>> smoothed_log_prior(torch.tensor([4, 0])).exp()
    tensor([0.9000, 0.1000])
    """
    smoothed = counts.double() + 0.5
    return (smoothed / smoothed.sum()).log().float()


def loss_weights(preference: Tensor, losses: Tensor, least: Tensor, kind: Scalarisation) -> Tensor:
    """Return what the gradient of every loss is multiplied by, for a preference among them.

    Parameters
    ----------
    preference : Tensor, shape (m,)
        p >= 0, of sum 1.
    losses : Tensor, shape (m,)
        [nats]
    least : Tensor, shape (m,)
        z, the smallest value that each loss has had.
    kind : {"linear", "tchebycheff"}

    Returns
    -------
    Tensor, shape (m,)
        Linear: p, the gradient of sum p_i l_i. Tchebycheff: the gradient of
        max_i ((l_i - z_i) / p_i) / sum_j (1 / p_j) + 0.01 sum_i l_i.

    Notes
    -----
    CoPSL's own form has no divisor, and steps by Adam; under plain SGD a preference near 0 would then make a step of
    any length. The divisor depends on p alone, and so leaves what is minimised for every p.

    Examples
    --------
    >>> p, losses, least = torch.tensor([0.25, 0.75]), torch.tensor([2.0, 3.0]), torch.tensor([1.0, 1.0])
    >>> loss_weights(p, losses, least, "linear")
    tensor([0.2500, 0.7500])
    >>> loss_weights(p, losses, least, "tchebycheff")  # 1 / 0.25 > 2 / 0.75, and 4 / (4 + 4/3) = 0.75
    tensor([0.7600, 0.0100])
    """
    if kind == "linear":
        return preference
    inverse = 1 / preference.clamp_min(_LEAST)
    largest = ((losses - least) * inverse).argmax()
    weights = torch.full_like(preference, _ALL)
    weights[largest] += inverse[largest] / inverse.sum()
    return weights
