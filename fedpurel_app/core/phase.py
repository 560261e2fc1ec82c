"""The kinds of rounds."""

from __future__ import annotations

from enum import StrEnum


class Phase(StrEnum):
    """What a round trains: the parameters that sites share, what each keeps to itself, or nothing."""

    GLOBAL = "global"
    PERSONAL = "personal"
    EVALUATION = "evaluation"


def phase_round(number: int, global_rounds: int, interleaved: bool) -> int:
    """Return the number of a round within its phase, from 1.

    Parameters
    ----------
    number : int
        Within the whole schedule, from 1.
    global_rounds : int
    interleaved : bool
        Whether a personal round follows every global one; else all of them follow all global ones.

    Examples
    --------
    >>> [phase_round(number, 2, False) for number in (1, 2, 3, 4)]
    [1, 2, 1, 2]
    >>> [phase_round(number, 2, True) for number in (1, 2, 3, 4)]
    [1, 1, 2, 2]
    """
    if interleaved:
        return (number + 1) // 2
    return number - (global_rounds if number > global_rounds else 0)
