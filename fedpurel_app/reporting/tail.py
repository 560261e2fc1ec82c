"""What training changed from the most to the rarest class: accuracy minus zero-shot's, method by method."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fedpurel_app.core.errors import StateError
from fedpurel_app.reporting.diagnostics import Table, head_to_tail
from fedpurel_app.reporting.finished import Run, mean_sd
from fedpurel_app.reporting.lines import CYCLE, MARKERS, foot, seeds_of
from fedpurel_app.reporting.methods import Method
from fedpurel_app.reporting.plots import label, smooth

_MODELS = {"global": "global model", "personalized_at_sites": "personalized models, at the sites"}


def tail(methods: Sequence[Method], figure: Any) -> Table:
    """Draw accuracy minus zero-shot's from head to tail: means over seeds and neighbours, bands of one deviation.

    Classes are sorted by their training images in each run. A panel for the global model, and one for personalized ones
    where every method has them.

    Raises
    ------
    StateError
        When a run has no accuracies by class, or does not know the numbers of training images.
    """
    shown = [model for model in _MODELS if all(_known(run, model) for method in methods for run in method.runs)]
    if not shown:
        raise StateError("these runs have no accuracies by class of one model; leave out those without.")
    rows: list[list[Any]] = []
    panels = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    ends: dict[str, list[tuple[float, str, str]]] = {model: [(0.0, "zero-shot", "#666666")] for model in shown}
    for axes, model in zip(panels, shown, strict=True):
        for index, method in enumerate(methods):
            curves = [smooth(_changes(run, model)) for run in method.runs]
            points = [mean_sd(values) for values in zip(*curves, strict=True)]
            colour = CYCLE[index % len(CYCLE)]
            marker = MARKERS[index % len(MARKERS)]
            means = [mean for mean, _ in points]
            axes.plot(
                range(len(points)), means, color=colour, linewidth=2, marker=marker, markevery=max(1, len(points) // 8)
            )
            low, high = ([mean + sign * (sd or 0) for mean, sd in points] for sign in (-1, 1))
            axes.fill_between(range(len(points)), low, high, color=colour, alpha=0.12, linewidth=0)
            ends[model].append((points[-1][0], method.name, colour))
            rows += [[method.name, model, rank, *point, seeds_of(method)] for rank, point in enumerate(points)]
        axes.axhline(0, color="#666666", linestyle="--", linewidth=1)
        axes.set(title=_MODELS[model], xlabel="classes, head to tail", ylabel="accuracy minus zero-shot's [points]")
        axes.margins(x=0)
    for axes, model in zip(panels, shown, strict=True):  # panels have one scale, which is known when all are drawn
        label(axes, ends[model])
    foot(figure, methods, "lines: means over seeds and neighbouring classes; bands: one standard deviation over seeds")
    return ["method", "model", "rank", "change_mean", "change_sd", "seeds"], rows


def _known(run: Run, model: str) -> bool:
    if model != "global" and run.personalized_score("all") is None:
        return False  # the column is the global model's
    return all(row[model] for row in run.folder.read_csv("classes.csv"))


def _changes(run: Run, model: str) -> list[float]:
    """Return accuracy minus zero-shot's, class by class from head to tail, in points."""
    rows, counted = head_to_tail(run.folder.read_csv("classes.csv"))
    if not counted or not all(row["zero_shot"] for row in rows):
        lacking = "zero-shot's accuracies" if counted else "the numbers of training images"
        raise StateError(f"{run.folder.path} has not {lacking} of all classes; leave it out.")
    return [float(row[model]) - float(row["zero_shot"]) for row in rows]
