"""The method's mathematics as pure functions on tensors. Needs torch alone; usable in any project.

>>> import torch
>>> from fedpurel_app.functional import alignment_loss, purify
>>> student = torch.tensor([[2.0, 0.0, 1.0]], requires_grad=True)
>>> loss = alignment_loss(student, torch.tensor([[1.0, 2.0, 0.0]]))
>>> (gradient,) = torch.autograd.grad(loss, student)
>>> (purified,) = purify([-gradient], [gradient])  # a task gradient that opposes the alignment altogether
>>> bool(purified.norm() < 1e-6)
True
"""

from fedpurel_app.functional.alignment import Alignment, align, alignment_gradient, alignment_loss, tkl
from fedpurel_app.functional.losses import (
    cross_entropy,
    cross_entropy_gradient,
    kl_gradient,
    kl_loss,
    residual_gradient,
    residual_loss,
)
from fedpurel_app.functional.pareto import loss_weights, smoothed_log_prior
from fedpurel_app.functional.perturbation import haar_orthogonal, principal_directions, rotate_within
from fedpurel_app.functional.projection import Purification, purify, purify_with_statistics
from fedpurel_app.functional.step import PurifiedStep, purified_step
from fedpurel_app.functional.temperature import entropy, match_temperature
from fedpurel_app.functional.transport import transport_logits, transport_plan

__all__ = [
    "Alignment",
    "Purification",
    "PurifiedStep",
    "align",
    "alignment_gradient",
    "alignment_loss",
    "cross_entropy",
    "cross_entropy_gradient",
    "entropy",
    "haar_orthogonal",
    "kl_gradient",
    "kl_loss",
    "loss_weights",
    "match_temperature",
    "principal_directions",
    "purified_step",
    "purify",
    "purify_with_statistics",
    "residual_gradient",
    "residual_loss",
    "rotate_within",
    "smoothed_log_prior",
    "tkl",
    "transport_logits",
    "transport_plan",
]
