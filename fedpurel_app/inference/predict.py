"""``fedpurel predict``: class probabilities of images, from the model of a run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fedpurel_app.core.errors import DataError
from fedpurel_app.core.names import as_printed
from fedpurel_app.data.sources.opening import open_image
from fedpurel_app.inference.trained import TrainedModel

_AT_ONCE = 64  # images in memory


@dataclass(frozen=True)
class Prediction:
    """What a model says of one image.

    Attributes
    ----------
    image : Path
    classes : tuple of (str, float)
        Names and probabilities, the most probable first.
    """

    image: Path
    classes: tuple[tuple[str, float], ...]


@torch.no_grad()
def predict(model: TrainedModel, paths: Sequence[Path], top: int = 5) -> list[Prediction]:
    """Classify images.

    Parameters
    ----------
    model : TrainedModel
    paths : sequence of Path
        Image files in any format that Pillow reads.
    top : int
        Classes to give for each image, at least 1.

    Returns
    -------
    list of Prediction
        In the order of the paths. Probabilities are the softmax of the model's logits.

    Raises
    ------
    DataError
        When a file cannot be read as an image, or the run was made with precomputed features.
    """
    backbone = model.experiment.kit.backbone
    if backbone is None:
        name = model.experiment.federation.source.name
        raise DataError(
            f"the run was made with precomputed features ({name}), which name no image tower: encode the images as the "
            "features were, and multiply with the weights of fedpurel export."
        )
    takes = next(iter(model.branches.values())).takes  # all of one family
    found: list[Prediction] = []
    for start in range(0, len(paths), _AT_ONCE):
        part = paths[start : start + _AT_ONCE]
        pixels = torch.stack([backbone.preprocess(open_image(path)) for path in part])
        logits = model.logits(backbone.seen(pixels, takes))
        best = logits.softmax(-1).topk(min(top, logits.shape[1]))
        for path, values, classes in zip(part, best.values.tolist(), best.indices.tolist(), strict=True):
            named = (model.class_names[index] for index in classes)
            found.append(Prediction(path, tuple(zip(named, values, strict=True))))
    return found


def as_text(predictions: Sequence[Prediction]) -> str:
    """Print predictions, one class a line."""
    lines = []
    for one in predictions:
        lines += [str(one.image), *(f"  {100 * value:5.1f} %  {as_printed(name, 300)}" for name, value in one.classes)]
    return "\n".join(lines)


def as_json(model: TrainedModel, predictions: Sequence[Prediction]) -> str:
    """Print predictions as JSON, with the model that they are of."""
    images = [
        {"image": str(one.image), "classes": [{"class": name, "probability": value} for name, value in one.classes]}
        for one in predictions
    ]
    facts: dict[str, Any] = {"experiment": model.experiment_id, "round": model.round, "site": model.site or None}
    facts |= {"preference": model.preference} if model.preference else {}
    return json.dumps({**facts, "predictions": images}, indent=1, ensure_ascii=False)
