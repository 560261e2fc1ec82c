"""Score zero-shot CLIP, the global and the personalized model on one set of images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fedpurel_app.algorithms.base import Model
from fedpurel_app.core.metrics import ClassCounts
from fedpurel_app.functional import tkl
from fedpurel_app.training.inputs import LocalData, all_logits


@dataclass(frozen=True)
class Scores:
    """What one pass over a test set yields.

    Attributes
    ----------
    zero_shot, global_model : ClassCounts
    personalized : ClassCounts or None
        None without a personalized model.
    tkl : float
        Mean TKL of the global model against zero-shot [nats].
    """

    zero_shot: ClassCounts
    global_model: ClassCounts
    personalized: ClassCounts | None
    tkl: float


@torch.no_grad()
def evaluate(
    data: LocalData, global_model: Model, personalized: Model | None = None, bias: Tensor | None = None
) -> Scores:
    """Score models on images.

    Parameters
    ----------
    data : LocalData
        Its reference logits are those of zero-shot CLIP.
    global_model : tuple of PeftModule
        Whose logits add up.
    personalized : tuple of PeftModule, optional
        A module that is in both models is run once.
    bias : Tensor, shape (C,), optional
        Added to the logits of both models.

    Returns
    -------
    Scores
    """
    classes = data.reference_logits.shape[1]
    parts = {id(part): part for part in (*global_model, *(personalized or ()))}
    logits = {key: all_logits(part.frozen(), data.inputs) for key, part in parts.items()}

    def total(model: Model) -> Tensor:
        return torch.stack([logits[id(part)] for part in model]).sum(0)

    def counts(scores: Tensor) -> ClassCounts:
        return ClassCounts.of((scores.argmax(1) == data.labels).cpu().numpy(), data.labels.cpu().numpy(), classes)

    def adjusted(model: Model) -> ClassCounts:
        return counts(total(model) if bias is None else total(model) + bias)

    divergence = float(tkl(total(global_model), data.reference_logits).double().mean()) if len(data.labels) else 0.0
    return Scores(
        counts(data.reference_logits),
        adjusted(global_model),
        None if personalized is None else adjusted(personalized),
        divergence,
    )
