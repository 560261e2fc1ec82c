"""Runs that nobody ran: folders with all that a page shows, for numbers that are chosen by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from fedpurel_app.config import load_config
from tests.support import a_round, a_state

SITE_HEADER = (
    "site,test_images,zero_shot,global,personalized,gain,has_private_branch,global_gain,global_low,global_high,"
    "personalized_low,personalized_high,gain_low,gain_high,global_gain_low,global_gain_high,global_ece,"
    "personalized_ece,global_nll,personalized_nll"
)
CLASSES = ("cat", "polar bear", "newt")


def scores(value: float, few: float, **others: float | None) -> dict[str, float | None]:
    """Return scores of which all but those of the rare classes are one value."""
    names = ("all", "many", "medium", "balancedness", "macro_f1", "ece", "ece_many", "ece_few", "nll")
    return {**dict.fromkeys(names, value), "few": few, **others}


def make_run(
    folder: Path, sites: Sequence[str] = ("a", "b"), settings: Mapping[str, Any] = MappingProxyType({})
) -> Path:
    """Write the folder of a completed run.

    Zero-shot has 70.0 % (Few 60.0), the global model 74.5 (Few 58.0), there and at sites, and the personalized models
    77.25 (Few 61.0); the first site's gain is 2.5 points, with an interval of [-1.0, 6.0], the others' 1.0.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = {**load_config({}).model_dump(by_alias=True), "num-sites": len(sites), **settings}
    versions = {"fedpurel-app": "0.1.0", "torch": "2.14.1"}
    write(folder / "config.json", {"config": config, "data": "d", "versions": versions, "host": "secret-host",
                                   "machine": {"cpu": "Abacus 3000", "cores": 2}, "code": "/secret/code"})  # fmt: skip
    models = {
        "zero_shot": scores(70.0, 60.0), "global": scores(74.5, 58.0), "global_at_sites": scores(74.5, 58.0),
        "personalized": scores(77.25, 61.0),
    }  # fmt: skip
    write(folder / "summary.json", {
        "outcome": "completed", "rounds": 4, "seed": 0, "seconds": {"training": 6.0, "total": 8.0},
        "bytes_up": 2048, "bytes_down": 1024, "reasons": {}, **models,
    })  # fmt: skip
    at_sites = {"zero_shot": models["zero_shot"], "global": models["global"], "personalized": models["personalized"]}
    lines = [
        a_round(0, zero_shot=models["zero_shot"], **{"global": scores(70.5, 60.5)}),
        *(a_round(number, cohort=list(sites), usable=list(sites[:1]), bytes_up=512, bytes_down=256, sites=at_sites,
                  dropped=[[site, "CUDA out of memory"] for site in sites[1:2]], train={"loss": 0.5},
                  **{"global": models["global"]}) for number in (1, 2, 3, 4)),
    ]  # fmt: skip
    write_rounds(folder, lines)
    rows = [site_row(site, 2.5 if not index else 1.0) for index, site in enumerate(sites)]
    (folder / "sites.csv").write_text("\n".join([SITE_HEADER, *rows]) + "\n")
    counts = (30, 20, 10)
    table = [f'{label},"{name}",many,{counts[label]},70.0,75.0,77.5' for label, name in enumerate(CLASSES)]
    head = "label,name,group,train_images,zero_shot,global,personalized_at_sites"
    (folder / "classes.csv").write_text("\n".join([head, *table]) + "\n")
    bins = ("zero_shot,all,60.0000,66.6667,40,25,62.5000", "global,all,86.6667,93.3333,40,36,90.0000")
    head = "model,group,confidence_from,confidence_to,images,correct,mean_confidence"
    (folder / "calibration.csv").write_text("\n".join([head, *bins]) + "\n")
    write(folder / "classes.json", {"class_names": CLASSES})
    by_class = [{"0": 30}, {"1": 20, "2": 10}][: len(sites)]
    write(folder / "partition.json", {"sha256": "0", "train_counts": counts, "train_by_class": by_class})
    roster = {str(index): {"site": site, "num_examples": 30, "partitions": len(sites), "device": "cpu"}
              for index, site in enumerate(sites)}  # fmt: skip
    write(folder / "state.json", a_state(4, roster=roster))
    return folder


def site_row(site: str, gain: float) -> str:
    """Return a line of ``sites.csv``."""
    quoted = '"' + site.replace('"', '""') + '"'
    return f"{quoted},40,70.0,74.5,{74.5 + gain},{gain},1,4.5,60.0,85.0,63.0,87.0,-1.0,6.0,-2.0,9.0,3.0,4.0,0.6,0.7"


def write_rounds(folder: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Write ``rounds.jsonl``."""
    (folder / "rounds.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file of a run folder."""
    path.write_text(json.dumps({"schema": 1, **content}))
