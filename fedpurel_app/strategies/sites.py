"""Wait for the sites before the first round, and see that they are the ones a resumed run began with."""

from __future__ import annotations

import time
from collections.abc import Mapping
from logging import INFO, WARNING, getLogger
from typing import Any

from flwr.serverapp import Grid

from fedpurel_app.core.errors import AttemptError, RunError
from fedpurel_app.core.records import Description
from fedpurel_app.strategies.post import Post
from fedpurel_app.strategies.roster import Roster

logger = getLogger("flwr.fedpurel.strategy")
_POLL = 1.0  # seconds


class Sites:
    """The federation as the server meets it.

    Parameters
    ----------
    roster : Roster
    post : Post
    number : int
        Sites to wait for; 0 = those that are connected once no more come for a second.
    connect_timeout, query_timeout : float
        Seconds to wait for them, and for what they say of themselves.
    """

    def __init__(self, roster: Roster, post: Post, number: int, connect_timeout: float, query_timeout: float) -> None:
        self.roster, self.post, self.number = roster, post, number
        self._connect_timeout, self._query_timeout = connect_timeout, query_timeout
        self._restored: dict[str, Description | None] = {}

    def restore(self, state: Mapping[str, Any], keys: Mapping[str, str] | None) -> None:
        """Take up the roster of the run that goes on."""
        self.roster.restore(state, keys)
        self._restored = dict(self.roster.descriptions)

    def refresh(self, grid: Grid, number: int, patient: bool = True) -> None:
        """Ask nodes that are not yet known who they are, and log what a user should know.

        Parameters
        ----------
        grid : Grid
        number : int
            The round that is over.
        patient : bool
            As of :meth:`fedpurel_app.strategies.roster.Roster.refresh`.
        """
        described = self.post.instruction("describe", number)
        notes = self.roster.refresh(grid, self._query_timeout, patient, described)
        for note in [*notes, *refuse_other_parts(self.roster, self._restored)]:
            logger.log(WARNING, note)

    def wait(self, grid: Grid, last: int) -> None:
        """Wait until they are there and have said who they are.

        Parameters
        ----------
        grid : Grid
        last : int
            The round that is over.

        Raises
        ------
        RunError
            When fewer than are wanted (or none) are there in time, or when so many refuse the run by their own settings
            that it cannot start.
        AttemptError
            When so many refuse it, and some because they serve another run of this experiment.
        """
        deadline = time.monotonic() + self._connect_timeout
        wanted, before = max(1, self.number), -1
        while True:
            there = len(list(grid.get_node_ids()))
            late = time.monotonic() > deadline
            settled = there == before and there > 0 and not self.number
            if settled or (self.number and there >= wanted) or late:
                self.refresh(grid, last, patient=False)
                if len(self.roster.present) >= wanted or late or _is_refused(self.roster, there, wanted):
                    break
            before = there
            time.sleep(_POLL)
        if _is_refused(self.roster, there, wanted):
            reasons = sorted({refusal.reason for refusal in self.roster.refusals.values()})
            text = f"{len(self.roster.refusals)} of {there} sites refuse this run: {'; '.join(reasons[:3])}"
            is_other_run = any(refusal.kind == "attempt" for refusal in self.roster.refusals.values())
            raise AttemptError(text) if is_other_run else RunError(text)
        present = len(self.roster.present)
        if present < wanted:
            raise RunError(
                f"{present} of {wanted} sites can take part after {self._connect_timeout:g} s; nodes connected: "
                f"{there}."
                + ("" if present == there else " Why the others cannot is said above, and in full in their own logs.")
            )
        if self.number and present > self.number:
            logger.log(INFO, "%d sites are connected, %d were asked for: all take part.", present, self.number)


def _is_refused(roster: Roster, there: int, wanted: int) -> bool:
    """Tell whether most nodes refuse the run, or so many that those who are left are fewer than are wanted.

    A few alone cannot keep a run from starting that does with those who are there.
    """
    refuse = len(roster.refusals)
    return 2 * refuse > there or (refuse > 0 and there - refuse < wanted <= there)


def refuse_other_parts(roster: Roster, restored: Mapping[str, Description | None]) -> list[str]:
    """Leave out sites whose part of data that are dealt out is, on resuming, another than it was.

    Parameters
    ----------
    roster : Roster
    restored : mapping of str to Description or None
        What the sites said of themselves before.

    Returns
    -------
    list of str
        A line for each that was left out.

    Raises
    ------
    RunError
        When it is so for more than half of those that are present: the run was resumed with another number of sites.
    """
    present, odd = roster.present, dict[str, str]()
    for name in present:
        old, new = restored.get(name), roster.descriptions[name]
        if not old or not new or not old.partitions:
            continue
        was, now = ((one.num_examples, one.partitions) for one in (old, new))
        if was != now:
            odd[name] = f"{name} had {was[0]} images of data dealt out to {was[1]} sites, now {now[0]} and {now[1]}"
    if 2 * len(odd) > len(present):
        raise RunError(f"{next(iter(odd.values()))}. Resume with as many sites as the run began with.")
    for name in odd:
        roster.dismiss(name, restored[name])
    return [f"{line}: it is left out for now" for line in odd.values()]
