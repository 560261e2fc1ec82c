"""What a private branch of its own is worth to a site that the federation never saw, over seeds.

    fedpurel sweep sweeps/readme.toml
    python benchmarks/new_site.py ~/fedpurel/sweeps/readme/runs/fedpurel-* --sites 4

Takes finished runs of the demo. A new site has the numbers of images that another draw of the demo gives one of its
sites, class by class, and images that no run has: the same domain, rendered from another seed. It trains as
``fedpurel personalize`` does. A run counts once, with the mean over its new sites; interval and test are those of
``fedpurel table``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
from PIL import Image

from fedpurel_app.api import Run
from fedpurel_app.config import stored_config
from fedpurel_app.data.shapes import shapes
from fedpurel_app.federation import Federation
from fedpurel_app.reporting.leaderboard.paired import Comparison, compare

COLUMNS = ("all", "few", "balancedness")
_ANOTHER = 1_000_003  # added to a seed: what is drawn with it has nothing to do with the run


def write_site(run: Run, number: int, folder: Path) -> None:
    """Render the images of a new site into ``train/CLASS`` and ``test/CLASS``.

    Parameters
    ----------
    run : Run
        Of the demo.
    number : int
        Which of its new sites, from 0.
    folder : Path
    """
    config = stored_config({**json.loads((run.path / "config.json").read_text("utf-8"))["config"], "resume-from": ""})
    seed = config.seed + _ANOTHER
    federation = Federation(config.model_copy(update={"seed": seed}))
    partition = federation.partition(config.num_sites)
    parts = {
        "train": federation.source.train.labels[partition.train[number]],
        "test": federation.source.test.labels[partition.test[number]],
    }
    for part, labels in parts.items():
        for label, count in enumerate(np.bincount(labels, minlength=len(shapes.CLASS_NAMES)).tolist()):
            place = folder / part / shapes.CLASS_NAMES[label]
            for index, picture in enumerate(shapes.images(part, label, 0, count, seed=seed + number)):
                place.mkdir(parents=True, exist_ok=True)
                Image.fromarray(picture).save(place / f"{index}.png")


def scores_of(run: Run, sites: int) -> dict[str, dict[str, float]]:
    """Return the mean scores of a run's new sites, in percent, by model and column."""
    found: list[dict[str, Any]] = []
    for number in range(sites):
        with tempfile.TemporaryDirectory() as folder:
            write_site(run, number, Path(folder) / "data")
            made = run.personalize(Path(folder) / "data", Path(folder) / "out", f"new-{number}")
            found.append(dict(made.pooled))
    return {
        model: {one: statistics.fmean(pooled[model][one] for pooled in found) for one in COLUMNS}
        for model in ("zero_shot", "global", "personalized")
    }


def compared(by_seed: dict[int, dict[str, dict[str, float]]], column: str) -> Comparison:
    """Compare the personalized with the global model over seeds."""
    ours, theirs = ({seed: one[model][column] for seed, one in by_seed.items()} for model in ("personalized", "global"))
    return compare(ours, theirs)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print a line for each seed and one for each column."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", metavar="RUN", type=Path, nargs="+")
    parser.add_argument("--sites", type=int, default=4, help="new sites of each run (default: 4)")
    parser.add_argument("--json", type=Path, help="write all scores here")
    options = parser.parse_args(arguments)
    by_seed: dict[int, dict[str, dict[str, float]]] = {}
    for path in options.runs:
        run = Run(path.absolute())
        seed = int(run.summary["seed"])
        by_seed[seed] = scores_of(run, options.sites)
        cells = (f"{model} {by_seed[seed][model]['all']:.2f}" for model in by_seed[seed])
        print(f"seed {seed}: {', '.join(cells)}", flush=True)
    for column in COLUMNS:
        one = compared(by_seed, column)
        means = [statistics.fmean(scores[model][column] for scores in by_seed.values()) for model in by_seed[seed]]
        print(
            f"{column}: zero-shot {means[0]:.1f}, global {means[1]:.1f}, personalized {means[2]:.1f}; gain "
            f"{one.difference:+.2f} [{one.low:+.2f}, {one.high:+.2f}], p = {one.p:.3g}, {one.wins} of {one.pairs} seeds"
        )
    if options.json:
        options.json.write_text(json.dumps(by_seed, indent=1) + "\n")


if __name__ == "__main__":
    main()
