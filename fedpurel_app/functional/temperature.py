"""Entropy of logits, and the temperature at which they have a given entropy.

H(softmax(l / tau)) rises with u = log(tau): dH/du = Var_p(l / tau) >= 0, from log(m) as tau -> 0 (m = number of tied
maxima) to log(C) as tau -> infinity, so a temperature for the entropy H* exists if and only if log(m) < H* < log(C).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

LEAST_LOG_PROB = -1e18  # as good as -inf, yet 0 times its square is 0 in fp32
MARGIN = 1e-4  # delta [nats]: matched entropies stay this far from log(m) and log(C)
ITERATIONS = 20  # CLIP-like rows need 3 to 9; what is left then is searched by division
_TOLERANCE = 5e-6  # [nats]; a row that is this close is frozen
_REACH = 1e-5  # [nats]; how close matched entropies are: the tolerance, and as much for rounding in fp32
_STEP = 2.0  # largest Newton step in u
# Logits are scaled to a spread of 1 before the search, so the bracket in u need not know their scale. Its lower end
# separates maxima that differ by one fp32 rounding step beside an outlier; its upper end flattens any row to
# log(C) - MARGIN.
_BRACKET = (-30.0, 7.0)
_PARTS, _DIVISIONS = 16, 8  # of the search that finishes what Newton leaves: 16^-8 of e^200 is nothing in fp32
_APART = 30.0  # temperatures by which a logit is below the maximum when exp(-30) of its weight is left
_TIE = 2e-12  # maxima closer than that share of their size or of the spread are one value, rounded
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
    bracket, with bisection where a step leaves it; rows with outliers so far off that the steps run out are searched
    by dividing all temperatures that fp32 can tell apart. On a GPU the number of iterations is fixed and nothing is
    copied to the host, so it never waits; a CPU stops when all rows have settled, with the same result.

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
    """Return the entropies that temperatures can reach in every row, less a margin.

    Parameters
    ----------
    rows : Tensor, shape (N, C)

    Returns
    -------
    low, high : Tensor, shape (N,)
        log m + MARGIN and log C - MARGIN; low > high where all logits of a row are (nearly) equal.
    """
    most = rows.amax(-1, keepdim=True)
    ties = (rows >= most - _tie_gap(rows)).sum(-1)
    high = torch.full_like(rows[:, 0], math.log(rows.shape[-1]) - MARGIN)
    return ties.to(rows.dtype).log() + MARGIN, high


def reach(log_probs: Tensor) -> Tensor:
    """Return how far matched probabilities may be from those of exactly the target entropy.

    Parameters
    ----------
    log_probs : Tensor, shape (B, C)
        log softmax(l / tau) at the temperature of :func:`match_temperature`.

    Returns
    -------
    Tensor, shape (B,)
        Largest error of p in the sum of absolute values.

    Notes
    -----
    Along u = log(tau), dp/du = -p c and dH/du = Var = <p, c^2>, with c = log p + H, which is l / tau less its mean.
    So an error e of the entropy is an error e / Var of u, and one of e <p, |c|> / Var of p. e = 1e-5 is what the
    solver promises: its tolerance of 5e-6, and as much again for rounding and for the change of <p, |c|> / Var on the
    way, which is at most a tenth (at H* = log C - 1e-4, where Var is 2e-4 and u off by 0.025).
    """
    probs = log_probs.exp()
    centred = log_probs - (probs * log_probs).sum(-1, keepdim=True)
    slope = (probs * centred.abs()).sum(-1)
    variance = (probs * centred * centred).sum(-1)
    return _REACH * slope / variance.clamp_min(torch.finfo(variance.dtype).tiny)


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
    settled = flat
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
    temperature = torch.where(flat, torch.ones_like(u), u.exp() * spread)
    left = ~(settled | flat)
    if not on_host:
        return torch.where(left, _divide(rows, target), temperature)
    if bool(left.any()):
        temperature[left] = _divide(rows[left], target[left])
    return temperature


def _divide(rows: Tensor, target: Tensor) -> Tensor:
    """Match rows to targets as `_solve` does, by dividing the range of temperatures into equal parts of its logarithm.

    The range is the row's own, from the nearest logit below the maximum to the farthest, and temperatures are kept as
    such: fp32 tells their logarithms apart far worse where they are large.
    """
    below = rows.amax(-1, keepdim=True) - rows
    apart = torch.where(below > _tie_gap(rows), below, torch.full_like(below, math.inf))
    most = torch.finfo(torch.float32).max / 4
    low = (apart.amin(-1) / _APART).clamp(_FLAT / _APART, most)  # infinite where all are equal
    highest = (below.amax(-1).clamp_max(most).log() + _BRACKET[1]).clamp_max(math.log(most))
    width = (highest - low.log()).clamp_min(0)
    inner = torch.arange(1, _PARTS, device=rows.device, dtype=rows.dtype) / _PARTS
    for _ in range(_DIVISIONS):
        h = _entropy_below(below, _stretched(low[:, None], width[:, None] * inner))
        low = _stretched(low, width * (h < target[:, None]).sum(-1) / _PARTS)
        width = width / _PARTS
    return _stretched(low, width / 2)


def _entropy_below(below: Tensor, temperature: Tensor) -> Tensor:
    """Entropy at temperatures (N, K) of logits that lie (N, C) below their maximum."""
    z = -(below[:, None] / temperature[:, :, None]).clamp_max(-LEAST_LOG_PROB)  # inf would make 0 * inf
    weights = z.exp()
    total = weights.sum(-1)
    return total.log() - (weights * z).sum(-1) / total


def _stretched(values: Tensor, exponent: Tensor) -> Tensor:
    """Compute values * exp(exponent), where the exponential alone would overflow."""
    half = (exponent / 2).exp()
    return values * half * half


def _tie_gap(rows: Tensor) -> Tensor:
    """Distance (N, 1) from the maximum within which logits are tied.

    Rounding errors are of the size of the logits, not of the spread, which an outlier can stretch at will.
    """
    most = rows.amax(-1, keepdim=True)
    return (_TIE * torch.minimum(most - rows.amin(-1, keepdim=True), most.abs())).clamp_min(_FLAT)
