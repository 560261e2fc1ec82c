"""The rows of a table of images, a CSV or parquet file with a column each of paths, labels, splits and sites."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from fedpurel_app.core.errors import DataError
from fedpurel_app.core.names import clean, composed, listed, printable
from fedpurel_app.data.sources.source import require_there

TABLES = (".csv", ".tsv", ".parquet")
_FORM = "It should be a table of images, .csv or .parquet, with a column of paths and one of labels."
_PARTS = ("path", "label", "split", "site")


@dataclass(frozen=True)
class Form:
    """How a table of images is to be read.

    Attributes
    ----------
    path, label, split, site : str
        Names of the columns. A table needs the first two; the others where they are named by another word than here.
    root : str
        Folder that relative paths begin at; empty = that of the table.
    classes : tuple of str
        Names of all classes in their order; empty = those of the table.
    seed : int
        Of what is held out to test on where no column says it.
    natural : bool
        The column of sites is how the data are dealt out, and so must be there and in order.
    """

    path: str = "path"
    label: str = "label"
    split: str = "split"
    site: str = "site"
    root: str = ""
    classes: tuple[str, ...] = ()
    seed: int = 0
    natural: bool = False

    @property
    def columns(self) -> dict[str, str]:
        """Names of the columns by what is in them."""
        return {part: getattr(self, part) for part in _PARTS}


class Row(NamedTuple):
    """A row of a table: its line in the file (of a parquet file its number, from 1), and its cells as text."""

    line: int
    path: str
    label: str
    split: str = ""
    site: str = ""


@dataclass
class Rows:
    """What a table holds.

    Attributes
    ----------
    file : Path
    columns : dict of str to str
        Of "path", "label", "split" and "site" those that are there, with their names in the file.
    rows : list of Row
    problems : list of str
        What is wrong with its form.
    """

    file: Path
    columns: dict[str, str]
    rows: list[Row] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def where(self, rows: Sequence[Row], most: int = 3) -> str:
        """Name the lines of some rows."""
        word = "row" if self.file.suffix.lower() == ".parquet" else "line"
        return listed([f"{word} {row.line}" for row in rows], most)


def is_table(path: Path) -> bool:
    """Tell by a file's name, and of parquet by its columns, whether it is a table of paths and not of images."""
    if path.suffix.lower() in (".csv", ".tsv"):
        return True
    if path.suffix.lower() != ".parquet" or not path.is_file():
        return False
    kinds = {column.type for column in _schema(path)}
    import pyarrow.types as kind

    return not any(kind.is_struct(one) or kind.is_binary(one) or kind.is_large_binary(one) for one in kinds)


def read_rows(path: Path, form: Form, key: str) -> Rows:
    """Read a table of images.

    Parameters
    ----------
    path : Path
    form : Form
    key : str
        The setting that names the file, for errors.

    Returns
    -------
    Rows
        With white space around cells taken away; rows that cannot be read are counted among the problems.

    Raises
    ------
    DataError
        When there is no such file, it is no table at all, or has no column of paths or of labels.
    """
    require_there(path, key, _FORM, "file")
    suffix = path.suffix.lower()
    if suffix not in TABLES:
        raise DataError(
            f'{key} = "{printable(str(path))}" ends in "{path.suffix}", not in {", ".join(TABLES)}. {_FORM}'
        )
    found = _read_parquet(path, form) if suffix == ".parquet" else _read_csv(path, form)
    if not found.rows and not found.problems:
        raise DataError(f'{key} = "{printable(str(path))}" has no row below its header. {_FORM}')
    return found


def _find_columns(path: Path, header: Sequence[str], form: Form) -> dict[str, str]:
    """Match the columns that are wanted with those that are there: by their names, else without regard to case."""
    twice = sorted({name for name in header if name and header.count(name) > 1})
    found, problems = dict[str, str](), [f"has two columns of the name {listed(twice)}"] if twice else []
    for part, name in form.columns.items():
        near = [name] if name in header else [one for one in header if one.casefold() == name.casefold()]
        if len(near) == 1:
            found[part] = near[0]
        elif part in ("path", "label") or name != part or (part == "site" and form.natural):
            problems.append(f'has no column "{name}": name that of the {part} with {part}-column')
    if problems:
        there = listed([f'"{clean(name, 60)}"' for name in header], 12) or "none"
        raise DataError(f"{printable(str(path))} {'; it '.join(problems)}. Its columns are {there}.")
    return found


