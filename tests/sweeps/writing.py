"""Sweeps that take seconds: a few features a class, five sites, few rounds."""

from pathlib import Path

from benchmarks.synthetic import tiny_features

METHODS = """
[methods]
FedAvg = { algorithm = "fedavg" }
FedPuReL = { algorithm = "fedpurel" }
"""


def write_sweep(folder: Path, more: str = METHODS, seeds: str = '"1-2"', **changes: object) -> Path:
    """Write the file of a sweep, and the data beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    tiny_features(folder / "features.npz")
    settings: dict[str, object] = {
        "num-sites": 5,
        "global-rounds": 3,
        "personal-rounds": 2,
        "evaluate-every": 2,
        "batch-size": 8,
    }
    settings |= {"imbalance-factor": "10.0", **{key.replace("_", "-"): value for key, value in changes.items()}}
    lines = [f"{key} = {value}" for key, value in settings.items()]
    text = ['title = "tiny"', f"seeds = {seeds}", "[settings]", 'dataset = "features"', 'dataset-path = "features.npz"']
    path = folder / "sweep.toml"
    path.write_text("\n".join([*text, 'peft = "text-residual"', *lines, more]))
    return path
