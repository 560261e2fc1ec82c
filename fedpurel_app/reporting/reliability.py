"""The reliability diagram: of what a model is so and so sure of, how much it has right."""

from __future__ import annotations

from typing import Any

from fedpurel_app.reporting.diagnostics import Table
from fedpurel_app.reporting.marks import COLOURS, MARKS, TITLES
from fedpurel_app.reporting.run_folder import RunFolder

_GROUPS = {"all": "all classes", "few": "few-shot classes"}
_LEAST = 0.005  # share of a model's images below which a bin is noise: it stands in the table alone


def calibration(folder: RunFolder, figure: Any) -> Table | None:
    """Draw accuracy against mean confidence, bin by bin, for each model (Guo et al., ICML 2017, Fig. 1)."""
    rows = folder.read_csv("calibration.csv")
    shown = [name for name in _GROUPS if any(row["group"] == name for row in rows)]
    if not shown:
        return None
    for axes, group in zip(figure.subplots(1, len(shown), sharey=True, squeeze=False)[0], shown, strict=True):
        axes.plot([0, 100], [0, 100], color="#999999", linewidth=0.8)
        for model in TITLES:
            bins = [row for row in rows if (row["model"], row["group"]) == (model, group)]
            least = _LEAST * sum(int(row["images"]) for row in bins)
            points = [(float(row["mean_confidence"]), _accuracy(row)) for row in bins if int(row["images"]) >= least]
            if points:
                axes.plot(*zip(*points, strict=True), color=COLOURS[model], label=TITLES[model], **MARKS[model],
                          markersize=4, linewidth=1.5)  # fmt: skip
        axes.set(title=_GROUPS[group], xlabel="mean confidence [%]", xlim=(0, 100), ylim=(0, 100))
        axes.set_aspect("equal")
    figure.axes[0].set(ylabel="accuracy [%]")
    figure.axes[0].legend(frameon=False, fontsize=8, loc="upper left")
    header = ["model", "group", "confidence_from", "confidence_to", "images", "mean_confidence", "accuracy"]
    return header, [
        [TITLES[row["model"]], *(row[name] for name in header[1:-1]), _accuracy(row)]
        for row in rows
        if row["group"] in shown
    ]


def _accuracy(row: dict[str, str]) -> float:
    return 100 * int(row["correct"]) / int(row["images"])
