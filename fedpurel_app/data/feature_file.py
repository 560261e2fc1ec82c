"""Data sets that exist as precomputed features of images and class texts."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

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
    parts, names, arrays = _read(Path(path), "dataset-path", ("train", "test"), texts=True)
    classifier = TextClassifier(_floats(arrays["text_features"]), float(arrays["logit_scale"]))
    return Source("features", tuple(names), PLAIN_TEMPLATE, parts["train"], parts["test"], classifier=classifier)


def read_features(path: Path) -> tuple[dict[str, FeatureSplit], list[str]]:
    """Read image features that go with a CLIP named elsewhere.

    Parameters
    ----------
    path : Path
        An ``.npz`` with ``train_features`` (N, D), ``train_labels`` (N,) and ``class_names``; also, or not,
        ``test_features`` and ``test_labels``. Features of texts, where there are any, are not used.

    Returns
    -------
    dict of str to FeatureSplit
        "train", and "test" where it is there.
    list of str
        What the labels stand for.

    Raises
    ------
    DataError
        Naming everything that is wrong with the file.
    """
    parts, names, _ = _read(path, "data", ("train",), texts=False)
    return parts, names


def _read(
    path: Path, key: str, needed: tuple[str, ...], texts: bool
) -> tuple[dict[str, FeatureSplit], list[str], dict[str, npt.NDArray[Any]]]:
    """Read and check a file; give its parts, those needed at least, its class names and all its arrays."""
    if not path.is_file():
        raise DataError(f'{key} = "{path}": no such file. It should be an .npz file of precomputed features.')
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (ValueError, OSError, EOFError, TypeError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f'{key} = "{path}": not a readable .npz file without pickles ({error}).') from error
    there = [part for part in ("train", "test") if part in needed or f"{part}_features" in arrays]
    problems = _check_features(arrays, there, texts)
    if problems:
        raise DataError("\n".join([f"{path}: {len(problems)} problem(s):", *(f"  - {line}" for line in problems)]))
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    parts = {
        part: FeatureSplit(
            _floats(arrays[f"{part}_features"]), arrays[f"{part}_labels"].astype(np.int64), f"{digest}-{part}"
        )
        for part in there
    }
    return parts, [str(name) for name in arrays["class_names"]], arrays


def _floats(values: Any) -> Floats:
    with np.errstate(over="ignore"):  # what fp32 cannot hold becomes Inf, and is reported
        return np.ascontiguousarray(values, dtype=np.float32)


def _check_features(arrays: dict[str, Any], parts: Sequence[str], texts: bool) -> list[str]:
    """List everything that is wrong with the arrays of a feature file."""
    features = [f"{part}_features" for part in parts] + ["text_features"] * texts
    names = [*features, *(f"{part}_labels" for part in parts), "class_names", *["logit_scale"] * texts]
    missing = [name for name in names if name not in arrays]
    if missing:
        return [f"missing: {', '.join(missing)}; a feature file has {', '.join(names)}"]
    problems = []
    for name in features:
        values = arrays[name]
        if values.ndim != 2 or not len(values) or not np.issubdtype(values.dtype, np.floating):
            problems.append(f"{name}: shape {values.shape} of {values.dtype}; expected (rows, D) of floats")
        elif not np.isfinite(_floats(values)).all():
            problems.append(f"{name}: {int((~np.isfinite(_floats(values))).any(1).sum())} rows hold NaN or Inf in fp32")
        elif (np.abs(values.astype(np.float32)).max(1) == 0).any():
            problems.append(f"{name}: holds rows of zeros, which have no direction")
    widths = {name: arrays[name].shape[-1] if arrays[name].ndim else 0 for name in features}
    if len(set(widths.values())) > 1:
        problems.append(f"features differ in width: {widths}")
    counted = arrays["text_features" if texts else "class_names"]
    classes = len(counted) if counted.ndim else 0
    if arrays["class_names"].shape != (classes,) or arrays["class_names"].dtype.kind != "U":
        problems.append(
            f"class_names: shape {arrays['class_names'].shape}; expected {classes} strings, as text_features"
        )
    for split in parts:
        labels = arrays[f"{split}_labels"]
        if labels.shape != arrays[f"{split}_features"].shape[:1] or not np.issubdtype(labels.dtype, np.integer):
            problems.append(
                f"{split}_labels: shape {labels.shape} of {labels.dtype}; expected one whole number per row"
            )
        elif len(labels) and (labels.min() < 0 or labels.max() >= classes):
            problems.append(f"{split}_labels: range {labels.min()}..{labels.max()}; expected 0..{classes - 1}")
    scale = arrays.get("logit_scale", np.float32(1))
    if scale.shape != () or scale.dtype.kind not in "fiu" or not np.isfinite(scale) or scale <= 0:
        problems.append("logit_scale: expected one positive number (100 for OpenAI's CLIP)")
    return problems
