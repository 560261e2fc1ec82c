"""Write ``docs/leaderboard/claims.md``: the paper's claims, each tested on the scores of sweeps.

    python tools/write_claims.py

``docs/leaderboard/claims.toml`` says what is compared; scores come from the files ``*-seeds.csv`` beside it, which
``fedpurel table`` wrote. Whether a claim was seen follows from the numbers by one rule and is nobody's choice.
"""

from __future__ import annotations

import csv
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

sys.path.insert(0, str(Path(__file__).parent.parent))

from fedpurel_app.reporting.leaderboard.board import LOWER_IS_BETTER
from fedpurel_app.reporting.leaderboard.document import SIGNIFICANT, column_title, difference_text, p_text
from fedpurel_app.reporting.leaderboard.paired import LEVEL, RESAMPLES, Comparison, compare, correct

FOLDER = Path(__file__).parent.parent / "docs" / "leaderboard"
CLAIMS, PAGE = FOLDER / "claims.toml", FOLDER / "claims.md"
_HEADER = "| data | score | expected | n | difference | p | better : worse | |"
_HEAD = f"""# The paper's claims, one by one

Printed by `python tools/write_claims.py` from `claims.toml` and the scores by seed beside it (`*-seeds.csv`); the
tables and commands they come from are in [leaderboard.md](../leaderboard.md). GM is the global model on the server's
balanced test set, PM the personalized models on the sites' own test parts.

Each line is a paired difference over the seeds that both sides have: the mean, its {100 * LEVEL:.0f} % bootstrap
interval (BCa, {RESAMPLES:,} resamples), p of the two-sided Wilcoxon signed-rank test, corrected by Holm for the lines
of its claim, and on how many seeds the first side is better : worse. **Seen**: the whole interval lies where the claim
says, and p is below {SIGNIFICANT:g}. **Contrary**: the same on the other side. **Not seen**: neither, so these seeds
decide nothing. Intervals of ten seeds are a little too narrow ([tables.md](../tables.md)), and p differs from that of
the tables, where the correction is for all methods of a column.
"""


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Place(_Part):
    """Where rows stand: a file, and what its columns of axes say."""

    sweep: str
    at: dict[str, str] = {}


class Test(_Part):
    """Two methods at the same places, or each at one of its own, and which of them the claim says is higher."""

    on: list[str] = Field(min_length=1)
    model: Literal["global", "personalized"] = "global"
    scores: list[str] = Field(min_length=1)
    first: str
    second: str
    second_on: str = ""
    expected: Literal["higher", "lower"]


class Claim(_Part):
    """What the paper says, what is tested of it, and how to read the result."""

    claim: str
    reading: str
    tests: list[Test] = Field(min_length=1)


class Claims(_Part):
    """The file."""

    places: dict[str, Place]
    claims: list[Claim] = Field(min_length=1)


@dataclass(frozen=True)
class Line:
    """One comparison."""

    test: Test
    on: str
    score: str


def read(path: Path = CLAIMS) -> Claims:
    """Read the file of claims."""
    return Claims.model_validate(tomllib.loads(path.read_text("utf-8")))


def lines_of(claim: Claim) -> list[Line]:
    """List a claim's comparisons."""
    return [Line(test, on, score) for test in claim.tests for score in test.scores for on in test.on]


def scores_of(place: Place, method: str, line: Line, folder: Path) -> dict[int, float]:
    """Return a method's scores by seed, in percent.

    Raises
    ------
    ValueError
        When the file has no such rows, or more than one of a seed.
    """
    with (folder / f"{place.sweep}-seeds.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    wished = {**place.at, "method": method, "model": line.test.model}
    found = [row for row in rows if wished.items() <= row.items()]
    by_seed = {int(row["seed"]): float(row[line.score]) for row in found if row[line.score]}
    if not by_seed or len(by_seed) < len(found):
        raise ValueError(f"{place.sweep}: {len(found)} rows of {wished}, with scores of {len(by_seed)} seeds")
    return by_seed


def compared(line: Line, places: Mapping[str, Place], folder: Path = FOLDER) -> Comparison:
    """Compare the two sides of a line, seed by seed."""
    first = scores_of(places[line.on], line.test.first, line, folder)
    second = scores_of(places[line.test.second_on or line.on], line.test.second, line, folder)
    return compare(first, second, line.score in LOWER_IS_BETTER)


def verdict(one: Comparison, expected: str) -> str:
    """Say whether a claim was seen.

    >>> verdict(Comparison(10, difference=1.0, low=0.5, high=1.5, p_holm=0.01), "higher")
    'seen'
    >>> verdict(Comparison(10, difference=1.0, low=0.5, high=1.5, p_holm=0.01), "lower")
    'contrary'
    >>> verdict(Comparison(10, difference=1.0, low=0.5, high=1.5, p_holm=0.06), "higher")
    'not seen'
    """
    if one.why or one.p_holm >= SIGNIFICANT or one.low <= 0 <= one.high:
        return "not seen"
    return "seen" if (one.low > 0) == (expected == "higher") else "contrary"


def judged(claim: Claim, places: Mapping[str, Place], folder: Path = FOLDER) -> list[tuple[Line, Comparison, str]]:
    """Return a claim's comparisons with their verdicts."""
    lines = lines_of(claim)
    found = correct({str(number): compared(line, places, folder) for number, line in enumerate(lines)})
    return [(line, one, verdict(one, line.test.expected)) for line, one in zip(lines, found.values(), strict=True)]


def section(claim: Claim, found: Sequence[tuple[Line, Comparison, str]]) -> str:
    """Return the page's part on a claim."""
    rows = [_HEADER, "|---|---|---|---:|---:|---:|---:|---|"]
    for line, one, said in found:
        test = line.test
        second = f"{test.second} ({test.second_on})" if test.second_on else test.second
        cells = [
            line.on,
            column_title((test.model, line.score)),
            f"{test.first} {'>' if test.expected == 'higher' else '<'} {second}",
            f"{one.pairs}",
            difference_text(one, 2),
            p_text(one.p_holm),
            f"{one.wins} : {one.losses}",
            f"**{said}**",
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join([f"## {claim.claim}", "", *rows, "", claim.reading.strip(), ""])


def overview(found: Mapping[str, Sequence[str]]) -> str:
    """Return the table at the top: of each claim, by how many lines it was seen, not seen, and contradicted."""
    rows = ["| claim | seen | not seen | contrary |", "|---|---:|---:|---:|"]
    for claim, verdicts in found.items():
        counts = [verdicts.count(name) for name in ("seen", "not seen", "contrary")]
        rows.append(f"| {claim} | {' | '.join(str(count) for count in counts)} |")
    return "\n".join([*rows, ""])


def page(path: Path = CLAIMS) -> str:
    """Return the whole page."""
    content = read(path)
    found = [(one, judged(one, content.places, path.parent)) for one in content.claims]
    table = overview({one.claim: [said for _, _, said in lines] for one, lines in found})
    return "\n".join([_HEAD, table, *(section(one, lines) for one, lines in found)])


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
