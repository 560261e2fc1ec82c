"""Several parts at the server as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedpurel_app.core.layout import Layout, among, stored
from fedpurel_app.core.records import Arrays
from fedpurel_app.strategies.parts.base import Part, Reply


class Several(Part):
    """Parts one after the other: what they brief and finish adds up in this order, and their factors multiply.

    Parameters
    ----------
    parts : sequence of Part
        At least one. The parameters that are sent, and the replies, all of them see as they are.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        super().__init__({key: value for part in parts for key, value in part.options.items()}, parts[0].sgd)
        self._parts = tuple(parts)

    def first(self, arrays: Arrays) -> Arrays:
        """Let each part make of the fresh parameters what it makes of them."""
        for part in self._parts:
            arrays = part.first(arrays)
        return arrays

    def meet(self, sent: Arrays, counts: Mapping[str, Sequence[int]]) -> None:
        """Let every part learn the sites' counts."""
        for part in self._parts:
            part.meet(sent, counts)

    def place(self, edges: Mapping[str, str]) -> None:
        """Let every part learn the sites' edges."""
        for part in self._parts:
            part.place(edges)

    def base(self, sent: Arrays, site: str) -> Arrays:
        """Let each part make of what is sent what a site starts from."""
        for part in self._parts:
            sent = part.base(sent, site)
        return sent

    def brief(self, sent: Arrays, site: str) -> Arrays:
        """Return what all parts tell a site; of one name, what the last one tells."""
        return {name: value for part in self._parts for name, value in part.brief(sent, site).items()}

    def brief_personal(self, sent: Arrays, site: str) -> Arrays:
        """Return what all parts tell a site in a personal round; of one name, what the last one tells."""
        return {name: value for part in self._parts for name, value in part.brief_personal(sent, site).items()}

    def refuses(self, arrays: Arrays) -> str:
        """Return why the first part that refuses a reply does."""
        return next((why for part in self._parts if (why := part.refuses(arrays))), "")

    def learn(self, replies: Mapping[str, Arrays]) -> None:
        """Let every part learn what sites sent."""
        for part in self._parts:
            part.learn(replies)

    def layout(self) -> Layout:
        """Return how all parts lay out the shared parameters."""
        return {name: value for part in self._parts for name, value in part.layout().items()}

    def lists(self, sent: Arrays) -> Mapping[str, int]:
        """Return the lists that any part wants."""
        return {name: length for part in self._parts for name, length in part.lists(sent).items()}

    def tells(self) -> Mapping[str, Any]:
        """Return what all parts tell of the round."""
        return {name: value for part in self._parts for name, value in part.tells().items()}

    def weights(self, sent: Arrays, replies: Mapping[str, Reply]) -> Mapping[str, float]:
        """Return the products of the parts' factors."""
        found: dict[str, float] = {}
        for part in self._parts:
            for site, factor in part.weights(sent, replies).items():
                found[site] = found.get(site, 1.0) * factor
        return found

    def finish(self, sent: Arrays, mean: Arrays, replies: Mapping[str, Reply], examples: int) -> Arrays:
        """Let each part make of the mean what it makes of it."""
        for part in self._parts:
            mean = part.finish(sent, mean, replies, examples)
        return mean

    def state(self) -> Arrays:
        """Return the parts' states, with their places before the names; a layout keeps the name that others know."""
        found: dict[str, Any] = {}
        for place, part in enumerate(self._parts):
            own = part.state()
            layout = stored(among(own))
            found |= layout | {f"{place}/{key}": value for key, value in own.items() if key not in layout}
        return found

    def restore(self, state: Arrays) -> None:
        """Take up the parts' states."""
        layout = stored(among(state))
        for place, part in enumerate(self._parts):
            own = {key.removeprefix(f"{place}/"): value for key, value in state.items() if key.startswith(f"{place}/")}
            part.restore(own | layout if own else {})


def chained(parts: Sequence[Part | None]) -> Part | None:
    """Make one part of those that there are: itself where there is one, None where there is none."""
    found = [part for part in parts if part is not None]
    return Several(found) if len(found) > 1 else next(iter(found), None)
