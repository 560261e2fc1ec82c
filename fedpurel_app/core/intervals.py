"""Confidence intervals of accuracies and of their differences, from counts."""

from __future__ import annotations

from math import sqrt

_Z = 1.959963984540054  # 97.5 % quantile of the normal distribution


def wilson(correct: int, total: int) -> tuple[float, float] | None:
    """Return the 95 % score interval of an accuracy, in [0, 1]; None without images.

    References
    ----------
    E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22, 1927.

    Examples
    --------
    >>> tuple(round(end, 4) for end in wilson(8, 10))
    (0.4902, 0.9433)
    """
    if not total:
        return None
    share, square = correct / total, _Z * _Z / total
    centre = (share + square / 2) / (1 + square)
    half = _Z / (1 + square) * sqrt(share * (1 - share) / total + square / (4 * total))
    return max(0.0, centre - half), min(1.0, centre + half)


def paired_difference(only_first: int, only_second: int, total: int) -> tuple[float, float] | None:
    """Return the 95 % interval of how much more accurate a second model is on the same images, in [-1, 1].

    Parameters
    ----------
    only_first, only_second : int
        Images that one of the models alone got right.
    total : int

    Returns
    -------
    (float, float) or None
        None without images.

    Notes
    -----
    Wald's interval for paired proportions after one image more was given to each of both counts: with
    p = (count + 1) / (n + 2), it is p₂ − p₁ ± z √((p₁ + p₂ − (p₂ − p₁)²) / (n + 2)). Images that both got right or
    wrong count in n alone, so two models that answer alike get a narrow interval, and equal ones no empty one.

    References
    ----------
    D. G. Bonett, R. M. Price, "Adjusted Wald confidence interval for a difference of binomial proportions based on
    paired data", Journal of Educational and Behavioral Statistics 37, 2012.

    Examples
    --------
    >>> tuple(round(end, 3) for end in paired_difference(1, 9, 48))
    (0.032, 0.288)
    """
    if not total:
        return None
    first, second = ((count + 1) / (total + 2) for count in (only_first, only_second))
    gain = second - first
    half = _Z * sqrt((first + second - gain * gain) / (total + 2))
    return max(-1.0, gain - half), min(1.0, gain + half)
