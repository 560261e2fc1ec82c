"""From the rounds of a run to its summary: last, mean of the last ten, and best evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

MODELS = ("zero_shot", "global", "global_at_sites", "personalized")
_WINDOW = 10  # evaluations in a mean of the last ones


def summarize_run(
    rounds: Sequence[Mapping[str, Any]],
    facts: Mapping[str, Any],
    balancedness_is: Mapping[str, float],
    has_private_part: bool,
) -> dict[str, Any]:
    """Summarise a run.

    Parameters
    ----------
    rounds : sequence of mapping
        Objects of ``rounds.jsonl``.
    facts : mapping
        Outcome and settings to be repeated.
    balancedness_is : mapping
        ``power`` and ``sigma``.
    has_private_part : bool
        Whether the algorithm trains private branches.

    Returns
    -------
    dict
        ``zero_shot`` and ``global`` on the server's balanced test set, ``global_at_sites`` and ``personalized`` on the
        sites' own test parts, each with ``all``, ``many``, ``medium``, ``few``, ``balancedness`` in percent or null;
        ``reasons`` for what is null; ``best`` and ``mean_of_last_10``; sums over the rounds.
    """
    played = [line for line in rounds if line["round"]]
    series: dict[str, list[tuple[int, dict[str, Any]]]] = {
        "global": [(line["round"], line["global"]) for line in rounds if line.get("global")],
        "global_at_sites": _at_sites(played, "global"),
        "personalized": _at_sites(played, "personalized") if has_private_part else [],
    }
    last = {name: values[-1][1] if values else None for name, values in series.items()}
    last["zero_shot"] = next((line["zero_shot"] for line in rounds if line.get("zero_shot")), None)
    return {
        **facts,
        "rounds": len(played),
        **{name: last[name] for name in MODELS},
        "reasons": _reasons(last, has_private_part),
        "balancedness_is": dict(balancedness_is),
        "best": {name: _best(values) for name, values in series.items() if values},
        "mean_of_last_10": {name: _mean(values[-_WINDOW:]) for name, values in series.items() if values},
        "train": _last_train(played),
        "bytes_up": sum(line["bytes_up"] for line in played),
        "bytes_down": sum(line["bytes_down"] for line in played),
        "dropped_replies": sum(len(line["dropped"]) for line in played),
        "rounds_without_quorum": sum(line["kept_old_model"] for line in played),
    }


def _at_sites(rounds: Sequence[Mapping[str, Any]], model: str) -> list[tuple[int, dict[str, Any]]]:
    return [(line["round"], line["sites"][model]) for line in rounds if (line.get("sites") or {}).get(model)]


def _best(values: Sequence[tuple[int, dict[str, Any]]]) -> dict[str, Any]:
    number, scores = max(values, key=lambda pair: pair[1]["all"] if pair[1]["all"] is not None else -1.0)
    return {"round": number, **scores}


def _mean(values: Sequence[tuple[int, dict[str, Any]]]) -> dict[str, float | None]:
    names = values[0][1].keys()
    columns = {name: [scores[name] for _, scores in values if scores.get(name) is not None] for name in names}
    return {name: fmean(column) if column else None for name, column in columns.items()}


def _last_train(rounds: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Give the last training metrics of each phase."""
    return {line["phase"]: line["train"] for line in rounds if line["train"]}


def _reasons(last: Mapping[str, Any], has_private_part: bool) -> dict[str, str]:
    reasons = {}
    for name in MODELS:
        if last[name] is None:
            if name == "personalized" and not has_private_part:
                reasons[name] = "this algorithm has no private part"
            elif name in ("zero_shot", "global"):
                reasons[name] = "the server evaluated no test set"
            else:
                reasons[name] = "no evaluation at the sites was completed"
        elif last[name]["many"] is None and last[name]["few"] is None:
            reasons[f"{name}.groups"] = "the sites shared totals, not class counts"
    return reasons
