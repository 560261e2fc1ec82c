"""Score a global model, and a global and a private branch together, on one set of images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fedpurel_app.functional import tkl
from fedpurel_app.metrics import ClassCounts
from fedpurel_app.models.peft.base import PeftModule
from fedpurel_app.training.inputs import LocalData, all_logits


@dataclass(frozen=True)
class Scores:
    """What one pass over a test set yields.

    Attributes
    ----------
    zero_shot, global_model : ClassCounts
    personalized : ClassCounts or None
        Of l_G + l_P; None without a private branch.
    tkl : float
        Mean TKL of the global model against zero-shot [nats].
    """

    zero_shot: ClassCounts
    global_model: ClassCounts
    personalized: ClassCounts | None
    tkl: float


@torch.no_grad()
def evaluate(data: LocalData, global_branch: PeftModule, private_branch: PeftModule | None = None) -> Scores:
    """Score models on images.

    Parameters
    ----------
    data : LocalData
        Its reference logits are those of zero-shot CLIP.
    global_branch : PeftModule
    private_branch : PeftModule, optional

    Returns
    -------
    Scores
    """
    classes = data.reference_logits.shape[1]
    logits = all_logits(global_branch.frozen(), data.inputs)

    def counts(scores: Tensor) -> ClassCounts:
        return ClassCounts.of((scores.argmax(1) == data.labels).cpu().numpy(), data.labels.cpu().numpy(), classes)

    personalized = None
    if private_branch is not None:
        personalized = counts(logits + all_logits(private_branch.frozen(), data.inputs))
    divergence = float(tkl(logits, data.reference_logits).double().mean()) if len(logits) else 0.0
    return Scores(counts(data.reference_logits), counts(logits), personalized, divergence)
