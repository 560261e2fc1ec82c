"""Measure what lying sites do to the global model, under each aggregation and with trust.

    python benchmarks/liars.py --set clipping-norm=0.4
    python benchmarks/liars.py --data features.npz --seeds 0 1 2
    python benchmarks/liars.py --data features.npz --cost --sites 20 --share 0.4 --rounds 40 --set alpha=0.1

A liar trains as the others do, then sends its update times a factor: 100 (scaled), -1 (sign-flipped) or -100 (both).
Every run takes place in this process, on the tests' in-process Grid: a text residual, eight sites, all of them in every
round, global rounds alone; on drawn features of ten classes whose text features are off, or on a file of features. The
table gives the accuracy of the global model on the balanced test set after the last round.

``--cost`` asks instead what trust costs where nobody lies: for every site, its mean factor and the accuracy of the
global model on its own test part, with and without.
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

ATTACKS = [(0, 1), (1, 100), (2, 100), (1, -1), (2, -1), (1, -100), (2, -100)]  # how many liars, factor
METHODS: dict[str, dict[str, Any]] = {
    "mean": {},
    "median": {"aggregation": "median"},
    "trimmed-mean": {"aggregation": "trimmed-mean"},
    "norm-clipping": {"aggregation": "norm-clipping"},
    "trust": {"trust": "predictions"},
}
DRAWN = {"imbalance-factor": 10, "local-epochs": 2, "learning-rate": 0.3}
FILE = {"imbalance-factor": 30}
BANDS = ((0.0, 0.5), (0.5, 0.9), (0.9, 1.0), (1.0, 2.0))  # of mean factors
USED_BY = {"clipping-norm": "norm-clipping", "trim-share": "trimmed-mean", "trust-tolerance": "trust"}
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


class Bench:
    """Runs of one setting.

    Parameters
    ----------
    options : Namespace
        Of the command line.
    scratch : Path
    """

    def __init__(self, options: argparse.Namespace, scratch: Path) -> None:
        from benchmarks.synthetic import tiny_features

        self.sites, self.seeds, self.only, self.scratch = options.sites, options.seeds, options.only, scratch
        self.given = tomllib.loads("\n".join(options.set))
        data = options.data or blurred(tiny_features(scratch / "features.npz", 10, 16, 100))
        self.common: dict[str, Any] = {
            "dataset": "features", "dataset-path": str(Path(data).absolute()), "peft": "text-residual",
            "personal-rounds": 0, "num-sites": self.sites, "fraction-train": options.share,
            "global-rounds": options.rounds, "evaluate-every": options.rounds, **(FILE if options.data else DRAWN),
        }  # fmt: skip

    def run(self, method: str, seed: int, liars: int = 0, factor: float = 1) -> Any:
        """Run once; return the run folder."""
        from fedpurel_app.client_app import app as client_app
        from fedpurel_app.launch.local_grid import run_app
        from fedpurel_app.reporting.run_folder import RunFolder
        from fedpurel_app.server_app import app as server_app

        path = self.scratch / f"{method}_{seed}_{liars}_{factor}"
        own = {key: value for key, value in self.given.items() if USED_BY.get(key, method) == method}
        config = self.common | METHODS[method] | own | {"seed": seed, "out": str(path)}
        run_app(server_app, lying(client_app, liars, factor), self.sites, config)  # type: ignore[arg-type]
        return RunFolder(path)

    def liars(self) -> None:
        """Print the table of attacks."""
        drifts, starts = [], []
        print("| liars | " + " | ".join(self.only) + " |\n|---|" + "---|" * len(self.only))
        for liars, factor in ATTACKS:
            cells = []
            for method in self.only:
                all_rounds = [self.run(method, seed, liars, factor).rounds() for seed in self.seeds]
                cells.append(fmean(rounds[-1]["global"]["all"] for rounds in all_rounds))
                drifts += [rounds[-1]["train"]["drift"] for rounds in all_rounds]
                starts += [rounds[0]["global"]["all"] for rounds in all_rounds]
            name = "none" if not liars else f"{liars} of {self.sites}, update × {factor}"
            print(f"| {name} | " + " | ".join(f"{cell:.1f}" for cell in cells) + " |", flush=True)
        print(f"\nbefore training {fmean(starts):.1f}; norm of an honest update in the last round {drifts[0]:.2f}")

    def cost(self) -> None:
        """Print what trust costs honest sites, by their mean factors."""
        found: list[tuple[float, float, float]] = []  # factor; accuracy with the mean, and with trust
        whole: list[tuple[float, float]] = []
        lowered = replies = 0
        for seed in self.seeds:
            plain, trusting = self.run("mean", seed), self.run("trust", seed)
            whole.append((plain.rounds()[-1]["global"]["all"], trusting.rounds()[-1]["global"]["all"]))
            factors: dict[str, list[float]] = {}
            for line in trusting.rounds():
                for site, value in line.get("trust", {}).items():
                    factors.setdefault(site, []).append(value)
            lowered += sum(value < 1 for values in factors.values() for value in values)
            replies += sum(map(len, factors.values()))
            own = [{row["site"]: row["global"] for row in folder.read_csv("sites.csv")} for folder in (plain, trusting)]
            found += [
                (fmean(values), float(own[0][site]), float(own[1][site]))
                for site, values in factors.items()
                if own[0].get(site) and own[1].get(site)
            ]
        print("| mean factor | sites | at their test parts: mean | trust | difference |\n|---|---|---|---|---|")
        for low, high in BANDS:
            if band := [one for one in found if low <= one[0] < high]:
                before, after = (fmean(one[place] for one in band) for place in (1, 2))
                name = "1" if low == 1 else f"{low:g} to {high:g}"
                print(f"| {name} | {len(band)} | {before:.1f} | {after:.1f} | {after - before:+.1f} |")
        before, after = (fmean(one[place] for one in whole) for place in (0, 1))
        print(f"\n{lowered} of {replies} replies lowered; balanced test set: mean {before:.2f}, trust {after:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--sites", type=int, default=8)
    parser.add_argument("--share", type=float, default=1.0, help="of the sites in a round")
    parser.add_argument("--data", type=Path, help="a file of features, in the place of drawn ones")
    parser.add_argument("--only", choices=METHODS, nargs="+", default=list(METHODS), help="columns")
    parser.add_argument("--cost", action="store_true", help="what trust costs honest sites")
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="of every run that has a use")
    options = parser.parse_args()
    os.environ.update(FLWR_TELEMETRY_ENABLED="0", HF_HUB_OFFLINE="1")
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(options, Path(scratch))
        bench.cost() if options.cost else bench.liars()


if __name__ == "__main__":
    main()
