"""Two sites with the same data whose private branches differ, for every method that has a private part."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fedpurel_app.data.shapes import shapes
from tests.attacks.server import Server

CLASSES = 4
NAMES = shapes.CLASS_NAMES[:2]
# Every family, with "lora-a" the private part that global rounds write, and every other method with personal rounds.
CASES = {
    "text-residual": {"peft": "text-residual"},
    "adapter": {"peft": "adapter"},
    "prompt": {"peft": "prompt"},
    "visual-prompt": {"peft": "visual-prompt", "prompt-depth": "shallow"},
    "moving-tokens": {"peft": "visual-prompt", "prompt-relocation": "bandit", "prompt-tokens": 1},
    "lora": {"peft": "lora", "lora-blocks": "0", "lora-rank": 2},
    "lora-a": {"peft": "lora", "lora-blocks": "0", "lora-rank": 2, "shares": "lora-a"},
    "ditto": {"peft": "text-residual", "algorithm": "ditto"},
    "site-choice": {
        "peft": "text-residual",
        "validation-share": 0.2,
        "private-scale": "validation",
        "site-temperature": "validation",
    },
}
KEEPERS = {  # methods, and a balancer, whose private part is written by global rounds alone
    "fed-grab": {"peft": "text-residual", "algorithm": "fedavg", "balancer": "fed-grab", "class-prior": "local"},
    "fedloge": {"peft": "adapter", "algorithm": "fedloge"},
    "pfedmoap": {"peft": "text-residual", "algorithm": "pfedmoap"},
    "moon": {"peft": "text-residual", "algorithm": "moon"},
    "pfedprompt": {"peft": "text-residual", "algorithm": "pfedprompt"},
    "promptfolio": {"peft": "text-residual", "algorithm": "promptfolio"},
    "fedper": {"peft": "adapter", "algorithm": "fedper"},
    "fedpgp": {"peft": "text-residual", "algorithm": "fedpgp"},
    "fedotp": {"peft": "text-residual", "algorithm": "fedotp"},
}
_IMAGES = ("prompt", "visual-prompt", "moving-tokens", "lora", "lora-a", "fedotp")


def feature_site(folder: Path, **node):
    """Make a site with features of its own, all of which lie on one side of a plane through the origin."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    text = np.abs(rng.normal(size=(CLASSES, 8))) + 0.2
    arrays: dict[str, Any] = {"text_features": text.astype(np.float32), "logit_scale": np.float32(10)}
    for split, sizes in (("train", (23, 11, 7, 4)), ("test", (13, 9, 5, 3))):
        labels = np.repeat(np.arange(CLASSES), sizes)
        features = text[labels] + np.abs(0.7 * rng.normal(size=(len(labels), 8)))
        arrays |= {f"{split}_features": features.astype(np.float32), f"{split}_labels": labels}
    np.savez(folder / "own.npz", class_names=np.array([f"class {i}" for i in range(CLASSES)]), **arrays)
    config = {
        "dataset": "features",
        "dataset-path": "/a/path/of/the/server.npz",
        "classes": ", ".join(f"class {i}" for i in range(CLASSES)),
        "imbalance-factor": 1,
        "peft": "text-residual",
        "learning-rate": 0.1,
        "batch-size": 8,
    }
    own = {"site": "north", "data": str(folder / "own.npz"), "state-dir": str(folder / "state")}
    return config, {**own, **node}


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """Render the images of a site once; two sites can have them."""
    folder = tmp_path_factory.mktemp("pictures")
    for label, name in enumerate(NAMES):
        place = folder / "own" / name.replace(" ", "_")
        place.mkdir(parents=True)
        for index, picture in enumerate(shapes.images("train", label, 0, 4)):
            Image.fromarray(picture).save(place / f"{index}.png")
    return {"site": "north", "data": str(folder / "own")}


SLOW = (
    "prompt",
    "visual-prompt",
    "moving-tokens",
    "lora",
    "lora-a",
)  # they load towers for every message, as a real site does


@pytest.fixture(params=[pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in CASES])
def twins(request, tmp_path, pictures):
    """Train a private part, copy the site, and change the copy's private part; yields both and the shared arrays."""
    if request.param not in _IMAGES:
        config, node = feature_site(tmp_path / "one")
    else:
        config = {"dataset": "sites", "classes": ", ".join(NAMES), "batch-size": 4}
        node = {**pictures, "state-dir": str(tmp_path / "one" / "state")}
    config |= (CASES | KEEPERS)[request.param]
    one = Server(config, node)
    arrays = initial(one)
    reply = one.train(arrays, 1)  # with "lora-a" this writes B
    assert not reply.has_error(), reply.error.reason
    if request.param in KEEPERS:
        reply = one.train(arrays, 2, 1)
    else:
        reply = one.personalize(arrays, 2, 1 if config.get("shares") == "lora-a" else 0)
    assert not reply.has_error(), reply.error.reason
    shutil.copytree(tmp_path / "one", tmp_path / "two", dirs_exist_ok=True)
    two = Server(config, {**node, "state-dir": str(tmp_path / "two" / "state")})
    rng = np.random.default_rng(1)
    kept = two.store().load(2)
    changed = {
        name: (value + rng.normal(size=value.shape)).astype(value.dtype) if value.dtype.kind == "f" else value
        for name, value in kept.items()
    }
    two.store().save(changed, 2, 1)
    return request.param, one, two, arrays


def initial(server: Server) -> dict[str, np.ndarray]:
    """Return the shared parameters that a run of these settings begins with, as its server knows them."""
    from fedpurel_app.config import load_config
    from fedpurel_app.experiment import Experiment

    own = {"dataset-path": server.node["data"]}
    experiment = Experiment(load_config({**server.config, **own}), Path(server.node["state-dir"]) / ".cache", own=True)
    return experiment.kit.first_arrays()
