"""Where learned tokens are that move between blocks: in a picture, and in a line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedpurel_app.reporting.diagnostics import Table
from fedpurel_app.reporting.run_folder import RunFolder

_BLUE, _GREY = "#0072B2", "#999999"  # of Okabe and Ito's palette


def _moves(rounds: Sequence[Mapping[str, Any]]) -> list[tuple[int, Mapping[str, Any]]]:
    """Return what the rounds tell of tokens, those with the first one's number of blocks."""
    told = [(line["round"], line["relocation"]) for line in rounds if line.get("relocation")]
    return [(number, one) for number, one in told if len(one["tokens"]) == len(told[0][1]["tokens"])]


def tokens(folder: RunFolder, figure: Any) -> Table | None:
    """Draw how many tokens each block has: in every round on the left, after the last one on the right."""
    told = _moves(folder.rounds())
    if not told:
        return None
    blocks = list(range(len(told[0][1]["tokens"])))
    rows = [[number, *one["tokens"]] for number, one in told]
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(2, 1))
    for block in blocks:
        for start, end, count in _spans([(row[0], row[1 + block]) for row in rows]):
            share = count / max(1, max(map(max, (row[1:] for row in rows))))
            left.barh(block, end - start, left=start - 0.5, height=0.86, color=_BLUE, alpha=0.08 + 0.92 * share)
    left.set(xlabel="round", ylabel="block, from the input", title="tokens by round")
    left.xaxis.get_major_locator().set_params(integer=True)
    left.yaxis.get_major_locator().set_params(integer=True)
    right.barh(blocks, rows[-1][1:], height=0.86, color=_BLUE)
    right.axvline(sum(rows[0][1:]) / len(blocks), color=_GREY, linestyle="--", linewidth=1)
    right.set(xlabel="tokens", title="after the last; dashed: at first")
    return ["round", *(f"block_{block}" for block in blocks)], rows


def _spans(points: Sequence[tuple[int, int]]) -> list[tuple[int, int, int]]:
    """Join neighbours of one value: (first round, the one where another begins, value)."""
    changes = [one for before, one in zip([(0, -1), *points], points, strict=False) if one[1] != before[1]]
    ends = [number for number, _ in changes[1:]] + [points[-1][0] + 1]
    return [(number, end, value) for (number, value), end in zip(changes, ends, strict=True)]


def token_lines(rounds: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say how many tokens each block has, how often one moved, and what came of it; nothing where they stay."""
    told = [one for _, one in _moves(rounds)]
    if not told:
        return []
    last = told[-1]["tokens"]
    moved = sum(one["moved"] is not None for one in told)
    moves = "1 move" if moved == 1 else f"{moved} moves"
    judged = [one["last_move_helped"] for one in told if one["last_move_helped"] is not None]
    said = f"; of {len(judged)} that could be judged, {sum(judged)} helped" if judged else ""
    counts = " ".join(map(str, last))
    return [f"tokens by block, from the input: {counts} (at first {sum(last) / len(last):g} each); {moves}{said}"]
