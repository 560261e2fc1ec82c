"""Data sets that exist as precomputed features of images and class texts."""

from __future__ import annotations

import hashlib
import math
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fedpurel_app.core.errors import DataError
from fedpurel_app.core.names import listed, plain_name
from fedpurel_app.data.sources.class_names import usable_names
from fedpurel_app.data.sources.labels import label_problem
from fedpurel_app.data.sources.source import PLAIN_TEMPLATE, FeatureSplit, Floats, Source, TextClassifier, require_there

_LOGARITHMS = (2.6, 4.62)  # from just below log(1 / 0.07) to just above log(100)


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
    scale = float(arrays["logit_scale"])
    classifier = TextClassifier(_floats(arrays["text_features"]), scale)
    train, test = parts["train"], parts["test"]
    return Source("features", tuple(names), PLAIN_TEMPLATE, train, test, classifier=classifier, notes=_doubts(scale))


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


def read_texts(path: Path, class_names: Sequence[str]) -> TextClassifier:
    """Read the text side of a site's own features, for a site that has no CLIP to encode the classes of a run.

    Parameters
    ----------
    path : Path
        An ``.npz`` as :func:`load_features` reads it; a test part need not be there.
    class_names : sequence of str
        Of the run, in its order.

    Raises
    ------
    DataError
        When the file has no text features, or lacks those of a class.
    """
    _, names, arrays = _read(path, "data", ("train",), texts=True)
    row_of = {plain_name(name): row for row, name in enumerate(names)}
    if missing := [name for name in class_names if plain_name(name) not in row_of]:
        raise DataError(
            f'{path}: with split = "text" a site compares images with the texts of all classes of the run, and '
            f"text_features lacks {listed(missing, 5)}: add them, with their names in class_names."
        )
    rows = [row_of[plain_name(name)] for name in class_names]
    return TextClassifier(_floats(arrays["text_features"])[rows], float(arrays["logit_scale"]))


def _read(
    path: Path, key: str, needed: tuple[str, ...], texts: bool
) -> tuple[dict[str, FeatureSplit], list[str], dict[str, npt.NDArray[Any]]]:
    """Read and check a file; give its parts, those needed at least, its class names and all its arrays."""
    require_there(path, key, "It should be an .npz file of precomputed features.", "file")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (ValueError, OSError, EOFError, TypeError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f'{key} = "{path}": not a readable .npz file without pickles ({error}).') from error
    except MemoryError as error:
        raise DataError(f'{key} = "{path}": its arrays do not fit into memory ({error}).') from error
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
    return parts, list(usable_names(_texts(arrays["class_names"]), str(path))), arrays


def _texts(values: npt.NDArray[Any]) -> list[str]:
    """Read names that are text, or bytes of UTF-8, as HDF5 has them; raises UnicodeDecodeError."""
    return [name.decode() if isinstance(name, bytes) else str(name) for name in values.tolist()]


def _doubts(scale: float) -> tuple[str, ...]:
    """Say of a scale that it looks like a logarithm.

    The parameter of a CLIP is the logarithm of its scale, between log(1 / 0.07) at the start of training and log(100),
    where it is clamped. A scale of that size is not refused: a model of another kind may have one.
    """
    if not _LOGARITHMS[0] <= scale <= _LOGARITHMS[1]:
        return ()
    return (
        f"logit_scale = {scale:g} looks like a logarithm, as model.logit_scale of a CLIP is: if so, write its "
        f"exponential, {math.exp(scale):.4g}, or the run is another experiment than is meant",
    )


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
    problems += _check_names(arrays["class_names"], classes)
    for split in parts:
        labels = arrays[f"{split}_labels"]
        if labels.shape != arrays[f"{split}_features"].shape[:1] or not np.issubdtype(labels.dtype, np.integer):
            problems.append(
                f"{split}_labels: shape {labels.shape} of {labels.dtype}; expected one whole number per row"
            )
        elif wrong := label_problem(split, labels, classes):
            problems.append(f"{split}_labels: {wrong}")
    scale = arrays.get("logit_scale", np.float32(1))
    if scale.shape != () or scale.dtype.kind not in "fiu" or not np.isfinite(scale) or scale <= 0:
        problems.append("logit_scale: expected one positive number (100 for OpenAI's CLIP)")
    return problems


def _check_names(names: npt.NDArray[Any], classes: int) -> list[str]:
    """List what is wrong with the array of class names."""
    if names.shape != (classes,):
        return [f"class_names: shape {names.shape}; expected {classes} strings, as text_features"]
    if names.dtype.kind not in "US":
        return [f"class_names: {names.dtype}; expected strings, or bytes of UTF-8"]
    try:
        usable_names(_texts(names), "class_names")
    except UnicodeDecodeError as error:
        return [f"class_names: bytes that are no UTF-8 ({error.reason}); write strings"]
    except DataError as error:
        return [str(error)]
    return []
