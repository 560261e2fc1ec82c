"""Temperature-aligned KL divergence between a student and the zero-shot model (TKL)."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from fedpurel_app.functional.temperature import (
    LEAST_LOG_PROB,
    as_float,
    entropy,
    entropy_range,
    match_temperature,
    reach,
)

_SMALLEST_VARIANCE = 1e-6


class Alignment(NamedTuple):
    """Student and teacher at one common entropy for every sample; constants for the gradient.

    Attributes
    ----------
    student_log_probs, teacher_log_probs : Tensor, shape (B, C)
        log softmax(l / tau_f) and log softmax(z / tau_z).
    student_temperature, teacher_temperature : Tensor, shape (B,)
        tau_f and tau_z.
    target_entropy : Tensor, shape (B,)
        H* [nats], the mean of both entropies at temperature 1, clipped to what both rows can reach.
    weight : Tensor, shape (B,)
        1, or 0 for a sample that no temperature can align (all logits of one row equal) and for one that is aligned
        already: p_f and p_z differ by no more than the temperatures' own errors.
    """

    student_log_probs: Tensor
    teacher_log_probs: Tensor
    student_temperature: Tensor
    teacher_temperature: Tensor
    target_entropy: Tensor
    weight: Tensor


@torch.no_grad()
def align(student_logits: Tensor, zero_shot_logits: Tensor) -> Alignment:
    """Bring student and teacher to the mean of their entropies, sample by sample.

    Parameters
    ----------
    student_logits : Tensor, shape (B, C)
        l, logits of the model in training.
    zero_shot_logits : Tensor, shape (B, C)
        z, logits of zero-shot CLIP for the same images.

    Returns
    -------
    Alignment

    Raises
    ------
    ValueError
        When the shapes differ or are not (B, C).

    Notes
    -----
    H* = (H(softmax l) + H(softmax z)) / 2, then H(softmax(l / tau_f)) = H(softmax(z / tau_z)) = H*. One H* serves both
    rows, clipped to [log m + 1e-4, log C - 1e-4] with m the larger number of tied maxima of the two.

    Where sum |p_f - p_z| is within :func:`~fedpurel_app.functional.temperature.reach` of both, the difference is the
    solver's and not the models'. Its direction is noise, which purification would follow whatever its size, so weight
    0 takes loss, metric and gradient away together: <l, gradient> remains the loss. Two classes with equal arg max are
    always such a sample, since their entropy fixes their probabilities.

    References
    ----------
    FedPuReL (CVPR 2026, arXiv 2605.02247), temperature-aligned KL.
    """
    _check_pair(student_logits, zero_shot_logits)
    size = len(student_logits)
    rows = torch.cat([as_float(student_logits), as_float(zero_shot_logits)])  # solved in one batch
    h = entropy(rows)
    lows, highs = entropy_range(rows)
    low, high = torch.maximum(lows[:size], lows[size:]), highs[:size]
    target = torch.minimum(torch.maximum((h[:size] + h[size:]) / 2, low), high)
    alignable = low <= high
    temperature = match_temperature(rows, target.repeat(2))
    temperature = torch.where(alignable.repeat(2), temperature, torch.ones_like(temperature))
    # The maximum goes first: at tiny temperatures the quotient alone would round away differences between near ties.
    log_probs = _log_softmax((rows - rows.amax(-1, keepdim=True)) / temperature[:, None])
    student, teacher = log_probs[:size], log_probs[size:]
    within = reach(log_probs)
    differ = (student.exp() - teacher.exp()).abs().sum(-1) > within[:size] + within[size:]
    weight = (alignable & differ).to(rows.dtype)
    return Alignment(student, teacher, temperature[:size], temperature[size:], target, weight)


def alignment_loss(
    student_logits: Tensor, zero_shot_logits: Tensor, reduction: Literal["mean", "none"] = "mean"
) -> Tensor:
    """Compute the alignment loss of phase 1: the temperature-aligned KL, teacher first.

    Parameters
    ----------
    student_logits : Tensor, shape (B, C)
        l; the gradient flows through these alone, at constant temperatures.
    zero_shot_logits : Tensor, shape (B, C)
        z; constant.
    reduction : {"mean", "none"}
        Mean over the batch, or one value for each sample.

    Returns
    -------
    Tensor, shape () or (B,)
        KL(softmax(z / tau_z) || softmax(l / tau_f)) [nats]; 0 for samples that cannot be aligned, or are aligned as
        closely as temperatures can be found (they still count in the mean). The mean of an empty batch is 0.

    Raises
    ------
    ValueError
        When the shapes differ, or `reduction` is neither of the two.

    Notes
    -----
    Not the logged metric, which runs the other way: see :func:`tkl`. Zero when z = c·l for any c > 0.

    References
    ----------
    FedPuReL (CVPR 2026, arXiv 2605.02247), L_align.

    Examples
    --------
    >>> logits = torch.tensor([[2.0, 0.5, -1.0]])
    >>> bool(alignment_loss(logits, 3 * logits) < 1e-5)
    True
    """
    if reduction not in ("mean", "none"):
        raise ValueError(f'reduction = "{reduction}": choose "mean" or "none".')
    pair = align(student_logits.detach(), zero_shot_logits.detach())
    student = _log_softmax(as_float(student_logits) / pair.student_temperature[:, None])
    per_sample = pair.weight * kl_divergence(pair.teacher_log_probs, student)
    return batch_mean(per_sample) if reduction == "mean" else per_sample


def alignment_gradient(alignment: Alignment, variant: Literal["frozen", "implicit"] = "frozen") -> Tensor:
    """Compute the gradient of the mean alignment loss with respect to the student's logits, in closed form.

    Parameters
    ----------
    alignment : Alignment
        As :func:`align` returns it.
    variant : {"frozen", "implicit"}
        ``frozen``: temperatures are constants (the reference). ``implicit``: the radial part is taken out, so the
        gradient only turns the logits and does not lower their confidence.

    Returns
    -------
    Tensor, shape (B, C)
        Equal to ``autograd.grad(alignment_loss(l, z), l)`` for ``frozen``.

    Notes
    -----
    frozen: (p_f - p_z) / (tau_f B). At equal entropies <l, frozen> equals the loss A = KL(p_z || p_f) of the sample
    over B. implicit: [p_f - p_z - A p_f (log p_f + H*) / Var_{p_f}(l / tau_f)] / (tau_f B), so that <l, implicit> = 0;
    where the variance is below 1e-6 the frozen gradient stands. No gradient is ever taken through H*: that is unstable.
    """
    if variant not in ("frozen", "implicit"):
        raise ValueError(f'variant = "{variant}": choose "frozen" or "implicit".')
    student, teacher = alignment.student_log_probs.exp(), alignment.teacher_log_probs.exp()
    gradient = student - teacher
    if variant == "implicit":
        # l / tau_f less its mean under p_f: log p_f + H*, with the entropy that the solver did reach for H*. The radial
        # part <l / tau_f, p_f - p_z> is then taken out exactly; at equal entropies it is A.
        centred = alignment.student_log_probs - (student * alignment.student_log_probs).sum(-1, keepdim=True)
        variance = (student * centred * centred).sum(-1)
        radial = (gradient * centred).sum(-1)
        scale = torch.where(variance < _SMALLEST_VARIANCE, torch.zeros_like(radial), radial / variance)
        gradient = gradient - scale[:, None] * student * centred
    return gradient * (alignment.weight / alignment.student_temperature / len(student))[:, None]


def tkl(student_logits: Tensor, zero_shot_logits: Tensor) -> Tensor:
    """Compute the TKL metric: how far a model has drifted from zero-shot, whatever its confidence.

    Parameters
    ----------
    student_logits, zero_shot_logits : Tensor, shape (B, C)

    Returns
    -------
    Tensor, shape (B,)
        KL(softmax(l / tau_f) || softmax(z / tau_z)) [nats], student first. 0 for samples that cannot be aligned, or
        are aligned as closely as temperatures can be found.

    References
    ----------
    FedPuReL (CVPR 2026, arXiv 2605.02247), TKL.

    Examples
    --------
    >>> zero_shot = torch.tensor([[2.0, 0.5, -1.0]])
    >>> bool(tkl(10 * zero_shot, zero_shot) < 1e-5)
    True
    """
    pair = align(student_logits, zero_shot_logits)
    return pair.weight * kl_divergence(pair.student_log_probs, pair.teacher_log_probs)


def kl_divergence(first_log_probs: Tensor, second_log_probs: Tensor) -> Tensor:
    """KL(first || second) of every row [nats]; shapes (B, C) to (B,)."""
    return (first_log_probs.exp() * (first_log_probs - second_log_probs)).sum(-1)


def batch_mean(values: Tensor) -> Tensor:
    """Compute the mean over a batch, shapes (B,) to (); of an empty batch 0, so that it adds nothing to any sum."""
    return values.mean() if len(values) else values.sum()


def _log_softmax(logits: Tensor) -> Tensor:
    """Finite log softmax: an outlier without weight is to have no part in a divergence either."""
    return logits.log_softmax(-1).clamp_min(LEAST_LOG_PROB)


def _check_pair(student_logits: Tensor, zero_shot_logits: Tensor) -> None:
    if student_logits.ndim != 2 or student_logits.shape != zero_shot_logits.shape:
        raise ValueError(
            f"student logits {tuple(student_logits.shape)} and zero-shot logits {tuple(zero_shot_logits.shape)} "
            "must both have shape (B, C), with the same B and C."
        )
