"""Plant groups of sites, and measure whether clusters find them and what a cluster's own model is worth at its sites.

    python benchmarks/planted.py --data features.npz
    python benchmarks/planted.py --quick

Features, of a file or drawn, are dealt out to 20 sites in 4 groups, each with a block of classes of its own, by seed. A
site has 35 to 110 training images: a share of them, ``--purity``, from its group's block, the rest from other classes.
No training image is at two sites. A test part is drawn in the same way, and sites may have test images in common. Sites
bring their files as real ones do, each named by its node's ``data``.

First table: the adjusted Rand index of the clusters that ``algorithm = "elsa"`` found, against the groups, after round
1 and after the last one; 1 = the groups, 0 = what chance gives. Second table: mean class accuracy on sites' own test
parts, averaged over sites. "flat" is the mean of all with ``edge-rounds = 1``; with E > 1 a run stops right before all
meet: "own" is the model of each site's cluster, "all" the mean of all of the same run. Clusters are those found, or the
groups, or a division across them, each said as ``edge`` of the nodes. Differences are paired by seed, with the interval
of ``fedpurel table`` and how many seeds are better and worse.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import numpy.typing as npt

GROUPS, SITES = 4, 20
FEWEST, MOST, TESTED = 35, 110, 60  # training images of a site, and test images
DISTANCES = ("cosine", "symmetric-kl", "gaussian")
CASES = (*DISTANCES, "groups", "across")
DRAWN = (40, 16, 80)  # classes, width of features, images of a class in each split
FASTER = {"local-epochs": 2, "learning-rate": 0.3}  # on those
_MEANS = ("trust", "everybody", "own")
Named = Mapping[str, Any]


def adjusted_rand(left: Sequence[object], right: Sequence[object]) -> float:
    """Compare two groupings of the same things by Hubert and Arabie's adjusted Rand index.

    Parameters
    ----------
    left, right : sequence, length n
        Which group each thing is in; names of groups do not matter.

    Returns
    -------
    float
        1 where they are the same, 0 in expectation where one of them is random with its sizes kept.

    References
    ----------
    Hubert and Arabie, "Comparing partitions", Journal of Classification 2, 1985.
    """
    rows, columns = (np.unique(np.array(list(side), dtype=str), return_inverse=True)[1] for side in (left, right))
    table = np.zeros((rows.max() + 1, columns.max() + 1))
    np.add.at(table, (rows, columns), 1)

    def pairs(counts: npt.NDArray[np.float64]) -> float:
        return float((counts * (counts - 1) / 2).sum())

    both, one, other, whole = pairs(table), pairs(table.sum(1)), pairs(table.sum(0)), pairs(np.array([len(rows)]))
    expected, largest = one * other / whole, (one + other) / 2
    return 1.0 if largest == expected else (both - expected) / (largest - expected)


def dealt(labels: npt.NDArray[Any], block: npt.NDArray[Any], count: int, purity: float, rng: Any) -> list[int]:
    """Draw rows, a share of them of the classes of a block, without replacement; fewer where there are not as many."""
    inside = np.isin(labels, block)
    own = round(purity * count)
    found = [rng.permutation(np.flatnonzero(part))[:size] for part, size in ((inside, own), (~inside, count - own))]
    return sorted(np.concatenate(found).tolist())


def plant(file: Named, seed: int, purity: float, folder: Path) -> list[dict[str, Any]]:
    """Write every site's file; return the nodes' settings, whose ``edge`` is the planted group."""
    rng = np.random.default_rng([seed, 14])
    blocks = np.array_split(rng.permutation(len(file["class_names"])), GROUPS)
    left = np.arange(len(file["train_labels"]))
    folder.mkdir(parents=True)
    nodes = []
    for site in range(SITES):
        block, count = blocks[site % GROUPS], int(rng.integers(FEWEST, MOST + 1))
        train = left[dealt(file["train_labels"][left], block, count, purity, rng)]
        left = np.setdiff1d(left, train)
        rows = {"train": train, "test": dealt(file["test_labels"], block, TESTED, purity, rng)}
        own = {f"{part}_{what}": file[f"{part}_{what}"][rows[part]] for part in rows for what in ("features", "labels")}
        name = f"site-{site:02}"
        np.savez(folder / f"{name}.npz", allow_pickle=False, **{**file, **own})
        nodes.append({"site": name, "edge": f"group-{site % GROUPS}", "data": str(folder / f"{name}.npz")})
    return nodes


class Outcome(NamedTuple):
    """What came of a run: agreement with the groups, mean class accuracies at the sites [%], trust, the mean of all."""

    first: float
    last: float
    everybody: float
    own: float
    trust: float
    arrays: Named


class Bench:
    """Runs on one file of features, as the command line says."""

    def __init__(self, options: argparse.Namespace, scratch: Path) -> None:
        from benchmarks.synthetic import tiny_features

        data = options.data or tiny_features(scratch / "features.npz", *DRAWN)
        with np.load(data) as file:
            self.file = {name: file[name] for name in file.files}
        self.scratch, self.done = scratch, 0
        self.common: dict[str, Any] = {
            "dataset": "features", "dataset-path": str(data.absolute()), "imbalance-factor": 1,
            "classes": ", ".join(self.file["class_names"].tolist()), "peft": "text-residual", "num-sites": SITES,
            "global-rounds": options.rounds, "evaluate-every": options.rounds, "fraction-train": 1.0,
            **({} if options.data else FASTER), **tomllib.loads("\n".join(options.set)),
        }  # fmt: skip
        self.plant = cache(lambda seed, purity: plant(self.file, seed, purity, scratch / f"sites_{seed}_{purity:g}"))

    def run(self, seed: int, purity: float, changes: Named, across: bool = False) -> Outcome:
        """Run once, and score the models that it leaves at every site; edges may lie across the groups."""
        from fedpurel_app.client_app import app as client_app
        from fedpurel_app.launch.local_grid import run_app
        from fedpurel_app.reporting.checkpoint import Checkpoint
        from fedpurel_app.reporting.run_folder import RunFolder
        from fedpurel_app.server_app import app as server_app

        nodes, self.done = self.plant(seed, purity), self.done + 1
        path = self.scratch / f"run_{self.done}"
        config = {"algorithm": "elsa", **self.common, **changes, "seed": seed, "out": str(path)}
        here = {"simulation": True}  # else every message is booked on disk, as at a real site
        told = [{**node, "edge": f"edge-{place // (SITES // GROUPS)}"} for place, node in enumerate(nodes)]
        run_app(server_app, client_app, SITES, config, nodes=told if across else nodes, node=here)
        arrays, _, part = Checkpoint(path).read()
        lines, names = RunFolder(path).rounds()[1:], [node["site"] for node in nodes]
        of = [{site: name for name, sites in line.get("clusters", {}).items() for site in sites} for line in lines]
        groups = [node["edge"] for node in nodes]
        first, last = (adjusted_rand(groups, [one.get(name, name) for name in names]) for one in (of[0], of[-1]))
        means = [_mean(part, of[-1].get(name, "")) or arrays for name in names]
        everybody, own = (self.score(config, nodes, models) for models in ([arrays] * SITES, means))
        factors = [factor for line in lines for factor in line.get("trust", {}).values()]
        return Outcome(first, last, everybody, own, fmean(factors or [1.0]), arrays)

    def score(self, config: Named, nodes: list[dict[str, Any]], models: Sequence[Named]) -> float:
        """Return the mean over sites of the mean class accuracy of a site's model on its test part, in percent."""
        import torch

        from fedpurel_app.config import load_config
        from fedpurel_app.experiment import Experiment

        kit = Experiment(load_config(config), self.scratch / "cache").kit
        found = []
        for node, arrays in zip(nodes, models, strict=True):
            with np.load(node["data"]) as file:
                features, labels = torch.from_numpy(file["test_features"].astype(np.float32)), file["test_labels"]
            logits = kit.shared_module(arrays).frozen()(torch.nn.functional.normalize(features, dim=-1))
            right = logits.argmax(1).numpy() == labels
            found.append(100 * fmean(float(right[labels == label].mean()) for label in np.unique(labels)))
        return fmean(found)


