"""The inner strategy of the global rounds as data: Flower's own aggregations and differential-privacy wrappers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from flwr.app import ArrayRecord, Message, MetricRecord
from flwr.serverapp import NeighboringRelation, PrivacyAccountant, PrivacyConfig, SamplingMethod
from flwr.serverapp.strategy import (
    DifferentialPrivacyClientSideAdaptiveClipping,
    DifferentialPrivacyClientSideFixedClipping,
    DifferentialPrivacyServerSideAdaptiveClipping,
    DifferentialPrivacyServerSideFixedClipping,
    FedAvg,
    FedMedian,
    FedTrimmedAvg,
    Strategy,
)

from fedpurel_app.core.errors import RunError

NEEDS_MOD = ("client-fixed", "client-adaptive", "local")  # kinds of privacy that need a mod at the client
_POPULATION = 1_000_000  # the account is kept without amplification by sampling: it only must not be below a cohort


@dataclass(frozen=True)
class Aggregation:
    """How the updates of a global round become one.

    Parameters
    ----------
    method : {"mean", "median", "trimmed-mean", "norm-clipping"}
    trim_share : float
        Of ``trimmed-mean``: share of the replies cut off at both ends of every coordinate, [0, 0.5).
    privacy : {"none", "server-fixed", "server-adaptive", "client-fixed", "client-adaptive", "local"}
        Who clips, and whether the norm follows the updates; ``local``: the client also adds the noise. Other kinds
        than ``none`` and ``local`` want ``method="mean"``, for which their noise is measured.
    clipping_norm : float
        C, Euclidean norm of an update; of an adaptive kind in the first round.
    noise_multiplier : float
        z: the noise on the mean of n updates has standard deviation z C / n.
    delta : float
        Of the account that Flower keeps of the fixed kinds.

    Examples
    --------
    >>> type(Aggregation("median").strategy()).__name__
    'FedMedian'
    >>> Aggregation(privacy="client-fixed").needs_mod
    True
    """

    method: Literal["mean", "median", "trimmed-mean", "norm-clipping"] = "mean"
    trim_share: float = 0.2
    privacy: Literal["none", "server-fixed", "server-adaptive", "client-fixed", "client-adaptive", "local"] = "none"
    clipping_norm: float = 1.0
    noise_multiplier: float = 1.0
    delta: float = 1e-5

    @property
    def needs_mod(self) -> bool:
        """Whether the client's part is done by one of Flower's mods."""
        return self.privacy in NEEDS_MOD

    def strategy(self) -> Strategy:
        """Make the strategy, for a cohort of any size.

        Returns
        -------
        Strategy
            To be the ``inner`` one of FedPuReL, which tells a wrapper how many updates there are.

        Raises
        ------
        RunError
            When the accountant's package is missing.
        """
        mean = FedAvg(min_train_nodes=1, min_available_nodes=1)
        noise, norm = self.noise_multiplier, self.clipping_norm
        if self.privacy == "server-fixed":
            return DifferentialPrivacyServerSideFixedClipping(mean, noise, norm, 1, accountant=self._accountant())
        if self.privacy == "client-fixed":
            return DifferentialPrivacyClientSideFixedClipping(mean, noise, norm, 1, accountant=self._accountant())
        if self.privacy != "none" and self.privacy != "local":
            kind = ServerSideAdaptiveClipping if self.privacy == "server-adaptive" else ClientSideAdaptiveClipping
            # Flower's own choice for the noise on the count of clipped updates is refused for cohorts below 10 z.
            return kind(mean, noise, 1, initial_clipping_norm=norm, clipped_count_stddev=noise)
        if self.method == "median":
            return FedMedian(min_train_nodes=1, min_available_nodes=1)
        if self.method == "trimmed-mean":
            return FedTrimmedAvg(min_train_nodes=1, min_available_nodes=1, beta=self.trim_share)
        if self.method == "norm-clipping":
            return DifferentialPrivacyServerSideFixedClipping(mean, 0.0, norm, 1)
        return mean

    def _accountant(self) -> PrivacyAccountant:
        settings = PrivacyConfig(
            self.delta, _POPULATION, NeighboringRelation.ADD_OR_REMOVE_ONE, SamplingMethod.NO_AMPLIFICATION
        )
        try:
            from flwr.serverapp import RdpAccountant

            return RdpAccountant(settings)
        except ImportError as error:
            raise RunError(
                f'privacy = "{self.privacy}" accounts for epsilon and needs: pip install "fedpurel-app[dp]"'
            ) from error


class _NormFollowsUpdates:
    """Moves the clipping norm towards the quantile of the updates that is asked for, once the round's noise is drawn.

    Flower 1.42 makes the norm smaller when more updates than wanted were clipped, so that it runs to zero or to
    infinity, and draws a round's noise by the next round's norm, which may be below the one that bounds its updates.
    Andrew et al. (2021), equation 3: the norm grows when too many are clipped.
    """

    _next_norm = math.nan

    def _geometric_update(self: Any, clipped_fraction: float) -> None:
        step = self.clip_norm_lr * (clipped_fraction - self.target_clipped_quantile)
        self._next_norm = self.clipping_norm * math.exp(step)

    def aggregate_train(
        self: Any, server_round: int, replies: list[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Aggregate as Flower does, then move the norm."""
        self._next_norm = self.clipping_norm
        result: tuple[ArrayRecord | None, MetricRecord | None] = super().aggregate_train(server_round, replies)  # type: ignore[misc]
        self.clipping_norm = self._next_norm
        return result


class ServerSideAdaptiveClipping(_NormFollowsUpdates, DifferentialPrivacyServerSideAdaptiveClipping):  # type: ignore[misc]
    """Flower's wrapper, with a norm that follows the updates."""


class ClientSideAdaptiveClipping(_NormFollowsUpdates, DifferentialPrivacyClientSideAdaptiveClipping):  # type: ignore[misc]
    """Flower's wrapper, with a norm that follows the updates."""
