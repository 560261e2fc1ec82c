"""Move learned tokens between the blocks of a tower, in the manner of PRO-VPT, between global rounds.

    I_i = sum_k n_k I_k,i / sum_k n_k                        idleness of token i; n_k images are at site k
    i* = argmax_i I_i, if I_i* > 0                           the token that moves: the loss would fall if it faded
    b* = argmax_b theta_b,  theta_b ~ Beta(1 + S_b, 1 + F_b)                                  Thompson sampling
    p_i* <- p_i* / 1000,  home_i* <- b*                      unless it is there already
    D = sum_k n_k (L_k before - L_k) / sum_k n_k             over the sites of both cohorts
    S_b* <- S_b* + 1 if D >= I_i* of the move, else F_b* <- F_b* + 1            in the next round, before it moves one

L_k is the mean training loss of a visit of site k. All sites have the same layout in a round, so that their tokens can
be averaged. That what the fading alone promised is not credited to the new block is the paper's.

References
----------
C. Shang, M. Li, Y. Zhang, Z. Chen, J. Wu, F. Gu, Y. Lu, Y.-M. Cheung, "PRO-VPT: Distribution-Adaptive Visual Prompt
Tuning via Prompt Relocation", ICCV 2025, arXiv 2503.06901.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from logging import WARNING, getLogger
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fedpurel_app.core.layout import HOME, IDLENESS, Layout, among, stored
from fedpurel_app.core.records import Arrays
from fedpurel_app.core.seeding import derive_seed
from fedpurel_app.core.sgd import SgdSettings
from fedpurel_app.strategies.parts.base import Part, Reply

logger = getLogger("flwr.fedpurel.strategy")
_FADED = np.float32(1e-3)  # what a token is multiplied by when it moves
_TOKENS = "tokens"  # what the parameter is called, in a composed module after a dot
_LOSS = "loss/"
_MOST_TOLD = 1e30  # idleness that is written down: an honest one is of the order of the loss
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


class Move(NamedTuple):
    """A token that went from a block to another, and its idleness then [nats]."""

    token: int
    source: int
    target: int
    idleness: float


@dataclass(frozen=True)
class State:
    """What is known after a round.

    Attributes
    ----------
    home : ndarray of int64, shape (P,)
        By token, its block.
    successes, failures : ndarray of int64, shape (L,)
        By block, the moves into it that were judged.
    rounds : int
        That were averaged so far.
    losses : dict of str to float
        Of the last of them, by site.
    waiting : Move or None
        Made in the last of them, and not judged yet.
    """

    home: Ints
    successes: Ints
    failures: Ints
    rounds: int = 0
    losses: Mapping[str, float] = field(default_factory=dict)
    waiting: Move | None = None


def mean_idleness(replies: Mapping[str, Reply]) -> Floats | None:
    """Return the idleness of every token, shape (P,), over the sites that tell it; None where none does."""
    told = [reply for reply in replies.values() if IDLENESS in reply.lists and reply.factor > 0]
    if not told:
        return None
    weights = np.array([reply.examples * reply.factor for reply in told], float)
    found: Floats = weights / weights.sum() @ np.array([reply.lists[IDLENESS] for reply in told])
    return found if np.isfinite(found).all() else None


def gain(before: Mapping[str, float], replies: Mapping[str, Reply]) -> float | None:
    """Return how far the loss fell since [nats], over the sites with a loss in both rounds; None without any."""
    both = [
        (reply.examples * reply.factor, before[site] - reply.loss)
        for site, reply in replies.items()
        if site in before and reply.loss is not None and reply.factor > 0
    ]
    if not both:
        return None
    weights, falls = np.array(both, float).T
    return float(weights / weights.sum() @ falls)


def judge(state: State, replies: Mapping[str, Reply]) -> tuple[State, bool | None]:
    """Credit the block that the last move went to, or do not; None where there is nothing to judge by."""
    move, fell = state.waiting, gain(state.losses, replies)
    state = replace(state, waiting=None)
    if move is None or fell is None:
        return state, None
    helped = bool(fell >= move.idleness)
    one = np.eye(len(state.successes), dtype=np.int64)[move.target]
    if helped:
        return replace(state, successes=state.successes + one), True
    return replace(state, failures=state.failures + one), False


class Relocation(Part):
    """Move one token at a time; see the module. With ``random``, any token to any block, and no scores."""

    _state: State | None = None
    _told: Mapping[str, Any] = {}
    _has_warned = False

    def __init__(self, options: Mapping[str, Any], sgd: SgdSettings) -> None:
        super().__init__(options, sgd)
        self._by_scores = options["prompt-relocation"] == "bandit"

    def meet(self, sent: Arrays, counts: Mapping[str, Sequence[int]]) -> None:
        """Begin with as many tokens before every block."""
        if self._state is None:
            count = self.options["prompt-tokens"]
            blocks = len(sent[_name(sent)]) // count
            none = np.zeros(blocks, np.int64)
            self._state = State(np.arange(blocks).repeat(count), none, none)
        self._told = self._tell(None, None, None)

    def layout(self) -> Layout:
        """Return every token's block."""
        return {} if self._state is None else {HOME: self._state.home}

    def lists(self, sent: Arrays) -> Mapping[str, int]:
        """Return that a reply may tell the idleness of every token."""
        return {IDLENESS: len(sent[_name(sent)])} if self._by_scores else {}

    def tells(self) -> Mapping[str, Any]:
        """Return how many tokens each block has, the largest idleness, the move, and whether the last one helped."""
        return self._told

    def finish(self, sent: Arrays, mean: Arrays, replies: Mapping[str, Reply], examples: int) -> Arrays:
        """Judge the last move, and make the next; of the parameters, only a token that moves is changed."""
        if self._state is None:
            self.meet(sent, {})
        state, helped = judge(self._known, replies)
        losses = {site: reply.loss for site, reply in replies.items() if reply.loss is not None}
        state = replace(state, rounds=state.rounds + 1, losses=losses)
        arrays, idle = dict(mean), mean_idleness(replies)
        if move := self._choose(state, idle):
            tokens = arrays[_name(sent)].copy()
            tokens[move.token] *= _FADED
            arrays[_name(sent)] = tokens
            home = state.home.copy()
            home[move.token] = move.target
            state = replace(state, home=home, waiting=move if self._by_scores else None)
        self._state = state
        self._told = self._tell(move, helped, idle)
        return arrays

    def _choose(self, state: State, idle: Floats | None) -> Move | None:
        """Return the move of this round; None where it has none, or the token is where it shall be."""
        since = state.rounds - self.options["relocation-warmup"] - 1
        # A token that fades after the last round has nobody to train it.
        if since < 0 or since % self.options["relocate-every"] or state.rounds >= self.options["global-rounds"]:
            return None
        draw = np.random.default_rng(derive_seed(self.options["seed"], "relocate", state.rounds))
        if not self._by_scores:
            token, target = int(draw.integers(len(state.home))), int(draw.integers(len(state.successes)))
            move = Move(token, int(state.home[token]), target, 0.0)
            return move if move.target != move.source else None
        if idle is None:
            self._warn()
            return None
        token = int(idle.argmax())
        if idle[token] <= 0:
            return None
        target = int(draw.beta(1 + state.successes, 1 + state.failures).argmax())
        move = Move(token, int(state.home[token]), target, float(idle[token]))
        return move if move.target != move.source else None

    def _warn(self) -> None:
        if not self._has_warned:
            logger.log(WARNING, 'No site tells the idleness of its tokens (metrics = "count", or a method that keeps '
                       "secrets), or all together it is no number: no token moves.")  # fmt: skip
        self._has_warned = True

    def _tell(self, move: Move | None, helped: bool | None, idle: Floats | None) -> Mapping[str, Any]:
        tokens = np.bincount(self._known.home, minlength=len(self._known.successes)).tolist()
        moved = None if move is None else {"token": move.token, "from": move.source, "to": move.target}
        most = None if idle is None or np.abs(idle).max() > _MOST_TOLD else float(idle.max())
        return {"relocation": {"tokens": tokens, "most_idle": most, "moved": moved, "last_move_helped": helped}}

    @property
    def _known(self) -> State:
        if self._state is None:
            raise ValueError("no round has begun: it is not known how many tokens there are")
        return self._state

    def state(self) -> Arrays:
        """Return the layout, what is known of the blocks, the last losses, and the move that waits."""
        state = self._state
        if state is None:
            return {}
        return {
            **stored({HOME: state.home}),
            "successes": state.successes,
            "failures": state.failures,
            "rounds": np.array([state.rounds]),
            "waiting": np.array([] if state.waiting is None else state.waiting, float),
            **{f"{_LOSS}{site}": np.array([loss]) for site, loss in state.losses.items()},
        }

    def restore(self, state: Arrays) -> None:
        """Take up a saved state."""
        if not state:
            return
        losses = {name.removeprefix(_LOSS): float(value[0]) for name, value in state.items() if name.startswith(_LOSS)}
        waiting = state["waiting"].tolist()
        move = Move(int(waiting[0]), int(waiting[1]), int(waiting[2]), float(waiting[3])) if waiting else None
        counts = (state["successes"], state["failures"], int(state["rounds"][0]))
        self._state = State(among(state)[HOME], *counts, dict(sorted(losses.items())), move)


def _name(arrays: Arrays) -> str:
    """Return what the tokens are called; raise ValueError where there are none."""
    for name in arrays:
        if name.rpartition(".")[2] == _TOKENS:
            return name
    raise ValueError(f"no tokens among {', '.join(arrays)}")


PART = Relocation
