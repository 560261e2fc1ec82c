"""The picture of the sites' fronts: accuracy on a site's own images against that on all classes alike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fedpurel_app.reporting.diagnostics import Table
from fedpurel_app.reporting.fronts import TITLES
from fedpurel_app.reporting.marks import COLOURS
from fedpurel_app.reporting.run_folder import RunFolder

_LOOKS: dict[str, dict[str, Any]] = {  # told apart without their colours, too
    "pareto": {"color": COLOURS["personalized"], "linestyle": "-", "marker": "o", "zorder": 3},
    "logit-adjustment": {"color": COLOURS["global"], "linestyle": "--", "marker": "s"},
    "dial": {"color": COLOURS["zero_shot"], "linestyle": ":", "marker": "^"},
}
_COLUMNS = ("own_accuracy", "all_accuracy")
Points = list[tuple[float, float]]


def fronts(folder: RunFolder, figure: Any) -> Table | None:
    """All three curves as means over sites on the left; on the right the knob's at every site."""
    rows = [row for row in folder.read_csv("fronts.csv") if all(row[name] for name in _COLUMNS)]
    if not rows:
        return None
    left, right = figure.subplots(1, 2)
    for curve, look in _LOOKS.items():
        own = [row for row in rows if row["curve"] == curve]
        if own:
            left.plot(*zip(*_means(own), strict=True), label=TITLES[curve], markersize=4, **look)
    left.set(title="mean over sites", xlabel="own images [%]", ylabel="all classes alike [%]")
    left.legend(frameon=False, fontsize=8)
    for points in _by_site(row for row in rows if row["curve"] == "pareto").values():
        right.plot(*zip(*points, strict=True), color=COLOURS["personalized"], marker="o", markersize=2, alpha=0.6)
    right.set(title="the knob, a line for each site", xlabel="own images [%]", ylabel="all classes alike [%]")
    columns = ["site", "curve", "at", *_COLUMNS, "all_of"]
    return columns, [[row[name] for name in columns] for row in rows]


def _means(rows: Sequence[Mapping[str, str]]) -> Points:
    """Return the means over sites by the place on the curve, in its order."""
    places: dict[str, Points] = {}
    for row in rows:
        places.setdefault(row["at"], []).append(_point(row))
    return [(sum(x for x, _ in one) / len(one), sum(y for _, y in one) / len(one)) for one in places.values()]


def _by_site(rows: Iterable[Mapping[str, str]]) -> dict[str, Points]:
    found: dict[str, Points] = {}
    for row in rows:
        found.setdefault(row["site"], []).append(_point(row))
    return found


def _point(row: Mapping[str, str]) -> tuple[float, float]:
    return float(row["own_accuracy"]), float(row["all_accuracy"])
