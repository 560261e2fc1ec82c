"""KgCoOp in a federation: learned text features are held near those of zero-shot CLIP.

    L = CE(l, y) + w (1 - mean_c cos(T_c, T_c^zero-shot)),   w = 8

References
----------
H. Yao, R. Zhang, C. Xu, "Visual-Language Prompt Tuning with Knowledge-guided Context Optimization", CVPR 2023.
"""

from __future__ import annotations

from torch import Tensor

from fedpurel_app.algorithms.base import Algorithm, Batch, Metrics, Visit
from fedpurel_app.algorithms.fedavg import task_step
from fedpurel_app.core.phase import Phase


def guided_step(batch: Batch) -> tuple[list[Tensor], Metrics]:
    """Return the gradient of the task, and that of w (1 - mean_c cos(T_c, T_c^zero-shot))."""
    if batch.facts.zero_shot_text is None:
        raise ValueError("zero-shot text features are not known here.")
    gradients, metrics = task_step(batch)
    cosines = (batch.class_features * batch.facts.zero_shot_text).sum(1)  # both have unit length
    distance = 1 - cosines.mean()
    pull = batch.gradients(batch.options["text-weight"] * distance)
    metrics["align-loss"] = distance.detach()
    return [task + more for task, more in zip(gradients, pull, strict=True)], metrics


ALGORITHM = Algorithm(
    visits={Phase.GLOBAL: Visit(guided_step)},
    reading=(
        "The paper writes the squared distance of the features, which is twice 1 - cos for features of unit length, "
        "and its code 1 - cos."
    ),
)
