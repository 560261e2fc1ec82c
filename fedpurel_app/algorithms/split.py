"""The text split, in the manner of ELSA's split learning: the text tower is at the server, data and loss at the sites.

A prompt phi reaches the loss through the text features alone, so the tower can be elsewhere::

    (1)  site k:  G_k = dL_task / dT,   A_k = dL_align / dT     at fixed T(phi), over all of its images
    (2)  server:  g_task = J^T sum_k w_k G_k,   g_align = J^T sum_k w_k A_k,   J = dT / dphi,   w_k = n_k / sum n
    (3)           phi <- phi - eta purify(g_task, g_align)

One round is one step. By linearity (2) is the mean of the gradients that the sites would have found with a tower of
their own. Purification is done once, on the means: (4) of :mod:`fedpurel_app.algorithms.fedpurel`.

References
----------
ELSA, arXiv 2601.13824, 2026, splits a language model among client, edge and server. A split at the joint of CLIP's two
towers is our reading.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import cast

from torch import Tensor, zeros_like

from fedpurel_app.algorithms.base import Algorithm, Batch, Begun, Metrics, Visit
from fedpurel_app.algorithms.fedpurel import aligned_kl, plain_kl
from fedpurel_app.core.phase import Phase
from fedpurel_app.models.peft.split_text import SplitText

READING = (
    "Text split: one step of all sites a round, purified once at the server, on the means; momentum and weight decay "
    "are the server's. ELSA splits a language model; the split between CLIP's towers is ours."
)
_GUIDES = {"tkl": aligned_kl, "kl": plain_kl}


def cotangents(batch: Batch) -> tuple[list[Tensor], Metrics]:
    """Return G_k and A_k of Eq. (1), in the order of the module's parameters, ``text`` and ``align``."""
    gradient, loss = batch.task()
    task = batch.pull_back(gradient)[0]
    guide = _GUIDES.get(batch.options.get("align-loss", "none"))
    if guide is None:
        return [task, zeros_like(task)], {"loss": loss}
    found = guide(batch)
    metrics = {"loss": loss, "align-loss": found.loss} | ({} if found.tkl is None else {"tkl": found.tkl})
    return [task, batch.pull_back(found.gradient)[1]], metrics


def open_text(begun: Begun) -> None:
    """Make the received text features constants of the visit."""
    cast(SplitText, begun.module).open()


def split_text(host: Algorithm) -> Algorithm:
    """Return a method whose global rounds send gradients at the text features."""
    visits = {**host.visits, Phase.GLOBAL: Visit(cotangents, begin=open_text)}
    return replace(host, visits=visits, reading=f"{host.reading} {READING}".strip())


SPLITS: Mapping[str, Callable[[Algorithm], Algorithm]] = {"none": lambda host: host, "text": split_text}
