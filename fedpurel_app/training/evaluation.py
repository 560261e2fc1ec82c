"""Score a global model, and a global and a private branch together, on one set of images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fedpurel_app.functional import tkl
from fedpurel_app.metrics import ClassCounts
from fedpurel_app.models.peft.base import Host, PeftModule

_CHUNK = 4096  # rows at a time, so that memory does not grow with the test set


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
def evaluate(
    host: Host, global_branch: PeftModule, inputs: Tensor, labels: Tensor, private_branch: PeftModule | None = None
) -> Scores:
    """Score models on image features.

    Parameters
    ----------
    host : Host
    global_branch : PeftModule
    inputs : Tensor, shape (N, D)
        Image features, not normalised.
    labels : Tensor of int64, shape (N,)
    private_branch : PeftModule, optional

    Returns
    -------
    Scores
    """
    classes = len(host.class_names)
    branches = [global_branch] if private_branch is None else [global_branch, private_branch]
    texts = [branch.class_features() for branch in branches]
    hits: dict[str, list[Tensor]] = {"zero_shot": [], "global": [], "personalized": []}
    divergence = 0.0
    for features, truth in zip(inputs.split(_CHUNK), labels.split(_CHUNK), strict=True):
        zero_shot = host.zero_shot_logits(features)
        logits = [branch.logits(features, text) for branch, text in zip(branches, texts, strict=True)]
        divergence += float(tkl(logits[0], zero_shot).double().sum())
        hits["zero_shot"].append(zero_shot.argmax(1) == truth)
        hits["global"].append(logits[0].argmax(1) == truth)
        if private_branch is not None:
            hits["personalized"].append((logits[0] + logits[1]).argmax(1) == truth)

    def counts(name: str) -> ClassCounts:
        return ClassCounts.of(torch.cat(hits[name]).cpu().numpy(), labels.cpu().numpy(), classes)

    return Scores(
        counts("zero_shot"),
        counts("global"),
        counts("personalized") if private_branch is not None else None,
        divergence / max(1, len(labels)),
    )