# --- CSV --------------------------------------------------------------------------------------------------------------


def _read_csv(path: Path, form: Form) -> Rows:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{printable(str(path))} is not in UTF-8 (byte {error.start:,}): save it as CSV in UTF-8, with or "
            "without a byte order mark."
        ) from error
    except OSError as error:
        raise DataError(f"{printable(str(path))} cannot be read ({error.strerror}).") from error
    lines = _lines(path, text, _delimiter(path, text, form))
    header = [composed(name) for name in next(lines, (0, []))[1]]
    found = Rows(path, _find_columns(path, header, form))
    places = {part: header.index(name) for part, name in found.columns.items()}
    odd: list[Row] = []
    for number, cells in lines:
        if len(cells) != len(header):
            odd.append(Row(number, f"{len(cells)} cells", ""))
        else:
            found.rows.append(Row(number, **{part: cells[place].strip() for part, place in places.items()}))
    if odd:
        named = listed([f"line {row.line} has {row.path}" for row in odd])
        found.problems.append(
            f"{len(odd):,} rows have not {len(header)} cells, as the header has ({named}): quote text with commas"
        )
    return found


def _delimiter(path: Path, text: str, form: Form) -> str:
    """Choose what cells are parted by, so that the first line has the columns that are needed; else a comma."""
    first = text.partition("\n")[0]
    needed = {form.path.casefold(), form.label.casefold()}
    for mark in ("\t", ",") if path.suffix.lower() == ".tsv" else (",", ";", "\t"):
        try:
            cells = next(csv.reader([first], delimiter=mark), [])
        except csv.Error:
            continue
        if needed <= {composed(cell).casefold() for cell in cells}:
            return mark
    return ","


def _lines(path: Path, text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the records of a CSV text that are not empty, each with the number of its last line."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield reader.line_num, cells
    except csv.Error as error:
        raise DataError(f"{printable(str(path))}, line {reader.line_num}: not a line of CSV ({error}).") from error


# --- parquet ----------------------------------------------------------------------------------------------------------


def _schema(path: Path) -> Any:
    import pyarrow
    from pyarrow import parquet

    try:
        return parquet.read_schema(path)
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"{printable(str(path))} is not a readable parquet file ({error}).") from error


def _read_parquet(path: Path, form: Form) -> Rows:
    import pyarrow
    from pyarrow import parquet

    found = Rows(path, _find_columns(path, _schema(path).names, form))
    try:
        table = parquet.read_table(path, columns=list(found.columns.values()))
        cells = {part: [_text(cell) for cell in table[name].to_pylist()] for part, name in found.columns.items()}
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"{printable(str(path))} is not a readable parquet file ({error}).") from error
    found.rows = [Row(number, **row) for number, row in enumerate(_transposed(cells), 1)]
    return found


def _transposed(cells: Mapping[str, Sequence[str]]) -> Iterator[dict[str, str]]:
    for row in zip(*cells.values(), strict=True):
        yield dict(zip(cells, row, strict=True))


def _text(cell: object) -> str:
    """Write a cell as a CSV file would have it.

    Examples
    --------
    >>> [_text(cell) for cell in (" cat ", 3, 3.0, None, float("nan"))]
    ['cat', '3', '3', '', '']
    """
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return ""
    if isinstance(cell, float) and cell.is_integer():  # pandas makes floats of whole numbers where one is missing
        return str(int(cell))
    return str(cell).strip()


def is_number(text: str) -> bool:
    """Tell whether a label is a whole number."""
    return re.fullmatch(r"-?\d{1,9}", text) is not None
