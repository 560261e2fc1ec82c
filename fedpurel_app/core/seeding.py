"""Seeds: every random draw of a run has its own, derived from the run's seed and from what is drawn."""

from __future__ import annotations

import hashlib


def derive_seed(*parts: int | str) -> int:
    """Derive a seed from a path of names and numbers.

    Parameters
    ----------
    *parts : int or str
        For example ``(seed, "train", "global", round, site)``.

    Returns
    -------
    int
        In [0, 2**63), the same on every machine; different paths give independent seeds.

    Examples
    --------
    >>> derive_seed(0, "cohort", 1) == derive_seed(0, "cohort", 1) != derive_seed(0, "cohort", 2)
    True
    """
    text = "\0".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()[:8], "big") >> 1
