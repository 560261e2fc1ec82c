"""FedAvg: every site minimises its own cross-entropy, and the server averages.

    g_k = dCE(l, y) / dphi,   phi <- sum_k n_k phi_k / sum_k n_k   over the cohort; n_k images are at site k

With ``peft = "prompt"`` it is PromptFL, with ``"adapter"`` FedCLIP's form, with ``"lora"`` CLIP-LoRA under FedAvg.

References
----------
B. McMahan, E. Moore, D. Ramage, S. Hampson, B. Agüera y Arcas, "Communication-Efficient Learning of Deep Networks from
Decentralized Data", AISTATS 2017.
"""

from __future__ import annotations

from torch import Tensor

from fedpurel_app.algorithms.base import Algorithm, Batch, Metrics, Visit
from fedpurel_app.core.phase import Phase


def task_step(batch: Batch) -> tuple[list[Tensor], Metrics]:
    """Return the gradient of L_task = CE(l, y), by its closed form (softmax(l) - onehot(y)) / B at the logits."""
    gradient, loss = batch.task()
    return batch.pull_back(gradient), {"loss": loss}


ALGORITHM = Algorithm(
    visits={Phase.GLOBAL: Visit(task_step)},
    reading="FedCLIP itself trains by a symmetric contrastive loss, and averages sites unweighted.",
)
