"""Trust: replies whose models predict other than those of the cohort weigh less, in the manner of ELSA.

    q_j = median over sites of p_kj, renormalised;   delta_k = mean_j KL(q_j || p_kj)
    tau_k = min(1, (c median(delta) / delta_k)^2) * min(1, (c median(r) / r_k)^2),   r_k = ||phi_k - phi||

p_kj are the class probabilities of site k's model on public probe j. Site k then weighs n_k tau_k. ELSA's own formula
is not known to us: this one is our reading. Its second factor is there because cosine logits are bounded, and
delta with them, however long an update is.

References
----------
ELSA, arXiv 2601.13824, 2026: trust in sites by their models' behaviour on public probes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from fedpurel_app.core.records import Arrays
from fedpurel_app.core.sgd import SgdSettings
from fedpurel_app.strategies.parts.base import Behave, Part, Reply

Floats = npt.NDArray[np.float64]
Middle = Literal["linear", "lower"]

_ROUNDING = 1e-12  # what is not farther than this [nats, or of the parameters' norm] is not apart at all

_FEW = 4  # replies


def divergences(logits: Floats) -> Floats:
    """Compute how far each site's predictions are from the median of all.

    Parameters
    ----------
    logits : ndarray, shape (K, Q, C)
        Of K sites' models on Q probes.

    Returns
    -------
    ndarray of float64, shape (K,)
        delta_k = mean_j KL(q_j || p_kj) [nats]; inf for a site with a logit that is not finite, which has no part in q.
    """
    found = np.full(len(logits), np.inf)
    usable = np.isfinite(logits).all((1, 2))
    if not usable.any():
        return found
    shifted = logits[usable].astype(np.float64)
    shifted -= shifted.max(-1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    q = np.median(np.exp(log_p), axis=0)
    q /= np.maximum(q.sum(-1, keepdims=True), np.finfo(np.float64).tiny)  # all zero where no two sites agree
    log_q = np.log(q, out=np.zeros_like(q), where=q > 0)
    found[usable] = (q * (log_q - log_p)).sum(-1).mean(-1).clip(min=0)
    return found


def factors(apart: Floats, tolerance: float, middle: Middle = "linear") -> Floats:
    """Compute min(1, (c m / apart_k)^2), m being the median.

    The square makes the pull of a reply, its weight times its size, smaller the larger it is.

    Parameters
    ----------
    apart : ndarray, shape (K,)
        How far each site is from the others, at least 0; inf for a reply that cannot be used, which gets 0.
    tolerance : float
        c, at least 1: then half of the sites that can be used, or more, have a factor of 1.
    middle : {"linear", "lower"}
        What m is of an even number: the mean of the two in the middle, or the lower one of them.

    Returns
    -------
    ndarray of float64, shape (K,)
        In [0, 1]; 1 for all that are not apart.

    Examples
    --------
    >>> factors(np.array([1.0, 1.0, 1.0, 20.0]), 10.0)
    array([1.  , 1.  , 1.  , 0.25])
    """
    usable = np.isfinite(apart)
    away = apart[usable & (apart > _ROUNDING)]
    if not away.size:
        return usable.astype(np.float64)
    m = np.quantile(apart[usable], 0.5, method=middle)
    if m <= _ROUNDING:  # most have not moved: those that did are measured by each other
        m = np.quantile(away, 0.5, method=middle)
    ratio = tolerance * m / np.maximum(apart, _ROUNDING)  # 0 for inf
    return np.asarray(np.minimum(1.0, ratio) ** 2)


def lengths(sent: Arrays, replies: Mapping[str, Reply]) -> Floats:
    """Return the Euclidean norms of the updates, shape (K,)."""
    squares = [
        sum(float(np.square(value.astype(np.float64) - sent[name]).sum()) for name, value in reply.arrays.items())
        for reply in replies.values()
    ]
    return np.sqrt(np.array(squares))


class Trust(Part):
    """Weigh replies by how their models predict on probes that are no site's data.

    Nothing of it is sent, and it remembers nothing between rounds: a resumed run gives the same factors.

    Parameters
    ----------
    options : mapping
        With ``trust-tolerance``, c.
    sgd : SgdSettings
        Of global rounds.
    behave : callable
        From the shared parameters to logits on the probes, shape (Q, C).
    """

    def __init__(self, options: Mapping[str, Any], sgd: SgdSettings, behave: Behave) -> None:
        super().__init__(options, sgd)
        self._behave, self._tolerance = behave, float(options["trust-tolerance"])

    def weights(self, sent: Arrays, replies: Mapping[str, Reply]) -> Mapping[str, float]:
        """Return tau_k by site.

        Raises
        ------
        ValueError
            When no reply's predictions are finite.
        """
        logits = np.stack([self._behave(reply.arrays) for reply in replies.values()])
        apart = divergences(logits)
        if not np.isfinite(apart).any():
            raise ValueError("no reply makes a model whose predictions are finite")
        # A model without finite predictions has weight 0 already: its length is not to move the median.
        long = np.where(np.isfinite(apart), lengths(sent, replies), np.inf)
        # Where half of a cohort lies, the mean of the two in the middle would be the liars' to choose. But of up to
        # four replies q lies between two, which are nearest to it by making: the lower middle would be one of these.
        middle: Middle = "linear" if len(replies) <= _FEW else "lower"
        trust = factors(apart, self._tolerance, middle) * factors(long, self._tolerance, "lower")
        return dict(zip(replies, trust.tolist(), strict=True))
