"""From the rounds of a run to its summary: last, mean of the last ten, and what validation data chose as the best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from fedpurel_app.reporting.selection import Selection

MODELS = ("zero_shot", "global", "global_at_sites", "personalized")
_WINDOW = 10  # rounds in the mean of the last ones

Series = list[tuple[Mapping[str, Any], dict[str, Any]]]  # a round's line, and the scores of a model in it


def summarize_run(
    rounds: Sequence[Mapping[str, Any]],
    settings: Mapping[str, Any],
    outcome: str,
    error: str | None,
    has_private_part: bool,
    seconds: float,
    spent: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Summarise a run.

    Parameters
    ----------
    rounds : sequence of mapping
        Objects of ``rounds.jsonl``.
    settings : mapping
        The run's settings by key.
    outcome : {"completed", "failed", "stopped"}
    error : str or None
        Why the run did not complete.
    has_private_part : bool
        Whether the algorithm trains private branches.
    seconds : float
        Time spent in all.
    spent : mapping, optional
        Privacy that was spent, as :meth:`RunFolder.spent` gives it.

    Returns
    -------
    dict
        ``zero_shot`` and ``global`` on the server's balanced test set, ``global_at_sites`` and ``personalized`` on the
        sites' own test parts, each with ``all``, ``many``, ``medium``, ``few``, ``balancedness`` in percent or null;
        ``reasons`` for what is null; ``best``, the test scores of the rounds that validation data chose, null where
        none did; ``best_on_test`` and ``mean_of_last_10`` over the evaluated rounds, and those among the last ten, of
        the phase that trains the model; ``seconds`` by part; sums over the rounds; ``privacy``, its ``epsilon`` null
        where Flower does not account for it; ``fronts`` by curve, of a method that is asked for a preference.
    """
    played = [line for line in rounds if line["round"]]
    series: dict[str, Series] = {
        "global": [(line, line["global"]) for line in rounds if line.get("global")],
        "global_at_sites": _at_sites(played, "global"),
        "personalized": _at_sites(played, "personalized") if has_private_part else [],
    }
    last = {name: values[-1][1] if values else None for name, values in series.items()}
    last["zero_shot"] = next((line["zero_shot"] for line in rounds if line.get("zero_shot")), None)
    # The global model changes in global rounds alone; personal rounds score it again and again.
    shared = ("global", "evaluation")
    trained = {
        name: [(line, scores) for line, scores in values if line["phase"] in phases]
        for (name, values), phases in zip(series.items(), (shared, shared, ("personal",)), strict=True)
    }
    best, why_none = _chosen(series, rounds, settings)
    return {
        "outcome": outcome,
        "error": error,
        **{key: settings[key] for key in ("algorithm", "peft", "dataset", "seed")},
        "rounds": len(played),
        **{name: last[name] for name in MODELS},
        **_fronts(played),
        "reasons": {
            **_reasons(last, has_private_part, any(line.get("scores_withheld") for line in played)),
            **({"best": why_none} if why_none else {}),
        },
        "balancedness_is": {"power": settings["balancedness-power"], "sigma": settings["balancedness-sigma"]},
        "best": best,
        "best_on_test": {name: _best_on_test(values) for name, values in trained.items() if values},
        "mean_of_last_10": {name: _mean(values, played) for name, values in trained.items() if values},
        "seconds": {**time_by_part(rounds, seconds), "total": seconds},
        "train": _last_train(played),
        "privacy": _privacy(settings.get("privacy", "none"), outcome, spent),
        "bytes_up": sum(line["bytes_up"] for line in played),
        "bytes_down": sum(line["bytes_down"] for line in played),
        "dropped_replies": sum(len(line["dropped"]) for line in played),
        "rounds_without_quorum": sum(line["kept_old_model"] for line in played),
        "private_restarted": sorted({site for line in played for site in line.get("private_restarted", [])}),
    }


