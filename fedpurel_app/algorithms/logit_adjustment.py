"""Logit adjustment: class frequencies enter the loss, or leave the prediction, so that the tail weighs as the head.

    (1) in training:    L = CE(l + tau log pi, y)
    (2) in prediction:  arg max_c l_c - tau log pi_c

pi are the class shares of the whole federation, or of the site's own training images. A class without an image counts
as one with one. Shares are taken relative to the largest, which changes no softmax and leaves a uniform pi without any
effect, to the bit.

References
----------
A. K. Menon, S. Jayasumana, A. S. Rawat, H. Jain, A. Veit, S. Kumar, "Long-tail learning via logit adjustment", ICLR
2021: Eq. (10) is (1), Eq. (9) is (2).
"""

from __future__ import annotations

from torch import Tensor

from fedpurel_app.algorithms.base import Algorithm, Batch, Facts, Metrics, Options, Visit
from fedpurel_app.core.phase import Phase
from fedpurel_app.functional import cross_entropy, cross_entropy_gradient


def log_prior(facts: Facts, options: Options) -> Tensor:
    """Return tau log(pi / max pi), shape (C,)."""
    counts = facts.counts if options["class-prior"] == "local" else facts.prior
    if counts is None:
        raise ValueError(f'class-prior = "{options["class-prior"]}": its counts are not known here.')
    counts = counts.clamp(min=1).double()
    return (options["adjustment-strength"] * (counts / counts.max()).log()).float()


def adjusted_step(batch: Batch) -> tuple[list[Tensor], Metrics]:
    """Return the gradient of (1); that of the plain cross-entropy where predictions are adjusted instead."""
    logits = batch.logits
    if batch.options["adjust-in"] == "training":
        logits = logits + log_prior(batch.facts, batch.options)
    loss = {"loss": cross_entropy(logits, batch.labels)}
    return batch.pull_back(cross_entropy_gradient(logits, batch.labels)), loss


def prediction_bias(facts: Facts, options: Options) -> Tensor | None:
    """Return -tau log pi of (2), shape (C,); None where training was adjusted."""
    return None if options["adjust-in"] == "training" else -log_prior(facts, options)


ALGORITHM = Algorithm(visits={Phase.GLOBAL: Visit(adjusted_step)}, bias=prediction_bias)
