"""ProGrad in a federation: FedPuReL's global rounds with the plain KL, without temperatures and private branches.

    g_task = dCE(l, y) / dphi,   g_kl = dKL(softmax z || softmax l) / dphi
    g = g_task - min(0, <g_task, g_kl>) / ||g_kl||^2 g_kl

References
----------
B. Zhu, Y. Niu, Y. Han, Y. Wu, H. Zhang, "Prompt-aligned Gradient for Prompt Tuning", ICCV 2023.
"""

from __future__ import annotations

from torch import Tensor

from fedpurel_app.algorithms.base import Algorithm, Batch, Metrics, Visit
from fedpurel_app.algorithms.fedpurel import plain_kl, purified
from fedpurel_app.core.phase import Phase


def projected_step(batch: Batch) -> tuple[list[Tensor], Metrics]:
    """Return the task gradient without what opposes the gradient of KL(softmax z || softmax l)."""
    return purified(batch, plain_kl(batch))


ALGORITHM = Algorithm(
    visits={Phase.GLOBAL: Visit(projected_step)},
    reading=(
        "In a federation it is FedPuReL without temperature alignment and without private branches; its lambda, the "
        "strength of the projection, is 1 by default."
    ),
)
