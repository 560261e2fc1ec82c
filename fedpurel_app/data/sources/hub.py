"""Data sets of the Hugging Face hub, or local folders of the same form."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from fedpurel_app.core.disk_memo import remembered, state_of
from fedpurel_app.core.errors import DataError
from fedpurel_app.core.names import listed
from fedpurel_app.data.sources.class_names import usable_names
from fedpurel_app.data.sources.opening import RULES
from fedpurel_app.data.sources.source import PLAIN_TEMPLATE, Ints, Source, Split, require_there
from fedpurel_app.data.sources.tables import KnownSplit, TableSplit, facts_of, names_in, refuse_other_names


@dataclass(frozen=True)
class HubData:
    """What must be known of a hub data set to load it.

    Attributes
    ----------
    title : str
    repository : str
        Name on the hub.
    image, label : str
        Columns.
    test : str
        Name of the split that is tested on; "train" is trained on.
    template : str
        Zero-shot prompt.
    superclass : str
        Column of superclasses; empty where there are none.
    class_name : callable
        From a name in the label column's features to one for prompts.
    """

    title: str
    repository: str
    image: str = "image"
    label: str = "label"
    test: str = "test"
    template: str = PLAIN_TEMPLATE
    superclass: str = ""
    class_name: Callable[[str], str] = str

    def load(self, path: str, max_per_class: int) -> Source:
        """Load from a local folder in the hub's schema, or from the hub.

        Parameters
        ----------
        path : str
            Folder of parquet files; empty for the hub.
        max_per_class : int
            Unused: the long-tail profile caps classes.

        Returns
        -------
        Source

        Raises
        ------
        DataError
            When the folder or the hub cannot be read, or columns are missing.
        """
        if not path:
            splits, facts = self._survey("")
            return self._source(facts, splits["train"], splits["test"])
        require_there(path, "dataset-path", f"It should hold the parquet files of {self.repository}.", "folder")
        # Of files on this disk all is remembered: the library takes seconds to import, at every message of a site.
        form = (self.title, self.image, self.label, self.superclass, self.test, self.class_name.__name__)
        files = sorted(file for file in Path(path).rglob("*") if file.is_file())
        key = f"hub {form} {RULES}|{state_of(files)}"
        facts = remembered(key, lambda: self._survey(path)[1])
        train, test = (KnownSplit.of(facts, part, key, partial(self._part, path, part)) for part in ("train", "test"))
        return self._source(facts, train, test)

    def _source(self, facts: Mapping[str, Any], train: Split, test: Split) -> Source:
        superclass = None if facts["superclass"] is None else tuple(facts["superclass"])
        return Source(self.title, tuple(facts["names"]), self.template, train, test, superclass)

    def _part(self, path: str, part: str) -> TableSplit:
        return self._tables(self._open(path), path or self.repository)[part]

    def _tables(self, splits: Mapping[str, Any], where: str) -> dict[str, TableSplit]:
        named = {"train": "train", "test": self.test}
        return {
            part: TableSplit(splits[name], self.image, self.label, f'"{where}", split {name}')
            for part, name in named.items()
        }

    def _open(self, path: str) -> Any:
        """Open a local folder, or what is on the hub where there is none."""
        import datasets

        where = path or self.repository
        try:
            return datasets.load_dataset(where)
        except Exception as error:  # the library raises many kinds; all mean that the data are not to be had
            absent = DataError(
                f'{self.title} could not be loaded from "{where}" ({type(error).__name__}: {error}). Set dataset-path '
                f"to a local folder with the parquet files of {self.repository}, or connect to the hub (unset "
                "HF_HUB_OFFLINE)."
            )
            absent.download = "" if path else f"{self.title} from huggingface.co/datasets/{self.repository}"
            raise absent from error

    def _survey(self, path: str) -> tuple[dict[str, TableSplit], dict[str, Any]]:
        """Open the data set, refuse what is not of its form, and find out what is to be remembered of it."""
        splits, where = self._open(path), path or self.repository
        columns = {self.image, self.label} | ({self.superclass} if self.superclass else set())
        for name in ("train", self.test):
            missing = columns - set(splits[name].column_names) if name in splits else {"the whole split"}
            if missing:
                raise DataError(
                    f'"{where}", split "{name}" lacks {sorted(missing)}; {self.title} has columns {sorted(columns)}.'
                )
        names = self._names(splits, where, sorted(Path(path).rglob("*.parquet")) if path else [])
        tables = self._tables(splits, where)
        wrong = [split.label_problem(part, len(names)) for part, split in tables.items()]
        if any(wrong):
            raise DataError(f'"{where}": {"; ".join(filter(None, wrong))}. Take these rows out.')
        named = usable_names([self.class_name(name) for name in names], f'"{where}"')
        superclass = None
        if self.superclass:
            superclass = self._superclasses(splits[self.test], tables["test"].labels, named)
        return tables, {"names": named, "superclass": superclass, **(facts_of(tables) if path else {})}

    def _names(self, splits: Mapping[str, Any], where: str, files: Sequence[Path]) -> list[str]:
        """Return the class names that the numbers of both splits, and of every file, stand for."""
        names = names_in(splits["train"].features, self.label)
        if not names:
            raise DataError(f'"{where}": column "{self.label}" has no class names (a ClassLabel); {self.title} has.')
        refuse_other_names(files, self.label, names, "the training split")
        if (theirs := names_in(splits[self.test].features, self.label)) != names:
            raise DataError(
                f'"{where}": the splits train and {self.test} differ in the class names of column "{self.label}": '
                f"{listed(names, 6)} against {listed(theirs or [], 6)}."
            )
        return names

    def _superclasses(self, split: Any, labels: Ints, names: Sequence[str]) -> tuple[int, ...]:
        """Find the one superclass of every class."""
        found: dict[int, set[int | None]] = {}
        for label, coarse in zip(labels.tolist(), split.with_format(None)[self.superclass][:], strict=True):
            found.setdefault(label, set()).add(coarse)
        odd = [name for label, name in enumerate(names) if len(found.get(label, ())) != 1 or None in found[label]]
        if odd:
            raise DataError(
                f'{self.title}: column "{self.superclass}" of split {self.test} must hold one superclass for every '
                f"class, and does not for {listed(odd, 6)}."
            )
        first = (next(iter(found[label])) for label in range(len(names)))
        return tuple(int(coarse) for coarse in first if coarse is not None)


def without_wordnet_id(name: str) -> str:
    """Drop the number before a name.

    Examples
    --------
    >>> without_wordnet_id("n02099601-golden_retriever")
    'golden_retriever'
    """
    return re.sub(r"^n\d+-", "", name)
