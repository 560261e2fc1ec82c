"""A site's part of the data: its rows, what a method may know of them, and its models' scores on them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch

from fedpurel_app.algorithms.base import Facts, Held, Memory, Model, Models, Visit
from fedpurel_app.core.fronts import Front, Ints
from fedpurel_app.core.site_scores import SiteScores
from fedpurel_app.data.dealing.partition import PartName, SplitName
from fedpurel_app.experiment import Experiment
from fedpurel_app.models.peft.base import PeftModule, summed
from fedpurel_app.training.evaluation import evaluate
from fedpurel_app.training.inputs import TrainingData, all_logits


class SiteData:
    """The images of one site.

    Parameters
    ----------
    experiment : Experiment
    index, sites : int
        Which of how many parts the data are dealt out in; 0 of 1 where they are the site's own.
    """

    def __init__(self, experiment: Experiment, index: int, sites: int) -> None:
        self._one, self._index, self._sites = experiment, index, sites

    def rows(self, part: PartName) -> npt.NDArray[np.int64]:
        """Return the rows of a part: of the training split, or of the test split."""
        partition = self._one.federation.partition(self._sites)
        parts = {"train": partition.train, "validation": partition.validation, "test": partition.test}[part]
        return parts[self._index] if parts else np.zeros(0, np.int64)

    def class_counts(self) -> list[int]:
        """Count the training images of every class."""
        labels, names = self._labels(), self._one.federation.source.class_names
        return torch.bincount(labels, minlength=len(names)).tolist()

    def facts(self, brief: Mapping[str, torch.Tensor] | None = None, progress: float = 0.0) -> Facts:
        """Return what the method may know here."""
        return self._one.kit.facts(self._labels(), brief)._replace(progress=progress)

    def training(self, module: PeftModule, visit: Visit, shared: PeftModule) -> TrainingData:
        """Return the training images for a module, with the logits that a visit refers to."""
        data = self._one.images.training_data(self.rows("train"), module.takes)
        if visit.reference == "zero-shot":
            return data
        kit = self._one.kit
        return data.measured_against(summed(kit.algorithm.global_model(kit.models(shared))))

    def chosen(self, models: Models) -> Memory:
        """Return what the method chooses on the validation part; nothing where it does not, or there are no images."""
        one, rows = self._one, self.rows("validation")
        choose = one.kit.algorithm.choose
        if choose is None or not len(rows):
            return {}

        def logits(model: Model) -> torch.Tensor:
            return all_logits(summed(model), one.images.data("train", rows, models.shared.takes).inputs)

        bias = one.kit.bias(self.facts()) if one.kit.algorithm.bias is not None else None
        return choose(Held(models, one.images.labels("train", rows), logits, bias))

    def scores(self, part: PartName, models: Models, is_own: bool) -> SiteScores:
        """Score zero-shot, the global and, where the site has one of its own, the personalized model on a part."""
        one, algorithm = self._one, self._one.kit.algorithm
        split: SplitName = "test" if part == "test" else "train"
        data = one.images.data(split, self.rows(part), models.shared.takes)
        personalized = algorithm.personalized(models) if algorithm.personalized is not None and is_own else None
        bias = one.kit.bias(self.facts()) if algorithm.bias is not None else None
        return evaluate(data, algorithm.global_model(models), personalized, bias, one.federation.groups)

    def front(self, models: Models, everywhere: bool) -> Front:
        """Count what the models of a front get right; of a method that is asked for a preference.

        Parameters
        ----------
        models : Models
            With a private module.
        everywhere : bool
            Also on the server's balanced test set, where its images are encoded already: a family inside the image
            tower would see all of them once for every point.
        """
        correct, agree = self._front(models, self.rows("test"))
        if not everywhere or models.shared.takes != "features":
            return Front(correct, agree)
        return Front(correct, agree, self._front(models, np.arange(len(self._one.federation.source.test.labels)))[0])

    def _front(self, models: Models, rows: npt.NDArray[np.int64]) -> tuple[Ints, Ints]:
        """Return by point the right answers on test images by class, and how many are those of the global model."""
        algorithm, classes = self._one.kit.algorithm, len(self._one.federation.source.class_names)
        data = self._one.images.data("test", rows, models.shared.takes)

        def logits(model: Model) -> torch.Tensor:
            return all_logits(summed(model), data.inputs)

        shared, labels = logits(algorithm.global_model(models)).argmax(1), data.labels
        correct, agree = [], []
        for found in algorithm.front(models, logits) if algorithm.front is not None else ():
            predicted = found.argmax(1)
            correct.append(torch.bincount(labels[predicted == labels], minlength=classes).tolist())
            agree.append(int((predicted == shared).sum()))
        return np.array(correct, np.int64).reshape(-1, classes), np.array(agree, np.int64)

    def _labels(self) -> torch.Tensor:
        return self._one.images.labels("train", self.rows("train"))
