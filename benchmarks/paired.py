"""Compare methods by paired seeds: mean, and the difference to the first method with its 95 % interval.

    python benchmarks/paired.py --set personal-rounds=0 --vary algorithm=fedavg,prograd,fedpurel --seeds 40-51
    python benchmarks/paired.py --preset caltech-clip --set dataset-path=/data/own.npz --vary algorithm=fedavg,ditto

Every combination runs with every seed in one process; a run that is complete in ``--out`` is not run again. Scores are
those of the last round on the server's balanced test set, beside those of zero-shot CLIP. Intervals are Student's, over
the differences of runs with one seed; a difference whose interval excludes 0 is marked *.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.validation import value_of

SCORES = ("all", "many", "few", "balancedness", "ece", "ece_many", "ece_few", "nll", "macro_f1", "tail_as_head")


def difference(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float]:
    """Return the mean of paired differences, and half the width of its 95 % interval."""
    paired = np.array(ours) - np.array(theirs)
    spread = stats.t.ppf(0.975, len(paired) - 1) * paired.std(ddof=1) / np.sqrt(len(paired))
    return float(paired.mean()), float(spread)


def seeds_of(text: str) -> list[int]:
    """Read ``40-51`` or ``1,2,5``."""
    first, dash, last = text.partition("-")
    return list(range(int(first), int(last) + 1)) if dash else [int(one) for one in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="shapes")
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[])
    parser.add_argument("--vary", metavar="KEY=VALUE,VALUE,...", action="append", required=True)
    parser.add_argument("--seeds", type=seeds_of, default=seeds_of("40-51"), help="at least two")
    parser.add_argument("--model", choices=("global", "global_at_sites", "personalized"), default="global")
    parser.add_argument("--scores", nargs="+", default=list(SCORES))
    parser.add_argument("--out", type=Path, required=True, help="folder of the run folders")
    options = parser.parse_args()
    os.environ.update(FLWR_TELEMETRY_ENABLED="0", HF_HUB_OFFLINE="1")

    fixed = {key: value_of(text) for key, _, text in (pair.partition("=") for pair in options.set)}
    varied = [(key, text.split(",")) for key, _, text in (pair.partition("=") for pair in options.vary)]
    found: dict[str, list[dict[str, Any]]] = {}
    for choice in itertools.product(*(values for _, values in varied)):
        chosen = {key: value_of(text) for (key, _), text in zip(varied, choice, strict=True)}
        name = ", ".join(choice)
        for seed in options.seeds:
            path = options.out / f"{'_'.join(choice)}-s{seed}"
            summary = summary_of({**fixed, **chosen, "seed": seed}, options.preset, path)
            found.setdefault("zero-shot", []).append(summary["zero_shot"])
            found.setdefault(name, []).append(summary[options.model])
    found["zero-shot"] = found["zero-shot"][: len(options.seeds)]  # the same in all methods
    print_table(found, options.scores)


def summary_of(settings: dict[str, Any], preset: str, path: Path) -> dict[str, Any]:
    """Return the summary of a run, which is run if it is not there."""
    import fedpurel_app
    from fedpurel_app.config import without_idle
    from fedpurel_app.config.presets import load_preset
    from fedpurel_app.reporting.run_folder import RunFolder

    done, asked = fedpurel_app.Run(path), without_idle({**load_preset(preset).values, **settings})
    if path.is_dir() and done.summary.get("outcome") == "completed":
        had = RunFolder.open(path).read_json("config.json")["config"]
        if different := [key for key, value in asked.items() if had[key] != value]:
            sys.exit(f"{path} holds a run with other settings ({', '.join(different)}): choose another --out.")
        return done.summary
    return fedpurel_app.run(without_idle(settings), preset=preset, out=path).summary


def print_table(found: dict[str, list[dict[str, Any]]], scores: Sequence[str]) -> None:
    """Print means with their standard deviation, and differences to the method that comes after zero-shot."""
    names = list(found)
    base = names[1]
    print(f"| | {' | '.join(scores)} |\n|---|{'---:|' * len(scores)}")
    for name in names:
        cells = []
        for score in scores:
            values = [one[score] for one in found[name]]
            known = None not in values
            cells.append(f"{np.mean(values):.2f} ± {np.std(values, ddof=1):.2f}" if known else "–")
        print(f"| {name} | {' | '.join(cells)} |")
    for name in (names[0], *names[2:]):
        cells = []
        for score in scores:
            ours, theirs = ([one[score] for one in found[which]] for which in (name, base))
            if None in (*ours, *theirs):
                cells.append("–")
                continue
            mean, spread = difference(ours, theirs)
            cells.append(f"{mean:+.2f} ± {spread:.2f}{'*' if abs(mean) > spread else ''}")
        print(f"| {name} − {base} | {' | '.join(cells)} |")
    print(f"{len(found[base])} seeds; mean ± sd, then mean of paired differences ± half its 95 % interval")


if __name__ == "__main__":
    main()
