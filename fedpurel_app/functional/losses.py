"""Losses of both phases, each with its gradient with respect to the logits in closed form.

With the gradient at the logits known, one forward pass and one vector-Jacobian product give the gradient of the
parameters; no softmax graph is built. The mean of an empty batch is 0 in all of them.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from fedpurel_app.functional.alignment import batch_mean, kl_divergence
from fedpurel_app.functional.temperature import as_float


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Compute the mean cross-entropy [nats] of logits (B, C) against labels (B,)."""
    return functional.cross_entropy(logits, labels, reduction="mean" if len(labels) else "sum")


def cross_entropy_gradient(logits: Tensor, labels: Tensor) -> Tensor:
    """Compute the gradient of :func:`cross_entropy` with respect to the logits: (softmax(l) - onehot(y)) / B.

    Parameters
    ----------
    logits : Tensor, shape (B, C)
    labels : Tensor of int64, shape (B,)

    Returns
    -------
    Tensor, shape (B, C)
    """
    gradient = as_float(logits).softmax(-1)
    gradient = gradient.scatter_add(1, labels[:, None], -torch.ones_like(gradient[:, :1]))
    return gradient / len(logits)


def kl_loss(student_logits: Tensor, zero_shot_logits: Tensor) -> Tensor:
    """Compute the mean plain KL(softmax(z) || softmax(l)), without temperatures (the baselines' regulariser).

    Parameters
    ----------
    student_logits, zero_shot_logits : Tensor, shape (B, C)

    Returns
    -------
    Tensor, shape ()
        [nats]
    """
    teacher = as_float(zero_shot_logits.detach()).log_softmax(-1)
    return batch_mean(kl_divergence(teacher, as_float(student_logits).log_softmax(-1)))


def kl_gradient(student_logits: Tensor, zero_shot_logits: Tensor) -> Tensor:
    """Compute the gradient of :func:`kl_loss` with respect to the student's logits: (softmax(l) - softmax(z)) / B.

    Parameters
    ----------
    student_logits, zero_shot_logits : Tensor, shape (B, C)

    Returns
    -------
    Tensor, shape (B, C)
    """
    return (as_float(student_logits).softmax(-1) - as_float(zero_shot_logits).softmax(-1)) / len(student_logits)


def residual_loss(global_logits: Tensor, private_logits: Tensor, labels: Tensor, private_weight: float = 0.9) -> Tensor:
    """Compute the loss of phase 2: cross-entropy of the sum of both branches and of the private branch alone.

    Parameters
    ----------
    global_logits : Tensor, shape (B, C)
        l_G of the frozen global model; constant.
    private_logits : Tensor, shape (B, C)
        l_P of the private branch.
    labels : Tensor of int64, shape (B,)
    private_weight : float
        lambda in [0, 1]: weight of the private branch's own loss.

    Returns
    -------
    Tensor, shape ()
        (1 - lambda) CE(y, l_G + l_P) + lambda CE(y, l_P) [nats].

    Raises
    ------
    ValueError
        When lambda is outside [0, 1].

    References
    ----------
    FedPuReL (CVPR 2026, arXiv 2605.02247), residual learning; lambda = 0.9 in the paper.

    Examples
    --------
    >>> labels = torch.tensor([0])
    >>> residual_loss(torch.zeros(1, 2), torch.zeros(1, 2), labels).round(decimals=4)
    tensor(0.6931)
    """
    _check_weight(private_weight)
    private = as_float(private_logits)
    both = private + as_float(global_logits.detach())
    return (1 - private_weight) * cross_entropy(both, labels) + private_weight * cross_entropy(private, labels)


def residual_gradient(
    global_logits: Tensor, private_logits: Tensor, labels: Tensor, private_weight: float = 0.9
) -> Tensor:
    """Compute the gradient of :func:`residual_loss` with respect to the private logits.

    Parameters
    ----------
    global_logits, private_logits : Tensor, shape (B, C)
    labels : Tensor of int64, shape (B,)
    private_weight : float

    Returns
    -------
    Tensor, shape (B, C)
    """
    _check_weight(private_weight)
    private = as_float(private_logits)
    mixed = cross_entropy_gradient(private + as_float(global_logits), labels)
    return (1 - private_weight) * mixed + private_weight * cross_entropy_gradient(private, labels)


def _check_weight(private_weight: float) -> None:
    if not 0 <= private_weight <= 1:
        raise ValueError(f"private_weight = {private_weight}: must lie in [0, 1].")
