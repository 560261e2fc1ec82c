"""Entropy of logits, and the temperature at which they have a given entropy.

H(softmax(l / tau)) rises with u = log(tau): dH/du = Var_p(l / tau) >= 0, from log(m) as tau -> 0 (m = number of tied
maxima) to log(C) as tau -> infinity, so a temperature for the entropy H* exists if and only if log(m) < H* < log(C).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

MARGIN = 1e-4  # delta [nats]: matched entropies stay this far from log(m) and log(C)
ITERATIONS = 20  # CLIP-like rows need 3 to 9; near ties beside far outliers need the rest
_TOLERANCE = 5e-6  # [nats]; a row that is this close is frozen
_STEP = 2.0  # largest Newton step in u
# Logits are scaled to a spread of 1 before the search, so the bracket in u need not know their scale. Its lower end
# separates maxima that differ by one fp32 rounding step beside an outlier; its upper end flattens any row to
# log(C) - MARGIN.
_BRACKET = (-30.0, 7.0)
_TIE = 2e-12  # of the spread; maxima closer than that count as tied: the bracket's lower end cannot part them
_FLAT = 1e-30  # a row of less spread counts as equal logits


def entropy(logits: Tensor) -> Tensor:
    """Compute the Shannon entropy of ``softmax(logits)``.

    Parameters
    ----------
    logits : Tensor, shape (..., C)
        Unnormalised log-probabilities; computed in fp32 at least.

    Returns
    -------
    Tensor, shape (...)
        Entropy [nats], between 0 and log(C). Differentiable.

    Examples
    --------
    >>> entropy(torch.zeros(1, 4)).round(decimals=4)
    tensor([1.3863])
    """
    log_probs = as_float(logits).log_softmax(-1)
    return -(log_probs.exp() * log_probs.clamp_min(torch.finfo(log_probs.dtype).min)).sum(-1)


def match_temperature(logits: Tensor, target_entropy: Tensor) -> Tensor:
    """Find the temperature at which every row of logits has its target entropy.

    Newton's method in u = log(tau) on phi(H) = log H - log(log C - H), which is close to linear in u, inside a
    bracket, with bisection where a step leaves it. On a GPU the number of iterations is fixed and nothing is copied to
    the host, so it never waits; a CPU stops when all rows have settled, with the same result.

    Parameters
    ----------
    logits : Tensor, shape (..., C)
        Finite logits. No gradient is taken through them.
    target_entropy : Tensor, shape (...)
        Wanted entropy H* [nats]; clipped to [log m + 1e-4, log C - 1e-4], m = number of tied maxima of the row.

    Returns
    -------
    Tensor, shape (...)
        Temperatures tau > 0 with |H(softmax(logits / tau)) - H*| <= 1e-5 in fp32. 1 for a row whose logits are all
        equal: every temperature gives log C there.

    Raises
    ------
    ValueError
        When the shapes do not fit each other.

    Notes
    -----
    Where H* is near its limits tau itself is hardly determined: compare entropies, not temperatures.

    References
    ----------
    FedPuReL (CVPR 2026, arXiv 2605.02247), temperature-aligned KL: both distributions are brought to one entropy.

    Examples
    --------
    >>> logits = torch.tensor([[3.0, 1.0, 0.0]])
    >>> tau = match_temperature(logits, torch.tensor([1.0]))
    >>> entropy(logits / tau[..., None]).round(decimals=4)
    tensor([1.])
    """
    if target_entropy.shape != logits.shape[:-1]:
        raise ValueError(
            f"target_entropy has shape {tuple(target_entropy.shape)}; logits of shape {tuple(logits.shape)} "
            f"need one target for each row: {tuple(logits.shape[:-1])}."
        )
    with torch.no_grad():
        rows = as_float(logits).reshape(-1, logits.shape[-1])
        low, high = entropy_range(rows)
        target = torch.minimum(torch.maximum(target_entropy.reshape(-1).to(rows.dtype), low), high)
        return _solve(rows, target).reshape(target_entropy.shape)


def entropy_range(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Give the entropies that temperatures can reach in every row, less a margin.

    Parameters
    ----------
    rows : Tensor, shape (N, C)

    Returns
    -------
    low, high : Tensor, shape (N,)
        log m + MARGIN and log C - MARGIN; low > high where all logits of a row are (nearly) equal.
    """
    most = rows.amax(-1, keepdim=True)
    gap = (_TIE * (most - rows.amin(-1, keepdim=True))).clamp_min(_FLAT)
    ties = (rows >= most - gap).sum(-1)
    high = torch.full_like(rows[:, 0], math.log(rows.shape[-1]) - MARGIN)
    return ties.to(rows.dtype).log() + MARGIN, high


def as_float(values: Tensor) -> Tensor:
    """Return fp64 as it is and everything else as fp32."""
    return values if values.dtype == torch.float64 else values.float()


def _solve(rows: Tensor, target: Tensor) -> Tensor:
    """Match rows of shape (N, C) to targets of shape (N,) that lie within reach."""
    largest = math.log(rows.shape[-1])
    tiny = 1e-7

    def phi(h: Tensor) -> Tensor:
        return h.clamp_min(tiny).log() - (largest - h).clamp_min(tiny).log()

    spread = rows.amax(-1) - rows.amin(-1)
    flat = spread <= _FLAT
    spread = torch.where(flat, torch.ones_like(spread), spread)
    unit = (rows - rows.amax(-1, keepdim=True)) / spread[:, None]  # in [-1, 0]
    low, high = (torch.full_like(target, edge) for edge in _BRACKET)
    u = (-spread.log()).clamp(*_BRACKET)  # tau = 1 in the units of the caller
    goal = phi(target)
    on_host = rows.device.type == "cpu"
    for _ in range(ITERATIONS):
        z = unit * torch.exp(-u)[:, None]
        weights = z.exp()
        total = weights.sum(-1)
        first = (weights * z).sum(-1) / total
        second = (weights * z * z).sum(-1) / total
        h = total.log() - first
        variance = second - first * first
        error = h - target
        settled = error.abs() <= _TOLERANCE
        if on_host and bool(settled.all()):
            break  # nothing would change; asking a GPU would make it wait
        high = torch.where(error > 0, u, high)
        low = torch.where(error < 0, u, low)
        near, far = h.clamp_min(tiny), (largest - h).clamp_min(tiny)
        step = (goal - phi(h)) * near * far / (largest * variance)
        proposal = u + step.clamp(-_STEP, _STEP)
        inside = (proposal > low) & (proposal < high)  # False for NaN
        proposal = torch.where(inside, proposal, (low + high) / 2)
        u = torch.where(settled, u, proposal)
    return torch.where(flat, torch.ones_like(u), u.exp() * spread)
