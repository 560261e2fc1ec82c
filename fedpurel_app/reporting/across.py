"""Pictures of several runs: Balancedness by method, the sweep of lambda, convergence; means over seeds."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fedpurel_app.core.errors import StateError
from fedpurel_app.core.files import write_csv
from fedpurel_app.reporting.diagnostics import Table
from fedpurel_app.reporting.finished import Run, mean_sd
from fedpurel_app.reporting.lines import CYCLE, MARKERS, foot, line, seeds_of
from fedpurel_app.reporting.marks import COLOURS
from fedpurel_app.reporting.methods import Method, read_methods
from fedpurel_app.reporting.plots import label, pyplot, save
from fedpurel_app.reporting.settings import differing
from fedpurel_app.reporting.tail import tail

_GREY = COLOURS["zero_shot"]
_SWEPT = {
    "personalized": ("personalized", COLOURS["personalized"], "o"),
    "global_at_sites": ("global", COLOURS["global"], "s"),
}
_PANELS = (("all", "all classes"), ("few", "few-shot classes"))


def draw_across(picture: str, paths: Sequence[Path], stem: Path) -> list[Path]:
    """Draw a picture of several runs, as PNG and SVG, and write what it shows as CSV.

    Parameters
    ----------
    picture : {"balancedness", "sweep", "convergence", "tail"}
    paths : sequence of Path
        Folders of completed runs: one data set, one division among sites, the same seeds of each method.
    stem : Path
        The files are ``<stem>.png``, ``<stem>.svg`` and ``<stem>.csv``.

    Returns
    -------
    list of Path
        The files.

    Raises
    ------
    StateError
        When runs lack what is drawn or do not compare, or when the files cannot be written.
    """
    methods = read_methods(paths)
    plt = pyplot()

    figure = plt.figure(figsize=(9, 4.2), layout="constrained")
    try:
        table = PICTURES[picture](methods, figure)
        written = save(figure, stem)
        write_csv(Path(f"{stem}.csv"), *table)
    except OSError as error:
        raise StateError(f"{stem}.* cannot be written ({error.strerror}): choose another --out.") from error
    finally:
        plt.close(figure)
    return [*written, Path(f"{stem}.csv")]


def balancedness(methods: Sequence[Method], figure: Any) -> Table:
    """Draw Balancedness of global and personalized models, method by method (paper, Fig. 4)."""
    axes = figure.subplots()
    reference = _zero_shot(methods[0], "balancedness")
    rows: list[list[Any]] = [["zero-shot", "zero-shot", reference, None, seeds_of(methods[0])]]
    reasons: dict[str, list[str]] = {}
    for place, method in enumerate(methods):
        shared = [run.global_score("balancedness") for run in method.runs]
        own = [run.personalized_score("balancedness") for run in method.runs]
        bars = {"GM": (place - 0.2, COLOURS["global"], shared)}
        if lacking := [run for run, score in zip(method.runs, own, strict=True) if score is None]:
            reasons.setdefault(lacking[0].why_not_personalized(), []).append(method.name)
            axes.text(place + 0.2, 0.5, "no PM", rotation=90, ha="center", va="bottom", fontsize=8, color="#666666")
        else:
            bars["PM"] = (place + 0.2, COLOURS["personalized"], [score for score in own if score is not None])
        for model, (x, colour, scores) in bars.items():
            mean, sd = mean_sd(scores)
            axes.bar(x, mean, 0.38, yerr=sd, color=colour, error_kw={"linewidth": 1, "capsize": 3})
            axes.text(x, 0.5, model, ha="center", va="bottom", color="white", fontweight="bold")
            axes.text(x, mean + (sd or 0) + 0.4, f"{mean:.1f}", ha="center", va="bottom", fontsize=9)
            rows.append([method.name, model, mean, sd, seeds_of(method)])
    axes.axhline(reference, color="black", linestyle="--", linewidth=1)
    axes.set_xticks(range(len(methods)), [textwrap.fill(method.name, 100 // len(methods)) for method in methods])
    axes.set(xlim=(-0.5, len(methods) - 0.5), ylabel=f"Balancedness x 100 ({_spread(methods[0])})")
    axes.set_title("Balancedness of global (GM) and personalized (PM) models")
    axes.margins(y=0.1)
    foot(figure, methods, *(f"no PM: {why} ({', '.join(names)})" for why, names in reasons.items()))
    label(axes, [(reference, f"zero-shot {reference:.1f}", "black")])
    return ["method", "model", "balancedness_mean", "balancedness_sd", "seeds"], rows


def sweep(methods: Sequence[Method], figure: Any) -> Table:
    """Draw the accuracy of personalized models against lambda, the weight of their branches' own loss (Fig. 8)."""
    if others := [key for key in differing([m.settings for m in methods]) if key != "private-weight"]:
        raise StateError(
            f"these runs differ in {', '.join(others)}; a sweep needs runs that differ in private-weight and seed only."
        )
    if len(methods) < 2:
        raise StateError(
            f"all these runs have private-weight = {methods[0].settings['private-weight']}; a sweep needs two or more."
        )
    methods = sorted(methods, key=lambda method: float(method.settings["private-weight"]))
    weights = [float(method.settings["private-weight"]) for method in methods]
    places = range(len(methods))
    rows: list[list[Any]] = []
    panels = _panels(methods, lambda run, column: run.personalized_score(column))
    for axes, (column, title) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        ends = []
        for model, (name, colour, marker) in _SWEPT.items():
            points = [mean_sd([_at_sites(run, column, model) for run in method.runs]) for method in methods]
            line(axes, places, points, colour, marker)
            ends.append((points[-1][0], name, colour))
            rows += [
                [weight, column, model, *point, seeds_of(method)]
                for weight, method, point in zip(weights, methods, points, strict=True)
            ]
        axes.set_xticks(places, [f"{weight:g}" for weight in weights], rotation=60 if len(weights) > 6 else 0)
        axes.set(title=title, xlabel="λ, not to scale", ylabel="accuracy at the sites [%]")
        label(axes, ends)
    foot(figure, methods, methods[0].name.partition(",")[0])
    return ["private_weight", "classes", "model", "accuracy_mean", "accuracy_sd", "seeds"], rows


