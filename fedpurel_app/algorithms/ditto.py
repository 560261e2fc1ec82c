"""Ditto: beside the global model every site trains one of its own, held near the global one.

    min_v F_k(v) + lambda/2 ||v - w||^2                                                         (the paper's Eq. Ditto)

In global rounds w is trained as by FedAvg. In the paper both are trained in one round: ``schedule = "interleaved"``.

References
----------
T. Li, S. Hu, A. Beirami, V. Smith, "Ditto: Fair and Robust Federated Learning Through Personalization", ICML 2021.
"""

from __future__ import annotations

from torch import Tensor

from fedpurel_app.algorithms.base import Algorithm, Batch, Metrics, Model, Models, Visit
from fedpurel_app.algorithms.fedavg import task_step
from fedpurel_app.core.phase import Phase


def pulled_step(batch: Batch) -> tuple[list[Tensor], Metrics]:
    """Return (g + lambda (v - w)) / (1 + eta lambda), with g the task gradient and eta the learning rate.

    Notes
    -----
    The paper's step is v <- v - eta (g + lambda (v - w)), which diverges where eta lambda > 2. This one takes the
    penalty implicitly, v <- (v - eta g + eta lambda w) / (1 + eta lambda): the same to first order in eta, with the
    same fixed points, and stable for every lambda; as lambda grows, v tends to w.
    """
    gradients, metrics = task_step(batch)
    weight = batch.options["ditto-weight"]
    gaps = [own.detach() - shared for own, shared in zip(batch.trained, batch.anchor, strict=True)]
    damped = 1 + batch.rate * weight
    return [(task + weight * gap) / damped for task, gap in zip(gradients, gaps, strict=True)], metrics


def own_model(models: Models) -> Model:
    """Predict by v alone; by w where there is none."""
    return (models.shared if models.private is None else models.private,)


ALGORITHM = Algorithm(
    visits={Phase.GLOBAL: Visit(task_step), Phase.PERSONAL: Visit(pulled_step)},
    personalized=own_model,
    reading=(
        "The penalty is taken implicitly: the same step to first order in the learning rate, with the same fixed "
        "points, and stable for every weight."
    ),
)
