"""How many usable replies a round needs, and how many rounds in a row may lack them."""

from __future__ import annotations

from fedpurel_app.core.errors import RunError
from fedpurel_app.strategies.round_report import RoundReport


class Quorum:
    """Counts failed rounds, and ends a run that does nothing but fail.

    Parameters
    ----------
    min_replies : int
        Usable replies below which a round keeps the old model.
    max_failed : int
        Such rounds in a row that end the run.
    """

    def __init__(self, min_replies: int, max_failed: int) -> None:
        if min(min_replies, max_failed) < 1:
            raise ValueError("min_replies and max_failed_rounds must be at least 1.")
        self.min_replies, self.max_failed, self.failed_in_a_row = min_replies, max_failed, 0

    def refuse_cohorts(self, size: int, present: int, fraction: float) -> None:
        """Raise RunError when cohorts of a size, a share of the sites that are present, could never be enough."""
        if size < self.min_replies:
            raise RunError(
                f"min_replies = {self.min_replies}, but a cohort has {size} of {present} sites "
                f"(fraction_train = {fraction:g}): no round could ever have enough."
            )

    def settle(self, report: RoundReport, needed: int) -> None:
        """Count a round that is over; one that needed no reply says nothing of the others.

        Raises
        ------
        RunError
            When it was one failed round in a row too many.
        """
        if needed:
            self.failed_in_a_row = self.failed_in_a_row + 1 if report.kept_old_model else 0
        if self.failed_in_a_row >= self.max_failed:
            raise RunError(report.why_it_failed(needed, self.failed_in_a_row))
