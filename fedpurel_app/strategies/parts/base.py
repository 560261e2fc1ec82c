"""A method's part at the server. numpy alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy.typing as npt

from fedpurel_app.core.layout import Layout
from fedpurel_app.core.records import Arrays
from fedpurel_app.core.sgd import SgdSettings

WORTHY = 0.5  # factor of a reply's weight from which on what it holds is told to other sites
Behave = Callable[[Arrays], npt.NDArray[Any]]  # from the shared parameters to logits on public probes, (Q, C)


class Reply(NamedTuple):
    """A usable reply of a global round.

    Attributes
    ----------
    arrays : mapping of str to ndarray
        The shared parameters as the site trained them.
    examples : int
        How many images it trained on.
    size : int
        How many it has, as it described itself.
    loss : float or None
        Mean over the steps of its visit; None where it does not tell.
    factor : float
        Of its weight in the mean, as all parts' ``weights`` have it, once they were asked.
    lists : mapping of str to sequence of float
        Those that :meth:`Part.lists` names and the site tells: finite numbers, as many as that says.
    """

    arrays: Arrays
    examples: int
    size: int
    loss: float | None = None
    factor: float = 1.0
    lists: Mapping[str, Sequence[float]] = {}


class Part:
    """What a method does at the server beside averaging. By default nothing: global rounds are FedAvg's.

    One object serves a run. Where a round keeps the old model, ``finish`` is not called, or what it raised is logged;
    sites then go on from the private state that they had before. So whatever a part changes of itself, it changes last.

    Parameters
    ----------
    options : mapping
        The method's keys and their values.
    sgd : SgdSettings
        Of global rounds.
    """

    def __init__(self, options: Mapping[str, Any], sgd: SgdSettings) -> None:
        self.options, self.sgd = options, sgd

    def first(self, arrays: Arrays) -> Arrays:
        """Return what is sent in the first round of a run, from the freshly initialised parameters."""
        return arrays

    def meet(self, sent: Arrays, counts: Mapping[str, Sequence[int]]) -> None:
        """Learn, before the messages of every round, the sites' training images by class, whatever they tell."""

    def place(self, edges: Mapping[str, str]) -> None:
        """Learn, before the messages of every round, the edges that sites name, of those that name one."""

    def base(self, sent: Arrays, site: str) -> Arrays:
        """Return the shared parameters that a site starts from, of the names and forms of those sent to others."""
        return sent

    def brief(self, sent: Arrays, site: str) -> Arrays:
        """Return what a site's message carries beside the shared parameters, as ``Facts.brief`` at the site."""
        return {}

    def brief_personal(self, sent: Arrays, site: str) -> Arrays:
        """Return what a site's message of a personal round carries, as ``Facts.brief`` at the site.

        Parameters
        ----------
        sent : mapping of str to ndarray
            What sites send in such rounds, as they are sent it; nothing of most methods.
        site : str
        """
        return {}

    def refuses(self, arrays: Arrays) -> str:
        """Return why a reply of a personal round, of the right form and finite, cannot be used; "" where it can."""
        return ""

    def learn(self, replies: Mapping[str, Arrays]) -> None:
        """Learn what sites sent in a personal round, which gave a new mean; what this raises costs the round."""

    def layout(self) -> Layout:
        """Return how the shared parameters are laid out, which all messages say; nothing where that never changes."""
        return {}

    def lists(self, sent: Arrays) -> Mapping[str, int]:
        """Return lists of numbers that a reply may have among its metrics, each with its length."""
        return {}

    def tells(self) -> Mapping[str, Any]:
        """Return what the round's line in the run folder says of the part, as JSON."""
        return {}

    def weights(self, sent: Arrays, replies: Mapping[str, Reply]) -> Mapping[str, float]:
        """Return factors of the sites' weights in the mean; 1 for those that are not named."""
        return {}

    def finish(self, sent: Arrays, mean: Arrays, replies: Mapping[str, Reply], examples: int) -> Arrays:
        """Return the new shared parameters.

        Parameters
        ----------
        sent : mapping of str to ndarray
            The shared parameters before the round.
        mean : mapping of str to ndarray
            What the inner strategy made of the replies.
        replies : mapping of str to Reply
            By site, in the order of their names, with the factors of their weights.
        examples : int
            Images of the whole federation, as far as sites have told.

        Raises
        ------
        ValueError
            When the replies cannot be used; the round then keeps the old model.
        """
        return mean

    def state(self) -> Arrays:
        """Return what a resumed run needs, to be saved with the parameters of the same round."""
        return {}

    def restore(self, state: Arrays) -> None:
        """Take up a saved state."""
