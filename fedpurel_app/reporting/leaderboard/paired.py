"""Statistics of paired differences: two methods on the same seeds.

References
----------
F. Wilcoxon, "Individual comparisons by ranking methods", Biometrics Bulletin 1, 1945.
B. Efron, "Better bootstrap confidence intervals", Journal of the American Statistical Association 82, 1987.
S. Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6, 1979.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

LEVEL = 0.95
RESAMPLES = 9999
_EXACT = 50  # most pairs whose null distribution is computed without approximation
_EXACT_TIED = 13  # the same where differences are equal in size: all 2^n signs are tried
_DIGITS = 9  # scores are ratios of integers: what differs less is rounding, and a tie

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Comparison:
    """How a method compares with another one on the seeds that both have.

    Parameters
    ----------
    pairs : int
        Seeds that both have.
    why : str
        Why there are no statistics; empty where there are.
    difference, low, high : float
        Mean of this method's score minus the other one's, and the ends of its 95 % interval, in the score's unit.
    p, p_holm : float
        Of the two-sided signed-rank test, as it is and corrected for the comparisons of its column.
    wins, losses : int
        Seeds on which this method is better, and worse.
    """

    pairs: int
    why: str = ""
    difference: float = math.nan
    low: float = math.nan
    high: float = math.nan
    p: float = math.nan
    p_holm: float = math.nan
    wins: int = 0
    losses: int = 0


def compare(ours: Mapping[int, float], theirs: Mapping[int, float], lower_is_better: bool = False) -> Comparison:
    """Compare two methods' scores.

    Parameters
    ----------
    ours, theirs : mapping of int to float
        By seed. What only one of them has plays no part.
    lower_is_better : bool
        Of the score; it decides what a win is, and leaves the sign of the difference.

    Returns
    -------
    Comparison
        With ``p_holm`` equal to ``p`` until :func:`correct` has seen the column; without statistics where fewer than
        two seeds are common.
    """
    seeds = sorted(ours.keys() & theirs.keys())
    if len(seeds) < 2:
        had = f"{len(seeds) or 'no'} common seed{'' if len(seeds) == 1 else 's'}"
        return Comparison(len(seeds), f"{had}; a comparison needs 2")
    differences = np.round([ours[seed] - theirs[seed] for seed in seeds], _DIGITS)
    low, high = bootstrap_interval(differences)
    p = signed_rank(differences)
    better = -differences if lower_is_better else differences
    wins, losses = int((better > 0).sum()), int((better < 0).sum())
    return Comparison(len(seeds), "", float(differences.mean()), low, high, p, p, wins, losses)


def signed_rank(differences: Sequence[float] | Floats) -> float:
    """Return p of Wilcoxon's two-sided signed-rank test that differences are symmetric about 0.

    Parameters
    ----------
    differences : sequence of float, shape (n,)
        Zeros are dropped, as Wilcoxon does. Without any other, p is 1.

    Notes
    -----
    Exact up to 50 differences, with ties of size up to 13; else by the normal approximation.
    """
    from scipy import stats  # half a second that other commands need not wait

    rest = np.asarray(differences, dtype=np.float64)
    rest = rest[rest != 0]
    if not len(rest):
        return 1.0
    tied = len(np.unique(np.abs(rest))) < len(rest)
    method: object = "approx"
    if len(rest) <= (_EXACT_TIED if tied else _EXACT):
        method = stats.PermutationMethod(n_resamples=2 ** (len(rest) + 1)) if tied else "exact"
    return float(stats.wilcoxon(rest, method=method).pvalue)


def bootstrap_interval(differences: Sequence[float] | Floats) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of a mean: bias-corrected and accelerated, the same at every call.

    Parameters
    ----------
    differences : sequence of float, shape (n,)
        At least two. Where all are equal the interval is that one value: nothing says how far others would lie.
    """
    from scipy import stats

    sample = np.asarray(differences, dtype=np.float64)
    if (sample == sample[0]).all():
        return float(sample[0]), float(sample[0])
    for method in ("BCa", "percentile"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a degenerate acceleration, which shows in the result
            found = stats.bootstrap(
                (sample,), np.mean, confidence_level=LEVEL, n_resamples=RESAMPLES, method=method,
                rng=np.random.default_rng(0),
            ).confidence_interval  # fmt: skip
        if math.isfinite(found.low) and math.isfinite(found.high):
            break
    return float(found.low), float(found.high)


def holm(values: Sequence[float]) -> list[float]:
    """Correct p values for their number by Holm's step-down rule.

    Examples
    --------
    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    corrected, worst = [0.0] * len(values), 0.0
    for rank, index in enumerate(sorted(range(len(values)), key=lambda index: values[index])):
        worst = max(worst, min(1.0, (len(values) - rank) * values[index]))
        corrected[index] = worst
    return corrected


def correct(column: Mapping[str, Comparison]) -> dict[str, Comparison]:
    """Return the comparisons of one column with ``p_holm``; those without statistics do not count."""
    tested = [name for name, one in column.items() if not one.why]
    found = dict(zip(tested, holm([column[name].p for name in tested]), strict=True))
    return {name: replace(one, p_holm=found.get(name, math.nan)) for name, one in column.items()}
