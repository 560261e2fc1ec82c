"""Optimal transport of a given mass from patches to prompts: entropic, and unbalanced on the side of the patches."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fedpurel_app.functional.temperature import as_float

ITERATIONS = 100
_TOLERANCE = 1e-3  # change of the logarithms of v at which a problem is solved, and frozen


@torch.no_grad()
def transport_plan(
    similarity: Tensor,
    mass: float = 0.8,
    epsilon: float = 0.1,
    iterations: int = ITERATIONS,
    tolerance: float = _TOLERANCE,
) -> Tensor:
    """Compute how much of every patch goes to every prompt; a constant to gradients.

    Parameters
    ----------
    similarity : Tensor, shape (..., N, M)
        Cosines of N prompts and M patches, one problem for each leading index.
    mass : float
        gamma in (0, 1]: the part of the patches' mass of 1 that is transported, the same to every prompt.
    epsilon : float
        Weight of the entropy, > 0. The plan becomes uniform as it grows.
    iterations : int
        Limit, >= 1.
    tolerance : float
        A problem is solved when the logarithm of none of its v changes by more. It is frozen then, so that its plan
        does not depend on the problems beside it.

    Returns
    -------
    Tensor, shape (..., N, M)
        Not negative. Sums to gamma / N over the patches of every prompt, and to 1 / M at most, up to the tolerance
        where the iterations sufficed, over the prompts of every patch.

    Raises
    ------
    ValueError
        When mass, epsilon or iterations are outside their range.

    Notes
    -----
    With K = exp(-(1 - similarity) / epsilon), a = 1 / M, b = gamma / N, and v = 1 at first:
    u = min(a / (K^t v), 1), v = b / (K u), again and again, and in the end the plan is v K u. All of it in logarithms,
    or a small epsilon would leave zeros of K and infinite v.

    References
    ----------
    H. Li, W. Huang, J. Wang, Y. Shi, "Global and Local Prompts Cooperation via Optimal Transport for Federated
    Learning" (FedOTP), CVPR 2024.

    Examples
    --------
    One prompt, and two patches of which the first is at 0.5 and would hold more than its 1 / M = 0.5:

    >>> transport_plan(torch.tensor([[0.5, 0.3]]), tolerance=1e-6).round(decimals=3)
    tensor([[0.5000, 0.3000]])
    """
    if not (0 < mass <= 1 and epsilon > 0 and iterations >= 1):
        raise ValueError(
            f"mass = {mass}, epsilon = {epsilon}, iterations = {iterations}: the first must lie in (0, 1], the second "
            "above 0, and the third be at least 1."
        )
    log_kernel = (as_float(similarity).reshape(-1, *similarity.shape[-2:]) - 1) / epsilon
    log_v = torch.zeros_like(log_kernel[..., :1])
    return _solved(log_kernel, log_v, mass, iterations, tolerance).view(similarity.shape)


def _solved(log_kernel: Tensor, log_v: Tensor, mass: float, iterations: int, tolerance: float) -> Tensor:
    """Return the plans of problems, shape (P, N, M), that were brought to some log v, shape (P, N, 1)."""
    prompts, patches = log_kernel.shape[1:]
    left = iterations
    while left:
        left -= 1
        log_u = (-math.log(patches) - (log_kernel + log_v).logsumexp(1, keepdim=True)).clamp(max=0)
        found = math.log(mass / prompts) - (log_kernel + log_u).logsumexp(2, keepdim=True)
        moves = ((found - log_v).abs() > tolerance).flatten(1).any(1)
        log_v = torch.where(moves[:, None, None], found, log_v)
        # Asking a GPU takes longer than going on with all, which changes nothing.
        if log_v.device.type == "cpu" and 2 * int(moves.sum()) <= len(moves):
            break
    plan = (log_kernel + found + log_u).exp()
    if left and moves.any():  # half of them are solved: go on with the others
        plan[moves] = _solved(log_kernel[moves], log_v[moves], mass, left, tolerance)
    return plan


def transport_logits(patches: Tensor, class_features: Tensor, mass: float, epsilon: float) -> Tensor:
    """Compute the similarity of images and classes, each a set of features, by what is transported between them.

    Parameters
    ----------
    patches : Tensor, shape (B, M, D)
        Features of every image's patches, L2-normalised.
    class_features : Tensor, shape (N, C, D)
        N features of every class, L2-normalised; gradients go to them.
    mass, epsilon : float
        See :func:`transport_plan`.

    Returns
    -------
    Tensor, shape (B, C)
        Sum over prompts and patches of plan times cosine, in [-gamma, gamma].

    Examples
    --------
    Where the plan is uniform it is gamma times the mean cosine:

    >>> patches, text = torch.eye(2)[None], torch.tensor([[[1.0, 0.0]], [[0.6, 0.8]]])
    >>> transport_logits(patches, text, 0.8, 1e6).round(decimals=3)
    tensor([[0.4800]])
    """
    prompts, classes = class_features.shape[:2]
    by_class = class_features.transpose(0, 1).flatten(0, 1)
    similarity = (by_class @ patches.mT).unflatten(1, (classes, prompts))
    return (transport_plan(similarity.detach(), mass, epsilon) * similarity).sum((-2, -1))
