"""The federation's images as the models take them: encoded or cropped once, cached, and put on the device."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from fedpurel_app.core.errors import DataError
from fedpurel_app.data.dealing.partition import SplitName
from fedpurel_app.data.sources.source import FeatureSplit
from fedpurel_app.federation import Federation, Ints
from fedpurel_app.model_kit import ModelKit
from fedpurel_app.models.backbone import Takes
from fedpurel_app.training.feature_store import count_missing, image_features, image_patches, image_pixels
from fedpurel_app.training.inputs import FreshCrops, LocalData, ManyViews, StoredRows, TrainingData


class Images:
    """Features, pixels and patches of the rows that are asked for.

    Parameters
    ----------
    federation : Federation
    kit : ModelKit
    cache : Path
        Folder of what is encoded.
    together : bool
        All sites of the federation use this cache, so that whoever first asks for images has those of all encoded;
        otherwise only what is asked for.

    Attributes
    ----------
    seconds : float
        Spent so far on encoding images, or waiting for another process to do it.
    """

    def __init__(self, federation: Federation, kit: ModelKit, cache: Path, together: bool = True) -> None:
        self._federation, self._kit, self._cache, self._together = federation, kit, cache, together
        self._arrays: dict[tuple[str, str, int], tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]] = {}
        self.seconds = 0.0

    def features(self, name: SplitName, rows: Ints, view: int = 0) -> npt.NDArray[np.float32]:
        """Return image features of some rows of a split, shape (n, D), not normalised; encoded once and cached."""
        split = self._federation.split(name)
        if isinstance(split, FeatureSplit):
            return np.array(split.features[rows])
        return np.array(self._cached(image_features, name, rows, view)[rows])

    def pixels(self, name: SplitName, rows: Ints, view: int = 0) -> StoredRows:
        """Return preprocessed images of some rows of a split; made once and cached."""
        return StoredRows(self._cached(image_pixels, name, rows, view), rows)

    def patches(self, name: SplitName, rows: Ints, view: int = 0) -> StoredRows:
        """Return features of the patches of some rows of a split; encoded once, cached, and read batch by batch."""
        return StoredRows(self._cached(image_patches, name, rows, view), rows)

    def labels(self, name: SplitName, rows: Ints) -> torch.Tensor:
        """Return the classes of some rows of a split, on the device."""
        return torch.from_numpy(self._federation.split(name).labels[rows]).to(self._kit.device)

    def to_encode(self) -> dict[SplitName, int]:
        """Count the images of each split that the federation uses and that were not encoded, as is needed, before."""
        config, found = self._kit.config, dict[SplitName, int]()
        kinds: tuple[Takes, ...] = ("features", "patches") if self._kit.takes == "patches" else ("features",)
        of_train = range(1, 1 + config.views) if config.augment == "views" else range(int(config.augment == "none"))
        views: dict[SplitName, range] = {"train": of_train, "test": range(1)}
        for name, wanted in views.items():
            split = self._federation.split(name)
            if not isinstance(split, FeatureSplit) and len(split.labels) and self._kit.backbone is not None:
                where, used = (split, self._kit.backbone, self._cache), self._federation.used(name)
                found[name] = sum(max(count_missing(kind, *where, view, used) for kind in kinds) for view in wanted)
        return found

    def data(self, name: SplitName, rows: Ints, takes: Takes, view: int = 0) -> LocalData:
        """Return some rows of a split, on the device.

        Parameters
        ----------
        name : {"train", "test"}
        rows : ndarray of int64
        takes : {"features", "pixels", "patches"}
            What the module that they are for is given.
        view : int
            0 for CLIP's own evaluation transform, k > 0 for the k-th random view.
        """
        config, host = self._kit.config, self._kit.host
        features = torch.from_numpy(self.features(name, rows, view)).to(self._kit.device)
        if features.shape[1] != host.zero_shot_text.shape[1]:
            raise DataError(
                f"{config.dataset_path} has features of {features.shape[1]} numbers; {config.backbone} makes "
                f"{host.zero_shot_text.shape[1]}."
            )
        inputs: torch.Tensor | StoredRows = features
        if takes != "features":
            inputs = (self.pixels if takes == "pixels" else self.patches)(name, rows, view)
        return LocalData(inputs, self.labels(name, rows), host.zero_shot_logits(features))

    def training_data(self, rows: Ints, takes: Takes) -> TrainingData:
        """Return some rows of the training split, augmented as the settings say."""
        config, split = self._kit.config, self._federation.split("train")
        if config.augment == "none" or isinstance(split, FeatureSplit):
            return self.data("train", rows, takes)
        if config.augment == "views":
            return ManyViews(tuple(self.data("train", rows, takes, 1 + view) for view in range(config.views)))
        labels = self.labels("train", rows)
        return FreshCrops(split.images, rows, labels, self._kit.images_backbone, takes, self._kit.host.zero_shot_logits)

    def _cached(
        self, make: Callable[..., npt.NDArray[Any]], name: SplitName, rows: Ints, view: int
    ) -> npt.NDArray[Any]:
        split = self._federation.split(name)
        key = (make.__name__, split.fingerprint, view)
        found, there = self._arrays.get(key, (None, np.zeros(len(split.labels), bool)))
        if found is None or not there[rows].all():
            started = time.monotonic()
            # Where training takes other views, the plain one is of the validation part alone.
            whole = self._together and (name == "test" or view > 0 or self._kit.config.augment == "none")
            wanted = np.union1d(self._federation.used(name), rows) if whole else rows
            found = make(split, self._kit.images_backbone, self._cache, view, wanted)
            there[wanted] = True
            self._arrays[key] = found, there
            self.seconds += time.monotonic() - started
        return found
