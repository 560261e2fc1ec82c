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
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

sys.path.insert(0, str(Path(__file__).parent.parent))

from fedpurel_app.reporting.leaderboard.board import LOWER_IS_BETTER
from fedpurel_app.reporting.leaderboard.document import SIGNIFICANT, column_title, difference_text, p_text
from fedpurel_app.reporting.leaderboard.paired import LEVEL, RESAMPLES, Comparison, compare, correct

FOLDER = Path(__file__).parent.parent / "docs" / "leaderboard"
CLAIMS, PAGE = FOLDER / "claims.toml", FOLDER / "claims.md"
_HEAD = f"""# The paper's claims, one by one

Printed by `python tools/write_claims.py` from `claims.toml` and the scores by seed beside it (`*-seeds.csv`); the
tables and commands they come from are in [leaderboard.md](../leaderboard.md). GM is the global model on the server's
balanced test set, PM the personalized models on the sites' own test parts.

Each line is a paired difference over the seeds that both sides have: the mean, its {100 * LEVEL:.0f} % bootstrap
interval (BCa, {RESAMPLES:,} resamples), p of the two-sided Wilcoxon signed-rank test, corrected by Holm for the lines
of its claim, and on how many seeds the first side is better : worse. **Seen**: the whole interval lies where the claim
says, and p is below {SIGNIFICANT:g}. **Contrary**: the same on the other side. **Not seen**: neither, so these seeds
decide nothing.
"""


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Side(_Part):
    """Rows of a file: one method at one place."""

    method: str
    at: dict[str, str] = {}


class Test(_Part):
    """Two sides, and which of them the claim says is higher."""

    on: str
    sweep: str
    score: str
    model: Literal["global", "personalized"] = "global"
    first: Side
    second: Side
    expected: Literal["higher", "lower"]


class Claim(_Part):
    """What the paper says, what is tested of it, and how to read the result."""

    claim: str
    reading: str = ""
    tests: list[Test] = Field(min_length=1)


class _Claims(_Part):
    claims: list[Claim] = Field(min_length=1)


def claims(path: Path = CLAIMS) -> list[Claim]:
    """Read the claims."""
    return _Claims.model_validate(tomllib.loads(path.read_text("utf-8"))).claims


def scores_of(lines: Sequence[Mapping[str, str]], test: Test, side: Side) -> dict[int, float]:
    """Return a side's scores by seed, in percent.

    Raises
    ------
    ValueError
        When the file has no such rows, or more than one of a seed.
    """
    wished = {**side.at, "method": side.method, "model": test.model}
    found = [line for line in lines if wished.items() <= line.items()]
    by_seed = {int(line["seed"]): float(line[test.score]) for line in found if line[test.score]}
    if not by_seed or len(by_seed) < len(found):
        raise ValueError(f"{test.sweep}: {len(found)} rows of {wished}, of {len(by_seed)} seeds")
    return by_seed


def compared(test: Test, folder: Path = FOLDER) -> Comparison:
    """Compare the two sides of a test, seed by seed."""
    with (folder / f"{test.sweep}-seeds.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    first, second = (scores_of(lines, test, side) for side in (test.first, test.second))
    return compare(first, second, test.score in LOWER_IS_BETTER)


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


def section(claim: Claim, folder: Path = FOLDER) -> str:
    """Return the page's part on a claim."""
    found = correct({str(number): compared(test, folder) for number, test in enumerate(claim.tests)})
    lines = [
        "| data | score | expected | n | difference | p | better : worse | |",
        "|---|---|---|---:|---:|---:|---:|---|",
    ]
    for test, one in zip(claim.tests, found.values(), strict=True):
        sign = ">" if test.expected == "higher" else "<"
        cells: list[Any] = [
            test.on, column_title((test.model, test.score)), f"{test.first.method} {sign} {test.second.method}",
            one.pairs, difference_text(one, 2), p_text(one.p_holm), f"{one.wins} : {one.losses}",
            f"**{verdict(one, test.expected)}**",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join([f"## {claim.claim}", "", *lines, "", *([claim.reading, ""] if claim.reading else [])])


def page(path: Path = CLAIMS) -> str:
    """Return the whole page."""
    return "\n".join([_HEAD, *(section(one, path.parent) for one in claims(path))])


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
