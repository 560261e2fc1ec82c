"""Data sets that exist as precomputed features of images and class texts."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from fedpurel_app.data.source import PLAIN_TEMPLATE, FeatureSplit, Floats, Source, TextClassifier
from fedpurel_app.errors import DataError


def load_features(path: str, max_per_class: int) -> Source:
    """Load precomputed features of both splits and of the class texts.

    Parameters
    ----------
    path : str
        An ``.npz`` with ``train_features`` (N, D), ``train_labels`` (N,), ``test_features`` (M, D), ``test_labels``
        (M,), ``text_features`` (C, D), ``class_names`` (C,) and ``logit_scale`` (). Features of any floating type,
        normalised or not.
    max_per_class : int
        Unused: the long-tail profile caps classes.

    Raises
    ------
    DataError
        Naming everything that is wrong with the file.
    """
    if not path:
        raise DataError('dataset = "features" needs dataset-path: an .npz file of precomputed features.')
    if not Path(path).is_file():
        raise DataError(f'dataset-path = "{path}": no such file. It should be an .npz file of precomputed features.')
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (ValueError, OSError, EOFError, TypeError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f'dataset-path = "{path}": not a readable .npz file without pickles ({error}).') from error
    problems = _check_features(arrays)
    if problems:
        raise DataError("\n".join([f"{path}: {len(problems)} problem(s):", *(f"  - {line}" for line in problems)]))
    with Path(path).open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    train, test = (
        FeatureSplit(_floats(arrays[f"{name}_features"]), arrays[f"{name}_labels"].astype(np.int64), f"{digest}-{name}")
        for name in ("train", "test")
    )
    classifier = TextClassifier(_floats(arrays["text_features"]), float(arrays["logit_scale"]))
    names = tuple(str(name) for name in arrays["class_names"])
    return Source("features", names, PLAIN_TEMPLATE, train, test, classifier=classifier)


def _floats(values: Any) -> Floats:
    with np.errstate(over="ignore"):  # what fp32 cannot hold becomes Inf, and is reported
        return np.ascontiguousarray(values, dtype=np.float32)


def _check_features(arrays: dict[str, Any]) -> list[str]:
    """List everything that is wrong with the arrays of a feature file."""
    names = ("train_features", "train_labels", "test_features", "test_labels", "text_features", "class_names")
    missing = [name for name in (*names, "logit_scale") if name not in arrays]
    if missing:
        return [f"missing: {', '.join(missing)}; a feature file has {', '.join(names)} and logit_scale"]
    problems = []
    for name in ("train_features", "test_features", "text_features"):
        values = arrays[name]
        if values.ndim != 2 or not len(values) or not np.issubdtype(values.dtype, np.floating):
            problems.append(f"{name}: shape {values.shape} of {values.dtype}; expected (rows, D) of floats")
        elif not np.isfinite(_floats(values)).all():
            problems.append(f"{name}: {int((~np.isfinite(_floats(values))).any(1).sum())} rows hold NaN or Inf in fp32")
        elif (np.abs(values.astype(np.float32)).max(1) == 0).any():
            problems.append(f"{name}: holds rows of zeros, which have no direction")
    widths = {
        name: arrays[name].shape[-1] if arrays[name].ndim else 0
        for name in ("train_features", "test_features", "text_features")
    }
    if len(set(widths.values())) > 1:
        problems.append(f"features differ in width: {widths}")
    classes = len(arrays["text_features"]) if arrays["text_features"].ndim else 0
    if arrays["class_names"].shape != (classes,) or arrays["class_names"].dtype.kind != "U":
        problems.append(
            f"class_names: shape {arrays['class_names'].shape}; expected {classes} strings, as text_features"
        )
    for split in ("train", "test"):
        labels = arrays[f"{split}_labels"]
        if labels.shape != arrays[f"{split}_features"].shape[:1] or not np.issubdtype(labels.dtype, np.integer):
            problems.append(
                f"{split}_labels: shape {labels.shape} of {labels.dtype}; expected one whole number per row"
            )
        elif len(labels) and (labels.min() < 0 or labels.max() >= classes):
            problems.append(f"{split}_labels: range {labels.min()}..{labels.max()}; expected 0..{classes - 1}")
    scale = arrays["logit_scale"]
    if scale.shape != () or scale.dtype.kind not in "fiu" or not np.isfinite(scale) or scale <= 0:
        problems.append("logit_scale: expected one positive number (100 for OpenAI's CLIP)")
    return problems
