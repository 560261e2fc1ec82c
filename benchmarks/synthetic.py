"""Data for benchmarks and tests that is made in a moment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np


def tiny_features(path: Path, classes: int = 6, width: int = 8, per_class: int = 40, seed: int = 0) -> Path:
    """Write a feature file whose classes overlap a little, so that every number of a run is neither 0 nor 100."""
    rng = np.random.default_rng(seed)
    text = rng.normal(size=(classes, width))
    shift = 0.5 * rng.normal(size=width)  # what zero-shot does not know
    arrays: dict[str, Any] = {"text_features": text.astype(np.float32), "logit_scale": np.float32(10)}
    for split in ("train", "test"):
        labels = np.repeat(np.arange(classes), per_class)
        features = text[labels] + shift + 1.3 * rng.normal(size=(len(labels), width))
        arrays |= {f"{split}_features": features.astype(np.float32), f"{split}_labels": labels}
    np.savez(path, allow_pickle=False, class_names=np.array([f"class {i}" for i in range(classes)]), **arrays)
    return path
