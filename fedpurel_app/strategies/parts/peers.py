"""What sites are told of each other's tasks: see :mod:`fedpurel_app.algorithms.coaction`. Two ways to have them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from fedpurel_app.core.records import Arrays
from fedpurel_app.core.seeding import derive_seed
from fedpurel_app.core.sgd import SgdSettings
from fedpurel_app.core.tasks import EMBEDDING, MOST, TASKS, WIDTH, unfit
from fedpurel_app.strategies.parts.base import WORTHY, Behave, Part, Reply
from fedpurel_app.strategies.parts.behaviour_distance import Floats, unit
from fedpurel_app.strategies.parts.behaviour_prints import Prints

_CHUNK = 2**14  # numbers of a print that are projected at once

Row = npt.NDArray[np.float32]


class Peers(Part):
    """Send a site, in personal rounds, the embeddings of all sites: the own one first, then others by their names."""

    rows: Mapping[str, Row] = {}  # of all sites that have one, shape (32,) each

    def brief_personal(self, sent: Arrays, site: str) -> Arrays:
        """Return ``tasks``, shape (K, 32); a site that has no row yet begins at the mean of those that were sent, or 0.

        The own row comes first, so that no index need be sent, which could be wrong: attention knows no order.
        """
        own = self.rows[site] if site in self.rows else sent.get(EMBEDDING, np.zeros(WIDTH, np.float32))
        others = [self.rows[other] for other in sorted(self.rows) if other != site]
        return {TASKS: np.stack([own, *others[: MOST - 1]]).astype(np.float32)}


class Fingerprints(Peers):
    """Embeddings e_k = unit(P mean_t u_kt) of what global rounds send anyway.

    Parameters
    ----------
    options : mapping
        With ``seed``, which fixes P.
    sgd : SgdSettings
        Of global rounds.
    behave : callable
        From the shared parameters to logits on public probes, shape (Q, C).
    """

    def __init__(self, options: Mapping[str, Any], sgd: SgdSettings, behave: Behave) -> None:
        super().__init__(options, sgd)
        self._behave, self._seed = behave, derive_seed(options["seed"], "task embeddings")
        self._prints = Prints()  # P u_kt, whose mean is P times that of u_kt

    def finish(self, sent: Arrays, mean: Arrays, replies: Mapping[str, Reply], examples: int) -> Arrays:
        """See what replies that are worth half of their weight or more do on probes; leave the mean as it is."""
        before = np.asarray(self._behave(sent), np.float64)

        def printed(site: str, logits: Floats) -> Floats:
            return project(unit(logits - before).ravel(), self._seed)

        worthy = {site: reply for site, reply in replies.items() if reply.factor >= WORTHY}
        self._take(self._prints.seen(worthy, self._behave, printed))
        return mean

    def _take(self, prints: Prints) -> None:
        rows = {site: unit(mean.astype(np.float64)).astype(np.float32) for site, mean in prints.means.items()}
        self._prints, self.rows = prints, rows

    def state(self) -> Arrays:
        """Return the prints."""
        return self._prints.state()

    def restore(self, state: Arrays) -> None:
        """Take up a saved state."""
        self._take(Prints.of(state))


class Learned(Peers):
    """Embeddings that sites train and send; of an absent site, the last one."""

    def refuses(self, arrays: Arrays) -> str:
        """Refuse an embedding that other sites would not take."""
        return unfit(arrays[EMBEDDING][None])

    def learn(self, replies: Mapping[str, Arrays]) -> None:
        """Keep what came."""
        self.rows = {**self.rows, **{site: arrays[EMBEDDING] for site, arrays in replies.items()}}

    def state(self) -> Arrays:
        """Return the embeddings by site."""
        return dict(self.rows)

    def restore(self, state: Arrays) -> None:
        """Take up the embeddings."""
        self.rows = dict(state)


def project(values: Floats, seed: int) -> Floats:
    """Multiply a vector, shape (N,), by a random matrix of standard normal numbers, which a seed fixes; to (32,).

    The matrix is made piece by piece: for a thousand classes and 256 probes it would have 8 million numbers.
    """
    rng, found = np.random.default_rng(seed), np.zeros(WIDTH)
    for start in range(0, len(values), _CHUNK):
        piece = values[start : start + _CHUNK]
        found += piece @ rng.standard_normal((len(piece), WIDTH))
    return found
