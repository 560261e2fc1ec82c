"""One local step of every family: ours against the plain way, in one run.

    python benchmarks/step.py                                         # ViT-B-32 and ViT-B-16, 100 classes
    python benchmarks/step.py --backbone ViT-B-16 --classes 100 --batch 32 --json step.json
    python benchmarks/step.py --device cuda --classes 100 1000

Random weights. A visit is one epoch over one batch: what a client computes when a message comes, with features cached
and logits of frozen models computed beforehand where they are constant over the visits (phase 2: over all of them).
Rounds alternate between both ways; medians are reported. ``error`` is that of the parameters' change in one step,
relative, in the Euclidean norm, against the plain way with converged bisections. GMAC are counted by torch.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.plain import Plain
from fedpurel_app.algorithms.fedpurel import global_step, residual_step
from fedpurel_app.algorithms.registry import METHODS
from fedpurel_app.config import RunConfig
from fedpurel_app.core.sgd import SgdSettings
from fedpurel_app.models.backbone import Backbone, load_backbone
from fedpurel_app.models.peft.base import Host, PeftModule, load_parameters, parameters_of
from fedpurel_app.models.peft.making import make_module
from fedpurel_app.models.peft.registry import FAMILIES
from fedpurel_app.training.inputs import LocalData
from fedpurel_app.training.local import train


def class_names(count: int) -> tuple[str, ...]:
    """Return different names of one to four tokens: words that are tokens by themselves."""
    from open_clip.tokenizer import SimpleTokenizer

    words = [token.removesuffix("</w>") for token in SimpleTokenizer().encoder if token.endswith("</w>")]
    words = [word for word in words if len(word) > 3 and word.isascii() and word.isalpha()]
    return tuple(" ".join(words[index : index + 1 + index % 4]) for index in range(count))


class Case:
    """Everything one family needs, in both ways, from the same random weights."""

    def __init__(self, model: Any, host: Host, family: str, pixels: Tensor, labels: Tensor) -> None:
        self.host, self.family, self.pixels, self.labels = host, family, pixels, labels
        self.modules = {name: self._module(role, seed) for name, role, seed in _BRANCHES}
        self.plain = Plain(model, host, family, self.modules["plain"])
        self.plain_frozen = Plain(model, host, family, self.modules["frozen"])
        assert host.backbone is not None
        with torch.no_grad():
            features = host.backbone.encode_pixels(pixels)
        inputs = host.backbone.seen(pixels, self.modules["ours"].takes)
        self.data = LocalData(inputs, labels, host.zero_shot_logits(features))
        self.against_global = self.data.measured_against(self.modules["frozen"].frozen())

    def _module(self, role: Any, seed: int) -> PeftModule:
        options = {key: _DEFAULTS[key] for key in FAMILIES[self.family].keys}
        if self.family == "lora":
            options["lora-dropout"] = 0.0  # so that both ways can be compared
        module = make_module(FAMILIES[self.family], self.host, role, options, torch.Generator().manual_seed(seed))
        with torch.no_grad():  # away from special initial values, as LoRA's B = 0
            for _, value in module.named_parameters():
                noise = torch.randn(value.shape, generator=torch.Generator().manual_seed(seed + 1))
                value.add_(0.01 * noise.to(value.device))
        return module

    def steps(self, phase: str, rate: float = 1e-3, iterations: int = 20) -> dict[str, Callable[[], Any]]:
        """Return the plain and our step of a phase."""
        settings = SgdSettings(rate, 0.0, 0.0, len(self.labels), 1)
        order = torch.Generator().manual_seed(0)
        if phase == "global":
            return {
                "plain": lambda: self.plain.global_step(self.pixels, self.labels, rate, iterations),
                "ours": lambda: train(self.modules["ours"], self.data, global_step, settings, order, _OPTIONS),
            }
        return {
            "plain": lambda: self.plain.private_step(self.plain_frozen, self.pixels, self.labels, rate),
            "ours": lambda: train(self.modules["ours"], self.against_global, residual_step, settings, order, _OPTIONS),
        }

    def error(self, phase: str) -> float:
        """Return the relative difference of the parameters' change in one step."""
        load_parameters(self.modules["ours"], parameters_of(self.modules["plain"]))
        changes = {}
        # A large step: the change of a parameter is rounded to the parameter's own precision.
        for way, step in self.steps(phase, rate=100.0, iterations=60).items():
            parameters = [value for _, value in self.modules[way].named_parameters()]
            before = [value.detach().double().clone() for value in parameters]
            step()
            changes[way] = torch.cat(
                [(value.detach().double() - b).flatten() for value, b in zip(parameters, before, strict=True)]
            )
            with torch.no_grad():
                for value, b in zip(parameters, before, strict=True):
                    value.copy_(b)
        return float((changes["plain"] - changes["ours"]).norm() / changes["plain"].norm())


