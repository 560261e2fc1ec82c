"""What a knob is worth beside what costs no training, and beside FedPuReL, over the seeds of a sweep.

    fedpurel sweep sweeps/copsl.toml
    python benchmarks/fronts.py ~/fedpurel/sweeps/copsl

Prints for every method with fronts, and every seed: hypervolume x 100 of the knob, of logit adjustment after training
and of the dial, as means over sites; rank correlations of the mean accuracies with the preference for the site's own
mix; the range of the mean own accuracy in points; and the personalized model at that preference beside FedPuReL's. Then
the differences, paired by seed, with the interval and the test of ``fedpurel table``; of other methods also the
hypervolume less that of CoPSL with the same rank and scalarisation. Each data set of a sweep is on its own.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
from scipy.stats import spearmanr

from fedpurel_app.algorithms.registry import METHODS
from fedpurel_app.core.fronts import ADJUSTED, DIAL, PARETO
from fedpurel_app.reporting.leaderboard.paired import Comparison, compare
from fedpurel_app.reporting.run_folder import RunFolder

Numbers = dict[str, dict[int, float]]  # by what is measured, then by seed
Data = tuple[dict[str, Numbers], dict[int, float]]  # of methods with fronts; FedPuReL's personalized models by seed
_AXES = ("own_accuracy", "all_accuracy")
_COPSL = "copsl"


def along(rows: Sequence[Mapping[str, str]], axis: str) -> tuple[list[float], list[float]]:
    """Return the preferences for the own mix, and the mean accuracies over sites [%] at each of them."""
    found: defaultdict[float, list[float]] = defaultdict(list)
    for row in rows:
        if row["curve"] == PARETO and row[axis]:
            found[float(row["at"].partition(";")[0])].append(float(row[axis]))
    places = sorted(found)
    return places, [float(np.mean(found[place])) for place in places]


def measure(folder: RunFolder) -> dict[str, float]:
    """Return the numbers of one run with fronts."""
    summary, rows = folder.summary() or {}, folder.read_csv("fronts.csv")
    found = {f"hypervolume, {curve}": summary["fronts"][curve]["hypervolume"] for curve in (PARETO, ADJUSTED, DIAL)}
    for axis in _AXES:
        places, values = along(rows, axis)
        flat = len(set(values)) < 2
        found[f"rank correlation, {axis}"] = 0.0 if flat else float(spearmanr(places, values).statistic)
        found[f"range, {axis}"] = max(values) - min(values)
    return found | {"personalized": summary["personalized"]["all"]}


def collect(root: Path) -> dict[str, Data]:
    """Return, by data set, the numbers of all methods with fronts, and FedPuReL's personalized accuracy by seed."""
    found: dict[str, Data] = {}
    for path in sorted(root.rglob("summary.json")):
        folder = RunFolder.open(path.parent)
        summary, settings = folder.summary() or {}, folder.read_json("config.json")["config"]
        if summary.get("outcome") != "completed":
            continue
        methods, plain = found.setdefault(f"{settings['dataset']}, alpha {settings['alpha']:g}", ({}, {}))
        if summary.get("fronts"):
            name = f"{settings['algorithm']}, r = {settings['pareto-rank']}, {settings['scalarisation']}"
            if "task-embedding" in METHODS[settings["algorithm"]].keys:
                name += f", {settings['task-embedding']}"
            for what, value in measure(folder).items():
                methods.setdefault(name, {}).setdefault(what, {})[settings["seed"]] = value
        elif settings["algorithm"] == "fedpurel":
            plain[settings["seed"]] = summary["personalized"]["all"]
    return found


def lines(methods: Mapping[str, Numbers], plain: Mapping[int, float]) -> Iterable[str]:
    """Print all of one data set."""
    for name, numbers in methods.items():
        yield f"{name}; seeds {', '.join(map(str, sorted(numbers['personalized'])))}"
        for what, values in numbers.items():
            yield f"  {what:<32}" + "".join(f"{values[seed]:>9.2f}" for seed in sorted(values))
        knob = numbers[f"hypervolume, {PARETO}"]
        pairs = [
            ("hypervolume - logit adjustment's", knob, numbers[f"hypervolume, {ADJUSTED}"]),
            ("hypervolume - the dial's", knob, numbers[f"hypervolume, {DIAL}"]),
            ("personalized - FedPuReL's", numbers["personalized"], plain),
        ]
        algorithm, *same = name.split(", ")
        if algorithm != _COPSL and (theirs := methods.get(", ".join([_COPSL, *same[:2]]))):
            pairs.append(("hypervolume - CoPSL's", knob, theirs[f"hypervolume, {PARETO}"]))
        for what, ours, others in pairs:
            yield f"  {what:<32} {_said(compare(ours, others))}"


def _said(found: Comparison) -> str:
    if found.why:
        return f"{found.pairs} seeds in common: {found.why}"
    return f"{found.difference:+.2f} [{found.low:+.2f}, {found.high:+.2f}], {found.pairs} seeds, p = {found.p:.3f}"


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", type=Path, help="folder of a sweep, or of several runs")
    found = collect(parser.parse_args().sweep.absolute())
    if not any(methods for methods, _ in found.values()):
        print("no completed run here has fronts", file=sys.stderr)
        return 1
    for data, (methods, plain) in found.items():
        print(f"== {data}")
        for line in lines(methods, plain):
            print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
