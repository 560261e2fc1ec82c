"""Which round does what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fedpurel_app.core.phase import Phase, phase_round


@dataclass(frozen=True)
class Schedule:
    """The order of global and personal rounds. Rounds count from 1.

    Parameters
    ----------
    global_rounds, personal_rounds : int
    kind : {"two-phase", "interleaved", "evaluation"}
        ``two-phase``: all global rounds, then all personal ones (the paper). ``interleaved``: a global round, then a
        personal round with the same cohort, and so on (the reference code); both numbers are then equal.
        ``evaluation``: one round in which nobody trains; both numbers are 0.

    Raises
    ------
    ValueError
        When the numbers do not fit the kind.

    Examples
    --------
    >>> [Schedule(2, 1).phase(r).value for r in (1, 2, 3)]
    ['global', 'global', 'personal']
    >>> [Schedule(2, 2, "interleaved").draw(r) for r in (1, 2, 3, 4)]
    [1, 1, 2, 2]
    """

    global_rounds: int
    personal_rounds: int
    kind: Literal["two-phase", "interleaved", "evaluation"] = "two-phase"

    def __post_init__(self) -> None:
        if self.kind not in ("two-phase", "interleaved", "evaluation"):
            raise ValueError(f'kind = "{self.kind}": choose "two-phase", "interleaved" or "evaluation".')
        if self.kind == "evaluation":
            if self.global_rounds or self.personal_rounds:
                raise ValueError("where nobody trains, there are no global and no personal rounds: give 0 and 0.")
        elif min(self.global_rounds, self.personal_rounds) < 0 or self.total == 0:
            raise ValueError(f"{self.global_rounds} global and {self.personal_rounds} personal rounds: nothing to do.")
        if self.kind == "interleaved" and self.global_rounds != self.personal_rounds:
            raise ValueError("an interleaved schedule has one personal round for each global one.")

    @property
    def total(self) -> int:
        """Number of rounds."""
        return 1 if self.kind == "evaluation" else self.global_rounds + self.personal_rounds

    def phase(self, round_number: int) -> Phase:
        """Tell what a round trains."""
        if self.kind == "evaluation":
            return Phase.EVALUATION
        if self.kind == "interleaved":
            return Phase.GLOBAL if round_number % 2 else Phase.PERSONAL
        return Phase.GLOBAL if round_number <= self.global_rounds else Phase.PERSONAL

    def left(self, phase: Phase, after: int) -> int:
        """Count the rounds of a phase that follow a round."""
        return sum(self.phase(number) is phase for number in range(after + 1, self.total + 1))

    def phase_round(self, round_number: int) -> int:
        """Return the number of a round within its phase, from 1."""
        return phase_round(round_number, self.global_rounds, self.kind == "interleaved")

    def draw(self, round_number: int) -> int:
        """Return the number of a round's cohort, from 1: interleaved rounds come in pairs with one cohort."""
        return (round_number + 1) // 2 if self.kind == "interleaved" else round_number

    def is_evaluated(self, round_number: int, every: int) -> bool:
        """Tell whether all sites score their models after a round: every few rounds, and after a phase's last."""
        if self.kind == "interleaved":
            return round_number % 2 == 0 and ((round_number // 2) % every == 0 or round_number == self.total)
        last = round_number in (self.global_rounds, self.total)
        return last or self.phase_round(round_number) % every == 0
