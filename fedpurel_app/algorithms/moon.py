"""MOON: predictions are drawn to those of the model that was received, and away from those of the site's own last one.

    L = CE(l, y) + mu l_con,   l_con = -mean log(e^(s_glob / tau) / (e^(s_glob / tau) + e^(s_prev / tau)))
    s_glob = cos(z, z_glob),   s_prev = cos(z, z_prev),   z = l - mean_c l_c
    dl_con / dl = w (u_prev - u_glob - (s_prev - s_glob) u) / |z|,   u = z / |z|
    w = sigma((s_prev - s_glob) / tau) / (tau B)

z is of the module that is trained, z_glob of it as received, z_prev of it as the site's last visit left it, both
constant. At a first visit there is no z_prev, and L is the cross-entropy. The last module is kept at the site.

References
----------
Q. Li, B. He, D. Song, "Model-Contrastive Federated Learning", CVPR 2021.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import normalize, softplus

from fedpurel_app.algorithms.base import Algorithm, Batch, Metrics, Visit, Visited, nothing, under
from fedpurel_app.algorithms.fedavg import task_step
from fedpurel_app.core.phase import Phase
from fedpurel_app.models.peft.base import parameters_of
from fedpurel_app.models.peft.elsewhere import frozen_at

_LAST = "last/"


def contrast(logits: Tensor, received: Tensor, last: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return the gradient of l_con at the logits, shape (B, C), and l_con [nats]; all logits have the shape (B, C)."""
    z, z_glob, z_prev = (one.float() - one.float().mean(1, keepdim=True) for one in (logits, received, last))
    u, away = normalize(z, dim=1), normalize(z_prev, dim=1) - normalize(z_glob, dim=1)
    gap = (u * away).sum(1, keepdim=True)  # s_prev - s_glob
    weight = (gap / temperature).sigmoid() / (temperature * len(z))
    slope = weight * (away - gap * u) / z.norm(dim=1, keepdim=True).clamp_min(1e-12)
    return slope, softplus(gap / temperature).mean()  # -log(e^a / (e^a + e^b)) = log(1 + e^(b - a))


def contrasted_step(batch: Batch) -> tuple[list[Tensor], Metrics]:
    """Return the gradient of L."""
    last = under(batch.memory, _LAST)
    if not last:
        return task_step(batch)
    received = dict(zip(parameters_of(batch.module), batch.anchor, strict=True))
    both = batch.once(lambda: [frozen_at(batch.module, values) for values in (received, last)])
    z_glob, z_prev = (logits(batch.inputs) for logits in both)
    gradient, loss = batch.task()
    pull, distance = contrast(batch.logits, z_glob, z_prev, batch.options["moon-temperature"])
    return batch.pull_back(gradient + batch.options["moon-weight"] * pull), {"loss": loss, "align-loss": distance}


def keep_module(visited: Visited) -> None:
    """Remember the module as the visit leaves it; where it diverged, the site keeps the one that it had."""
    after = zip(visited.names, visited.after, strict=True)
    visited.memory |= {_LAST + name: value.clone() for name, value in after}


ALGORITHM = Algorithm(
    visits={Phase.GLOBAL: Visit(contrasted_step, end=keep_module)},
    memory=nothing,
    reading=(
        "The paper's z is what a projection head makes of an image; here is no such head. Image features would be "
        "the same in all three modules where a family changes the text alone. So z are the logits, which every family "
        "changes, without their mean over the classes: no prediction depends on it, and it would hide all else in a "
        "cosine. z_glob and z_prev are taken without dropout."
    ),
)
