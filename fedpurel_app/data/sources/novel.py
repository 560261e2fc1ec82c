"""Classes that are kept out of training, to be scored as new ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from fedpurel_app.core.errors import DataError
from fedpurel_app.core.names import listed, plain_name
from fedpurel_app.data.sources.source import NO_ROWS, FeatureSplit, Ints, Source, Split, TextClassifier
from fedpurel_app.data.sources.subsets import Rows, content_of


def split_novel(source: Source, novel: Sequence[str]) -> tuple[Source, Source]:
    """Part a data set by classes.

    Parameters
    ----------
    source : Source
    novel : sequence of str
        Names of the classes that are not trained on; case, and underscores for spaces, do not matter.

    Returns
    -------
    (Source, Source)
        The base classes with all that belongs to them, and the novel ones with their test images alone, each in the
        order of the data set and with labels from 0.

    Raises
    ------
    DataError
        When a name is unknown, there is only one novel class, or fewer than two others are left.
    """
    plain = [plain_name(name) for name in source.class_names]
    if unknown := [name for name in novel if plain_name(name) not in plain]:
        raise DataError(
            f"novel-classes: {source.name} has no {listed(unknown, 6)}; its classes are "
            f"{listed(source.class_names, 10)}."
        )
    wanted = {plain_name(name) for name in novel}  # published names may be equal, as two of ImageNet's: then both
    out = np.array([label for label, name in enumerate(plain) if name in wanted], np.int64)
    base = np.setdiff1d(np.arange(len(source.class_names)), out)
    if len(out) < 2 or len(base) < 2:
        raise DataError(
            f"novel-classes names {len(out)} of {len(source.class_names)} classes: two of them at least are told "
            "apart, and two others are trained on."
        )
    kept = _of(source, base)
    train, test = (np.flatnonzero(np.isin(split.labels, base)) for split in (source.train, source.test))
    held = None if source.validation is None else np.flatnonzero(np.isin(source.validation.labels, base))
    centres = source.centres
    if centres is not None:
        validation = centres.validation if held is None else centres.validation[held]
        centres = replace(centres, train=centres.train[train], validation=validation, test=centres.test[test])
    note = f"{len(out)} of {len(source.class_names)} classes are novel, and are not trained on: novel-classes"
    kept = replace(
        kept,
        train=_rows(source.train, train, base),
        test=_rows(source.test, test, base),
        validation=None if source.validation is None or held is None else _rows(source.validation, held, base),
        centres=centres,
        notes=(*source.notes, note),
    )
    rows = np.flatnonzero(np.isin(source.test.labels, out))
    return kept, replace(_of(source, out), train=NO_ROWS, test=_rows(source.test, rows, out))


def _of(source: Source, labels: Ints) -> Source:
    """Return some classes of a data set, without its images."""
    superclass = source.superclass
    if superclass is not None:
        superclass = tuple(np.unique([superclass[label] for label in labels], return_inverse=True)[1].tolist())
    classifier = source.classifier
    if classifier is not None:
        classifier = TextClassifier(classifier.text_features[labels], classifier.logit_scale)
    names = tuple(source.class_names[label] for label in labels)
    return replace(
        source, class_names=names, superclass=superclass, classifier=classifier, centres=None, validation=None
    )


def _rows(split: Split, rows: Ints, labels: Ints) -> Split:
    """Return some rows of a split, whose labels are places among some classes."""
    own = np.searchsorted(labels, split.labels[rows])
    if isinstance(split, FeatureSplit):
        return FeatureSplit(split.features[rows], own, content_of(split, rows, own))
    return Rows(split, rows, own)