def _mean(part: Named, cluster: str) -> dict[str, Any]:
    """Return the mean of a cluster, if a checkpoint has one: of a run that stopped while clusters were apart."""
    start = f"mean/{cluster}/"  # behind the place of the part, where there are several
    return {name.partition(start)[2]: value for name, value in part.items() if start in name}


def measure(bench: Bench, purity: float, options: argparse.Namespace) -> dict[tuple[str, int], dict[int, Outcome]]:
    """Run all cases; return the outcomes by seed, by how clusters came about and E."""
    first, *others = options.apart
    cases: dict[tuple[str, int], dict[str, Any]] = {("flat", 1): {"edge-rounds": 1}}
    cases |= {(distance, first): {"edge-rounds": first, "cluster-distance": distance} for distance in DISTANCES}
    cases |= {(DISTANCES[0], more): {"edge-rounds": more} for more in others}
    named = [*(("groups", rounds) for rounds in options.apart), ("across", options.apart[-1])]
    cases |= {case: {"edge-rounds": case[1], "edge-assignment": "node"} for case in named}
    return {
        case: {seed: bench.run(seed, purity, own, across=case[0] == "across") for seed in options.seeds}
        for case, own in cases.items()
        if case[0] in options.only or case[0] == "flat"
    }


def report(found: Mapping[tuple[str, int], Mapping[int, Outcome]]) -> None:
    """Print both tables."""
    from fedpurel_app.reporting.leaderboard.paired import compare

    print("| clusters by | E | ARI after round 1: mean, seeds | after the last |\n|---|---|---|---|")
    for (name, rounds), runs in found.items():
        if name in DISTANCES:
            ends = ([getattr(one, what) for one in runs.values()] for what in ("first", "last"))
            told = (" ".join(f"{value:.2f}" for value in (fmean(values), *values)) for values in ends)
            print(f"| {name} | {rounds} | " + " | ".join(told) + " |")
    flat = {seed: one.everybody for seed, one in found["flat", 1].items()}
    columns = ("clusters by", "E", "trust", "all", "own", "all - flat", "own - flat", "by seed")
    print(f"\n| {' | '.join(columns)} |\n|" + "---|" * len(columns))
    for (name, rounds), runs in found.items():
        trust, everybody, own = (fmean(getattr(one, what) for one in runs.values()) for what in _MEANS)
        cells = [f"{trust:.3f}", f"{everybody:.2f}", f"{own:.2f}"]
        for what in _MEANS[1:]:
            one = compare({seed: getattr(run, what) for seed, run in runs.items()}, flat)
            cells.append(one.why or f"{one.difference:+.2f} [{one.low:+.2f}, {one.high:+.2f}] {one.wins}:{one.losses}")
        cells.append(" ".join(f"{run.own - flat[seed]:+.2f}" for seed, run in runs.items()))
        print(f"| {name} | {rounds} | " + " | ".join(cells) + " |")
    print(flush=True)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a file of features, in the place of drawn ones")
    parser.add_argument("--rounds", type=int, default=19, help="one less than a multiple of every E (default: 19)")
    parser.add_argument("--apart", type=int, nargs="+", default=[2, 5], metavar="E", help="edge-rounds (default: 2 5)")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(300, 305)))
    parser.add_argument("--purity", type=float, nargs="+", default=[0.9, 0.7])
    parser.add_argument("--only", choices=CASES, nargs="+", default=CASES, help="how clusters come about, beside flat")
    parser.add_argument("--quick", action="store_true", help="the first seed and purity alone")
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="of every run")
    options = parser.parse_args()
    if odd := [rounds for rounds in options.apart if rounds < 2 or (options.rounds + 1) % rounds]:
        parser.error(f"--rounds {options.rounds} is not one less than a multiple of {odd[0]}, or that is below 2")
    if options.quick:
        options.seeds, options.purity = options.seeds[:1], options.purity[:1]
    os.environ.update(FLWR_TELEMETRY_ENABLED="0", HF_HUB_OFFLINE="1")
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(options, Path(scratch))
        settings: tuple[dict[str, Any], ...] = ({"edge-rounds": 1, "trust": "none"}, {"algorithm": "fedavg"})
        ours, plain = (bench.run(options.seeds[0], options.purity[0], changes).arrays for changes in settings)
        away = max(float(np.abs(value - ours[name]).max()) for name, value in plain.items())
        print(f"edge-rounds = 1 without trust differs from fedavg by at most {away:g} in any parameter")
        for purity in options.purity:
            print(f"\n{purity:.0%} of a site's images from its group's block\n")
            report(measure(bench, purity, options))


if __name__ == "__main__":
    main()
