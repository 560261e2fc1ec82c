"""What a data set is to the rest of the package."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
import numpy.typing as npt

from fedpurel_app.core.errors import DataError
from fedpurel_app.core.names import printable

if TYPE_CHECKING:
    from PIL.Image import Image

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
PLAIN_TEMPLATE = "a photo of a {}."


class Split(Protocol):
    """One split of a data set: labels at hand, images on demand."""

    @property
    def labels(self) -> Ints:
        """Class indices, shape (N,)."""
        ...

    @property
    def fingerprint(self) -> str:
        """Name of the content: equal fingerprints mean equal images in equal order."""
        ...

    def images(self, rows: Ints) -> list[Image]:
        """Load images by row number, as RGB."""
        ...


@dataclass(frozen=True)
class FeatureSplit:
    """A split that exists as image features only.

    Attributes
    ----------
    features : ndarray of float32, shape (N, D)
        Image features, normalised or not.
    labels : ndarray of int64, shape (N,)
    fingerprint : str
    """

    features: Floats
    labels: Ints
    fingerprint: str

    def images(self, rows: Ints) -> list[Image]:
        """Refuse: there are no images."""
        raise TypeError("precomputed features hold no images")


NO_ROWS = FeatureSplit(np.zeros((0, 0), np.float32), np.zeros(0, np.int64), "none")


@dataclass(frozen=True)
class TextClassifier:
    """The text side of a zero-shot classifier.

    Attributes
    ----------
    text_features : ndarray of float32, shape (C, D)
    logit_scale : float
    """

    text_features: Floats
    logit_scale: float


@dataclass(frozen=True)
class Centres:
    """Which site every image of a data set is from, where the data set knows.

    Attributes
    ----------
    names : tuple of str
    train, validation, test : ndarray of int64, shape (N,)
        For each row of a split the place of its site among the names.
    """

    names: tuple[str, ...]
    train: Ints
    validation: Ints
    test: Ints


@dataclass(frozen=True)
class Source:
    """A data set.

    Attributes
    ----------
    name : str
    class_names : tuple of str
    template : str
        Zero-shot prompt, with "{}" for the class name.
    train, test : Split
    superclass : tuple of int or None
        Superclass of each class, where the data set has superclasses.
    classifier : TextClassifier or None
        Set where features are precomputed: both splits are then of :class:`FeatureSplit`.
    validation : Split or None
        Where the data set has one of its own, in the form of ``test``.
    centres : Centres or None
        Set where the data set says which site its images are from.
    notes : tuple of str
        What people should know of it, as what was left out: said once, when a run starts.
    """

    name: str
    class_names: tuple[str, ...]
    template: str
    train: Split
    test: Split
    superclass: tuple[int, ...] | None = None
    classifier: TextClassifier | None = None
    validation: Split | None = None
    centres: Centres | None = None
    notes: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> str:
        """Name of the content that a run trains and is scored on."""
        return f"{self.train.fingerprint}+{self.test.fingerprint}"


Kind = Literal["file", "folder", "file or folder"]


def require_there(path: str | Path, key: str, form: str, kind: Kind) -> Path:
    """Return the path of a data set.

    Parameters
    ----------
    path : str or Path
    key : str
        Which named it.
    form : str
        A sentence on what should be there.
    kind : {"file", "folder", "file or folder"}

    Raises
    ------
    DataError
        When nothing of the kind is there, or can be looked at.
    """
    place, named = Path(path), f'{key} = "{printable(str(path))}"'
    try:
        there = {"file": place.is_file, "folder": place.is_dir, "file or folder": place.exists}[kind]()
    except (OSError, ValueError) as error:  # a name too long, a folder that is closed, a zero byte
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise DataError(f"{named} cannot be read ({reason}). {form}") from error
    if not there or not str(path):
        raise DataError(f"{named}: no such {kind}. {form}")
    return place
