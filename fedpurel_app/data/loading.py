"""Load data sets: rendered, from the hub or its local form, or as precomputed features."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedpurel_app.data import shapes
from fedpurel_app.data.source import FeatureSplit, Floats, Ints, Source, TextClassifier
from fedpurel_app.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

SHAPES_TRAIN, SHAPES_TEST = 250, 100  # images per class
SHAPES_EVALUATED = "test"  # the benchmark that chooses defaults puts "validation" here
_TEMPLATE = "a photo of a {}."
_CIFAR100_HUB = "uoft-cs/cifar100"


@dataclass(frozen=True)
class RenderedSplit:
    """A split of ``shapes``: the same number of images of every class, rendered when asked for."""

    split: str
    per_class: int

    @cached_property
    def labels(self) -> Ints:
        """Class indices, shape (N,), ascending."""
        return np.repeat(np.arange(len(shapes.CLASS_NAMES)), self.per_class)

    @property
    def fingerprint(self) -> str:
        """Name of the content."""
        domain = hashlib.sha256(repr(shapes.HARD).encode()).hexdigest()[:16]
        return f"shapes-{shapes.VERSION}-{domain}-{self.split}-{self.per_class}"

    def images(self, rows: Ints) -> list[Image]:
        """Render images by row number."""
        from PIL import Image

        found: dict[int, Image.Image] = {}
        for label in np.unique(self.labels[rows]):
            wanted = [int(row) for row in rows if self.labels[row] == label]
            first, offset = min(wanted), int(label) * self.per_class
            pictures = shapes.images(self.split, int(label), first - offset, max(wanted) - offset + 1)
            found |= {row: Image.fromarray(pictures[row - first]) for row in wanted}
        return [found[int(row)] for row in rows]


@dataclass(frozen=True)
class HubSplit:
    """A split of a ``datasets`` data set."""

    dataset: Any
    image_column: str
    label_column: str

    @cached_property
    def labels(self) -> Ints:
        """Class indices, shape (N,)."""
        return np.asarray(self.dataset.with_format("numpy")[self.label_column][:], dtype=np.int64)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of all labels and of all images' bytes."""
        from datasets import Image

        digest = hashlib.sha256(self.labels.tobytes())
        raw = self.dataset.select_columns([self.image_column]).cast_column(self.image_column, Image(decode=False))
        for cell in raw[self.image_column]:
            digest.update(cell["bytes"] if cell["bytes"] is not None else Path(cell["path"]).read_bytes())
        return digest.hexdigest()

    def images(self, rows: Ints) -> list[Image]:
        """Load images by row number, as RGB."""
        return [image.convert("RGB") for image in self.dataset[rows][self.image_column]]


def load_shapes(path: str, max_per_class: int) -> Source:
    """Make the rendered data set: ``max_per_class`` (0: 250) training and 100 test images of each of 48 classes."""
    if path:
        raise DataError(f'dataset-path = "{path}": the data set "shapes" is rendered and takes no path.')
    train = RenderedSplit("train", max_per_class or SHAPES_TRAIN)
    superclass = tuple(colour for colour, _ in shapes.CLASSES)
    return Source(
        "shapes",
        shapes.CLASS_NAMES,
        _TEMPLATE,
        train,
        RenderedSplit(SHAPES_EVALUATED, SHAPES_TEST),
        superclass=superclass,
    )


def load_cifar100(path: str, max_per_class: int) -> Source:
    """Load CIFAR-100 from a local folder in the hub's schema, or from the hub.

    Raises
    ------
    DataError
        When the folder or the hub cannot be read, or columns are missing.
    """
    import datasets

    where = path or _CIFAR100_HUB
    if path and not Path(path).is_dir():
        raise DataError(
            f'dataset-path = "{path}": no such folder. It should hold the parquet files of {_CIFAR100_HUB}.'
        )
    try:
        splits = datasets.load_dataset(where)
    except Exception as error:  # the library raises many kinds; all mean that the data are not to be had
        raise DataError(
            f'CIFAR-100 could not be loaded from "{where}" ({type(error).__name__}: {error}). Set dataset-path to a '
            f"local folder with the parquet files of {_CIFAR100_HUB}, or connect to the hub (unset HF_HUB_OFFLINE)."
        ) from error
    columns = {"img", "fine_label", "coarse_label"}
    for name in ("train", "test"):
        missing = columns - set(splits[name].column_names) if name in splits else {"the whole split"}
        if missing:
            raise DataError(
                f'"{where}", split "{name}" lacks {sorted(missing)}; CIFAR-100 has columns {sorted(columns)}.'
            )
    train, test = (HubSplit(splits[name], "img", "fine_label") for name in ("train", "test"))
    coarse = np.asarray(splits["test"].with_format("numpy")["coarse_label"][:])
    superclass = tuple(int(coarse[np.argmax(test.labels == label)]) for label in range(100))
    names = splits["train"].features["fine_label"].names
    return Source("cifar100", tuple(names), _TEMPLATE, train, test, superclass=superclass)


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
    return Source("features", names, _TEMPLATE, train, test, classifier=classifier)


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
