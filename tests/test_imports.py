"""What a message imports at a real site, where each is a new process: nothing that takes seconds, once all is known."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image

from tests.support import write_images

NAMES = "red circle, blue star, green ring"
DEALT = {"num-sites": 2, "imbalance-factor": 2, "max-per-class": 8}


def folder(path):
    write_images(path, {name: range(6) for name in NAMES.split(", ")})
    return path


def parts(path):
    for part in ("train", "test"):
        folder(path / part)
    return path


def own_table(path):
    """A CSV beside the folder that its paths lie in."""
    images = sorted(folder(path).rglob("*.png"))
    lines = [f"{image},{image.parent.name}" for image in images]
    (path / "all.csv").write_text("\n".join(["path,label", *lines]))
    return path / "all.csv"


def parquet(path):
    path.mkdir()
    images = [Image.new("RGB", (4, 4), (10 * number, 0, 0)) for number in range(12)]
    table = {"image": images, "label": NAMES.split(", ") * 4}
    datasets.Dataset.from_dict(table).cast_column("image", datasets.Image()).to_parquet(path / "x.parquet")
    return path


def features(path):
    generator = np.random.default_rng(0)
    rows = {f"{part}_features": generator.normal(size=(12, 128)).astype(np.float32) for part in ("train", "test")}
    labels = {f"{part}_labels": np.arange(12) % 3 for part in ("train", "test")}
    arrays: dict[str, Any] = rows | labels
    np.savez(path.with_suffix(".npz"), **arrays, class_names=np.array(NAMES.split(", ")))
    return path.with_suffix(".npz")


def hub(path):
    """A stand-in for CIFAR-100, in the hub's form."""
    kinds = datasets.Features(
        {
            "img": datasets.Image(),
            "fine_label": datasets.ClassLabel(names=[f"name {number}" for number in range(4)]),
            "coarse_label": datasets.Value("int64"),
        }
    )
    images = [Image.new("RGB", (4, 4), (10 * number, 0, 0)) for number in range(24)]
    labels = [number % 4 for number in range(24)]
    table = {"img": images, "fine_label": labels, "coarse_label": [label // 2 for label in labels]}
    (path / "data").mkdir(parents=True)
    for part in ("train", "test"):
        datasets.Dataset.from_dict(table, features=kinds).to_parquet(path / "data" / f"{part}-0.parquet")
    return path


PART = {"partition-id": 1}
OWN = {"dataset": "sites", "classes": NAMES}
CASES: dict[str, tuple[Callable[[Path], Path] | None, dict[str, Any], dict[str, Any]]] = {
    "a folder of its own": (folder, OWN, {}),
    "a table of its own": (own_table, OWN, {}),
    "parquet of its own": (parquet, OWN, {}),
    "features of its own": (features, {**OWN, "peft": "adapter"}, {}),
    "a part of rendered images": (None, {"dataset": "shapes", **DEALT}, {"partition-id": 0}),
    "an iid part of a folder": (
        parts,
        {"dataset": "imagefolder", "dataset-path": "/at/the/server", "partition": "iid", **DEALT},
        PART,
    ),
    "a part of the hub's": (hub, {"dataset": "cifar100", "partition": "pachinko", **DEALT}, PART),
}


@pytest.mark.slow  # each imports all that is heavy, twice where it is known only after the first
@pytest.mark.parametrize("case", CASES)
def test_no_message_of_a_real_site_imports_what_takes_seconds(tmp_path, case):
    make, settings, node = CASES[case]
    node = {"site": "a", "state-dir": str(tmp_path / "state"), **node}
    node |= {"num-partitions": 2} if "partition-id" in node else {}
    node |= {"data": str(make(tmp_path / "data"))} if make else {}
    command = [sys.executable, "tests/answering.py", json.dumps([settings, node])]
    result = subprocess.run(command, cwd=Path(__file__).parent.parent, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    found = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]
    assert set(found[1]) == {"query.describe", "train", "train.personalize", "evaluate"}
    assert not any(found[1].values()), found[1]
    assert any(found[0].values()) == (case != "features of its own"), "what is to be known once takes these packages"
