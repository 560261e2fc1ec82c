"""What a run knows of its classes, kept in its folder: so that its model can be used where its data are not."""

from __future__ import annotations

from typing import Any

import numpy as np

from fedpurel_app.core.errors import DataError, StateError
from fedpurel_app.core.files import write_atomically
from fedpurel_app.core.tensor_file import dump, read
from fedpurel_app.data.sources.class_names import usable_names
from fedpurel_app.data.sources.source import NO_ROWS, Source, TextClassifier
from fedpurel_app.reporting.run_folder import RunFolder

CLASSES, TEXTS = "classes.json", "text-features.safetensors"


def keep_classes(folder: RunFolder, source: Source) -> None:
    """Write ``classes.json``, and for precomputed features ``text-features.safetensors``, into a run's folder."""
    facts: dict[str, Any] = {"data_set": source.name, "class_names": source.class_names, "template": source.template}
    if (classifier := source.classifier) is not None:
        arrays = {"text_features": classifier.text_features, "logit_scale": np.array(classifier.logit_scale)}
        write_atomically(folder.path / TEXTS, dump(arrays, {}))
    folder.write_json(CLASSES, {**facts, "has_text_features": classifier is not None, "notes": source.notes})


def kept_classes(folder: RunFolder) -> Source | None:
    """Read what :func:`keep_classes` wrote, as a data set without rows; None where an older run wrote none.

    Raises
    ------
    StateError
        When a file is damaged, or holds something else.
    """
    path = folder.path / CLASSES
    if not path.exists():
        return None
    facts = folder.read_json(CLASSES)
    name, names, template = (facts.get(key) for key in ("data_set", "class_names", "template"))
    well_formed = isinstance(name, str) and isinstance(template, str) and "{}" in template
    if not (well_formed and isinstance(names, list) and names and all(isinstance(one, str) for one in names)):
        raise StateError(f"{path} is damaged: it should hold data_set, class_names and template.")
    try:
        # Published names may be equal, as two of ImageNet's: they were good enough to be trained on.
        whole = tuple(names) if len(set(names)) < len(names) else usable_names(names, str(path))
    except DataError as error:
        raise StateError(str(error)) from error
    classifier = _texts(folder, len(whole)) if facts.get("has_text_features") else None
    return Source(str(name), whole, str(template), NO_ROWS, NO_ROWS, classifier=classifier)


def _texts(folder: RunFolder, classes: int) -> TextClassifier:
    path = folder.path / TEXTS
    arrays, _ = read(path)
    texts, scale = arrays.get("text_features"), arrays.get("logit_scale")
    fits = texts is not None and texts.dtype == np.float32 and texts.ndim == 2 and len(texts) == classes
    if texts is None or scale is None or not fits or scale.shape != () or not np.isfinite(texts).all():
        raise StateError(f"{path} is damaged: it should hold text_features of {classes} classes, and logit_scale.")
    return TextClassifier(texts, float(scale))
