"""Evaluations: all sites score their models, in the rounds that are evaluated."""

from __future__ import annotations

import time
from collections.abc import Iterable
from logging import WARNING, getLogger

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord

from fedpurel_app.core.metrics import pool
from fedpurel_app.core.names import listed
from fedpurel_app.core.records import VALIDATION
from fedpurel_app.core.site_scores import SiteScores
from fedpurel_app.strategies.legacy_clients import Abilities, sends_no_counts
from fedpurel_app.strategies.pooling import weighted_means
from fedpurel_app.strategies.post import Post
from fedpurel_app.strategies.replies import screen
from fedpurel_app.strategies.round_report import RoundReport
from fedpurel_app.strategies.rounds import record_replies
from fedpurel_app.strategies.screening import check_metrics, check_scores, the_metrics, withholds

logger = getLogger("flwr.fedpurel.strategy")


class Evaluation:
    """Asks for scores and screens them; they are pooled from counts, exactly, by whoever reads ``report.scores``.

    Parameters
    ----------
    post : Post
    abilities : Abilities
    key : str
        Metric with a reply's number of examples.
    num_classes : int
        Length that lists of counts by class must have; 0 = any.
    """

    def __init__(self, post: Post, abilities: Abilities, key: str, num_classes: int) -> None:
        self.post, self.abilities, self.key, self.num_classes = post, abilities, key, num_classes
        self._expected: list[str] = []
        self._clock, self._told_of_means = 0.0, False

    def configure(self, report: RoundReport, arrays: ArrayRecord, config: ConfigRecord) -> Iterable[Message]:
        """Write to all connected sites."""
        self._clock = time.monotonic()
        self._expected = self.abilities.able(self.post.roster.present, MessageType.EVALUATE)
        return self.post.address(self._expected, arrays, config, report, MessageType.EVALUATE)

    def aggregate(self, report: RoundReport, replies: Iterable[Message]) -> MetricRecord | None:
        """Screen the scores. Where no site sends counts, the means of what they send instead are returned."""
        screened = screen(replies, self._checked, self.post.roster, self._expected)
        record_replies(report, screened, self.abilities, MessageType.EVALUATE)
        report.withheld = [site for site, message in screened.messages.items() if withholds(message.content)]
        told = {site: record for site, record in screened.metrics.items() if site not in report.withheld}
        report.keep_time("evaluation", time.monotonic() - self._clock, told)
        plain = [site for site, record in told.items() if sends_no_counts(record)]
        report.scores = {site: self._scores(site, record) for site, record in told.items() if site not in plain}
        validation = {site: self._validation(site, told[site]) for site in report.scores}
        report.validation = {site: scores for site, scores in validation.items() if scores is not None}
        if not report.scores:
            return self._means(report, list(told.values()))
        report.dropped += [(site, "no score of the global model") for site in plain]
        pooled = {
            "global/accuracy": pool(score.counts["global"].over_classes() for score in report.scores.values()),
            "personal/accuracy": pool(score.personalized.over_classes() for score in report.scores.values()),
        }
        return MetricRecord({name: counts.accuracy or 0.0 for name, counts in pooled.items() if counts is not None})

    def _checked(self, message: Message, site: str) -> MetricRecord:
        if withholds(message.content):
            return the_metrics(message.content)
        metrics = check_metrics(message.content, self.key, None)
        if not sends_no_counts(metrics):
            self._scores(site, metrics)
            self._validation(site, metrics)
        return metrics

    def _scores(self, site: str, metrics: MetricRecord) -> SiteScores:
        """Read a site's scores; raises BadReplyError."""
        description = self.post.roster.descriptions[site]
        # A site that does not tell how many test images it has is held, loosely, to its number of training images.
        described = 0 if description is None else description.test_examples or 50 * description.num_examples
        return check_scores(metrics, self.key, self.num_classes, described)

    def _validation(self, site: str, metrics: MetricRecord) -> SiteScores | None:
        """Read a site's scores of its validation part, None where it sent none; raises BadReplyError."""
        found = {name.removeprefix(VALIDATION): value for name, value in metrics.items() if name.startswith(VALIDATION)}
        if not found:
            return None
        description = self.post.roster.descriptions[site]
        # At most half of a site's images, hence not more than those it trains on.
        described = 0 if description is None else description.validation_examples or description.num_examples
        return check_scores(MetricRecord(found), self.key, self.num_classes, described)

    def _means(self, report: RoundReport, metrics: list[MetricRecord]) -> MetricRecord | None:
        """Average what sites send instead of counts, as FedAvg does."""
        means = weighted_means(metrics, self.key)
        if means and not self._told_of_means:
            self._told_of_means = True
            logger.log(WARNING, "The sites send no counts of correct and total predictions but %s: means are reported, "
                       "weighted by %s; classes and personalized models are unknown.",
                       listed(sorted(means)), self.key)  # fmt: skip
        report.means = means
        return MetricRecord(dict(means)) if means else None
