"""What a setting needs on this machine: devices, versions, what is cached, what would be downloaded, memory."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Generator, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

import psutil
import torch

from fedpurel_app import __version__
from fedpurel_app.config import RunConfig
from fedpurel_app.core.errors import FedPurelError
from fedpurel_app.core.files import home
from fedpurel_app.data.dealing.partition import SplitName
from fedpurel_app.data.sources.inspection import look_at
from fedpurel_app.data.sources.source import Split
from fedpurel_app.experiment import Experiment
from fedpurel_app.models.backbone import Backbone, Takes
from fedpurel_app.reporting.console import counting
from fedpurel_app.reporting.console import size_in_words as _size
from fedpurel_app.training.feature_store import count_missing

_PACKAGES = ("flwr", "ray", "torch", "open_clip_torch", "peft", "datasets", "numpy", "safetensors")
_CONTEXT = 0.5 * 2**30  # bytes that CUDA takes for itself in every process
_TOKENS_OF_A_NAME = 6  # with the full stop and the end-of-text token


class Finding(NamedTuple):
    """A line to print.

    Attributes
    ----------
    text : str
    lacking : bool
        Whether it tells of something that a run of this setting would fail for.
    """

    text: str
    lacking: bool = False


def examine(config: RunConfig) -> Iterator[Finding]:
    """Look at this machine, and at what a setting would need on it; nothing is downloaded.

    Parameters
    ----------
    config : RunConfig

    Yields
    ------
    Finding
    """
    online = os.environ.get("HF_HUB_OFFLINE", "0") in ("", "0")
    os.environ["HF_HUB_OFFLINE"] = "1"
    yield from map(Finding, _machine())
    yield Finding("")
    yield Finding(f"{config.algorithm}, {config.peft} on {config.dataset} with {config.backbone}:")
    experiment = Experiment(config, home() / "cache")
    there = [
        (yield from _part("data", _data(experiment), online)),
        (yield from _part("weights", _weights(experiment), online)),
    ]
    if all(there) and experiment.kit.backbone is not None:
        yield from map(Finding, _costs(experiment, experiment.kit.backbone))


def _part(name: str, lines: Iterator[str], online: bool) -> Generator[Finding, None, bool]:
    """Yield the lines of a part under its name, or what is missing of it, and return whether all is there."""
    label = name
    try:
        for line in lines:
            yield Finding(f"  {label:<10}{line}")
            label = ""
    except FedPurelError as error:
        will_come = online and bool(error.download)
        yield Finding(f"  {label:<10}{f'to be downloaded: {error.download}' if will_come else error}", not will_come)
        return False
    return True


def _data(experiment: Experiment) -> Iterator[str]:
    source, config = experiment.federation.source, experiment.config
    with counting("Looking at images") as report:
        look_at(source, report)
    if config.dataset == "sites":
        yield f"at the sites, each of which brings its own, of {len(source.class_names)} classes"
    if config.dataset != "sites" or config.dataset_path:
        sizes = f"{len(source.train.labels):,} training and {len(source.test.labels):,} test images"
        yield f"{source.name}: {sizes}, {len(source.class_names)} classes"
    yield from source.notes
    if short := experiment.federation.short_classes:
        yield f"{short} classes have fewer images than the settings ask for, and give all"


def _weights(experiment: Experiment) -> Iterator[str]:
    backbone = experiment.kit.backbone
    if backbone is None:
        yield "none needed: features are precomputed"
        return
    backbone.check(_towers(experiment))
    path = backbone.checkpoint.path
    yield f"{path} ({_size(path.stat().st_size)})"


def _costs(experiment: Experiment, backbone: Backbone) -> Iterator[str]:
    config = experiment.config
    if config.augment != "none":
        what = f"{config.views} random views of every image" if config.augment == "views" else "a fresh crop every time"
        yield f"  augment   {what}: what is said of train below is for augment = none"
    parts: tuple[tuple[SplitName, Split], ...] = (
        ("train", experiment.federation.source.train),
        ("test", experiment.federation.source.test),
    )
    for name, split in parts:
        if not len(split.labels):  # it is at the sites
            continue
        rows = experiment.federation.used(name)
        for kind, wide in _cached_bytes(experiment.kit.takes, backbone).items():
            size = len(rows) * wide
            lacking = count_missing(kind, split, backbone, home() / "cache", rows=rows)
            state = f"to be made of {lacking:,} images, once" if lacking else "there"
            yield f"  cache     {kind} of {name}: {state}, {_size(size)} on disk"
    weights, activations = _memory(experiment, backbone)
    yield f"  memory    about {_size(weights)} of weights and {_size(activations)} of activations for a site at work"
    each = weights + activations + _CONTEXT
    if torch.cuda.is_available():
        free, _ = torch.cuda.mem_get_info()
        count = int(0.9 * free // each)
        share = f"--gpus-per-site {1 / count:.3g}" if count else "none fits: lower batch-size"
        yield f"            {count} sites at a time on this GPU ({share})"
    else:
        count = max(1, min(os.cpu_count() or 1, int(0.9 * psutil.virtual_memory().available // each)))
        yield f"            {count} sites at a time on this machine's CPUs"


def _cached_bytes(takes: Takes, backbone: Backbone) -> dict[Takes, int]:
    """Return the bytes that are kept of an image, by kind: features in fp32, uint8 pixels, patches in fp16."""
    wide = int(backbone.checkpoint.architecture["embed_dim"])
    found: dict[Takes, int] = {"features": 4 * wide}
    if takes == "pixels":
        found["pixels"] = 3 * backbone.image_size**2
    elif takes == "patches":
        found["patches"] = 2 * wide * backbone.patch_count
    return found


def _machine() -> Iterator[str]:
    memory, folder = psutil.virtual_memory(), home()
    yield f"fedpurel {__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    found = []
    for name in _PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"{name} MISSING")
    yield f"  packages  {', '.join(found)}"
    yield f"  CPU       {os.cpu_count()} cores, {_size(memory.available)} of {_size(memory.total)} memory free"
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(index)
            yield f"  GPU       {torch.cuda.get_device_name(index)}, {_size(free)} of {_size(total)} free"
    else:
        yield "  GPU       none that PyTorch can use"
    exists = next(parent for parent in (folder, *folder.parents) if parent.exists())
    cached = sum(512 * file.stat().st_blocks for file in (folder / "cache").glob("*.npy")) if folder.exists() else 0
    free_disk = shutil.disk_usage(exists).free
    yield f"  home      {folder}: {_size(cached)} of cached features and pixels, {_size(free_disk)} free"


def _memory(experiment: Experiment, backbone: Backbone) -> tuple[float, float]:
    """Estimate the bytes of weights and of activations that training takes at a site."""
    config, architecture = experiment.config, backbone.checkpoint.architecture
    text, vision = architecture["text_cfg"], architecture["vision_cfg"]
    weights = activations = 0.0
    if "text" in _towers(experiment):
        weights += _weight_bytes(backbone.checkpoint.path, "visual.", inside=False)
        activations += _activations(len(experiment.federation.source.class_names) * _TOKENS_OF_A_NAME, text)
    if "vision" in _towers(experiment):
        patch = vision["patch_size"]
        tokens = 1 + (backbone.image_size // patch) ** 2
        weights += _weight_bytes(backbone.checkpoint.path, "visual.", inside=True)
        activations += _activations(config.batch_size * tokens, vision)
    return weights, activations


def _towers(experiment: Experiment) -> set[str]:
    return {str(tower) for tower in experiment.kit.family.towers(experiment.kit.settings)}


def _activations(tokens: int, tower: dict[str, int]) -> float:
    """Estimate what a tower keeps for the backward pass: two norms, q, k, v, mixture, sum, and the perceptron twice."""
    width, ratio = int(tower["width"]), float(tower.get("mlp_ratio", 4.0))
    return 4.0 * tokens * int(tower["layers"]) * width * (7 + 2 * ratio)


def _weight_bytes(path: Path, prefix: str, inside: bool) -> float:
    """Count the bytes of a tower's weights in fp32, without reading them where the file allows it."""
    if path.suffix != ".safetensors":
        return float(path.stat().st_size) * (0.6 if inside else 0.4)
    from safetensors import safe_open

    total = 0.0
    with safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118
            if name.startswith(prefix) == inside:
                count = 1
                for edge in file.get_slice(name).get_shape():
                    count *= edge
                total += 4 * count
    return total
