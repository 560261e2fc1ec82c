"""A run's model on classes that the run did not know: its text side is made anew, from their names.

What each family of :mod:`fedpurel_app.models.peft` has learnt goes with other classes in its own way: a prompt's
context stands before their names, an adapted text tower encodes them, an image side sees images as it was trained to. A
text residual is an offset for each class: names that the run knew keep theirs, others have none.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fedpurel_app.config import RunConfig
from fedpurel_app.core.errors import ConfigError, DataError
from fedpurel_app.core.names import listed, plain_name, split_names
from fedpurel_app.data.sources.class_names import usable_names
from fedpurel_app.data.sources.source import Source
from fedpurel_app.experiment import Experiment
from fedpurel_app.models.peft.registry import FAMILIES
from fedpurel_app.site.state import Named, PrivateState

_BY_CLASS = "residual"  # the parameter whose rows belong to classes, each for itself


def read_names(text: str) -> tuple[str, ...]:
    """Return the class names that a command line gives: separated by commas, or the lines of a file.

    Parameters
    ----------
    text : str
        Names, or the path of a text file with one name a line. Where a name has a comma, semicolons separate them.

    Raises
    ------
    ConfigError
        When these are not two names at least, all of them texts that differ.
    """
    where, names = "--classes", split_names(text)
    path = Path(text).expanduser()
    try:
        if _is_file(path):
            where = f"--classes {path}"
            names = tuple(line for line in path.read_text("utf-8-sig").split("\n") if line.strip())
        found = usable_names(names, where)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{where}: cannot be read as a text file ({error}).") from error
    except DataError as error:
        raise ConfigError(str(error)) from error
    if len(found) < 2:
        raise ConfigError(
            f'{where}: a model tells two classes apart, or more, and this names {len(found)}. Write --classes "cat, '
            'dog", or name a file with a name a line.'
        )
    return found


def _is_file(path: Path) -> bool:
    """Tell whether there is such a file: many names in a row are no name that a file could have."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


@dataclass(frozen=True)
class OtherClasses:
    """From the classes of a run to others.

    Attributes
    ----------
    source : Source
        The classes of the run.
    names : tuple of str
        The others, in their order; some may be of the run.
    """

    source: Source
    names: tuple[str, ...]

    def renamed(self) -> Source:
        """Return the source with the other names; raises ConfigError where there is no text tower to encode them."""
        if self.source.classifier is not None:
            raise ConfigError(
                "--classes: the run was made with precomputed features, and no text tower is known that could encode "
                "other names. Encode them as its text_features were, and multiply with features of images."
            )
        return self._with(self.names)

    def _with(self, names: tuple[str, ...]) -> Source:
        texts = self.source.classifier  # of precomputed features: a stand-in, for shapes alone
        if texts is not None:
            texts = replace(texts, text_features=np.ones((len(names), texts.text_features.shape[1]), np.float32))
        return replace(self.source, class_names=names, classifier=texts)

    def note(self, arrays: Named) -> str:
        """Say which names the run did not know, and what that means for its parameters; empty where it knew all."""
        new = [name for name, row in zip(self.names, self._rows, strict=True) if row is None]
        if not new:
            return ""
        what = "; a residual is learnt class by class, so they have zero-shot CLIP's text features"
        said = f"{len(new)} of {len(self.names)} classes are not of the run: {listed(new, 6)}"
        return said + (what if any(map(_is_by_class, arrays)) else "")

    def fitted(self, arrays: Named, stored: PrivateState, config: RunConfig, cache: Path) -> tuple[Named, PrivateState]:
        """Return what a run trained as modules for the other classes take it.

        Parameters
        ----------
        arrays : mapping of str to ndarray
            The shared parameters, as the run has them.
        stored : PrivateState
            What a site keeps; empty for the global model.
        config : RunConfig
        cache : Path

        Raises
        ------
        ConfigError
            When something of it is learnt, or remembered, for each class and means nothing for others.
        """
        by_class = self.by_class(config, cache)
        count = len(self.source.class_names)
        placed = FAMILIES[config.peft].layout  # of which there may be as many as classes
        held = [name for name, value in stored.memory.items() if count in value.shape and name not in placed]
        if held:
            raise ConfigError(
                f"--classes: the site remembers images, or numbers, of the run's own classes ({listed(held)})."
            )
        branch, kept = (self.fit(part, by_class) for part in (stored.branch, stored.kept))
        return self.fit(arrays, by_class), replace(stored, branch=branch, kept=kept)

    def by_class(self, config: RunConfig, cache: Path) -> set[str]:
        """Name the parameters that are learnt for each class; raises ConfigError where predictions go by counts."""
        # What changes its shape with one class more is learnt for each class.
        kits = [
            Experiment(config, cache, source=self._with(names)).kit for names in (self.names, (*self.names, "thing"))
        ]
        if kits[0].algorithm.bias is not None:
            raise ConfigError("--classes: the run's predictions are adjusted by how frequent its own classes are.")
        one, more = (
            {name: tuple(value.shape) for module in (kit.new_shared(), kit.new_private())
             for name, value in module.named_parameters()}
            for kit in kits
        )  # fmt: skip
        return {name for name, shape in one.items() if shape != more[name]}

    def fit(self, arrays: Named, by_class: set[str]) -> Named:
        """Return parameters as a module for the other classes takes them; raises ConfigError as :meth:`fitted`."""
        if odd := [name for name in arrays if name in by_class and not _is_by_class(name)]:
            raise ConfigError(
                f"--classes: the run has learnt {listed(odd)} for each of its {len(self.source.class_names)} classes, "
                "which says nothing of others."
            )
        return {name: self._rows_of(value) if name in by_class else value for name, value in arrays.items()}

    def _rows_of(self, value: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        rows = [np.zeros_like(value[0]) if row is None else value[row] for row in self._rows]
        return np.stack(rows)

    @property
    def _rows(self) -> list[int | None]:
        """The place of each name among the run's; None for those that it did not know."""
        known = {plain_name(name): row for row, name in enumerate(self.source.class_names)}
        return [known.get(plain_name(name)) for name in self.names]


def _is_by_class(name: str) -> bool:
    return name.rpartition(".")[2] == _BY_CLASS
