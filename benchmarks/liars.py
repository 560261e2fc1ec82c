"""Measure what one or two lying sites of eight do to the global model, under each aggregation.

    python benchmarks/liars.py --set clipping-norm=0.4

A liar trains as the others do, then sends its update times a factor: 100 (scaled), -1 (sign-flipped) or -100 (both).
Every run takes place in this process, on the tests' in-process Grid: a text residual on drawn features of ten classes
whose text features are off, eight sites, all of them in every round, global rounds alone. The table gives the accuracy
of the global model on the balanced test set after the last round.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import tomllib
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
from flwr.app import Context, Message

from fedpurel_app.core.records import ARRAYS, to_array_record, to_arrays

SITES = 8
ATTACKS = [(0, 1), (1, 100), (2, 100), (1, -1), (2, -1), (1, -100), (2, -100)]  # how many liars, factor
METHODS = ("mean", "median", "trimmed-mean", "norm-clipping")
USED_BY = {"clipping-norm": "norm-clipping", "trim-share": "trimmed-mean"}
App = Callable[[Message, Context], Message]


def lying(app: App, liars: int, factor: float) -> App:
    """Make an app of which the first sites multiply their updates."""

    def answer(message: Message, context: Context) -> Message:
        sent = to_arrays(message.content.array_records[ARRAYS]) if ARRAYS in message.content else {}
        reply = app(message, context)
        if message.metadata.message_type == "train" and int(context.node_config["partition-id"]) < liars:
            honest = to_arrays(reply.content.array_records[ARRAYS])
            lie = {name: sent[name] + type(sent[name].flat[0])(factor) * (honest[name] - sent[name]) for name in sent}
            reply.content[ARRAYS] = to_array_record(lie)
        return reply

    return answer


def blurred(path: Path) -> Path:
    """Move the text features of a file away from their classes, so that there is something to learn."""
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    text = arrays["text_features"]
    arrays["text_features"] = text + np.random.default_rng(99).normal(size=text.shape).astype(text.dtype)
    np.savez(path, **arrays)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="of every run that has a use")
    options = parser.parse_args()
    os.environ.update(FLWR_TELEMETRY_ENABLED="0", HF_HUB_OFFLINE="1")

    from benchmarks.synthetic import tiny_features
    from fedpurel_app.client_app import app as client_app
    from fedpurel_app.launch.local_grid import run_app
    from fedpurel_app.reporting.run_folder import RunFolder
    from fedpurel_app.server_app import app as server_app

    given = tomllib.loads("\n".join(options.set))
    common: dict[str, Any] = {"num-sites": SITES, "fraction-train": 1.0, "personal-rounds": 0} | {
        "dataset": "features", "peft": "text-residual", "imbalance-factor": 10, "local-epochs": 2, "learning-rate": 0.3,
        "global-rounds": options.rounds, "evaluate-every": options.rounds,
    }  # fmt: skip

    def accuracy(method: str, seed: int, liars: int, factor: float, path: Path) -> float:
        own = {key: value for key, value in given.items() if USED_BY.get(key, method) == method}
        config = common | own | {"aggregation": method, "seed": seed, "out": str(path)}
        run_app(server_app, lying(client_app, liars, factor), SITES, config)  # type: ignore[arg-type]
        rounds = RunFolder(path).rounds()
        drifts.append(rounds[-1]["train"]["drift"])
        starts.append(rounds[0]["global"]["all"])
        return float(rounds[-1]["global"]["all"])

    drifts: list[float] = []
    starts: list[float] = []
    print("| liars | " + " | ".join(METHODS) + " |\n|---|" + "---|" * len(METHODS))
    with tempfile.TemporaryDirectory() as scratch:
        common["dataset-path"] = str(blurred(tiny_features(Path(scratch) / "features.npz", 10, 16, 100)))
        for liars, factor in ATTACKS:
            cells = []
            for method in METHODS:
                paths = [Path(scratch) / f"{liars}_{factor}_{method}_{seed}" for seed in options.seeds]
                pairs = zip(options.seeds, paths, strict=True)
                cells.append(fmean(accuracy(method, seed, liars, factor, path) for seed, path in pairs))
            name = "none" if not liars else f"{liars} of {SITES}, update × {factor}"
            print(f"| {name} | " + " | ".join(f"{cell:.1f}" for cell in cells) + " |", flush=True)
    print(f"\nbefore training {fmean(starts):.1f}; norm of an honest update in the last round {drifts[0]:.2f}")


if __name__ == "__main__":
    main()
