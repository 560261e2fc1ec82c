"""Clients that implement only part of the contract: missing handlers are detected, logged once and skipped."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from logging import WARNING, getLogger

from flwr.app import MessageType, MetricRecord

from fedpurel_app.core.names import listed
from fedpurel_app.core.records import MODELS, PERSONALIZE

logger = getLogger("flwr.fedpurel.strategy")

_MEANING = {
    PERSONALIZE: "they train no private branch, and their personalized model is the global one",
    MessageType.EVALUATE: "they are not scored",
}


class Abilities:
    """Which sites have been found to have no function for a type of message; they are not asked again in this run."""

    def __init__(self) -> None:
        self._lacking: defaultdict[str, set[str]] = defaultdict(set)

    def able(self, sites: Iterable[str], message_type: str) -> list[str]:
        """Return the sites that may have a function for a type of message, in the given order."""
        return [site for site in sites if site not in self._lacking[message_type]]

    def learn(self, dropped: Iterable[tuple[str, str]], message_type: str) -> None:
        """Find in the reasons of dropped replies who lacks the function; log those that are new.

        Parameters
        ----------
        dropped : iterable of (str, str)
            Site and reason.
        message_type : str
        """
        category, _, action = message_type.partition(".")
        words = f"No {category} function registered with name '{action or 'default'}'"  # Flower's own
        new = sorted({site for site, reason in dropped if words in reason} - self._lacking[message_type])
        if new:
            self._lacking[message_type].update(new)
            logger.log(WARNING, "%s: no function for %s. %s; they are not asked again.", listed(new), message_type,
                       _MEANING[message_type].capitalize())  # fmt: skip


def sends_no_counts(metrics: MetricRecord) -> bool:
    """Tell whether an evaluation's metrics are not of the contract's form at all, as those of a FedAvg client."""
    return not any(f"{model}/{part}" in metrics for model in MODELS for part in ("correct", "total"))
