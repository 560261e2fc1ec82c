"""Public probes: inputs that are nobody's data, on which the server sees how a model behaves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fedpurel_app.core.errors import DataError
from fedpurel_app.core.layout import Layout
from fedpurel_app.core.records import Arrays
from fedpurel_app.core.seeding import derive_seed
from fedpurel_app.data.shapes import shapes
from fedpurel_app.data.sources.listing import image_files
from fedpurel_app.data.sources.opening import open_image
from fedpurel_app.model_kit import ModelKit
from fedpurel_app.models.peft.base import Host, summed

PAIRS, PICTURES, MOST_FILES = 256, 16, 64


def behaviour(kit: ModelKit, layout: Callable[[], Layout] = dict) -> Callable[[Arrays], npt.NDArray[np.float32]]:
    """Return the function from shared parameters to the global model's logits on the probes, shape (Q, C).

    Parameters
    ----------
    kit : ModelKit
        Of a method whose global model is what sites send.
    layout : callable, optional
        Tells how parameters are laid out now; as at first where nothing does.

    Raises
    ------
    DataError
        When ``probe-path`` holds no images.
    """
    probes = probes_of(kit)

    def behave(arrays: Arrays) -> npt.NDArray[np.float32]:
        model = kit.algorithm.global_model(kit.models(kit.shared_module(arrays, layout=layout())))
        with torch.no_grad():
            logits: npt.NDArray[np.float32] = summed(model)(probes).cpu().numpy()
        return logits

    return behave


def probes_of(kit: ModelKit) -> Tensor:
    """Make the probes of a run, what its modules take, on the device: the same ones whenever they are made.

    Mid-points of pairs of template features where a module takes features of images; of pixels and patches, and
    wherever ``probe-path`` names a folder, images: those in it, else rendered ones.
    """
    path = kit.config.probe_path
    if kit.takes == "features" and not path:
        return midpoints(kit.host, derive_seed(kit.config.seed, "probes"))
    backbone = kit.images_backbone
    images = _files(Path(path)) if path else _rendered(derive_seed(kit.config.seed, "probes"))
    return backbone.seen(torch.stack([backbone.preprocess(image) for image in images]), kit.takes).to(kit.device)


def midpoints(host: Host, seed: int) -> Tensor:
    """Return normalise(T_a + T_b) of random pairs a != b of classes, shape (256, D).

    A model is sure of plain template features, whatever it has learnt; half-way between two classes it has to choose.
    """
    text, rng = host.zero_shot_text, np.random.default_rng(seed)
    first = rng.integers(len(text), size=PAIRS)
    second = (first + rng.integers(1, max(2, len(text)), size=PAIRS)) % len(text)
    return torch.nn.functional.normalize(text[first] + text[second], dim=-1)


def _rendered(seed: int) -> list[Any]:
    from PIL import Image  # half a second that others need not wait

    rng = np.random.default_rng(seed)
    drawn = zip(rng.integers(len(shapes.CLASS_NAMES), size=PICTURES), rng.integers(shapes.BLOCK, size=PICTURES),
                strict=True)  # fmt: skip
    return [Image.fromarray(shapes.images("train", int(label), int(at), int(at) + 1)[0]) for label, at in drawn]


def _files(folder: Path) -> list[Any]:
    found = image_files(folder)[:MOST_FILES]
    if not found:
        raise DataError(f'probe-path = "{folder}": there are no images in this folder.')
    return [open_image(folder / name, str(folder / name)) for name in found]
