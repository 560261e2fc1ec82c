"""FedAvg with a penalty: mu KL(zero-shot || student) is added to every site's cross-entropy.

    L = CE(l, y) + mu KL(softmax z || softmax l)

References
----------
The penalty has the form of Z. Li, D. Hoiem, "Learning without Forgetting", ECCV 2016, at temperature 1.
"""

from __future__ import annotations

from torch import Tensor

from fedpurel_app.algorithms.base import Algorithm, Batch, Metrics, Visit
from fedpurel_app.core.phase import Phase
from fedpurel_app.functional import kl_gradient, kl_loss


def penalised_step(batch: Batch) -> tuple[list[Tensor], Metrics]:
    """Return the gradient of CE(l, y) + mu KL(softmax z || softmax l), both as closed forms at the logits."""
    task, loss = batch.task()
    penalty = kl_gradient(batch.logits, batch.reference)
    metrics = {"loss": loss, "align-loss": kl_loss(batch.logits, batch.reference)}
    return batch.pull_back(task + batch.options["penalty-weight"] * penalty), metrics


ALGORITHM = Algorithm(visits={Phase.GLOBAL: Visit(penalised_step)})
