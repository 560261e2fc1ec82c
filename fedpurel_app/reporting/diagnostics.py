"""Pictures of why a run went as it did: drift from zero-shot, the angle of gradients, what private branches add."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from fedpurel_app.reporting.run_folder import RunFolder
from fedpurel_app.reporting.site_table import any_branch

_BLUE, _ORANGE, _GREY = "#0072B2", "#D55E00", "#999999"  # of Okabe and Ito's palette
Table = tuple[list[str], list[list[Any]]]  # column names and rows of what is drawn


def head_to_tail(classes: Iterable[dict[str, str]]) -> tuple[list[dict[str, str]], bool]:
    """Sort rows of ``classes.csv``, most training images first; by label where the sites keep these numbers.

    Returns
    -------
    (list of dict, bool)
        The rows, and whether the numbers of training images are known.
    """
    rows = sorted(classes, key=lambda row: int(row["label"]))
    known = all(row["train_images"] for row in rows)
    return (sorted(rows, key=lambda row: -int(row["train_images"])) if known else rows), known


def balance(folder: RunFolder, figure: Any) -> Table | None:
    """Draw Balancedness of the global model against its TKL from zero-shot, round by round (paper, Fig. 2)."""
    rows = [
        [line["round"], line["tkl"], line["global"]["balancedness"], line["global"]["few"]]
        for line in folder.rounds()
        if line.get("global") and line.get("tkl") is not None and line["phase"] != "personal"
    ]
    if len(rows) < 2:
        return None
    left, right = figure.subplots(1, 2, sharex=True)
    for axes, column, name in ((left, 2, "Balancedness x 100"), (right, 3, "accuracy of few-shot classes [%]")):
        known = [row for row in rows if row[column] is not None]
        axes.plot([row[1] for row in known], [row[column] for row in known], color=_GREY, linewidth=1, zorder=0)
        points = axes.scatter(
            [row[1] for row in known],
            [row[column] for row in known],
            c=[row[0] for row in known],
            cmap="viridis",
            s=25,
            edgecolors=_GREY,
            linewidths=0.8,  # the first and the last colour are near those of dark and light pages
        )
        axes.set(xlabel="TKL from zero-shot [nats]", ylabel=name)
    figure.colorbar(points, ax=right, label="round")
    return ["round", "tkl", "balancedness", "few"], rows


def gradients(folder: RunFolder, figure: Any) -> Table | None:
    """Draw the angle of task and alignment gradients, conflicts, and client drift (paper, Figs. 5 and 7)."""
    names = ("angle", "conflict", "drift")
    rows = [
        [line["round"], *(line["train"].get(name) for name in names)]
        for line in folder.rounds()
        if line["phase"] == "global" and line.get("train")
    ]
    if not rows:
        return None
    left, right = figure.subplots(1, 2, sharex=True)
    _line(left, rows, 1, _BLUE)
    left.axhline(90, color=_GREY, linestyle="--", linewidth=1)
    left.set(xlabel="round", ylabel="angle of task and alignment gradient [°]")
    if any(row[2] is not None for row in rows):
        share = left.twinx()
        _line(share, [[row[0], 100 * row[2]] for row in rows if row[2] is not None], 1, _ORANGE, "-.")
        share.set(ylim=(0, 102))
        share.set_ylabel("steps in conflict [%]", color=_ORANGE)
    _line(right, rows, 3, _BLUE)
    right.set(xlabel="round", ylabel="client drift: distance moved in a visit")
    return ["round", *names], rows


def contribution(folder: RunFolder, figure: Any) -> Table | None:
    """Draw what the private branches add to each class, head to tail (paper, Fig. 5)."""
    if not any_branch(folder.read_csv("sites.csv")):
        return None
    classes, counted = head_to_tail(
        row for row in folder.read_csv("classes.csv") if row["global"] and row["personalized_at_sites"]
    )
    if not classes:
        return None
    gains = [float(row["personalized_at_sites"]) - float(row["global"]) for row in classes]
    rows = [[row["name"], row["group"], row["train_images"], gain] for row, gain in zip(classes, gains, strict=True)]
    axes = figure.subplots()
    axes.bar(range(len(rows)), gains, width=1.0, color=[_ORANGE if gain >= 0 else _GREY for gain in gains])
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set(
        xlabel="classes, head to tail" if counted else "classes, by label",
        ylabel="personalized at sites - global [points]",
        title="Contribution of the private branches, by class",
    )
    return ["class", "group", "train_images", "gain"], rows


def _line(axes: Any, rows: Sequence[Sequence[Any]], column: int, colour: str, style: str = "-") -> None:
    known = [(row[0], row[column]) for row in rows if row[column] is not None]
    if known:
        axes.plot(*zip(*known, strict=True), color=colour, linestyle=style, linewidth=1.5)