def _fronts(played: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what the sites' fronts are worth, as the last round that scored them has it."""
    return next(({"fronts": line["fronts"]} for line in reversed(played) if line.get("fronts")), {})


def _privacy(kind: str, outcome: str, spent: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Say what was spent; of a run that was cut off also by the round that may have been released unsaved."""
    if kind == "none":
        return None
    if spent is None:
        return {"kind": kind, "epsilon": None, "delta": None, "releases": None}
    return {"kind": kind, **spent["spent" if outcome == "completed" else "if_cut_off"]}


def without_effect(rounds: Sequence[Mapping[str, Any]]) -> str:
    """Tell of the phases in which no round ever had enough usable replies, so that nothing was trained in them.

    Parameters
    ----------
    rounds : sequence of mapping
        Objects of ``rounds.jsonl``.

    Returns
    -------
    str
        What that leaves, and the first site's reason, whole; empty when every phase had an effect.
    """
    problems = []
    for phase, left in (
        ("global", "the global model is that of before training"),
        ("personal", "no private branch was trained"),
    ):
        played = [line for line in rounds if line["round"] and line["phase"] == phase]
        if not played or not all(line["kept_old_model"] for line in played):
            continue
        reasons = [(line["round"], *reason) for line in played for reason in line["dropped"]]
        said = [f"The first reason, of {site} in round {number}: {reason}" for number, site, reason in reasons[:1]]
        count = f"the {len(played)} {phase} rounds" if len(played) > 1 else f"the one {phase} round"
        problems.append(". ".join([f"In none of {count} enough sites gave a usable reply: {left}", *said]))
    return "\n".join(problems)


def _at_sites(rounds: Sequence[Mapping[str, Any]], model: str) -> Series:
    return [(line, line["sites"][model]) for line in rounds if (line.get("sites") or {}).get(model)]


def _chosen(
    series: Mapping[str, Series], rounds: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]
) -> tuple[dict[str, Any] | None, str]:
    """Return the test scores of the rounds that validation data chose; or None, and why there are none."""
    selection = Selection(settings, rounds)
    if not selection.is_on:
        return None, "with validation-share = 0 no round is chosen: the last one counts"
    if not selection.best:
        scored = any(line.get("validation") for line in rounds)
        lacks = f"the sites do not share what select-by = {selection.by} is computed from"
        return None, lacks if scored else "no site told scores of a validation part"
    best: dict[str, Any] = {"select_by": selection.by}
    for name, values in series.items():
        choice = selection.best.get("personalized" if name == "personalized" else "global")
        found = [scores for line, scores in values if choice and line["round"] == choice["round"]]
        if choice and found:
            best[name] = {"round": choice["round"], "validation": choice["value"], **found[0]}
    return best, ""


def _best_on_test(values: Series) -> dict[str, Any]:
    line, scores = max(values, key=lambda pair: pair[1]["all"] if pair[1]["all"] is not None else -1.0)
    return {"round": line["round"], **scores}


def _mean(values: Series, played: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """Average over the evaluated ones among the last ten rounds of the phase."""
    phase = [line["round"] for line in played if line["phase"] == values[-1][0]["phase"]]
    recent = [scores for line, scores in values if line["round"] in phase[-_WINDOW:]] or [values[-1][1]]
    names = recent[0].keys()
    columns = {name: [scores[name] for scores in recent if scores.get(name) is not None] for name in names}
    return {name: fmean(column) if column else None for name, column in columns.items()}


def _last_train(rounds: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Return the last training metrics of each phase."""
    return {line["phase"]: line["train"] for line in rounds if line["train"]}


def _reasons(last: Mapping[str, Any], has_private_part: bool, withheld: bool) -> dict[str, str]:
    reasons = {}
    groups = ("many", "medium", "few")
    for name in MODELS:
        if last[name] is None:
            if name == "personalized" and not has_private_part:
                reasons[name] = "this algorithm has no private part"
            elif name == "global" and last["zero_shot"] is not None:  # the server scores both, or neither
                reasons[name] = "sites keep a part of the global model"
            elif name in ("zero_shot", "global"):
                reasons[name] = "the server evaluated no test set"
            else:
                reasons[name] = (
                    "the sites keep their scores" if withheld else "no evaluation at the sites was completed"
                )
            continue
        if last[name].get("ece", 0.0) is None:
            reasons[f"{name}.ece"] = "most sites sent no confidences"
        if last[name]["balancedness"] is None or all(last[name][group] is None for group in groups):
            reasons[f"{name}.groups"] = "the sites shared totals, not class counts"
        else:
            for group in groups:
                if last[name][group] is None:
                    reasons[f"{name}.{group}"] = "no class of this group has a test image"
    return reasons


def time_by_part(rounds: Sequence[Mapping[str, Any]], total: float) -> dict[str, float]:
    """Split a run's wall time into parts.

    Returns
    -------
    dict of str to float
        ``start_up`` (until the first evaluation), ``features`` (encoding images, at the server and at sites),
        ``training`` and ``evaluation`` (work of the busiest process of the sites, and of the server), ``flower`` (the
        rest of each round: messages, waiting) and ``other``, in seconds.
    """
    parts = dict.fromkeys(("start_up", "features", "training", "evaluation", "flower", "other"), 0.0)
    for line in rounds:
        seconds = {name: value or 0.0 for name, value in line["seconds"].items()}
        parts["start_up"] += seconds.get("start_up", 0.0)
        parts["features"] += seconds.get("server_features", 0.0)
        parts["evaluation"] += seconds.get("server", 0.0)
        for part in ("training", "evaluation"):
            encoding = seconds.get(f"{part}_features", 0.0)
            parts["features"] += encoding
            parts[part] += seconds.get(f"{part}_at_sites", 0.0) - encoding
            parts["flower"] += seconds.get(part, 0.0) - seconds.get(f"{part}_at_sites", 0.0)
    parts["other"] = max(0.0, total - sum(parts.values()))
    return parts
