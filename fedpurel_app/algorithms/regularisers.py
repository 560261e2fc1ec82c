"""Regularisers towards the zero-shot model, as closed-form gradients at the logits."""

from __future__ import annotations

from torch import Tensor

from fedpurel_app.algorithms.base import Options, Regulariser
from fedpurel_app.functional import align, alignment_gradient, kl_gradient, kl_loss
from fedpurel_app.functional.alignment import batch_mean, kl_divergence


def temperature_aligned_kl(student: Tensor, zero_shot: Tensor, options: Options) -> Regulariser:
    """L_align of FedPuReL: KL(teacher || student) at one entropy for both, found anew for every sample."""
    if options.align_loss == "kl":
        return plain_kl(student, zero_shot, options)
    pair = align(student, zero_shot)
    loss = pair.weight * kl_divergence(pair.teacher_log_probs, pair.student_log_probs)
    metric = pair.weight * kl_divergence(pair.student_log_probs, pair.teacher_log_probs)
    return Regulariser(alignment_gradient(pair, options.align_gradient), batch_mean(loss), batch_mean(metric))


def plain_kl(student: Tensor, zero_shot: Tensor, options: Options) -> Regulariser:
    """KL(teacher || student) of the logits as they are."""
    return Regulariser(kl_gradient(student, zero_shot), kl_loss(student, zero_shot), None)
