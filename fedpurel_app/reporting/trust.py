"""What a run's rounds say of trust in its sites: by how much the server lowered the weights of their replies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from fedpurel_app.core.names import clean, listed

_LOW = 0.5


def factors_by_site(rounds: Iterable[Mapping[str, Any]]) -> dict[str, dict[int, float]]:
    """Return the factors of every site's replies by round, sites sorted; nothing for a run without trust."""
    found: dict[str, dict[int, float]] = {}
    for line in rounds:
        for site, factor in (line.get("trust") or {}).items():
            found.setdefault(site, {})[line["round"]] = factor
    return dict(sorted(found.items()))


def mean_factors(rounds: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Return the mean of every site's factors."""
    return {site: sum(own.values()) / len(own) for site, own in factors_by_site(rounds).items()}


def factor_in_words(factor: float) -> str:
    """Print a factor.

    >>> factor_in_words(1.0), factor_in_words(0.25), factor_in_words(3e-5)
    ('1.00', '0.25', '<0.01')
    """
    return "<0.01" if factor < 0.005 else f"{factor:.2f}"


def trust_lines(rounds: Iterable[Mapping[str, Any]]) -> list[str]:
    """Say whose replies weighed less than half on average, the least first; nothing for a run without trust."""
    means = mean_factors(rounds)
    if not means:
        return []
    low = sorted((site for site, mean in means.items() if mean < _LOW), key=lambda site: (means[site], site))
    if not low:
        return [
            f"Trust: the replies of each of {len(means)} sites weighed {_LOW:g} or more of their images on average."
        ]
    names = listed([f"{clean(site, 64)} ({factor_in_words(means[site])})" for site in low], 10)
    return [f"Trust: of {len(low)} of {len(means)} sites the replies weighed less than {_LOW:g} on average: {names}."]
