"""Score zero-shot CLIP, the global and the personalized model on one set of images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fedpurel_app.algorithms.base import Model
from fedpurel_app.core.details import Details
from fedpurel_app.core.metrics import ClassCounts
from fedpurel_app.core.site_scores import BEFORE, SiteScores
from fedpurel_app.functional import tkl
from fedpurel_app.training.inputs import LocalData, all_logits

_ROWS_AT_ONCE = 8192  # of logits, whose probabilities are made and dropped again


@dataclass(frozen=True)
class Scores(SiteScores):
    """What one pass over a test set yields, of "zero-shot", "global" and maybe "personalized".

    Attributes
    ----------
    tkl : float
        Mean TKL of the global model against zero-shot [nats].
    """

    tkl: float = 0.0


@torch.no_grad()
def evaluate(
    data: LocalData,
    global_model: Model,
    personalized: Model | None = None,
    bias: Tensor | None = None,
    groups: Mapping[str, npt.NDArray[np.int64]] | None = None,
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
    groups : mapping of str to ndarray of int64, optional
        Class indices of "many", "medium" and "few", where they are known.

    Returns
    -------
    Scores
    """
    parts = dict.fromkeys((*global_model, *(personalized or ())))
    found = {part: all_logits(part.frozen(), data.inputs) for part in parts}

    def total(model: Model) -> Tensor:
        return torch.stack([found[part] for part in model]).sum(0)

    def adjusted(model: Model) -> Tensor:
        return total(model) if bias is None else total(model) + bias

    divergence = float(tkl(total(global_model), data.reference_logits).double().mean()) if len(data.labels) else 0.0
    logits = {"zero-shot": data.reference_logits, "global": adjusted(global_model)}
    if personalized is not None:
        logits["personalized"] = adjusted(personalized)
    labels, classes = data.labels.cpu().numpy(), data.reference_logits.shape[1]
    hits, counts, details = dict[str, npt.NDArray[np.bool_]](), dict[str, ClassCounts](), dict[str, Details]()
    for model, scores in logits.items():
        predicted, confidence, losses = _predictions(scores, data.labels)
        hits[model] = predicted == labels
        counts[model] = ClassCounts.of(hits[model], labels, classes)
        details[model] = Details.of(labels, predicted, confidence, losses, classes, groups)
    both = {model: int((hits[model] & hits[first]).sum()) for model, first in BEFORE.items() if model in hits}
    return Scores(counts, personalized is not None, details, both, tkl=divergence)


def _predictions(
    logits: Tensor, labels: Tensor
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return the predicted classes, their probabilities and the losses [nats], each of shape (N,)."""
    predicted, confidence, losses = [], [], []
    for rows, own in zip(logits.split(_ROWS_AT_ONCE), labels.split(_ROWS_AT_ONCE), strict=True):
        scores = rows.float()
        predicted.append(rows.argmax(1))
        highest = scores.gather(1, predicted[-1][:, None])
        # log p(label) = label - highest - log sum exp(all - highest), as log_softmax has it, in one pass less.
        total = (scores - highest).exp_().sum(1, keepdim=True)
        confidence.append(1 / total)
        losses.append(highest - scores.gather(1, own[:, None]) + total.log())
    return (
        torch.cat(predicted).cpu().numpy(),
        torch.cat(confidence)[:, 0].cpu().numpy(),
        torch.cat(losses)[:, 0].cpu().numpy(),
    )
