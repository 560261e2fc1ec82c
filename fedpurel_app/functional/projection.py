"""Gradient purification: take out of a task gradient what opposes the alignment gradient."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Generic, Literal, NamedTuple, TypeVar, cast

import torch
from torch import Tensor

Scope = Literal["global", "tensor"]
_ORDINARY = 2.0**40  # entries between its inverse and this have squares and sums of squares that fp32 holds
Gradient = TypeVar("Gradient", Tensor, Tensor | None)


class Purification(NamedTuple, Generic[Gradient]):
    """Purified gradients, and how much the two gradients disagreed.

    Attributes
    ----------
    gradients : list of Tensor
        In the shapes and types of the task gradients; None where both gradients are.
    conflict : Tensor, shape ()
        Share in [0, 1] of the inner products that were negative and were projected away (0 or 1 for scope "global").
    cosine : Tensor, shape ()
        Cosine of the angle between the two whole gradients; 0 when one of them vanishes.
    """

    gradients: list[Gradient]
    conflict: Tensor
    cosine: Tensor


def purify(
    task_gradients: Iterable[Gradient], align_gradients: Iterable[Gradient], scope: Scope = "global", eps: float = 1e-6
) -> list[Gradient]:
    """Project away the component of the task gradient that opposes the alignment gradient.

    Parameters
    ----------
    task_gradients, align_gradients : iterable of Tensor
        One tensor for each parameter, of pairwise equal shapes. None, as ``autograd.grad(allow_unused=True)`` has it
        for a parameter without a part in the loss, counts as zeros.
    scope : {"global", "tensor"}
        One inner product over all parameters (the paper), or one for each tensor (the reference code).
    eps : float
        Guard: nothing is projected where ||g_align|| <= eps ||g_task||. 1e-6 suits fp32; choose it larger when the
        gradients come out of a tower that runs in bf16.

    Returns
    -------
    list of Tensor
        Gradients g with <g, g_align> >= 0 up to rounding; the task gradients unchanged where they do not conflict. None
        where both gradients are None.

    Raises
    ------
    TypeError
        When an entry is neither a tensor nor None.
    ValueError
        When numbers or shapes of the tensors differ, none is given, or `scope` is unknown.

    Notes
    -----
    g = g_task - <g_task, g_align> / ||g_align||^2 g_align where <g_task, g_align> < 0. Inner products and norms are
    taken in fp32 whatever the type of the gradients, and of gradients scaled by powers of two, so that squares neither
    overflow nor vanish whatever their size. The guarantee holds for g, not for a whole SGD step, to which momentum and
    weight decay are added afterwards.

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
    task_gradients: Iterable[Gradient],
    align_gradients: Iterable[Gradient],
    scope: Scope = "global",
    eps: float = 1e-6,
    strength: float = 1.0,
) -> Purification[Gradient]:
    """Purify as :func:`purify` does, and say how often and how much the gradients conflicted.

    Parameters and errors are those of :func:`purify`. Nothing is copied to the host.

    Parameters
    ----------
    strength : float
        What the opposing component is multiplied by before it is taken away, >= 0: 0 leaves the gradient as it is;
        above 1 the result goes along the alignment gradient. <g, g_align> >= 0 holds from 1 on.

    Returns
    -------
    Purification
    """
    if scope not in ("global", "tensor"):
        raise ValueError(f'scope = "{scope}": choose "global" or "tensor".')
    pairs = _paired(list(task_gradients), list(align_gradients))
    tasks, aligns = _filled(pairs)
    task_scales, align_scales = _scales(tasks), _scales(aligns)
    if scope == "global":
        task_scales, align_scales = (scales.amin().expand(len(tasks)) for scales in (task_scales, align_scales))
    task_units, align_units = _scaled(tasks, task_scales), _scaled(aligns, align_scales)
    dot, task_square, align_square = (
        torch.stack([torch.dot(a, b) for a, b in zip(left, right, strict=True)])
        for left, right in ((task_units, align_units), (task_units, task_units), (align_units, align_units))
    )
    task_part, align_part = task_scales.amin() / task_scales, align_scales.amin() / align_scales  # 1 in scope "global"
    whole_dot = (dot * task_part * align_part).sum()
    norms = (task_square * task_part * task_part).sum().sqrt() * (align_square * align_part * align_part).sum().sqrt()
    cosine = torch.where(norms > 0, whole_dot / norms, torch.zeros_like(norms)).clamp(-1, 1)
    if scope == "global":
        dot, task_square, align_square = (values.sum(0, keepdim=True) for values in (dot, task_square, align_square))
    ratio = (align_scales / task_scales)[: len(dot)]  # infinite where the alignment gradient is next to nothing
    least = eps * eps * task_square
    least = torch.where(least > 0, least * ratio * ratio, 0.0)  # eps = 0 is no guard, at any ratio
    opposed = (dot < 0) & (align_square > least)
    # The divisor is replaced where it is unused, so that a vanishing alignment gradient cannot make 0 / 0.
    factor = torch.where(opposed, dot / torch.where(opposed, align_square, torch.ones_like(align_square)), 0.0)
    factor = strength * factor
    purified = [
        task - (share * unit if _is_one(scale) else (share * unit).div_(scale)).reshape(task.shape)
        for task, unit, share, scale in zip(tasks, align_units, factor.expand(len(tasks)), task_scales, strict=True)
    ]
    kinds = [next((g.dtype for g in pair if g is not None), None) for pair in pairs]
    gradients = [None if kind is None else g.to(kind) for g, kind in zip(purified, kinds, strict=True)]
    return Purification(cast(list[Gradient], gradients), opposed.to(dot.dtype).mean(), cosine)


