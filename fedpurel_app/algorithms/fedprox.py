"""FedProx: a proximal term holds every site near the parameters that it received.

    min_w F_k(w) + mu/2 ||w - w^t||^2                                                           (the paper's Eq. 2)

References
----------
T. Li, A. K. Sahu, M. Zaheer, M. Sanjabi, A. Talwalkar, V. Smith, "Federated Optimization in Heterogeneous Networks",
MLSys 2020.
"""

from __future__ import annotations

from torch import Tensor

from fedpurel_app.algorithms.base import Algorithm, Batch, Metrics, Visit
from fedpurel_app.algorithms.fedavg import task_step
from fedpurel_app.core.phase import Phase


def proximal_step(batch: Batch) -> tuple[list[Tensor], Metrics]:
    """Return the gradient of F_k(w) + mu/2 ||w - w^t||^2: that of the task, and mu (w - w^t)."""
    gradients, metrics = task_step(batch)
    mu = batch.options["proximal-weight"]
    gaps = [own.detach() - start for own, start in zip(batch.trained, batch.anchor, strict=True)]
    return [task + mu * gap for task, gap in zip(gradients, gaps, strict=True)], metrics


ALGORITHM = Algorithm(visits={Phase.GLOBAL: Visit(proximal_step)})
