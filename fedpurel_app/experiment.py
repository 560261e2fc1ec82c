"""Put the parts together: from settings to data, frozen model, features and modules. Used by both apps."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from fedpurel_app.algorithms.base import Algorithm, Facts
from fedpurel_app.algorithms.fedsa_lora import SHARES
from fedpurel_app.algorithms.registry import METHODS
from fedpurel_app.config import RunConfig
from fedpurel_app.core.errors import ConfigError, DataError
from fedpurel_app.core.metrics import group_by_counts, group_by_terciles
from fedpurel_app.core.phase import Phase
from fedpurel_app.core.seeding import derive_seed
from fedpurel_app.data.dealing import longtail, partition
from fedpurel_app.data.sources.catalog import DATASETS
from fedpurel_app.data.sources.own import load_own
from fedpurel_app.data.sources.source import FeatureSplit, Source, Split
from fedpurel_app.models.backbone import Backbone, load_backbone
from fedpurel_app.models.peft.base import Host, PeftModule, Role, load_parameters, parameters_of, to_tensors
from fedpurel_app.models.peft.registry import FAMILIES
from fedpurel_app.training.feature_store import count_missing, image_features, image_pixels, text_features
from fedpurel_app.training.inputs import FreshCrops, LocalData, ManyViews, Pixels, TrainingData
from fedpurel_app.training.local import SgdSettings

Ints = npt.NDArray[np.int64]
Arrays = Mapping[str, npt.NDArray[Any]]
Named = dict[str, npt.NDArray[np.float32]]
SplitName = Literal["train", "test"]


class Experiment:
    """Everything that settings determine, made when first asked for.

    Parameters
    ----------
    config : RunConfig
    cache : Path
        Folder of the feature cache.
    own : bool
        ``dataset-path`` is a site's own data, and not a data set that is dealt out.
    source : Source, optional
        Takes the place of the data set that the settings name, as where only its classes are at hand.
    together : bool
        All sites of the federation use this cache, so that whoever first asks for images has those of all encoded;
        otherwise only what is asked for.

    Notes
    -----
    All of it is a function of the settings: any process that makes it from the same settings gets the same data, the
    same sites and the same initial parameters. Nothing private is held here.
    """

    def __init__(
        self,
        config: RunConfig,
        cache: Path,
        own: bool = False,
        source: Source | None = None,
        together: bool = True,
    ) -> None:
        self._given = source
        self.config, self._cache, self._own = config, cache, own or config.dataset == "sites"
        self.settings = config.model_dump(by_alias=True)
        self.method, self.family = METHODS[config.algorithm], FAMILIES[config.peft]
        self.options = self.method.chosen(self.settings)
        self._together = together
        self._arrays: dict[tuple[str, str, int], tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]] = {}
        self.feature_seconds = 0.0  # spent so far on encoding images, or waiting for another process to do it

    @cached_property
    def algorithm(self) -> Algorithm:
        """The method, with the sharing that the settings name."""
        return SHARES[self.settings["shares"]](self.method.load())

    @cached_property
    def device(self) -> torch.device:
        """Where the models run."""
        wanted = self.config.device
        if wanted == "cuda" and not torch.cuda.is_available():
            raise ConfigError(
                'device = "cuda", but this process sees no GPU. In a simulation give the sites one: '
                '--federation-config \'client-resources-num-gpus=0.25\'; otherwise use device = "auto" or "cpu".'
            )
        return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")

    @cached_property
    def source(self) -> Source:
        """The data set."""
        source = self._given or self._load()
        if self.config.partition == "pachinko" and source.superclass is None:
            raise ConfigError(f'partition = "pachinko" needs superclasses; {source.name} has none: use "dirichlet".')
        return source

    def _load(self) -> Source:
        config = self.config
        if config.dataset != "sites":
            source = DATASETS[config.dataset].load(config.dataset_path, config.max_per_class)
            if config.class_names and config.class_names != source.class_names:
                raise DataError(
                    f"{config.dataset_path} has other classes than the run, or another order of them: in the run "
                    f"{', '.join(config.class_names[:10])}..., here {', '.join(source.class_names[:10])}..."
                )
            return source
        source = load_own(config.dataset_path, config.class_names, derive_seed(config.seed, "hold out"))
        if self.family.needs == "image tower" and len(source.train.labels) and isinstance(source.train, FeatureSplit):
            raise DataError(f'peft = "{self.family.name}" works inside the image tower: bring images, not features.')
        return source

    @cached_property
    def backbone(self) -> Backbone | None:
        """The frozen CLIP; None for precomputed features."""
        config = self.config
        if config.dataset == "features":  # its source has a classifier; known without loading it
            return None
        statistics = config.image_statistics
        return load_backbone(config.backbone, self.device, config.pretrained, config.precision, statistics)

    @cached_property
    def host(self) -> Host:
        """What modules are attached to."""
        names, classifier = self.source.class_names, self.source.classifier
        if classifier is not None:
            text = torch.nn.functional.normalize(torch.from_numpy(classifier.text_features), dim=-1)
            return Host(text.to(self.device), classifier.logit_scale, names, None)
        backbone = self._images_backbone
        template = self.source.template if self.config.template == "auto" else self.config.template
        prompts = tuple(template.replace("{}", name.replace("_", " ")) for name in names)
        text = text_features(prompts, backbone, self._cache).to(self.device)
        return Host(text, backbone.logit_scale, names, backbone, prompts)

    @cached_property
    def train_rows(self) -> Ints:
        """Rows of the training split that the long-tailed federation has in all."""
        return longtail.select(self.source.train.labels, self.train_counts, self._generator("long tail"))

    @cached_property
    def train_counts(self) -> Ints:
        """Number of training images of each class, shape (C,): of all sites, or of the one that has data of its own."""
        if self._own:
            return self._available
        return longtail.profile(self._available, *self._tail)

    @cached_property
    def _available(self) -> Ints:
        """Number of training images there are of each class, shape (C,)."""
        return np.bincount(self.source.train.labels, minlength=len(self.source.class_names))

    @property
    def _tail(self) -> tuple[float, int, Ints, bool]:
        """Arguments of the long-tail profile."""
        config = self.config
        return config.imbalance_factor, config.max_per_class, self._rank, config.keep_empty_classes

    @cached_property
    def _rank(self) -> Ints:
        """Rank of each class, 0 = head."""
        classes = len(self.source.class_names)
        shuffled = self.config.class_order == "shuffled"
        return self._generator("class order").permutation(classes) if shuffled else np.arange(classes)

    @cached_property
    def short_classes(self) -> int:
        """Number of classes with fewer images than the long-tail profile asks for; they give all they have."""
        if self._own:
            return 0
        return int((self._available < longtail.quota(self._available, *self._tail)).sum())

    def group(self, counts: Ints) -> dict[str, Ints]:
        """Classes of "many", "medium" and "few" by their numbers of training images."""
        how = self.config.group_by
        if how == "auto":
            how = "counts" if self._own else DATASETS[self.config.dataset].group_by
        return (group_by_counts if how == "counts" else group_by_terciles)(counts)

    @lru_cache(maxsize=2)  # noqa: B019  # one experiment lives as long as its process
    def partition(self, sites: int) -> partition.Partition:
        """Deal the data out to a number of sites."""
        labels = self.source.train.labels
        train = (self.train_rows, labels[self.train_rows])
        test = (np.arange(len(self.source.test.labels)), self.source.test.labels)
        if self._own:
            return partition.Partition((self.train_rows,), (test[0],))
        rng, alpha = self._generator("partition"), self.config.alpha
        if self.config.partition == "iid":
            return partition.iid(train, test, sites, rng)
        if self.config.partition == "pachinko" and self.source.superclass is not None:
            return partition.pachinko(train, test, sites, alpha, self.source.superclass, rng)
        return partition.dirichlet(train, test, sites, alpha, rng, self.config.local_test == "uniform")

    def features(self, name: SplitName, rows: Ints, view: int = 0) -> npt.NDArray[np.float32]:
        """Return image features of some rows of a split, shape (n, D), not normalised; encoded once and cached."""
        split = self._split(name)
        if isinstance(split, FeatureSplit):
            return np.array(split.features[rows])
        return np.array(self._cached(image_features, name, rows, view)[rows])

    def pixels(self, name: SplitName, rows: Ints, view: int = 0) -> Pixels:
        """Return preprocessed images of some rows of a split; made once and cached."""
        return Pixels(self._cached(image_pixels, name, rows, view), rows)

    def to_encode(self) -> dict[SplitName, int]:
        """Count the images of each split that the federation uses and that were not encoded on this machine before."""
        augment, found = self.config.augment, dict[SplitName, int]()
        of_train = range(1, 1 + self.config.views) if augment == "views" else range(int(augment == "none"))
        views: dict[SplitName, range] = {"train": of_train, "test": range(1)}
        for name, wanted in views.items():
            split = self._split(name)
            if self.backbone is not None and not isinstance(split, FeatureSplit) and len(split.labels):
                where = (split, self.backbone, self._cache)
                found[name] = sum(count_missing("features", *where, view, self.used(name)) for view in wanted)
        return found

    def used(self, name: SplitName) -> Ints:
        """Rows of a split that the federation uses."""
        return self.train_rows if name == "train" else np.arange(len(self.source.test.labels))

    def data(self, name: SplitName, rows: Ints, pixels: bool, view: int = 0) -> LocalData:
        """Return some rows of a split, on the device.

        Parameters
        ----------
        name : {"train", "test"}
        rows : ndarray of int64
        pixels : bool
            For a module that works inside the image tower.
        view : int
            0 for CLIP's own evaluation transform, k > 0 for the k-th random view.
        """
        features = torch.from_numpy(self.features(name, rows, view)).to(self.device)
        if features.shape[1] != self.host.zero_shot_text.shape[1]:
            raise DataError(
                f"{self.config.dataset_path} has features of {features.shape[1]} numbers; {self.config.backbone} makes "
                f"{self.host.zero_shot_text.shape[1]}."
            )
        inputs = self.pixels(name, rows, view) if pixels else features
        return LocalData(inputs, self.labels(name, rows), self.host.zero_shot_logits(features))

    def training_data(self, rows: Ints, pixels: bool) -> TrainingData:
        """Return some rows of the training split, augmented as the settings say."""
        augment, split = self.config.augment, self.source.train
        if augment == "none" or isinstance(split, FeatureSplit):
            return self.data("train", rows, pixels)
        if augment == "views":
            return ManyViews(tuple(self.data("train", rows, pixels, 1 + view) for view in range(self.config.views)))
        labels = self.labels("train", rows)
        return FreshCrops(split.images, rows, labels, self._images_backbone, pixels, self.host.zero_shot_logits)

    def labels(self, name: SplitName, rows: Ints) -> torch.Tensor:
        """Return the classes of some rows of a split, on the device."""
        return torch.from_numpy(self._split(name).labels[rows]).to(self.device)

    @property
    def _images_backbone(self) -> Backbone:
        if self.backbone is None:
            raise DataError(f"{self.source.name} holds no images")
        return self.backbone

    def _cached(
        self, make: Callable[..., npt.NDArray[Any]], name: SplitName, rows: Ints, view: int
    ) -> npt.NDArray[Any]:
        split = self._split(name)
        key = (make.__name__, split.fingerprint, view)
        found, there = self._arrays.get(key, (None, np.zeros(len(split.labels), bool)))
        if found is None or not there[rows].all():
            started = time.monotonic()
            wanted = np.union1d(self.used(name), rows) if self._together else rows
            found = make(split, self._images_backbone, self._cache, view, wanted)
            there[wanted] = True
            self._arrays[key] = found, there
            self.feature_seconds += time.monotonic() - started
        return found

    def new_module(self, role: Role) -> PeftModule:
        """Make a freshly initialised module of the family; all processes make the same one."""
        generator = torch.Generator().manual_seed(derive_seed(self.config.seed, "initial parameters", role))
        return self.family.build(self.host, role, self.settings, generator)

    def new_shared(self) -> PeftModule:
        """Make the module of global rounds, freshly initialised."""
        return self.algorithm.compose(self.new_module, self.options)

    def shared_module(self, arrays: Arrays, kept: Arrays | None = None) -> PeftModule:
        """Make the module of global rounds of given parameters.

        Parameters
        ----------
        arrays : mapping of str to ndarray
            Those that are sent, all of them.
        kept : mapping of str to ndarray, optional
            Of the others, what a site has kept; what is missing is as it was at first.

        Raises
        ------
        ValueError
            When they do not fit the module.
        """
        module = self.new_shared()
        sent = self.algorithm.sent(module, self.options)
        own = {name: value for name, value in parameters_of(module).items() if name not in sent}
        # What a site kept fills the gaps of what is not sent, and no other: else a message that lacks a parameter that
        # is sent would be answered with the site's own.
        own |= {name: value for name, value in to_tensors(kept or {}).items() if name in own}
        load_parameters(module, own | to_tensors(arrays))
        return module

    def split(self, module: PeftModule) -> tuple[Named, Named]:
        """Return the arrays of a shared module that are sent, and those that its site keeps."""
        sent = self.algorithm.sent(module, self.options)
        arrays = {name: value.cpu().numpy() for name, value in parameters_of(module).items()}
        return (
            {name: value for name, value in arrays.items() if name in sent},
            {name: value for name, value in arrays.items() if name not in sent},
        )

    def facts(self, labels: torch.Tensor | None = None) -> Facts:
        """Return what the method may know: with a site's labels, shape (N,), its own counts, too."""
        classes = len(self.source.class_names)
        counts = None if labels is None else torch.bincount(labels, minlength=classes)
        prior = None if self._own else torch.from_numpy(self.train_counts).to(self.device)
        return Facts(counts, prior, self.host.zero_shot_text)

    def bias(self, facts: Facts) -> torch.Tensor | None:
        """Return what the method adds to logits in predictions, shape (C,); None where it adds nothing."""
        return None if self.algorithm.bias is None else self.algorithm.bias(facts, self.options)

    def _split(self, name: SplitName) -> Split:
        return self.source.train if name == "train" else self.source.test

    def sgd(self, phase: Phase) -> SgdSettings:
        """Return the optimiser's settings, with "auto" resolved."""
        config, family = self.config, self.family
        if phase is Phase.PERSONAL:  # plain SGD, as the reference does
            rate = (
                family.private_learning_rate if config.private_learning_rate == "auto" else config.private_learning_rate
            )
            return SgdSettings(rate, 0.0, 0.0, config.batch_size, config.local_epochs)
        rate = family.learning_rate if config.learning_rate == "auto" else config.learning_rate
        return SgdSettings(rate, config.momentum, config.weight_decay, config.batch_size, config.local_epochs)

    def _generator(self, purpose: str) -> np.random.Generator:
        return np.random.default_rng(derive_seed(self.config.seed, purpose))
