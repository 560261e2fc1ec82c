"""Sweeps whose runs nobody ran: folders with what a table reads, for numbers that are chosen by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedpurel_app.config import load_config
from tests.support import a_round

AXES: dict[str, list[Any]] = {"data": ["demo"], "peft": ["prompt"], "alpha": [1.0]}
AT = {key: values[0] for key, values in AXES.items()}


def scores(value: float, **others: float | None) -> dict[str, float | None]:
    """Return scores that are all one value but those that are named."""
    return {**dict.fromkeys(("all", "many", "medium", "few", "balancedness", "ece"), value), **others}


def write_run(folder: Path, settings: Mapping[str, Any], summary: Mapping[str, Any], branches: bool = False) -> None:
    """Write a run's folder; zero-shot scores 50 at the server and 40 at the sites."""
    folder.mkdir(parents=True)
    config = {**load_config({}).model_dump(by_alias=True), **settings}
    machine = {"cpu": "Abacus 3000", "cores": 2}
    _write(folder / "config.json", {"config": config, "data": "d", "versions": {"flwr": "1.42.0"}, "machine": machine})
    _write(folder / "partition.json", {"sha256": f"parts of seed {config['seed']}"})
    told = {"outcome": "completed", "seconds": {"total": 8.0}, "bytes_up": 3_000_000, "zero_shot": scores(50.0)}
    _write(folder / "summary.json", {**told, **summary})
    line = a_round(1, sites={"zero_shot": scores(40.0)})
    (folder / "rounds.jsonl").write_text(f"{json.dumps(line)}\n")
    rows = f"site,gain,has_private_branch\nsite-00,1.0,{int(branches)}\n"
    (folder / "sites.csv").write_text(rows)


def cell(method: str, seed: int, run: str = "", at: Mapping[str, Any] = AT) -> dict[str, Any]:
    """Return a cell of a plan."""
    return {"method": method, "at": dict(at), "seed": seed, "run": run or f"{method.lower()}-s{seed}"}


def write_plan(path: Path, methods: Sequence[str], cells: Sequence[Mapping[str, Any]], **more: Any) -> Path:
    """Write a sweep's plan into a folder."""
    path.mkdir(parents=True, exist_ok=True)
    plan = {
        "title": "By hand",
        "command": "fedpurel sweep by-hand.toml",
        "against": methods[0],
        "methods": methods,
        "axes": AXES,
        "cells": cells,
        "left_out": [],
    }
    _write(path / "plan.json", {**plan, **more})
    return path


def write_sweep(
    path: Path, table: Mapping[str, Mapping[int, float]], settings: Mapping[str, Mapping[str, Any]], **more: Any
) -> Path:
    """Write a sweep of one place.

    Parameters
    ----------
    path : Path
    table : mapping of str to mapping of int to float
        By method and seed, what all scores of the global model are; at the sites they are lower by 10, and those of
        personalized models, which ``fedpurel`` alone has, higher by 5 than at the server.
    settings : mapping of str to mapping
        By method, settings of its runs.
    """
    for method, by_seed in table.items():
        for seed, value in by_seed.items():
            own = settings[method]["algorithm"] == "fedpurel"
            models = {"global": scores(value), "global_at_sites": scores(value - 10)}
            models |= {"personalized": scores(value + 5)} if own else {}
            write_run(path / "runs" / f"{method.lower()}-s{seed}", {**settings[method], "seed": seed}, models, own)
    cells = [cell(method, seed) for method, by_seed in table.items() for seed in by_seed]
    return write_plan(path, list(table), cells, **more)


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps({"schema": 1, **content}))
