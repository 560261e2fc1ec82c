"""Gradient purification: take out of a task gradient what opposes the alignment gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Scope = Literal["global", "tensor"]


class Purification(NamedTuple):
    """Purified gradients, and how much the two gradients disagreed.

    Attributes
    ----------
    gradients : list of Tensor
        In the shapes and types of the task gradients.
    conflict : Tensor, shape ()
        Share in [0, 1] of the inner products that were negative and were projected away (0 or 1 for scope "global").
    cosine : Tensor, shape ()
        Cosine of the angle between the two whole gradients; 0 when one of them vanishes.
    """

    gradients: list[Tensor]
    conflict: Tensor
    cosine: Tensor


def purify(
    task_gradients: Sequence[Tensor], align_gradients: Sequence[Tensor], scope: Scope = "global", eps: float = 1e-6
) -> list[Tensor]:
    """Project away the component of the task gradient that opposes the alignment gradient.

    Parameters
    ----------
    task_gradients, align_gradients : sequence of Tensor
        One tensor for each parameter, of pairwise equal shapes.
    scope : {"global", "tensor"}
        One inner product over all parameters (the paper), or one for each tensor (the reference code).
    eps : float
        Guard: nothing is projected where ||g_align|| <= eps ||g_task||. 1e-6 suits fp32; choose it larger when the
        gradients come out of a tower that runs in bf16.

    Returns
    -------
    list of Tensor
        Gradients g with <g, g_align> >= 0 up to rounding; the task gradients unchanged where they do not conflict.

    Raises
    ------
    ValueError
        When numbers or shapes of the tensors differ, none is given, or `scope` is unknown.

    Notes
    -----
    g = g_task - <g_task, g_align> / ||g_align||^2 g_align where <g_task, g_align> < 0. Inner products and norms are
    taken in fp32 whatever the type of the gradients. The guarantee holds for g, not for a whole SGD step, to which
    momentum and weight decay are added afterwards.

    References
    ----------
    FedPuReL (CVPR 2026, arXiv 2605.02247), gradient purification.

    Examples
    --------
    >>> task, align = [torch.tensor([1.0, -1.0])], [torch.tensor([0.0, 1.0])]
    >>> purify(task, align)
    [tensor([1., 0.])]
    """
    return purify_with_statistics(task_gradients, align_gradients, scope, eps).gradients


def purify_with_statistics(
    task_gradients: Sequence[Tensor], align_gradients: Sequence[Tensor], scope: Scope = "global", eps: float = 1e-6
) -> Purification:
    """Purify as :func:`purify` does, and say how often and how much the gradients conflicted.

    Parameters and errors are those of :func:`purify`. Nothing is copied to the host.

    Returns
    -------
    Purification
    """
    if scope not in ("global", "tensor"):
        raise ValueError(f'scope = "{scope}": choose "global" or "tensor".')
    shapes = [[tuple(g.shape) for g in gradients] for gradients in (task_gradients, align_gradients)]
    if not shapes[0] or shapes[0] != shapes[1]:
        raise ValueError(
            f"task gradients {shapes[0]} and alignment gradients {shapes[1]} must be as many (at least one) "
            "and have pairwise equal shapes."
        )
    dot, task_square, align_square = (
        torch.stack([_dot(a, b) for a, b in zip(left, right, strict=True)])
        for left, right in (
            (task_gradients, align_gradients),
            (task_gradients, task_gradients),
            (align_gradients, align_gradients),
        )
    )
    norms = task_square.sum().sqrt() * align_square.sum().sqrt()  # the product of the squares could underflow
    cosine = torch.where(norms > 0, dot.sum() / norms, torch.zeros_like(norms)).clamp(-1, 1)
    if scope == "global":
        dot, task_square, align_square = (values.sum(0, keepdim=True) for values in (dot, task_square, align_square))
    opposed = (dot < 0) & (align_square > eps * eps * task_square)
    # The divisor is replaced where it is unused, so that a vanishing alignment gradient cannot make 0 / 0.
    factor = torch.where(opposed, dot / torch.where(opposed, align_square, torch.ones_like(align_square)), 0.0)
    gradients = [
        (task.to(share.dtype) - share * align.to(share.dtype)).to(task.dtype)
        for task, align, share in zip(task_gradients, align_gradients, factor.expand(len(task_gradients)), strict=True)
    ]
    return Purification(gradients, opposed.to(dot.dtype).mean(), cosine)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner product in fp32, or in fp64 when the tensors are fp64."""
    kind = torch.float64 if a.dtype == torch.float64 else torch.float32
    return torch.dot(a.reshape(-1).to(kind), b.reshape(-1).to(kind))
