"""How good a front is: hypervolume, sparsity and range of points whose every coordinate is to be small. numpy alone.

References
----------
E. Zitzler, L. Thiele, "Multiobjective Evolutionary Algorithms: A Comparative Case Study and the Strength Pareto
Approach", IEEE TEC 1999 (hypervolume). J. Xu et al., "Prediction-Guided Multi-Objective Reinforcement Learning for
Continuous Robot Control", ICML 2020 (sparsity).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def nondominated(points: npt.ArrayLike) -> Floats:
    """Return the points that no other one is at least as good as in everything and better in something.

    Parameters
    ----------
    points : array_like, shape (N, m)

    Returns
    -------
    ndarray, shape (K, m)
        Sorted by the first coordinate, then by the next; of equal points, one.

    Examples
    --------
    >>> nondominated([(0.4, 0.4), (0.2, 0.6), (0.5, 0.7)]).tolist()
    [[0.2, 0.6], [0.4, 0.4]]
    """
    found = np.unique(_checked(points), axis=0)  # sorted, of equals one
    better = (found[:, None] <= found[None]).all(2) & (found[:, None] < found[None]).any(2)
    return found[~better.any(0)]


def hypervolume(points: npt.ArrayLike, reference: npt.ArrayLike) -> float:
    """Return the volume between a front and a reference point that is worse than all of it.

    Parameters
    ----------
    points : array_like, shape (N, m)
        Those that are not better than the reference in everything add nothing.
    reference : array_like, shape (m,)

    Returns
    -------
    float

    Raises
    ------
    ValueError
        For another number of objectives than 2 or 3, or a reference of another length.

    Examples
    --------
    >>> round(hypervolume([(0.2, 0.6), (0.4, 0.4), (0.6, 0.2)], (1, 1)), 12)
    0.52
    """
    end = np.asarray(reference, float)
    found = _checked(points)
    if found.shape[1] not in (2, 3) or end.shape != found.shape[1:]:
        raise ValueError(f"points of shape {found.shape} with a reference of shape {end.shape}: 2 or 3 objectives.")
    front = nondominated(found[(found < end).all(1)])
    return _area(front, end) if len(end) == 2 else _volume(front, end)


def sparsity(points: npt.ArrayLike) -> float:
    """Return how far apart the neighbours on a front lie: sum of squared gaps in every objective over N - 1.

    Parameters
    ----------
    points : array_like, shape (N, m)
        Dominated ones do not count.

    Returns
    -------
    float
        0 for a front of one point or none.

    Notes
    -----
    (1 / (N - 1)) sum_j sum_i (f_j^(i+1) - f_j^(i))^2, with the front sorted for every objective j by itself.

    Examples
    --------
    >>> round(sparsity([(0.2, 0.6), (0.4, 0.4), (0.6, 0.2)]), 12)
    0.08
    """
    front = nondominated(points)
    if len(front) < 2:
        return 0.0
    gaps = np.diff(np.sort(front, axis=0), axis=0)
    return float((gaps**2).sum() / (len(front) - 1))


def spread(points: npt.ArrayLike) -> Floats:
    """Return the range of a front, its largest less its smallest value, by objective.

    Parameters
    ----------
    points : array_like, shape (N, m)
        Dominated ones do not count.

    Returns
    -------
    ndarray, shape (m,)
        0 where there are no points.
    """
    front = nondominated(points)
    return np.ptp(front, axis=0) if len(front) else np.zeros(front.shape[1])


def _checked(points: npt.ArrayLike) -> Floats:
    found = np.asarray(points, float)
    if found.ndim != 2 or not np.isfinite(found).all():
        raise ValueError(f"points of shape {found.shape}: expected (N, m), of finite numbers.")
    return found


def _area(front: Floats, end: Floats) -> float:
    """Sum up, from left to right, the strips below the reference: each point's height over the one before it."""
    tops = np.concatenate([end[1:], front[:-1, 1]])
    return float(((end[0] - front[:, 0]) * (tops - front[:, 1])).sum())


def _volume(front: Floats, end: Floats) -> float:
    """Cut along the third objective: between two values of it the section is the area of those below."""
    levels = np.unique(front[:, 2])
    depths = np.diff([*levels, end[2]])
    sections = (_area(nondominated(front[front[:, 2] <= level, :2]), end[:2]) for level in levels)
    return float(sum(depth * section for depth, section in zip(depths, sections, strict=True)))
