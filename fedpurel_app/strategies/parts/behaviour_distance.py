"""How far two sites are from each other, by what they do to predictions on public probes, in the manner of ELSA.

    Delta_k = l_k - l_0,   u_k = Delta_k / ||Delta_k||,   averaged over the rounds that a site trained in

l_k (Q, C) are the logits on Q probes of the model that site k sent, l_0 those of the model that it was sent. ELSA
compares Gaussians of features by a symmetric KL. That the change of the logits is compared, and that its size is taken
out, is our reading: the size follows the number of steps, and swamps the direction.

References
----------
ELSA, arXiv 2601.13824, 2026.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Distance = Callable[[Floats, Floats], Floats]

_RIDGE, _LEAST = 1e-3, 1e-12  # of the mean variance, and of all: of few probes, some directions have none
_FAR = 1e300  # in the place of what is no number


def unit(change: Floats) -> Floats:
    """Return an array at unit Euclidean length; zeros stay zeros."""
    size = np.linalg.norm(change)
    return change / size if size > 0 else change


def cosine(prints: Floats, base: Floats) -> Floats:
    """Compute 1 - cos of all pairs; 1 with a site that did not move.

    Parameters
    ----------
    prints : ndarray, shape (K, Q, C)
        Of sites: their u_k, whose lengths do not matter here.
    base : ndarray, shape (Q, C)
        l_0; of no use here.

    Returns
    -------
    ndarray of float64, shape (K, K)
        In [0, 2]; 0 on the diagonal, symmetric.
    """
    flat = np.stack([unit(one.ravel()) for one in prints])
    return _distances(1 - flat @ flat.T)


def symmetric_kl(prints: Floats, base: Floats) -> Floats:
    """Compute R(k, k') = mean_j [KL(p_kj || p_k'j) + KL(p_k'j || p_kj)] / 2 with p_k = softmax(l_0 + u_k / rms(u_k)).

    Parameters
    ----------
    prints : ndarray, shape (K, Q, C)
        Of sites: their u_k, whose lengths do not matter here.
    base : ndarray, shape (Q, C)
        l_0.

    Returns
    -------
    ndarray of float64, shape (K, K)
        [nats]; 0 on the diagonal, symmetric.
    """
    logits = np.stack([base + unit(one) * np.sqrt(one.size) for one in prints])
    log_p = logits - logits.max(-1, keepdims=True)
    log_p -= np.log(np.exp(log_p).sum(-1, keepdims=True))
    p = np.exp(log_p)
    # KL(p || q) + KL(q || p) = sum (p - q)(log p - log q)
    pairs = [((p - p[k]) * (log_p - log_p[k])).sum(-1).mean(-1) / 2 for k in range(len(p))]
    return _distances(np.stack(pairs))


def gaussian(prints: Floats, base: Floats) -> Floats:
    """Compute ELSA's published distance, R of Gaussians, here of the rows of logits; sizes are left in.

    Parameters
    ----------
    prints : ndarray, shape (K, Q, C)
        Of sites: their logits.
    base : ndarray, shape (Q, C)
        Of no use here.

    Returns
    -------
    ndarray of float64, shape (K, K)
        [nats]; 0 on the diagonal, symmetric.
    """
    means = prints.mean(1)
    away = prints - means[:, None]
    spreads = np.swapaxes(away, 1, 2) @ away / prints.shape[1]
    widths = np.trace(spreads, axis1=1, axis2=2) / prints.shape[2]
    spreads += (_RIDGE * widths + _LEAST)[:, None, None] * np.eye(prints.shape[2])
    return divergences(means, spreads)


def divergences(means: Floats, spreads: Floats) -> Floats:
    """Compute R(k, k') = [KL(k || k') + KL(k' || k)] / 2 of Gaussians.

    Parameters
    ----------
    means : ndarray, shape (K, C)
    spreads : ndarray, shape (K, C, C)
        Covariances, of full rank.

    Returns
    -------
    ndarray of float64, shape (K, K)
        [nats]

    Examples
    --------
    >>> divergences(np.array([[0.0], [1.0]]), np.ones((2, 1, 1)))
    array([[0. , 0.5],
           [0.5, 0. ]])
    """
    # In the sum of both KL the determinants cancel: R = [tr(S'^-1 S) + tr(S^-1 S') - 2 r + d' (S^-1 + S'^-1) d] / 4.
    inverse = np.linalg.inv(spreads)
    traces = np.einsum("aij,bji->ab", inverse, spreads)
    apart = means[:, None] - means
    squares = np.einsum("abi,aij,abj->ab", apart, inverse, apart)
    return _distances((traces + traces.T + squares + squares.T - 2 * means.shape[1]) / 4)


def _distances(found: Floats) -> Floats:
    """Return a matrix as one of distances: finite, at least 0, symmetric, 0 on the diagonal."""
    found = np.nan_to_num(found, nan=_FAR, posinf=_FAR, neginf=0.0)
    found = np.maximum((found + found.T) / 2, 0.0)
    np.fill_diagonal(found, 0.0)
    return found


DISTANCES: dict[str, Distance] = {"cosine": cosine, "symmetric-kl": symmetric_kl, "gaussian": gaussian}
