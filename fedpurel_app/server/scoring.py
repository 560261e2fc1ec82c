"""Scores of a run, at the server: its own balanced test set, and what the sites sent of theirs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from fedpurel_app.core.details import Details, detail_scores
from fedpurel_app.core.files import home
from fedpurel_app.core.fronts import points_of
from fedpurel_app.core.layout import Layout, stored
from fedpurel_app.core.metrics import ClassCounts, summarize
from fedpurel_app.core.records import Arrays
from fedpurel_app.core.site_scores import SiteScores, pool_sites
from fedpurel_app.experiment import Experiment
from fedpurel_app.reporting.fronts import Tables, front_tables
from fedpurel_app.reporting.tables import class_rows, evaluation_tables
from fedpurel_app.server.novel import Novel, with_novel
from fedpurel_app.training.evaluation import Scores, evaluate


class Scoring:
    """Turns global parameters and the scores of sites into what is reported.

    Parameters
    ----------
    experiment : Experiment
    told : callable
        Gives, for every site, its training images by class: empty lists from sites that keep them to themselves. Asked
        where sites have data of their own; otherwise the server knows.
    """

    def __init__(self, experiment: Experiment, told: Callable[[], list[list[int]]]) -> None:
        self._experiment, self._told = experiment, told
        novel = experiment.federation.novel
        self._novel = None if novel is None else Novel(experiment, novel, home() / "cache")
        self._here: Scores | None = None  # of the last evaluation here,
        self._scored: Arrays | None = None  # the parameters, and their layout, that it was of,
        self._novel_here: dict[str, float] = {}  # accuracies on novel classes
        self._is_known = False  # and whether they are all of the global model

    def score(self, arrays: Arrays, layout: Layout | None = None) -> dict[str, float]:
        """Score zero-shot and the global model on the server's test set.

        Skipped when there is no test data or neither the parameters nor their layout have changed.

        Parameters
        ----------
        arrays : mapping of str to ndarray
            The shared parameters.
        layout : mapping of str to ndarray of int64, optional
            How they are laid out; as at first where nothing is said of it.

        Returns
        -------
        dict of str to float
            Seconds spent: ``server``, and ``server_features`` on encoding images.
        """
        before, experiment = self._scored, self._experiment
        others = experiment.kit.sent_in_personal_rounds  # no part of the global model
        arrays = {name: value for name, value in arrays.items() if name not in others}
        scored = {**arrays, **stored(layout or {})}
        unchanged = before is not None and _same(scored, before)
        rows = np.arange(len(experiment.federation.source.test.labels))
        if unchanged or not len(rows):
            return {"server": 0.0, "server_features": 0.0}
        started, encoding = time.monotonic(), experiment.images.seconds
        module = experiment.kit.shared_module(arrays, layout=layout)
        data, bias = (
            experiment.images.data("test", rows, module.takes),
            experiment.kit.bias(experiment.kit.facts()),
        )
        model = experiment.kit.algorithm.global_model(experiment.kit.models(module))
        self._here = evaluate(data, model, bias=bias, groups=self._groups)
        if self._novel is not None:
            self._novel_here = self._novel.score(arrays, layout)
        self._scored, self._is_known = scored, experiment.kit.algorithm.is_known(module, experiment.kit.options)
        features = experiment.images.seconds - encoding
        return {"server": time.monotonic() - started - features, "server_features": features}

    @property
    def zero_shot(self) -> dict[str, float | None] | None:
        """Zero-shot CLIP on the server's test set; None where it has none."""
        return None if self._here is None else self._summarize(self._here, "zero-shot")

    @property
    def global_model(self) -> dict[str, float | None] | None:
        """The global model on the server's test set; None without one, or where only the sites have all of it."""
        return self._summarize(self._here, "global") if self._here is not None and self._is_known else None

    @property
    def tkl(self) -> float | None:
        """TKL of the global model against zero-shot [nats]; None where there is no score of it."""
        return self._here.tkl if self._here is not None and self._is_known else None

    def pooled(self, scores: Mapping[str, SiteScores]) -> dict[str, Any]:
        """Pool the scores of the sites on their own test parts."""
        config, classes = self._experiment.config, len(self._experiment.federation.source.class_names)
        return pool_sites(scores, self._groups, config.balancedness_power, config.balancedness_sigma, classes)

    def fronts(self, scores: Mapping[str, SiteScores]) -> tuple[Tables, dict[str, dict[str, float]]]:
        """Make the tables of the sites' fronts, and the means of what they are worth; empty where none came."""
        kit, labels = self._experiment.kit, self._experiment.federation.source.test.labels
        if kit.algorithm.front is None:
            return {}, {}
        balanced = np.bincount(labels, minlength=len(self._experiment.federation.source.class_names))
        return front_tables(points_of(kit.options["preferences"]), scores, balanced)

    def tables(self, scores: Mapping[str, SiteScores]) -> Tables:
        """Make the tables of an evaluation: columns and rows, by the name of the run folder's file."""
        here, known = self._here, ("zero_shot", *(("global",) if self._is_known else ()))
        at_server = {} if here is None else {name: [_scored(here, name.replace("_", "-"))] for name in known}
        return evaluation_tables(scores, self._class_rows(scores), at_server)

    def _class_rows(self, scores: Mapping[str, SiteScores]) -> list[list[Any]]:
        here = (self._here.counts["zero-shot"] if self._here else None, self._global_counts)
        return class_rows(
            self._experiment.federation.source.class_names, self._train_counts, self._groups, here, scores
        )

    @property
    def _global_counts(self) -> ClassCounts | None:
        # Where sites keep parts, what is here is no model of anybody: its parts are as they were at first.
        return self._here.counts["global"] if self._here is not None and self._is_known else None

    def _summarize(self, here: Scores, model: str) -> dict[str, float | None]:
        config, (counts, details) = self._experiment.config, _scored(here, model)
        summary = summarize(counts, self._groups, config.balancedness_power, config.balancedness_sigma)
        novel = with_novel(summary["all"], self._novel_here[model]) if self._novel_here else {}
        return summary | detail_scores([(counts, details)], len(counts.total)) | novel

    @property
    def _train_counts(self) -> npt.NDArray[np.int64] | None:
        """Training images of every class, at the sites that tell; None where most do not."""
        if self._experiment.config.dataset != "sites":
            return self._experiment.federation.train_counts
        told, classes = self._told(), len(self._experiment.federation.source.class_names)
        known = [counts for counts in told if len(counts) == classes]
        return np.array(known, np.int64).sum(0) if known and 2 * len(known) >= len(told) else None

    @property
    def _groups(self) -> dict[str, npt.NDArray[np.int64]] | None:
        counts = self._train_counts
        return None if counts is None else self._experiment.federation.group(counts)


def _same(one: Arrays, other: Arrays) -> bool:
    """Tell whether arrays have the same names and values."""
    return one.keys() == other.keys() and all(np.array_equal(value, other[name]) for name, value in one.items())


def _scored(here: Scores, model: str) -> tuple[ClassCounts, Details]:
    return here.counts[model], here.details[model]
