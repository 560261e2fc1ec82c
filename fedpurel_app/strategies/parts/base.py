"""A method's part at the server. numpy alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

from fedpurel_app.core.records import Arrays


class Reply(NamedTuple):
    """A usable reply of a global round.

    Attributes
    ----------
    arrays : mapping of str to ndarray
        The shared parameters as the site trained them.
    numbers : mapping of str to float
        Those that the part asks for.
    """

    arrays: Arrays
    numbers: Mapping[str, float]


class Part:
    """What a method does at the server in a global round. By default nothing: the rounds are FedAvg's.

    One object serves a run. Its state is saved with every checkpoint, so a resumed run goes on with the same bits.

    Parameters
    ----------
    options : mapping
        The method's keys and their values.

    Attributes
    ----------
    numbers : mapping of str to (float, float)
        What every reply must carry, by name, with the least and the most that are credible: the numbers that the
        visit's ``end`` returns. A reply without them is dropped.
    """

    numbers: ClassVar[Mapping[str, tuple[float, float]]] = {}

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.options = options

    def brief(self, sent: Arrays, site: str) -> Arrays:
        """Return what a site's message carries beside the shared parameters, as ``Facts.brief`` at the site."""
        return {}

    def weights(self, sent: Arrays, replies: Mapping[str, Reply]) -> Mapping[str, float]:
        """Return factors of the sites' weights in the mean; 1 for those that are not named."""
        return {}

    def finish(self, sent: Arrays, mean: Arrays, replies: Mapping[str, Reply], num_sites: int) -> Arrays:
        """Return the new shared parameters.

        Parameters
        ----------
        sent : mapping of str to ndarray
            The shared parameters before the round.
        mean : mapping of str to ndarray
            What the inner strategy made of the replies.
        replies : mapping of str to Reply
            By site, in the order of their names.
        num_sites : int
            Sites of the federation.
        """
        return mean

    def state(self) -> Arrays:
        """Return what a resumed run needs."""
        return {}

    def restore(self, state: Arrays) -> None:
        """Take up a saved state."""
