"""Pictures of one run: accuracy over rounds, per class from head to tail, gain per site."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fedpurel_app.core.errors import StateError
from fedpurel_app.core.files import write_atomically
from fedpurel_app.core.names import clean
from fedpurel_app.reporting.diagnostics import Table, balance, contribution, gradients, head_to_tail
from fedpurel_app.reporting.front_picture import fronts
from fedpurel_app.reporting.marks import COLOURS, MARKS, TITLES
from fedpurel_app.reporting.reliability import calibration
from fedpurel_app.reporting.run_folder import RunFolder
from fedpurel_app.reporting.settings import run_in_words
from fedpurel_app.reporting.site_table import any_branch
from fedpurel_app.reporting.tokens import tokens


def pyplot() -> Any:
    """Import matplotlib's pyplot so that it draws into files alone, whatever a notebook's environment asks for."""
    os.environ["MPLBACKEND"] = "Agg"  # read at import: a name that only a notebook knows is an error there
    import matplotlib

    matplotlib.use("Agg")  # where it was imported before
    matplotlib.rcParams["text.parse_math"] = False  # a dollar sign in a name is none of TeX's
    matplotlib.rcParams["svg.hashsalt"] = "fedpurel"  # the same picture is the same file
    from matplotlib import pyplot

    return pyplot


def draw(folder: RunFolder) -> list[Path]:
    """Draw all pictures that the folder has data for, as PNG and SVG, into ``plots/``; diagnostics with a CSV each.

    Raises
    ------
    StateError
        When the run has not been evaluated yet, or its folder cannot be written.
    """
    plt = pyplot()

    if not any(line.get("global") or line.get("sites") for line in folder.rounds()):
        raise StateError(f"{folder.path} has no evaluated round yet; there is nothing to draw.")
    try:
        (folder.path / "plots").mkdir(exist_ok=True)
        write_atomically(folder.path / "plots" / ".writable", b"")
        (folder.path / "plots" / ".writable").unlink()
    except OSError as error:
        raise StateError(f"{folder.path / 'plots'} cannot be written ({error.strerror}).") from error
    written: list[Path] = []
    for name, paint in {**PAINTERS, **OTHERS}.items():
        figure = plt.figure(figsize=(7.5 if name in _IN_FOLDER else 9, 4.2), layout="constrained")
        if table := paint(folder, figure):
            _name(folder, figure)
            written += save(figure, folder.path / "plots" / name)
            if name not in _IN_FOLDER:
                folder.write_csv(f"plots/{name}.csv", *table)
                written.append(folder.path / "plots" / f"{name}.csv")
        plt.close(figure)
    return written


def save(figure: Any, stem: Path) -> list[Path]:
    """Write ``<stem>.png`` and ``<stem>.svg`` and return both paths. Raises OSError when the disk refuses."""
    paths = [Path(f"{stem}.{ending}") for ending in ("png", "svg")]
    for path in paths:
        figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)
    return paths


def label(axes: Any, ends: Sequence[tuple[float, str, str]]) -> None:
    """Write names beside the axes, at the height (y, name, colour) of what they name, apart where they would overlap.

    To be called when everything is drawn: it takes the axes' limits as they are.
    """
    low, high = axes.get_ylim()
    axes.set_ylim(low, high)
    gap, above = 0.055 * (high - low), float("-inf")
    for y, name, colour in sorted(ends):
        above = max(y, above + gap)
        axes.annotate(
            textwrap.fill(name, 24),
            (1.0, y),
            xycoords=axes.get_yaxis_transform(),
            xytext=(1.03, above),
            textcoords=axes.get_yaxis_transform(),
            color=colour,
            va="center",
            fontsize=9,
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 0},
        )


def _name(folder: RunFolder, figure: Any) -> None:
    """Write below a picture which method, data and run it is of."""
    config = folder.read_json("config.json")["config"]
    figure.supxlabel(clean(f"{run_in_words(config)}; {folder.path.name}", 160), fontsize=7, color="#666666")


def curves(folder: RunFolder, figure: Any) -> Table | None:
    """Accuracy over rounds: all classes on the left, the rarest third on the right."""
    rounds = folder.rounds()
    left, right = figure.subplots(1, 2, sharex=True)
    zero_shot = next((line["zero_shot"] for line in rounds if line.get("zero_shot")), None)
    series = {
        "global": [(line["round"], line["global"]) for line in rounds if line.get("global")],
        "global_at_sites": [(line["round"], line["sites"]["global"]) for line in rounds if line.get("sites")],
        "personalized": [(line["round"], line["sites"]["personalized"]) for line in rounds if line.get("sites")],
    }
    for axes, column, title in ((left, "all", "all classes"), (right, "few", "few-shot classes")):
        for name, points in series.items():
            known = [(x, scores[column]) for x, scores in points if scores and scores.get(column) is not None]
            if known:
                axes.plot(
                    *zip(*known, strict=True), color=COLOURS[name], markersize=3, label=TITLES[name], **MARKS[name]
                )
        if zero_shot and zero_shot[column] is not None:
            axes.axhline(zero_shot[column], color=COLOURS["zero_shot"], linestyle="--", label=TITLES["zero_shot"])
        switch = next((line["round"] for line in rounds if line["phase"] == "personal"), None)
        if switch and switch > 2:
            axes.axvline(switch - 0.5, color="#cccccc", linewidth=1, zorder=0)
        axes.set(title=title, xlabel="round", ylabel="accuracy [%]")
    if left.get_legend_handles_labels()[0]:
        left.legend(frameon=False, fontsize=8)
    drawn = [[x, TITLES[name], scores["all"], scores["few"]] for name in series for x, scores in series[name] if scores]
    start = [[0, TITLES["zero_shot"], zero_shot["all"], zero_shot["few"]]] if zero_shot else []
    if not drawn:
        return None
    return ["round", "model", "all", "few"], start + sorted(drawn, key=lambda row: row[0])


def classes(folder: RunFolder, figure: Any) -> Table | None:
    """Accuracy of each class, most training images first where their numbers are known."""
    rows, counted = head_to_tail(folder.read_csv("classes.csv"))
    names = {"zero_shot": "zero_shot", "global": "global", "personalized_at_sites": "personalized"}
    if not any(row[column] for row in rows for column in names):
        return None
    axes = figure.subplots()
    for column, key in names.items():
        points = [(rank, float(row[column])) for rank, row in enumerate(rows) if row[column]]
        if points:
            x, y = zip(*points, strict=True)
            axes.plot(x, y, MARKS[key]["marker"], color=COLOURS[key], alpha=0.35, markersize=4)
            axes.plot(
                x, smooth(y), color=COLOURS[key], label=TITLES[key], linewidth=2, linestyle=MARKS[key]["linestyle"]
            )
    axes.plot([], [], ".", color="#999999", alpha=0.6, label="one class")
    if counted:
        size = axes.twinx()
        counts = [int(row["train_images"]) for row in rows]
        size.fill_between(range(len(rows)), counts, color="#dddddd", zorder=0, step="mid")
        size.set(ylabel="training images", yscale="log")
        size.yaxis.set_major_formatter("{x:g}")  # matplotlib's own are formulas, which are not parsed here
        size.yaxis.set_minor_formatter("")
        axes.fill_between([], [], color="#dddddd", label="training images (right)")
        axes.set_zorder(size.get_zorder() + 1)
        axes.patch.set_visible(False)
    axes.set(
        xlabel="classes, head to tail" if counted else "classes, by label",
        ylabel="accuracy [%]",
        title="Accuracy by class (lines: means over neighbours)",
    )
    axes.legend(frameon=False, fontsize=8, loc="lower left")
    columns = ["name", "group", "train_images", *names]
    return columns, [[row[column] for column in columns] for row in rows]


def sites(folder: RunFolder, figure: Any) -> Table | None:
    """Gain of each site's personalized model over the global one on the site's own test part."""
    rows = [row for row in folder.read_csv("sites.csv") if row["gain"]]
    if not any_branch(rows):
        return None
    axes = figure.subplots()
    rows.sort(key=lambda row: float(row["gain"]))
    gains = [float(row["gain"]) for row in rows]
    colours = [COLOURS["personalized"] if gain >= 0 else COLOURS["zero_shot"] for gain in gains]
    axes.bar(range(len(rows)), gains, color=colours)
    axes.axhline(0, color="black", linewidth=0.8)
    step = max(1, len(rows) // 25)
    axes.set_xticks(
        range(0, len(rows), step), [clean(row["site"], 24) for row in rows][::step], rotation=60, fontsize=7
    )
    axes.set(ylabel="personalized - global [points]", title="Gain of the private branch, by site")
    return ["site", "gain"], [[row["site"], gain] for row, gain in zip(rows, gains, strict=True)]


def smooth(values: Sequence[float]) -> list[float]:
    """Return means over a window of neighbours, a sixth of all wide."""
    half = max(1, len(values) // 12)
    windows = [values[max(0, i - half) : i + half + 1] for i in range(len(values))]
    return [sum(window) / len(window) for window in windows]


# By name, what paints a picture of a run on a figure; it returns what it drew, or None where there are no numbers.
PAINTERS: dict[str, Callable[[RunFolder, Any], Table | None]] = {
    "curves": curves,
    "classes": classes,
    "sites": sites,
    "balance": balance,
    "gradients": gradients,
    "contribution": contribution,
    "calibration": calibration,
}
# Likewise, of what few runs have: nobody misses them in others.
OTHERS: dict[str, Callable[[RunFolder, Any], Table | None]] = {"tokens": tokens, "fronts": fronts}
_IN_FOLDER = ("curves", "classes", "sites", "calibration", "fronts")  # whose numbers are tables of the run folder
