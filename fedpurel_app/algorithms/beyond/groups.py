"""Purification by groups of classes: images of the head, the middle and the tail each have a projection of their own.

    g_task = g_many + g_medium + g_few,   g_m: of the images of a batch whose class is in group m, over all B images
    g = sum_m (g_m - min(0, <g_m, g_align>) / ||g_align||^2 g_align)

One inner product for all images lets one group's agreement with CLIP pay for another's conflict: in most batches the
head decides for the tail. Here no group loses anything for another one. Every summand has <., g_align> >= 0, hence g,
too. Groups are Many, Medium and Few, as ``group-by`` has them: of the whole federation; at a site with data of its own,
of its own images.

References
----------
Ours, of FedPuReL's Eq. (4).
"""

from __future__ import annotations

from torch import Tensor

from fedpurel_app.algorithms.base import Batch
from fedpurel_app.core.metrics import GROUPS


def by_group(batch: Batch, gradient: Tensor) -> list[Tensor]:
    """Split a gradient at the logits, shape (B, C), into those of the three groups of images, whose sum it is.

    Raises
    ------
    ValueError
        When the groups of classes are not known here.
    """
    if batch.facts.groups is None:
        raise ValueError("the groups of classes are not known here: Facts(groups=...) gives them.")
    own = batch.facts.groups[batch.labels][:, None]
    return [gradient * (own == group) for group in range(len(GROUPS))]
