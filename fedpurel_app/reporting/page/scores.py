"""The scores of a run's models: accuracy from head to tail, and what their confidences are worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedpurel_app.core.names import clean
from fedpurel_app.reporting.columns import MODELS, digits_of, number
from fedpurel_app.reporting.leaderboard.document import score_title
from fedpurel_app.reporting.page.blocks import Block, Items, Section, Table, Terms, Text
from fedpurel_app.reporting.page.drawn import drawn
from fedpurel_app.reporting.page.lead import zero_shot_at_sites
from fedpurel_app.reporting.page.snapshot import Snapshot
from fedpurel_app.reporting.selection import chosen

_COLUMNS = ("all", "many", "medium", "few", "balancedness", "macro_f1", "ece")
_CALIBRATION = ("ece", "ece_many", "ece_few", "nll")
_WORDS = (
    ("Zero-shot", "CLIP as it is before any training, asked with the class names alone."),
    ("Global", "The model that all sites train together; scored on the server's balanced test set."),
    ("At sites", "Scored on each site's own test part, which has that site's mix of classes; the mean over sites."),
    ("Personalized", "The global model with what a site has trained for itself and keeps."),
    ("All", "Share of images that are classified right, in %."),
    ("Many, Medium, Few", "The same, of classes with many, some and few training images: head, middle and tail."),
    (
        "Balancedness",
        "How alike the accuracies of classes are; 100: equal. Read it beside All: wrong alike is balanced, too.",
    ),
    ("Macro-F1", "Mean over the classes of F1, which counts false alarms as well as misses; in %."),
    ("ECE", "Calibration error: by how many points a confidence is off the accuracy on average. Lower is better."),
)


def scores_section(run: Snapshot) -> Section:
    """Return the table of scores, with what its words mean."""
    found = _by_model(run)
    rows = [[title, *_texts(scores, _COLUMNS)] for title, scores in found]
    for model, scores in chosen(run.scores).items():
        rows.append([f"best {MODELS[model]} (round {scores['round']})", *_texts(scores, _COLUMNS)])
    blocks: list[Block] = [_table("Scores after the last evaluation, in %", _COLUMNS, rows)]
    reasons = run.scores.get("reasons") or {}
    known = {**MODELS, "best": "best model"}
    lacking = [
        f"No {known.get(key.partition('.')[0], key)}{_of(key)}: {clean(str(text))}." for key, text in reasons.items()
    ]
    blocks += [Items(tuple(lacking))] if lacking else []
    return Section("scores", "Scores", (*blocks, Terms(_WORDS)))


def calibration_section(run: Snapshot) -> Section:
    """Return what the folder holds on confidences."""
    found = [(title, scores) for title, scores in _by_model(run) if scores.get("ece") is not None]
    about = Text(
        "A model is well calibrated where, of the images that it is 80 % sure of, it has 80 % right. ECE is the mean "
        "distance from that over 15 bins of confidence, in points, of all images and of those of the head and the tail "
        "apart; NLL is the mean surprise at the right class, in nats. Lower is better for both."
    )
    if not found:
        return Section("calibration", "Calibration", (Text("This run has no calibration scores."), about))
    rows = [[title, *_texts(scores, _CALIBRATION)] for title, scores in found]
    picture = drawn(run, "calibration") or [Text("The folder has no calibration.csv, so no bins are drawn.")]
    return Section("calibration", "Calibration", (*picture, _table("Calibration by model", _CALIBRATION, rows), about))


def _by_model(run: Snapshot) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the scores of each model that has some, under its name."""
    scores: list[tuple[str, Mapping[str, Any]]] = []
    for key, title in MODELS.items():
        if key == "global_at_sites" and (frozen := zero_shot_at_sites(run)):
            scores.append(("zero-shot, at sites", frozen))
        scores.append((title, run.scores.get(key) or {}))
    return scores


def _texts(scores: Mapping[str, Any], columns: Sequence[str]) -> list[str]:
    return [number(scores.get(one), digits_of(one)) for one in columns]


def _table(caption: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    return Table(caption, ("model", *map(score_title, columns)), tuple(map(tuple, rows)))


def _of(key: str) -> str:
    return f", {part}" if (part := key.partition(".")[2]) else ""