def convergence(methods: Sequence[Method], figure: Any) -> Table:
    """Draw the global model's accuracy over its rounds, method by method, with a band of one deviation (Fig. 9)."""
    rows: list[list[Any]] = []
    panels = _panels(methods, lambda run, column: run.zero_shot_score(column))
    for axes, (column, title) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        reference = _zero_shot(methods[0], column)
        axes.axhline(reference, color=_GREY, linestyle="--", zorder=0)
        ends = [(reference, "zero-shot", "#666666")]
        for index, method in enumerate(methods):
            curves = [_curve(run, column) for run in method.runs]
            steps = sorted(set.intersection(*(set(curve) for curve in curves)))
            points = [mean_sd([curve[step] for curve in curves]) for step in steps]
            colour = CYCLE[index % len(CYCLE)]
            line(axes, steps, points, colour, MARKERS[index % len(MARKERS)])
            ends.append((points[-1][0], method.name, colour))
            rows += [[method.name, column, step, *p, seeds_of(method)] for step, p in zip(steps, points, strict=True)]
        axes.set(title=title, xlabel="global rounds", ylabel="accuracy of the global model [%]")
        label(axes, ends)
    foot(figure, methods)
    return ["method", "classes", "global_round", "accuracy_mean", "accuracy_sd", "seeds"], rows


PICTURES: dict[str, Callable[[Sequence[Method], Any], Table]] = {
    "balancedness": balancedness,
    "sweep": sweep,
    "convergence": convergence,
    "tail": tail,
}


def _panels(methods: Sequence[Method], score: Callable[[Run, str], float | None]) -> list[tuple[str, str]]:
    """Return what can be drawn: all classes, and the rarest ones where every run knows them."""
    few_known = all(score(run, "few") is not None for method in methods for run in method.runs)
    return list(_PANELS if few_known else _PANELS[:1])


def _curve(run: Run, column: str) -> dict[int, float]:
    """Return a score of the global model by how many global rounds it has had: personal ones do not change it."""
    curve: dict[int, float] = {}
    played = 0
    for played_round in run.folder.rounds():
        played += played_round["phase"] == "global"
        if (played_round.get("global") or {}).get(column) is not None:
            curve.setdefault(played, played_round["global"][column])
    if len(curve) < 2:
        raise StateError(
            f'{run.folder.path} has {len(curve)} evaluations of the global model with "{column}"; '
            "convergence needs two or more: leave it out, or run it with another evaluate-every."
        )
    return curve


def _at_sites(run: Run, column: str, model: str) -> float:
    value = run.personalized_score(column, model)
    if value is None:
        raise StateError(
            f'{run.folder.path} has no "{column}" of personalized models ({run.why_not_personalized()}); leave it out.'
        )
    return value


def _zero_shot(method: Method, column: str) -> float:
    """Return the mean over seeds: the class order, and so the groups, may differ between them."""
    values = [run.zero_shot_score(column) for run in method.runs]
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        raise StateError(f'{method.runs[0].folder.path} has no "{column}" of zero-shot at the server; leave it out.')
    return mean_sd(known)[0]


def _spread(method: Method) -> str:
    """Tell how Balancedness was computed, and over how many seeds."""
    power, sigma = (method.settings[f"balancedness-{name}"] for name in ("power", "sigma"))
    seeds = len(method.runs)
    return f"p = {power:g}, σ = {sigma:g}; {seeds} seed{'s' if seeds > 1 else ''}"
