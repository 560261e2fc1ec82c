"""Scores on classes that no site has trained on: how well a model goes from base to novel classes.

References
----------
K. Zhou, J. Yang, C. C. Loy, Z. Liu, "Conditional Prompt Learning for Vision-Language Models", CVPR 2022, whose measure
is the harmonic mean of both accuracies.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fedpurel_app.core.layout import Layout
from fedpurel_app.core.records import Arrays
from fedpurel_app.data.sources.source import Source
from fedpurel_app.experiment import Experiment
from fedpurel_app.inference.other_classes import OtherClasses
from fedpurel_app.training.evaluation import evaluate


class Novel:
    """Scores zero-shot and the global model on the test images of novel classes, told apart among themselves.

    Parameters
    ----------
    experiment : Experiment
        Of the base classes.
    novel : Source
    cache : Path

    Raises
    ------
    ConfigError
        When the method learns something for each class, which says nothing of others: before a round is played.
    """

    def __init__(self, experiment: Experiment, novel: Source, cache: Path) -> None:
        self._other = OtherClasses(experiment.federation.source, novel.class_names)
        self._by_class = self._other.by_class(experiment.config, cache)
        self._one = Experiment(experiment.config, cache, source=novel)
        self._other.fit(experiment.kit.split(experiment.kit.new_shared())[0], self._by_class)

    def score(self, arrays: Arrays, layout: Layout | None = None) -> dict[str, float]:
        """Return accuracies by model, "zero-shot" and "global", in percent.

        Parameters
        ----------
        arrays : mapping of str to ndarray
            The shared parameters, as they are for the base classes.
        layout : mapping of str to ndarray of int64, optional
            How they are laid out; as at first where nothing is said of it.
        """
        kit, images = self._one.kit, self._one.images
        module = kit.shared_module(self._other.fit(dict(arrays), self._by_class), layout=layout)
        data = images.data("test", np.arange(len(self._one.federation.source.test.labels)), module.takes)
        found = evaluate(data, kit.algorithm.global_model(kit.models(module)))
        return {name: 100 * (counts.accuracy or 0.0) for name, counts in found.counts.items()}


def with_novel(base: float | None, novel: float) -> dict[str, float | None]:
    """Return what is reported beside a model's accuracy on base classes, in percent.

    Examples
    --------
    >>> with_novel(80.0, 60.0)
    {'novel': 60.0, 'harmonic': 68.57142857142857}
    """
    if base is None:
        return {"novel": novel, "harmonic": None}
    return {"novel": novel, "harmonic": 2 * base * novel / (base + novel) if base + novel else 0.0}
