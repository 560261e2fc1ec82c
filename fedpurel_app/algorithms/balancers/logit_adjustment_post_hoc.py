"""Logit adjustment after training: predictions lose what class frequencies have brought into the logits.

    arg max_c l_c - tau log pi_c                                                                                    (1)

pi are the class shares of the whole federation, taken as :mod:`.logit_adjustment` takes them. Global and personalized
predictions are adjusted alike; zero-shot CLIP, the reference, is not.

References
----------
A. K. Menon, S. Jayasumana, A. S. Rawat, H. Jain, A. Veit, S. Kumar, "Long-tail learning via logit adjustment", ICLR
2021, Eq. (9).
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from fedpurel_app.algorithms.balancers.logit_adjustment import READING, log_prior
from fedpurel_app.algorithms.base import Algorithm, Facts, Options

__all__ = ["READING", "balance"]


def prediction_bias(facts: Facts, options: Options) -> Tensor:
    """Return -tau log pi of (1), shape (C,)."""
    if facts.prior is None:
        raise ValueError("the class counts of the federation are not known here.")
    return -log_prior(facts.prior, options["adjustment-strength"])


def balance(host: Algorithm) -> Algorithm:
    """Put it on a method."""
    return replace(host, bias=prediction_bias)
