"""Compare settings on validation data: how the defaults (learning rates, rounds, first private branch) were chosen.

    python benchmarks/validation.py --vary learning-rate=0.03,0.1,0.3 --set algorithm=fedavg
    python benchmarks/validation.py --preset caltech-clip --set dataset-path=/data/features.npz \
        --vary algorithm=fedavg,fedpurel --vary learning-rate=0.03,0.1

Every combination runs with every seed in one process, on the tests' in-process Grid; the table is that of
``fedpurel compare``. Test data are not touched: ``shapes`` is scored on its validation split, and a feature file is cut
in two class by class, a quarter of its training rows in the place of the test rows. Seeds start at 100, so that they
are not those of reported results.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))


def value_of(text: str) -> Any:
    """Read a TOML value; what is none is text."""
    with contextlib.suppress(tomllib.TOMLDecodeError):
        return tomllib.loads(f"value = {text}")["value"]
    return text


def hold_out(source: Path, target: Path) -> None:
    """Write a feature file whose test rows are every fourth training row of each class."""
    with np.load(source) as file:
        arrays = {name: file[name] for name in file.files}
    labels = arrays["train_labels"]
    held = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        held[rows[3::4]] = True
    for part in ("features", "labels"):
        arrays[f"test_{part}"] = arrays[f"train_{part}"][held]
        arrays[f"train_{part}"] = arrays[f"train_{part}"][~held]
    np.savez(target, **arrays)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="shapes")
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[])
    parser.add_argument("--vary", metavar="KEY=VALUE,VALUE,...", action="append", default=[])
    parser.add_argument("--seeds", type=int, nargs="+", default=[100, 101, 102])
    parser.add_argument("--out", metavar="STEM", type=Path, help="write the table to STEM.md and STEM.csv")
    options = parser.parse_args()
    os.environ.update(FLWR_TELEMETRY_ENABLED="0", HF_HUB_OFFLINE="1")

    import fedpurel_app
    from fedpurel_app.config import without_idle
    from fedpurel_app.config.presets import load_preset
    from fedpurel_app.data.shapes import rendered
    from fedpurel_app.reporting.compare import compare

    rendered.SHAPES_EVALUATED = "validation"
    fixed = {key: value_of(text) for key, _, text in (pair.partition("=") for pair in options.set)}
    source = {**load_preset(options.preset).values, **fixed}
    varied = [(key, text.split(",")) for key, _, text in (pair.partition("=") for pair in options.vary)]
    with tempfile.TemporaryDirectory() as scratch:
        if "dataset-path" in source and source.get("dataset") == "features":
            hold_out(Path(source["dataset-path"]), Path(scratch) / "features.npz")
            fixed["dataset-path"] = str(Path(scratch) / "features.npz")
        folders: list[Path] = []
        for choice in itertools.product(*(values for _, values in varied)):
            chosen = {key: value_of(text) for (key, _), text in zip(varied, choice, strict=True)}
            for seed in options.seeds:
                path = Path(scratch) / str(len(folders))
                asked = without_idle({**fixed, **chosen, "seed": seed})  # of another method than one that varies
                fedpurel_app.run(asked, preset=options.preset, out=path)
                folders.append(path)
        for line in compare(folders, options.out):
            print(line)


if __name__ == "__main__":
    main()
