"""Seeds as they are written in the file of a sweep."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator, Field

_MOST = 10_000  # of a range


def read_seeds(given: object) -> object:
    """Read ``"200-219"``, ``"1, 2, 5"``, ``"0-4, 9"``, a number or a list of numbers.

    Examples
    --------
    >>> read_seeds("0-2, 9")
    [0, 1, 2, 9]
    """
    if isinstance(given, int) and not isinstance(given, bool):
        return [given]
    if not isinstance(given, str):
        return given
    seeds: list[int] = []
    for part in given.split(","):
        first, dash, last = (text.strip() for text in part.partition("-"))
        if not re.fullmatch(r"[0-9]{1,19}", first) or (dash and not re.fullmatch(r"[0-9]{1,19}", last)):
            raise ValueError(f'"{given[:60]}" is not of the form "200-219", "1, 2, 5" or [1, 2, 5]')
        count = int(last or first) - int(first) + 1
        if not 0 < count <= _MOST:
            what = f"are more than {_MOST} seeds" if count > 0 else "ends before it begins"
            raise ValueError(f"{part.strip()} {what}")
        seeds += range(int(first), int(last or first) + 1)
    return seeds


Seeds = Annotated[list[Annotated[int, Field(ge=0, lt=2**63)]], BeforeValidator(read_seeds), Field(min_length=1)]
