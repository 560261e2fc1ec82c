"""Logit adjustment in training: class frequencies enter the loss, so that the tail weighs as the head.

    L = CE(l + tau log pi, y)                                                                                       (1)

pi are the class shares of the whole federation, or of the site's own training images. A class without an image counts
as one with one. Shares are taken relative to the largest, which changes no softmax and leaves a uniform pi without any
effect, to the bit. Where a method takes the loss of several logits, as FedPuReL's personal rounds do, all are adjusted.

References
----------
A. K. Menon, S. Jayasumana, A. S. Rawat, H. Jain, A. Veit, S. Kumar, "Long-tail learning via logit adjustment", ICLR
2021, Eq. (10).
"""

from __future__ import annotations

from torch import Tensor

from fedpurel_app.algorithms.balancers.base import balanced, class_counts
from fedpurel_app.algorithms.base import Algorithm, Balance, Batch
from fedpurel_app.core.phase import Phase

READING = "A class without an image counts as one with one; shares are relative to the largest."


def log_prior(counts: Tensor, strength: float) -> Tensor:
    """Return tau log(pi / max pi), shape (C,), from images by class."""
    shares = counts.clamp(min=1).double()
    return (strength * (shares / shares.max()).log()).float()


def adjusted(batch: Batch, phase: Phase) -> Balance:
    """Return the shift of (1)."""
    return Balance(shift=log_prior(class_counts(batch.facts, batch.options), batch.options["adjustment-strength"]))


def balance(host: Algorithm) -> Algorithm:
    """Put it on a method."""
    return balanced(host, adjusted)
