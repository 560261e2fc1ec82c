"""ProGrad in a federation: FedPuReL's global rounds with the plain KL, without temperatures and private branches.

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


ALGORITHM = Algorithm(visits={Phase.GLOBAL: Visit(projected_step)})
