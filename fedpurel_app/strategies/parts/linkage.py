"""Groups by average linkage. numpy and scipy."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def grouped(distances: Floats, count: int, most: int) -> npt.NDArray[np.int64]:
    """Group by average linkage.

    Parameters
    ----------
    distances : ndarray of float64, shape (K (K - 1) / 2,)
        Of all pairs, in the order of scipy's ``pdist``.
    count : int
        K, at least 1.
    most : int
        Largest number of groups.

    Returns
    -------
    ndarray of int64, shape (K,)
        Numbers from 0, in the order of first appearance.
    """
    from scipy.cluster.hierarchy import fcluster, linkage  # half a second that other methods need not wait

    if count == 1:
        return np.zeros(1, np.int64)
    found = fcluster(linkage(distances, "average"), most, "maxclust").tolist()
    order = {label: number for number, label in enumerate(dict.fromkeys(found))}
    return np.array([order[label] for label in found])
