"""The pictures of a run: those that ``fedpurel plot`` draws, and how classes are spread over sites."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fedpurel_app.core.names import clean, site_name
from fedpurel_app.reporting.columns import number
from fedpurel_app.reporting.page.blocks import Block, Fold, Section, Table, Text, table
from fedpurel_app.reporting.page.pictures import picture
from fedpurel_app.reporting.page.snapshot import Snapshot
from fedpurel_app.reporting.plots import OTHERS, PAINTERS
from fedpurel_app.reporting.tokens import token_lines

_MOST_ROUNDS = 300  # rows of the table of rounds
_MOST_DRAWN = 200  # evaluated rounds in a picture, and others
_MOST_ROWS = 400  # of the table below a picture
_MOST_CELLS = 4000  # of the table of sites by classes
_BLUE = (0.18, 0.55, 0.83)  # stands out from white and from black


@dataclass(frozen=True)
class _Shown:
    """How a picture is shown: inches, what its table is called, and what is to be seen."""

    size: tuple[float, float]
    caption: str
    about: str


_PICTURES = {
    "classes": _Shown((7.5, 4.0), "Accuracy by class, from head to tail, in %",
                      "Each mark is a class, those with the most training images on the left; lines are means over "
                      "neighbours. Zero-shot is dashed, the global model solid, personalized models dash-dotted; "
                      "grey area: training images."),
    "contribution": _Shown((7.5, 3.6), "What private branches add to each class, in points",
                           "A bar for each class, from head to tail: personalized minus global at the sites."),
    "curves": _Shown((7.5, 3.8), "Accuracy over rounds, in %",
                     "All classes on the left, few-shot classes on the right; zero-shot is a dashed level."),
    "balance": _Shown((7.5, 3.6), "Balancedness against distance from zero-shot",
                      "A mark for each evaluated round: the further right, the further the model is from zero-shot."),
    "gradients": _Shown((7.5, 3.6), "Gradients over rounds",
                        "Angle between task and alignment gradient with the share of steps in conflict, and how far "
                        "parameters moved in a visit."),
    "sites": _Shown((7.5, 3.8), "Gain of personalized models by site, in points",
                    "A bar for each site, from the smallest gain to the largest."),
    "fronts": _Shown((7.5, 3.8), "What a site's knob trades: own images against all classes alike, in %",
                     "Left: means over sites of the knob (solid), of logit adjustment after training (dashed) and of "
                     "the dial (dotted), which cost no training; further up and to the right is better. Right: the "
                     "knob of every site."),
    "calibration": _Shown((7.5, 4.0), "Accuracy by confidence, in %",
                          "Each mark is a bin of confidence: on the diagonal a model has as much right as it is "
                          "sure of, above it is too modest, below too sure. Bins with less than half a percent of a "
                          "model's images are left out."),
    "tokens": _Shown((7.5, 3.6), "Learned tokens by block",
                     "A row for each block of the image tower, the one next to the input at the bottom: on the left "
                     "over the rounds, the fuller the colour, the more tokens; on the right after the last round."),
}  # fmt: skip


def drawn(run: Snapshot, name: str) -> list[Block]:
    """Return one of the package's pictures of a run; nothing where the folder has no numbers for it."""
    shown = _PICTURES[name]

    def paint(figure: Any) -> Table | None:
        found = {**PAINTERS, **OTHERS}[name](run.sparse(_MOST_DRAWN), figure)
        if found is None:
            return None
        header, rows = found
        cut = f"; the first {_MOST_ROWS} of {len(rows)}" if len(rows) > _MOST_ROWS else ""
        texts = sum(isinstance(value, str) and not _is_number(value) for value in rows[0]) or 1
        cells = [[_rounded(value) for value in row] for row in rows[:_MOST_ROWS]]
        return table(shown.caption + cut, [one.replace("_", " ") for one in header], cells, texts)

    made = picture(name, shown.size, paint, shown.about)
    return [] if made is None else [made]


def _is_number(text: str) -> bool:
    return text.replace(".", "", 1).removeprefix("-").isdigit()


def _rounded(value: Any) -> Any:
    """Return a cell of a CSV file with one digit, and small numbers with three."""
    if isinstance(value, str) and "." in value and _is_number(value):
        value = float(value)
    return number(value, 3) if isinstance(value, float) and abs(value) < 1 else value


def classes_section(run: Snapshot) -> Section:
    """Return accuracy from head to tail, and what private branches add to it."""
    blocks = [*drawn(run, "classes"), *drawn(run, "contribution")]
    lacking = Text("No class has been scored yet: classes.csv is written with the first evaluation at the sites.")
    return Section("classes", "Head to tail", tuple(blocks) or (lacking,))


