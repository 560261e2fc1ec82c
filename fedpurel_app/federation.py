"""Whose data: the data set, its long tail, the groups of its classes, and how it is dealt out to sites."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fedpurel_app.algorithms.registry import METHODS
from fedpurel_app.config import RunConfig
from fedpurel_app.core.errors import ConfigError, DataError
from fedpurel_app.core.metrics import group_by_counts, group_by_terciles
from fedpurel_app.core.names import site_name
from fedpurel_app.core.seeding import derive_seed
from fedpurel_app.data.dealing import longtail, partition
from fedpurel_app.data.dealing.pachinko import pachinko
from fedpurel_app.data.dealing.partition import Partition, SplitName
from fedpurel_app.data.sources.catalog import DATASETS, load_source
from fedpurel_app.data.sources.feature_file import read_texts
from fedpurel_app.data.sources.manifest import form_of
from fedpurel_app.data.sources.novel import split_novel
from fedpurel_app.data.sources.own import load_own
from fedpurel_app.data.sources.source import FeatureSplit, Source, Split
from fedpurel_app.data.sources.subsets import hold_out, identities
from fedpurel_app.models.peft.registry import FAMILIES

Ints = npt.NDArray[np.int64]


class Federation:
    """The data that settings determine, made when first asked for; a function of the settings alone.

    Parameters
    ----------
    config : RunConfig
    own : bool
        ``dataset-path`` is a site's own data, and not a data set that is dealt out.
    source : Source, optional
        Takes the place of the data set that the settings name, as where only its classes are at hand.
    site : str
        Whose data ``dataset-path`` holds, where it is a site's own; empty = nobody's name.
    """

    def __init__(self, config: RunConfig, own: bool = False, source: Source | None = None, site: str = "") -> None:
        self.config, self._given, self._site = config, source, site
        self.own = own or config.dataset == "sites"

    @cached_property
    def source(self) -> Source:
        """The data set."""
        source = self._given or self._parts[0]
        if self.config.partition == "pachinko" and source.superclass is None:
            raise ConfigError(f'partition = "pachinko" needs superclasses; {source.name} has none: use "dirichlet".')
        return source

    @property
    def novel(self) -> Source | None:
        """The classes that are kept out, with their test images; None where the settings name none."""
        return None if self._given else self._parts[1]

    @cached_property
    def _parts(self) -> tuple[Source, Source | None]:
        whole, names = self._load(), self.config.novel_names
        return split_novel(whole, names) if names else (whole, None)

    def _load(self) -> Source:
        config, family = self.config, FAMILIES[self.config.peft]
        if config.dataset != "sites":
            source = load_source(config.model_dump(by_alias=True))
            if config.class_names and config.class_names != source.class_names:
                raise DataError(
                    f"{config.dataset_path} has other classes than the run, or another order of them: in the run "
                    f"{', '.join(config.class_names[:10])}..., here {', '.join(source.class_names[:10])}..."
                )
            return source
        form = form_of(config.model_dump(by_alias=True))
        source = load_own(config.dataset_path, config.class_names, form.seed, form, self._site)
        if family.needs == "image tower" and len(source.train.labels) and isinstance(source.train, FeatureSplit):
            raise DataError(f'peft = "{family.name}" works inside the image tower: bring images, not features.')
        as_features = {**config.model_dump(by_alias=True), "dataset": "features"}
        if isinstance(source.train, FeatureSplit) and (why := METHODS[config.algorithm].unfit(as_features)):
            raise DataError(f'algorithm = "{config.algorithm}" cannot be used with {source.name}: {why}.')
        has_features = len(source.train.labels) > 0 and isinstance(source.train, FeatureSplit)  # a server may have none
        if has_features and family.needs != family.needs_of(
            as_features
        ):  # its tower is elsewhere, and so is the text's
            source = replace(source, classifier=read_texts(Path(config.dataset_path), config.class_names))
        return source

    def split(self, name: SplitName) -> Split:
        """Return the training or the test split of the data set."""
        return self.source.train if name == "train" else self.source.test

    def used(self, name: SplitName) -> Ints:
        """Rows of a split that the federation uses."""
        return self.train_rows if name == "train" else np.arange(len(self.source.test.labels))

    @cached_property
    def train_rows(self) -> Ints:
        """Rows of the training split that the federation has in all, for training and validation."""
        if self.own:
            return np.arange(len(self.source.train.labels))
        return longtail.select(self.source.train.labels, self.train_counts, self._generator("long tail"))

    @cached_property
    def train_counts(self) -> Ints:
        """Number of training images of each class, shape (C,).

        Of all sites, and what they keep for validation is counted, so that groups of classes do not depend on it; or of
        the one site that has data of its own, without that.
        """
        return self._count(self.partition(1).train[0]) if self.own else longtail.profile(self._available, *self._tail)

    @cached_property
    def _available(self) -> Ints:
        """Number of training images there are of each class, shape (C,)."""
        return self._count(slice(None))

    def _count(self, rows: Ints | slice) -> Ints:
        return np.bincount(self.source.train.labels[rows], minlength=len(self.source.class_names))

    @property
    def _tail(self) -> tuple[float, int, Ints, bool, int]:
        """Arguments of the long-tail profile; a table of images is used as it is."""
        config = self.config
        if config.dataset == "manifest":
            return 1.0, 0, self._rank, False, 0
        return config.imbalance_factor, config.max_per_class, self._rank, config.keep_empty_classes, config.shots

    @cached_property
    def _rank(self) -> Ints:
        """Rank of each class, 0 = head."""
        classes = len(self.source.class_names)
        shuffled = self.config.class_order == "shuffled"
        return self._generator("class order").permutation(classes) if shuffled else np.arange(classes)

    @cached_property
    def short_classes(self) -> int:
        """Number of classes with fewer images than the settings ask for; they give all they have."""
        return 0 if self.own else int((self._available < longtail.quota(self._available, *self._tail)).sum())

    def group(self, counts: Ints) -> dict[str, Ints]:
        """Classes of "many", "medium" and "few" by their numbers of training images."""
        how = self.config.group_by
        if how == "auto":
            how = "counts" if self.own else DATASETS[self.config.dataset].group_by
        return (group_by_counts if how == "counts" else group_by_terciles)(counts)

    @cached_property
    def groups(self) -> dict[str, Ints] | None:
        """Classes of "many", "medium" and "few" in all; None to a site with data of its own, which knows no others'."""
        return None if self.own else self.group(self.train_counts)

    @property
    def site_names(self) -> tuple[str, ...]:
        """Names of the sites that the data are dealt out to, where the data set itself says it; else none."""
        if self.own or self.config.partition != "natural" or self.source.centres is None:
            return ()
        return self.source.centres.names

    def name_of(self, index: int, sites: int) -> str:
        """Return what one of some sites is called: as the data name it, else by its number."""
        return self.site_names[index] if index < len(self.site_names) else site_name(index, sites)

    @lru_cache(maxsize=2)  # noqa: B019  # one federation lives as long as its process
    def partition(self, sites: int) -> Partition:
        """Deal the data out to a number of sites, each of which keeps some of its training images for validation."""
        whole, share = self._dealt(sites), self.config.validation_share
        if not share:
            return whole
        labels, names = self.source.train.labels, identities(self.source.train)
        seed = derive_seed(self.config.seed, "validation")
        parts = [
            [rows[part] for part in hold_out(labels[rows], [names[row] for row in rows], seed, self._validated)]
            for rows in whole.train
        ]
        train, validation = (tuple(part) for part in zip(*parts, strict=True))
        return Partition(train, whole.test, validation)

    def _validated(self, count: int) -> int:
        return partition.validation_images(count, self.config.validation_share)

    def _dealt(self, sites: int) -> Partition:
        labels = self.source.train.labels
        train = (self.train_rows, labels[self.train_rows])
        test = (np.arange(len(self.source.test.labels)), self.source.test.labels)
        if self.own:
            return Partition((self.train_rows,), (test[0],))
        rng, alpha = self._generator("partition"), self.config.alpha
        if self.config.partition == "natural" and self.source.centres is not None:
            centres = self.source.centres
            return partition.natural(centres.train, centres.test, centres.names, sites)
        if self.config.partition == "iid":
            return partition.iid(train, test, sites, rng)
        if self.config.partition == "pachinko" and self.source.superclass is not None:
            return pachinko(train, test, sites, alpha, self.source.superclass, rng)
        return partition.dirichlet(train, test, sites, alpha, rng, self.config.local_test == "uniform")

    def _generator(self, purpose: str) -> np.random.Generator:
        return np.random.default_rng(derive_seed(self.config.seed, purpose))
