"""A bandit over pairs."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

UNKNOWN = -1.0  # a loss that was not told; none is below 0
Pair = tuple[int, int]


class PairBandit:
    """Choose pairs by UCB1, rewarded with 1 when their loss fell after they were chosen, else with 0.

    Parameters
    ----------
    most : int
        Members are numbers below it.

    References
    ----------
    P. Auer, N. Cesa-Bianchi, P. Fischer, "Finite-time Analysis of the Multiarmed Bandit Problem", Machine Learning,
    2002.
    """

    def __init__(self, most: int) -> None:
        self._tries, self._rewards = np.zeros((most, most)), np.zeros((most, most))
        self._waiting: Pair | None = None

    def judge(self, losses: Mapping[int, tuple[float, float]]) -> None:
        """Reward the pair that waits, once one of its members has a new loss.

        Parameters
        ----------
        losses : mapping of int to (float, float)
            Of members, before and now; :data:`UNKNOWN` where it was not told.
        """
        if self._waiting is None:
            return
        known = [losses[member] for member in self._waiting if member in losses and UNKNOWN not in losses[member]]
        if known:
            before, now = np.sum(known, 0)
            self._rewards[self._waiting] += float(now < before)
            self.give_up()

    def give_up(self) -> None:
        """Count the pair that waits as tried, and wait no longer."""
        if self._waiting is not None:
            self._tries[self._waiting] += 1
            self._waiting = None

    def choose(self, members: Sequence[int]) -> Pair | None:
        """Return a pair of some members, which then waits for its reward; None while another one does.

        Pairs that were never tried come first, in their order; then the one with the largest mean reward plus
        sqrt(2 ln t / n), n of t tries being its own.
        """
        pairs = list(combinations(members, 2))
        if self._waiting is not None or not pairs:
            return None
        total = self._tries.sum()

        def promise(pair: Pair) -> float:
            tries = self._tries[pair]
            return np.inf if not tries else float(self._rewards[pair] / tries + np.sqrt(2 * np.log(total) / tries))

        self._waiting = max(pairs, key=promise)
        return self._waiting

    def copy(self) -> PairBandit:
        """Return another one that knows the same."""
        return copy.deepcopy(self)

    def state(self) -> npt.NDArray[np.float64]:
        """Return tries, rewards, and a mark at the pair that waits, shape (3, most, most)."""
        mark = np.zeros_like(self._tries)
        if self._waiting is not None:
            mark[self._waiting] = 1
        return np.stack([self._tries, self._rewards, mark])

    @classmethod
    def of(cls, state: npt.NDArray[Any]) -> PairBandit:
        """Make the one that a state is of."""
        bandit = cls(len(state[0]))
        bandit._tries, bandit._rewards = state[0].copy(), state[1].copy()
        marks = np.argwhere(state[2])
        bandit._waiting = (int(marks[0, 0]), int(marks[0, 1])) if len(marks) else None
        return bandit
