"""The outcome of a run in plain sentences, and what may be done about it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from statistics import fmean
from typing import Any

from fedpurel_app.algorithms.registry import METHODS
from fedpurel_app.core.names import clean
from fedpurel_app.reporting.columns import number
from fedpurel_app.reporting.console import duration
from fedpurel_app.reporting.outcome import can_go_on, how_to_go_on
from fedpurel_app.reporting.page.snapshot import Snapshot
from fedpurel_app.reporting.settings import data_in_words
from fedpurel_app.reporting.site_table import any_branch

Scores = Mapping[str, Any]


def lead(run: Snapshot, tells_why: bool = True) -> tuple[str, ...]:
    """Say what was trained and what came of it, where the tail stands, and how far a run came that is not complete.

    Parameters
    ----------
    run : Snapshot
    tells_why : bool
        Whether the error of a run that failed is said, which may name sites and files.
    """
    state = run.state
    scores = [text for text in (_overall(run), _tail(run)) if text]
    if state == "completed":
        return (f"{_what(run)}: {scores[0]}" if scores else f"{_what(run)}.", *scores[1:])
    found = f"{_what(run)}: {scores[0]}" if scores else f"{_what(run)}: nothing has been scored yet."
    return (_how_far(run, state, tells_why), found, *scores[1:])


def todo(run: Snapshot) -> tuple[tuple[str, str], ...]:
    """Return the commands that continue or follow a run, each behind what it is for; none for a completed one."""
    state = run.state
    if state == "completed":
        return ()
    if state == "running":
        return (("Follow it in a terminal:", f"fedpurel watch {shlex.quote(str(run.path))}"),)
    if not can_go_on(run):
        return ()
    more = ", with the --preset and --set it was begun with" if run.is_of_nodes else ""
    return ((f"Continue it{more}:", run.resume_command),)


def title(run: Snapshot) -> str:
    """Return what to call the page."""
    config = run.config
    return clean(f"{_method(config)}, {config['peft']}, on {config['dataset']}, seed {config['seed']}", 120)


def sites_of(run: Snapshot) -> int:
    """Return the number of sites; 0 where it is not known."""
    known = len(run.partition.get("train", [])) or len(run.roster) or len(run.read_csv("sites.csv"))
    return int(known or run.config.get("num-sites") or 0)


def against(value: float, reference: float) -> str:
    """Say how a score stands to another one.

    >>> against(72.0, 70.0), against(69.9, 70.0), against(70.0, 70.01)
    ('2.0 points above', '0.1 points below', 'level with')
    """
    difference = round(value - reference, 1)
    return f"{abs(difference):.1f} points {'above' if difference > 0 else 'below'}" if difference else "level with"


def zero_shot_at_sites(run: Snapshot) -> Scores:
    """Return zero-shot's last scores on the sites' own test parts; empty where there are none."""
    found = [(line.get("sites") or {}).get("zero_shot") for line in run.played]
    return next((scores for scores in reversed(found) if scores), {})


def _method(config: Mapping[str, Any]) -> str:
    known = METHODS.get(config["algorithm"])
    return known.title if known else str(config["algorithm"])


def _what(run: Snapshot) -> str:
    """Say what was trained."""
    config, count = run.config, sites_of(run)
    where = f" at {count} site{'' if count == 1 else 's'}" if count else ""
    data = f"{clean(config['dataset'], 60)} ({clean(data_in_words(config), 120)})"
    rounds = len(run.played)
    # Who has features alone does not know which CLIP they are of.
    clip = "" if config["dataset"] == "features" else f" ({clean(str(config.get('backbone', 'unknown')), 60)})"
    return (
        f"{_method(config)} fine-tuned CLIP{clip} by "
        f"{clean(config['peft'], 60)} on {data}{where} in {rounds} round{'' if rounds == 1 else 's'}"
    )


def _overall(run: Snapshot) -> str:
    """Say how many images the models have right, beside zero-shot."""
    scores, parts = run.scores, []
    whole = f"the server's balanced {run.config.get('evaluate-on', 'test')} set"
    if (value := _score(scores.get("global"), "all")) is not None:
        base = _score(scores.get("zero_shot"), "all")
        beside = "" if base is None else f", {against(value, base)} zero-shot CLIP ({number(base)} %)"
        parts.append(f"the global model is right on {number(value)} % of {whole}{beside}")
    if (own := _score(scores.get("personalized"), "all")) is not None and _has_own_models(run):
        base = _score(scores.get("global_at_sites"), "all")
        beside = "" if base is None else f", {against(own, base)} the global model there"
        parts.append(f"the sites' personalized models on {number(own)} % of their own test parts{beside}")
    return f"{'; '.join(parts)}." if parts else ""


def _tail(run: Snapshot) -> str:
    """Say where the rare classes stand."""
    scores, parts = run.scores, []
    for name, model, reference, base in (
        ("global model", "global", "zero-shot", scores.get("zero_shot")),
        ("personalized models", "personalized", "zero-shot there", zero_shot_at_sites(run)),
    ):
        value, other = _score(scores.get(model), "few"), _score(base, "few")
        if value is not None and (model == "global" or _has_own_models(run)):
            beside = "" if other is None else f", {against(value, other)} {reference} ({number(other)} %)"
            parts.append(f"the {name} {'has' if model == 'global' else 'have'} {number(value)} %{beside}")
    return f"In the tail, the rare classes (Few), {'; '.join(parts)}." if parts else ""


def _has_own_models(run: Snapshot) -> bool:
    rows = run.read_csv("sites.csv")
    return any_branch(rows) if rows else bool(run.scores.get("personalized"))


def _score(scores: Scores | None, name: str) -> float | None:
    value = (scores or {}).get(name)
    return None if value is None else float(value)


def _how_far(run: Snapshot, state: str, tells_why: bool) -> str:
    done = len(run.played)
    total = run.rounds()[-1]["total_rounds"] if run.rounds() else None
    far = f"{done} of {total} rounds" if total else f"{done} rounds"
    if state == "running":
        return f"The run goes on: {far} are over{_time_left(run, total)}."
    said = {"failed": "The run failed", "stopped": "The run was stopped", "cut off": "The run was cut off"}[state]
    why = (run.scores.get("error") or "").strip().partition("\n")[0] if tells_why else ""
    more = "" if can_go_on(run) else f" {how_to_go_on(run)}"
    return f"{said} after {far}{f': {clean(why, 500)}' if why else ''}{'' if why.endswith('.') else '.'}{more}"


def _time_left(run: Snapshot, total: int | None) -> str:
    recent = [line["seconds"]["total"] or 0.0 for line in run.played[-10:]]
    left = (total or 0) - len(run.played)
    return f", about {duration(left * fmean(recent))} are left" if recent and left > 0 else ""
