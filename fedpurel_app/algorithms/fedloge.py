"""FedLoGe: a fixed frame shapes the features; a shared and a site's own head are trained on them.

    phi:  CE(s f E^t, y)      E a sparse equiangular tight frame, fixed, the same at all sites
    W, W_k:  CE(s f W^t, y), CE(s f W_k^t, y)      f without a gradient; W shared, W_k of the site's own
    GM: rows of W brought to one length;   PM: the logits of that and of W_k together

References
----------
Z. Xiao, Z. Chen, L. Liu, Y. Feng, J. Wu, W. Liu, J. T. Zhou, H. H. Yang, Z. Liu, "FedLoGe: Joint Local and Generic
Federated Learning under Long-tailed Data", ICLR 2024.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fedpurel_app.algorithms.base import Algorithm, Batch, Maker, Metrics, Models, Options, Visit, without_own
from fedpurel_app.core.phase import Phase
from fedpurel_app.models.peft.heads import Heads, WithHead


def with_heads(build: Maker, options: Options, generator: torch.Generator) -> Heads:
    """Make the module of global rounds."""
    return Heads(build("global"), build("zero-shot").class_features(), options["frame-sparsity"])


def three_losses(batch: Batch) -> tuple[list[Tensor], Metrics]:
    """Return the gradients of all three losses; the loss that is reported is the shared head's."""
    gradient, losses = batch.task_of_each()
    return batch.pull_back(gradient), {"loss": losses[1]}


def generic(models: Models) -> tuple[WithHead]:
    """Predict by the shared head."""
    return (heads(models).generic(),)


def personal(models: Models) -> tuple[WithHead]:
    """Predict by both heads."""
    return (heads(models).personal(),)


def heads(models: Models) -> Heads:
    """Return the module; raises TypeError when it is another one."""
    if not isinstance(models.shared, Heads):
        raise TypeError("fedloge predicts by the module that it composed.")
    return models.shared


def rates(rate: float, options: Options) -> dict[str, float]:
    """Return the heads' rate: what TaskRes's a = 1/2 makes of the family's."""
    return {"head": rate / 4, "own.": rate / 4}


ALGORITHM = Algorithm(
    visits={Phase.GLOBAL: Visit(three_losses, sends=without_own, rates=rates)},
    compose=with_heads,
    global_model=generic,
    personalized=personal,
    reading=(
        "The paper trains a ResNet from scratch. Here phi are the parameters of a family that changes image features; "
        "the frame lies as near to zero-shot CLIP's text features as one can, so as not to undo them, and is sparse "
        "by its smallest numbers; both heads begin as the text features, and learn at the rate that TaskRes's scale a "
        "= 1/2 means. Rows have unit length where upstream gives them 1.7: CLIP's s is the scale. "
        "There must be no more classes than a feature has numbers, and one."
    ),
)