def _scales(gradients: list[Tensor]) -> Tensor:
    """Return a power of two for every tensor that keeps squares of its entries in range.

    1 where the largest entry is of ordinary size, or not finite; else what brings it to [1, 2). A power of two changes
    no bit of a result that neither overflows nor vanishes.
    """
    ends = [g.detach().aminmax() if g.numel() else (g.new_zeros(()), g.new_zeros(())) for g in gradients]
    largest = torch.maximum(torch.stack([most for _, most in ends]), -torch.stack([least for least, _ in ends]))
    tiny = torch.finfo(largest.dtype).tiny
    as_it_is = ~torch.isfinite(largest) | ((largest > 1 / _ORDINARY) & (largest < _ORDINARY))
    largest = torch.where(as_it_is, torch.ones_like(largest), largest.clamp_min(tiny))
    mantissa, _ = torch.frexp(largest)  # in [1/2, 1)
    return (2 * mantissa / largest).clamp_min(tiny)


def _scaled(gradients: list[Tensor], scales: Tensor) -> list[Tensor]:
    """Return gradients as vectors, times their scales."""
    return [(g if _is_one(scale) else g * scale).reshape(-1) for g, scale in zip(gradients, scales, strict=True)]


def _is_one(scale: Tensor) -> bool:
    """Whether a factor is known to be 1, so that a copy can be saved; a GPU is not asked, since it would make wait."""
    return scale.device.type == "cpu" and float(scale) == 1


def _paired(
    task_gradients: Sequence[Tensor | None], align_gradients: Sequence[Tensor | None]
) -> list[tuple[Tensor | None, Tensor | None]]:
    """Pair gradients by parameter; raise where they do not fit each other."""
    for which, gradients in (("task", task_gradients), ("alignment", align_gradients)):
        for number, gradient in enumerate(gradients):
            if not (gradient is None or isinstance(gradient, Tensor)):
                raise TypeError(
                    f"{which} gradients: entry {number} is of type {type(gradient).__name__}; "
                    "give one tensor for each parameter, or None for one without a gradient."
                )
    pairs = list(zip(task_gradients, align_gradients, strict=False))
    fit = len(task_gradients) == len(align_gradients) and all(
        task is None or align is None or task.shape == align.shape for task, align in pairs
    )
    if not fit or all(gradient is None for pair in pairs for gradient in pair):
        shapes = [[None if g is None else tuple(g.shape) for g in side] for side in (task_gradients, align_gradients)]
        raise ValueError(
            f"task gradients {shapes[0]} and alignment gradients {shapes[1]} must be as many (at least one tensor) "
            "and have pairwise equal shapes; None counts as zeros."
        )
    return pairs


def _filled(pairs: list[tuple[Tensor | None, Tensor | None]]) -> tuple[list[Tensor], list[Tensor]]:
    """Return both gradients as fp32, or as fp64 where one is, with zeros for None."""
    given = [g for pair in pairs for g in pair if g is not None]
    kind = torch.float64 if any(g.dtype == torch.float64 for g in given) else torch.float32

    def filled(own: Tensor | None, other: Tensor | None) -> Tensor:
        if own is not None:
            return own.to(kind)
        return torch.zeros(() if other is None else other.shape, dtype=kind, device=given[0].device)

    return [filled(task, align) for task, align in pairs], [filled(align, task) for task, align in pairs]