_BRANCHES = (("plain", "global", 0), ("ours", "global", 0), ("frozen", "private", 5))
_DEFAULTS = {str(field.alias): field.default for field in RunConfig.model_fields.values()}
_OPTIONS = METHODS["fedpurel"].defaults()


def seconds(step: Callable[[], Any], device: torch.device, at_least: float) -> float:
    """Time a step, repeated until it has run a while."""
    count, started = 0, time.perf_counter()
    while True:
        step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        count += 1
        if (spent := time.perf_counter() - started) >= at_least:
            return spent / count


def gmac(step: Callable[[], Any]) -> float:
    """Count multiply-accumulates of matrix products."""
    # open_clip's attention has a fused form for inference, whose products the counter does not see.
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with FlopCounterMode(display=False) as counter:
            step()
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    return counter.get_total_flops() / 2e9


def peak(device: torch.device) -> float:
    """Measure the rate of a large matrix product [GMAC/s]."""
    size = 8192 if device.type == "cuda" else 2048
    a, b = torch.randn(size, size, device=device), torch.randn(size, size, device=device)
    return size**3 / 1e9 / min(seconds(lambda: a @ b, device, 0.5) for _ in range(3))


def prepare(name: str, classes: int, device: torch.device, scratch: Path) -> tuple[Any, Host]:
    """Make a model with random weights, in open_clip's form and in ours."""
    import open_clip

    torch.manual_seed(0)
    model = open_clip.create_model(name).eval().requires_grad_(False)
    path = scratch / f"{name}.safetensors"
    save_file(model.state_dict(), path)
    backbone: Backbone = load_backbone(name, device, str(path))
    names = class_names(classes)
    prompts = tuple(f"a photo of a {one}." for one in names)
    return model.to(device), Host(backbone.encode_prompts(prompts), backbone.logit_scale, names, backbone, prompts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", nargs="+", default=["ViT-B-32", "ViT-B-16"])
    parser.add_argument("--classes", type=int, nargs="+", default=[100])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--families", nargs="+", default=list(FAMILIES), choices=list(FAMILIES))
    parser.add_argument("--rounds", type=int, default=3, help="alternating rounds")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path, help="write {family: {phase: ...}}; one backbone, one number of classes")
    options = parser.parse_args()
    device = torch.device(options.device)
    most = peak(device)
    print(f"{device.type}, {torch.get_num_threads()} threads, torch {torch.__version__}, matmul {most:.0f} GMAC/s")
    print("| backbone | C | family | phase | plain [s] | ours [s] | ratio | plain GMAC | ours GMAC | of peak | error |")
    print("|---|---|---|---|---:|---:|---:|---:|---:|---:|---:|")
    found: dict[str, dict[str, dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name in options.backbone:
            for classes in options.classes:
                model, host = prepare(name, classes, device, Path(scratch))
                assert host.backbone is not None
                size = host.backbone.image_size
                generator = torch.Generator().manual_seed(1)
                pixels = torch.randint(256, (options.batch, 3, size, size), generator=generator, dtype=torch.uint8)
                labels = torch.randint(classes, (options.batch,), generator=generator).to(device)
                for family in options.families:
                    case = Case(model, host, family, pixels.to(device), labels)
                    for phase in ("global", "private"):
                        row = measure(case, phase, device, options.rounds)
                        found.setdefault(family, {})[phase] = row
                        print(
                            f"| {name} | {classes} | {family} | {phase} | {row['plain_s']:.4g} | {row['ours_s']:.4g} | "
                            f"{row['ratio']:.1f} | {row['plain_gmac']:.4g} | {row['ours_gmac']:.4g} | "
                            f"{row['ours_gmac'] / row['ours_s'] / most:.0%} | {row['max_rel_error']:.1e} |",
                            flush=True,
                        )
    if device.type == "cuda":
        print(f"peak GPU memory {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")
    if options.json:
        options.json.write_text(json.dumps(found, indent=2))


def measure(case: Case, phase: str, device: torch.device, rounds: int) -> dict[str, float]:
    """Compare both ways in one phase."""
    error = case.error(phase)
    steps = case.steps(phase)
    counted = {way: gmac(step) for way, step in steps.items()}
    times: dict[str, list[float]] = {"plain": [], "ours": []}
    for _ in range(rounds):
        for way, step in steps.items():
            times[way].append(seconds(step, device, 2.0))
    plain, ours = (statistics.median(times[way]) for way in ("plain", "ours"))
    return {
        "plain_s": plain,
        "ours_s": ours,
        "ratio": plain / ours,
        "max_rel_error": error,
        "plain_gmac": counted["plain"],
        "ours_gmac": counted["ours"],
    }


if __name__ == "__main__":
    main()
