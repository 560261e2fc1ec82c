"""Choose the demo's domain: score candidates on validation images, without any federated run.

    python tools/choose_demo_domain.py

For each candidate it prints zero-shot accuracy (All, and the three thirds of the classes that a long tail would make
Many, Medium and Few) and what one balanced, centralised prompt tuning reaches: the room that a learned context has. The
rule that was used, and the outcome, stand in ``docs/demo.md``. No method under test takes part.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from torch import Tensor, nn

from fedpurel_app.config import RunConfig
from fedpurel_app.core.metrics import ClassCounts, group_by_terciles, summarize
from fedpurel_app.data.shapes import shapes
from fedpurel_app.data.shapes.rendered import load_shapes
from fedpurel_app.data.shapes.shapes import Domain
from fedpurel_app.models.backbone import Backbone, load_backbone
from fedpurel_app.models.peft.base import Host, PeftModule
from fedpurel_app.models.peft.making import make_module
from fedpurel_app.models.peft.registry import FAMILIES

MEDIA = ("photo", "painting")
MILD, STRONG = (0.3, 0.7), (0.6, 1.0)  # ranges of severity


def _pixelated(media: tuple[str, ...] = MEDIA, **effects: tuple[float, float]) -> Domain:
    return Domain(media, {"pixelated": (0.8, 1.0), **effects})


CANDIDATES = {
    "warm, dark, mild": _pixelated(warm=(0.3, 0.9), dark=(0.2, 0.6)),
    "warm, dark": _pixelated(warm=STRONG, dark=STRONG),
    "noisy, dark": _pixelated(noisy=MILD, dark=MILD),
    "noisy, warm": _pixelated(noisy=STRONG, warm=STRONG),
    "noisy, faded": _pixelated(noisy=MILD, faded=STRONG),
    "noisy, small": _pixelated(noisy=MILD, small=STRONG),
    "blurry, dark": _pixelated(blurry=STRONG, dark=STRONG),
    "blurry, small": _pixelated(blurry=MILD, small=STRONG),
    "faded, dark, warm": _pixelated(faded=STRONG, dark=MILD, warm=STRONG),
    "cold, dark, noisy": _pixelated(cold=STRONG, dark=MILD, noisy=MILD),
    "striped, dark": _pixelated(striped=STRONG, dark=STRONG),
    "cluttered, warm, dark": _pixelated(cluttered=MILD, warm=STRONG, dark=STRONG),
    "drawing, noisy": _pixelated(("drawing",), noisy=STRONG),
    "drawing, faded, blurry": _pixelated(("drawing",), faded=STRONG, blurry=STRONG),
    "blurry, warm": _pixelated(blurry=STRONG, warm=STRONG),
    "blurry, cold": _pixelated(blurry=STRONG, cold=STRONG),
    "blurry, faded": _pixelated(blurry=STRONG, faded=STRONG),
    "blurry, dark, warm": _pixelated(blurry=STRONG, dark=STRONG, warm=STRONG),
    "blurry, dark, cluttered": _pixelated(blurry=STRONG, dark=STRONG, cluttered=MILD),
    "blurry, dark photos": _pixelated(("photo",), blurry=STRONG, dark=STRONG),
}


def encode(backbone: Backbone, domain: Domain, split: str, per_class: int) -> tuple[Tensor, Tensor]:
    """Encode the first images of every class; features (N, D), labels (N,)."""
    from PIL import Image

    features = []
    for label in range(len(shapes.CLASS_NAMES)):
        pictures = shapes.images(split, label, 0, per_class, domain)
        features.append(backbone.encode_images([Image.fromarray(picture) for picture in pictures]))
    return torch.cat(features), torch.arange(len(shapes.CLASS_NAMES)).repeat_interleave(per_class)


def tune(host: Host, features: Tensor, labels: Tensor, epochs: int, rate: float) -> PeftModule:
    """Tune a prompt on balanced data in one place; cosine rate, batches of 64."""
    generator = torch.Generator().manual_seed(0)
    settings = RunConfig.model_validate({}).model_dump(by_alias=True) | {"context-length": 4}
    module = make_module(FAMILIES["prompt"], host, "global", settings, generator)
    optimizer = torch.optim.SGD([value for _, value in module.named_parameters()], rate, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for _ in range(epochs):
        for rows in torch.randperm(len(labels), generator=generator).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(module.logits(features[rows]), labels[rows]).backward()
            optimizer.step()
        schedule.step()
    return module


def score(logits: Tensor, labels: Tensor) -> str:
    """Print All, Many, Medium, Few."""
    hits = (logits.argmax(1) == labels).numpy()
    counts = ClassCounts.of(hits, labels.numpy(), len(shapes.CLASS_NAMES))
    groups = group_by_terciles(np.arange(len(shapes.CLASS_NAMES))[::-1])
    found = summarize(counts, groups, 1.0, 0.1)
    return " ".join(f"{found[name]:6.1f}" for name in ("all", "many", "medium", "few"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train-per-class", type=int, default=40)
    parser.add_argument("--validation-per-class", type=int, default=50)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=CANDIDATES, default=list(CANDIDATES))
    parser.add_argument("--rate", type=float, default=0.1)
    options = parser.parse_args()
    backbone = load_backbone("demo", torch.device("cpu"))
    source = load_shapes("", 0)
    prompts = [source.template.format(name) for name in source.class_names]
    host = Host(backbone.encode_prompts(prompts), backbone.logit_scale, source.class_names, backbone)
    print(f"{'domain':<24}  zero-shot: all many medium few    balanced prompt: all many medium few")
    for name in options.only:
        domain = CANDIDATES[name]
        features, labels = encode(backbone, domain, "validation", options.validation_per_class)
        before = score(host.zero_shot_logits(features), labels)
        module = tune(host, *encode(backbone, domain, "train", options.train_per_class), options.epochs, options.rate)
        with torch.no_grad():
            print(f"{name:<24}  {before}    {score(module.logits(features), labels)}", flush=True)


if __name__ == "__main__":
    main()