def rounds_section(run: Snapshot) -> Section:
    """Return the course of a run."""
    pictures = [one for name in ("curves", "balance", "gradients") for one in drawn(run, name)]
    if not run.played:
        return Section("rounds", "Rounds", (*pictures, Text("No round is over yet.")))
    shown = run.played[-_MOST_ROUNDS:]
    rows = [
        [
            str(line["round"]), line["phase"], f"{len(line['usable'])}/{len(line['cohort'])}",
            number(line["train"].get("loss"), 3), number((line.get("global") or {}).get("all")),
            number((line.get("global") or {}).get("few")),
            number(((line.get("sites") or {}).get("personalized") or {}).get("all")),
            number(line["seconds"]["total"]), "old model kept" if line["kept_old_model"] else "",
        ]
        for line in shown
    ]  # fmt: skip
    header = ("round", "phase", "sites", "loss", "global All", "global Few", "personalized All", "s", "note")
    cut = (
        f"The last {len(shown)} of {len(run.played)}; all are in rounds.jsonl." if len(shown) < len(run.played) else ""
    )
    whole = table("Rounds; scores in %, of those that were evaluated", header, rows, 2)
    more = (Text(cut),) if cut else ()
    return Section("rounds", "Rounds", (*pictures, Fold("All rounds as a table", (*more, whole))))


def tokens_section(run: Snapshot) -> list[Section]:
    """Return where learned tokens went; nothing of a run in which they stay."""
    lines = token_lines(run.played)
    blocks = (*(Text(f"{line[:1].upper()}{line[1:]}.") for line in lines), *drawn(run, "tokens"))
    return [Section("tokens", "Where tokens are", blocks)] if lines else []


def partition_section(run: Snapshot) -> Section:
    """Return the sites' training images by class as a heat map, or why there is none."""
    heading = ("partition", "Who has which classes")
    counts = run.partition.get("train_by_class")
    if not counts:
        why = (
            "It was written by a version that did not count classes by site."
            if run.partition
            else "The server of this run cannot know it: sites bring their own data, or none had answered yet."
        )
        return Section(*heading, (Text(f"partition.json has no class counts by site. {why}"),))
    names = class_names(run)
    grid = [[site.get(str(label), 0) for label in range(len(names))] for site in counts]
    made = picture("partition", (7.5, min(9.0, 1.6 + 0.16 * len(grid))), _heat(grid, site_names(run), names),
                   "A row for each site, a column for each class in the order of the labels; the fuller the "
                   "colour, the more training images. Empty: none.")  # fmt: skip
    empty = sum(not value for row in grid for value in row)
    about = Text(
        f"{empty} of {len(grid) * len(names)} cells are empty: {len(grid)} sites, {len(names)} classes, "
        f"{sum(map(sum, grid))} training images."
    )
    return Section(*heading, (*([made] if made else []), about))


def class_names(run: Snapshot) -> list[str]:
    """Return the names of the classes in the order of the labels, as far as they are known; else their numbers."""
    count = len(run.partition.get("train_counts", []))
    names = run.optional("classes.json").get("class_names")
    if isinstance(names, list) and len(names) == count:
        return [clean(str(name), 60) for name in names]
    return [f"class {label}" for label in range(count)]


def site_names(run: Snapshot) -> list[str]:
    """Return the names of the sites in the partition's order."""
    count = len(run.partition.get("train_by_class") or [])
    names = run.partition.get("site_names") or []
    return list(names) if len(names) == count else [site_name(index, count) for index in range(count)]


def _heat(grid: Sequence[Sequence[int]], sites: Sequence[str], names: Sequence[str]) -> Callable[[Any], Table]:
    """Return what paints counts, shape (sites, classes); the table holds rows for as many sites as a page bears."""

    def paint(figure: Any) -> Table:
        from matplotlib.colors import LinearSegmentedColormap, LogNorm  # once pyplot is set up

        axes = figure.subplots()
        most = max(2, *(max(row) for row in grid))
        cells = [[value or float("nan") for value in row] for row in grid]
        colours = LinearSegmentedColormap.from_list("paper to blue", [(*_BLUE, 0.12), (*_BLUE, 1.0)])
        image = axes.imshow(cells, aspect="auto", cmap=colours, norm=LogNorm(1, most), interpolation="nearest")
        axes.set(xlabel="class, by label", ylabel="site, by number")
        axes.yaxis.get_major_locator().set_params(integer=True)
        axes.xaxis.get_major_locator().set_params(integer=True)
        bar = figure.colorbar(image, ax=axes, label="training images")
        bar.ax.yaxis.set_major_formatter("{x:g}")
        bar.ax.yaxis.set_minor_formatter("")
        rows = max(1, _MOST_CELLS // len(names))
        caption = "Training images by site and class"
        cut = f"; the first {rows} of {len(grid)} sites, all are in partition.json" if rows < len(grid) else ""
        shown = [[site, *row] for site, row in zip(sites[:rows], grid[:rows], strict=True)]
        return table(caption + cut, ["site", *names], shown)

    return paint
