"""Settings of finished runs: which make runs comparable, and what to call them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fedpurel_app.config import load_config, without_idle
from fedpurel_app.core.names import clean, split_names
from fedpurel_app.reporting.run_folder import RunFolder

DEFAULTS = load_config({}).model_dump(by_alias=True)
# Keys in which runs of one setting may differ.
FREE = frozenset({"seed", "out", "resume-from", "experiment-id", "state-dir", "device", "console", "tracker"})


def settings(folder: RunFolder) -> dict[str, Any]:
    """Return a run's settings by key, and as ``data`` the fingerprint of its data.

    Raises
    ------
    StateError
        When ``config.json`` cannot be read.
    """
    content = folder.read_json("config.json")
    return {**content["config"], "data": content.get("data", "")}


def data_in_words(config: Mapping[str, Any]) -> str:
    """Say how the data are dealt out, or how many classes there are where the sites bring their own.

    Parameters
    ----------
    config : mapping
        Settings by key.
    """
    if config["dataset"] == "sites":
        return f"{len(split_names(config['classes']))} classes"
    alpha = f" alpha {config['alpha']:g}" if config["partition"] in ("dirichlet", "pachinko") else ""
    if config["dataset"] == "manifest":
        return f"as it is, {config['partition']}{alpha}"
    size = f"{shots} shots" if (shots := config.get("shots")) else f"IF {config['imbalance-factor']:g}"
    return f"{size}, {config['partition']}{alpha}"


def run_in_words(config: Mapping[str, Any]) -> str:
    """Say what a run is: method, family, data and seed."""
    method = f"{config['algorithm']}, {config['peft']}"
    return f"{method} on {config['dataset']}, {data_in_words(config)}, seed {config['seed']}"


def place_in_words(at: Mapping[str, Any]) -> str:
    """Write a place of a sweep, a value for each of its axes, in words.

    >>> place_in_words({"data": "demo", "alpha": 0.1, "augment": "none"})
    'demo, alpha 0.1, augment none'
    """
    parts = []
    for key, value in at.items():
        text = f"{value:g}" if isinstance(value, float) else str(value)
        parts.append(text if key in ("data", "dataset", "peft") else f"{key} {text}")
    return clean(", ".join(parts)) or "all runs"


def setting(config: Mapping[str, Any], keys: Iterable[str] | None = None) -> tuple[tuple[str, str], ...]:
    """Return what makes runs comparable: all keys that are not free, or some of them."""
    full = {**DEFAULTS, **without_idle(config)}  # a run of before a key was there had what is its default now
    chosen = sorted(full if keys is None else keys)
    return tuple((key, str(full.get(key))) for key in chosen if key not in FREE)


def own_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the seed and what else makes a run's results and is not as it is by default."""
    used = without_idle(config)
    return {"seed": used["seed"], **{k: v for k, v in used.items() if k not in FREE and v != DEFAULTS.get(k)}}


def differing(configs: Sequence[Mapping[str, Any]], among: Iterable[str] | None = None) -> list[str]:
    """Name the keys, free ones aside, that do not have one value in all settings."""
    return [
        key
        for key in (configs[0] if among is None else among)
        if key not in FREE and len({str(config.get(key)) for config in configs}) > 1
    ]


def label_runs(configs: Sequence[Mapping[str, Any]], naming: Sequence[str], among: Iterable[str] | None) -> list[str]:
    """Label each run by its method and by the keys that differ among the runs that read them."""
    used = [without_idle(config) for config in configs]
    varying = [
        key
        for key in (configs[0] if among is None else among)
        if key not in (*naming, "data") and key not in FREE and len({str(one[key]) for one in used if key in one}) > 1
    ]
    labels = [
        clean(", ".join([*(str(one[key]) for key in naming), *(f"{key} {one[key]}" for key in varying if key in one)]))
        for one in used
    ]
    # Equal ones differ in nothing but what lay at the path of their data.
    return [
        f"{label}, data {clean(str(one.get('data')), 8)}" if labels.count(label) > 1 else label
        for label, one in zip(labels, used, strict=True)
    ]
