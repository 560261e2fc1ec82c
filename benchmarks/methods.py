"""What a visit of every method costs: seconds at the site, and bytes on the wire.

    python benchmarks/methods.py                                        # ViT-B-16, 100 classes, 10 steps of 32 images
    python benchmarks/methods.py --methods fedavg pfedmoap --json docs/costs.json

Random weights and features: times do not depend on their values. A visit is what a site computes when a message
comes, with image features cached: what begins it, its steps, what ends it. A method has a prompt where it goes with
one, else an adapter, else LoRA; FedAvg has each of them. Rounds go through all in turn; medians are reported, and the
ratio to FedAvg with the same family. What works on pixels takes one step, once, and is multiplied.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks.step import prepare
from fedpurel_app.algorithms.balancers.registry import BALANCERS
from fedpurel_app.algorithms.base import Facts, Memory
from fedpurel_app.algorithms.registry import METHODS
from fedpurel_app.config import RunConfig, load_config
from fedpurel_app.config.model import key_of
from fedpurel_app.core.phase import Phase
from fedpurel_app.core.sgd import SgdSettings
from fedpurel_app.core.tasks import TASKS, WIDTH
from fedpurel_app.models.peft.base import Branch, Host, PeftModule, Role, parameters_of
from fedpurel_app.models.peft.making import make_module
from fedpurel_app.models.peft.registry import FAMILIES
from fedpurel_app.training.inputs import LocalData
from fedpurel_app.training.local import train

_PREFERRED = ("prompt", "adapter", "lora")
_SITES = 20  # whose tasks a knob sees
_DEFAULTS = {str(field.alias): field.default for field in RunConfig.model_fields.values()}


class Case:
    """A method with a family, and a balancer, ready for its visits.

    Parameters
    ----------
    name, balancer, family : str
    host : Host
    images : int
        Training images of the site.
    batch : int
    """

    def __init__(self, name: str, balancer: str, family: str, host: Host, images: int, batch: int) -> None:
        self.name, self.method, self.balancer = name, METHODS[name], BALANCERS[balancer]
        self.algorithm = self.balancer.put_on(self.method.load())
        config = load_config({"algorithm": name, "balancer": balancer, "peft": family})
        self.family, self.settings = family, config.model_dump(by_alias=True)
        owned = (*self.method.options, *self.balancer.options)
        self.options = {option.key: self.settings[option.key] for option in owned}
        self.host, self.sgd = host, SgdSettings(1e-4, 0.9, 5e-4, batch, 1)
        self.module = self.algorithm.compose(self.build, self.options, torch.Generator().manual_seed(1))
        self.steps = images // batch if self.module.takes == "pixels" else 1  # that one step stands for
        images //= self.steps
        self.labels = torch.arange(images) % len(host.class_names)
        counts = torch.bincount(self.labels, minlength=len(host.class_names))
        self.facts = Facts(counts, counts, host.zero_shot_text, self.brief())
        self.inputs = self.images(images)
        self.memory: Memory = {}
        if self.algorithm.memory is not None:
            self.memory = self.algorithm.memory(parameters_of(self.module), self.facts)
        if self.method.part == "nearest":  # not the first visit
            own = {f"last/{key}": value for key, value in parameters_of(self.module).items() if key in self.sent}
            self.memory |= own
        self.reference = torch.randn(images, len(host.class_names), generator=torch.Generator().manual_seed(3))

    def build(self, role: Role, **options: Any) -> PeftModule:
        """Make a module of the family."""
        if role == "zero-shot":
            return Branch(self.host)
        chosen = self.settings | {key_of(name): value for name, value in options.items()}
        return make_module(FAMILIES[self.family], self.host, role, chosen, torch.Generator().manual_seed(0))

    @property
    def sent(self) -> dict[str, Tensor]:
        """What a site sends in a global round."""
        names = self.algorithm.sent(self.module, self.options)
        return {name: value for name, value in parameters_of(self.module).items() if name in names}

    def brief(self) -> dict[str, Tensor]:
        """Make what the server adds to the parameters."""
        if self.method.part == "nearest":
            others = self.options["experts"] - 1
            return {f"expert/{name}": torch.stack([value] * others) for name, value in self.sent.items()}
        if "task-embedding" in self.options:
            return {TASKS: torch.zeros(_SITES, WIDTH)}
        if self.method.part == "clusters":
            return {"classes": self.sent["classes"].clone()}
        return {name: torch.zeros_like(value) for name, value in self.sent.items()} if self.method.part else {}

    def images(self, count: int) -> Tensor:
        """Draw inputs as the module takes them."""
        generator, backbone = torch.Generator().manual_seed(2), self.host.backbone
        assert backbone is not None
        if self.module.takes == "pixels":
            size = backbone.image_size
            return torch.randint(256, (count, 3, size, size), generator=generator, dtype=torch.uint8)
        width = self.host.zero_shot_text.shape[1]
        if self.module.takes == "features":
            return torch.randn(count, width, generator=generator)
        return normalize(
            torch.randn(
                count, (backbone.image_size // backbone.image.patches.shape[-1]) ** 2, width, generator=generator
            ),
            dim=2,
        ).half()

    def visit(self, phase: Phase) -> float:
        """Return the seconds of a visit."""
        data, order = LocalData(self.inputs, self.labels, self.reference), torch.Generator().manual_seed(4)
        module = self.module if phase is Phase.GLOBAL else self.private()
        anchor = None if phase is Phase.GLOBAL else parameters_of(module)
        started = time.perf_counter()
        train(
            module, data, self.algorithm.visits[phase], self.sgd, order, self.options, self.facts, anchor, self.memory
        )
        return self.steps * (time.perf_counter() - started)

    def private(self) -> PeftModule:
        """Make the module of personal rounds."""
        return self.algorithm.private(self.build, self.options, torch.Generator().manual_seed(5))

    def kilobytes(self, phase: Phase) -> tuple[float, float]:
        """Return what a site sends, and what is sent to it, in a round."""
        up = sum(value.nbytes for value in self.sent.values())
        brief = sum(value.nbytes for value in self.facts.brief.values())
        told = brief if (TASKS in self.facts.brief) == (phase is Phase.PERSONAL) else 0  # which round has a brief
        if phase is Phase.PERSONAL:
            private = self.private()
            names = self.algorithm.sent_of_private(private, self.options)
            own = sum(value.nbytes for name, value in parameters_of(private).items() if name in names)
            return own / 1e3, (up + own + told) / 1e3
        return up / 1e3, (up + told) / 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    trained = [name for name, method in METHODS.items() if method.trains]
    parser.add_argument("--backbone", default="ViT-B-16")
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--methods", nargs="+", default=trained, choices=trained)
    parser.add_argument("--json", type=Path, help="write the figures, as docs/costs.json has them")
    options = parser.parse_args()
    wanted = [("fedavg", "none", family) for family in _PREFERRED]
    wanted += [(name, "none", family_of(name)) for name in options.methods if name != "fedavg"]
    wanted += [("fedavg", name, "prompt") for name, one in BALANCERS.items() if one.in_training]
    with tempfile.TemporaryDirectory() as scratch:
        _, host = prepare(options.backbone, options.classes, torch.device("cpu"), Path(scratch))
        rows = measure(
            [Case(*one, host, options.batch * options.steps, options.batch) for one in wanted], options.rounds
        )
    machine = f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    print(f"{options.backbone}, {options.classes} classes, {options.steps} steps of {options.batch}; {machine}")
    print("| method | family | visit | seconds | to FedAvg | up [KB] | down [KB] |\n|---|---|---|---:|---:|---:|---:|")
    for row in rows:
        title = row["method"] if row["balancer"] == "none" else f"{row['method']} + {row['balancer']}"
        print(
            f"| {title} | {row['family']} | {row['phase']} | {row['seconds']:.3g} | {row['ratio']:.2f} | "
            f"{row['up_kb']:.1f} | {row['down_kb']:.1f} |"
        )
    if options.json:
        what = {
            "backbone": options.backbone,
            "classes": options.classes,
            "steps": options.steps,
            "batch": options.batch,
        }
        found = {**what, "machine": machine, "date": date.today().isoformat(), "rows": rows}
        options.json.write_text(json.dumps(found, indent=1) + "\n", "utf-8")


def family_of(name: str) -> str:
    """Return the first family that a method goes with."""
    settings = {**_DEFAULTS, "algorithm": name}
    return next(family for family in _PREFERRED if not METHODS[name].unfit({**settings, "peft": family}))


def measure(cases: list[Case], rounds: int) -> list[dict[str, Any]]:
    """Time the visits of all cases, in turn."""
    visits = [(case, phase) for case in cases for phase in case.algorithm.visits]
    times: list[list[float]] = [[] for _ in visits]
    for number in range(rounds + 1):  # the first round warms up
        for (case, phase), spent in zip(visits, times, strict=True):
            if number and not (spent and case.module.takes == "pixels"):
                spent.append(case.visit(phase))
            elif case.module.takes != "pixels":
                case.visit(phase)
    rows: list[dict[str, Any]] = []
    for (case, phase), spent in zip(visits, times, strict=True):
        up, down = case.kilobytes(phase)
        names = {"method": case.name, "balancer": case.balancer.name, "family": case.family, "phase": phase.value}
        rows.append({**names, "seconds": statistics.median(spent), "up_kb": up, "down_kb": down})
    plain = {row["family"]: row["seconds"] for row in rows if (row["method"], row["balancer"]) == ("fedavg", "none")}
    for row in rows:
        row["ratio"] = row["seconds"] / plain[row["family"]]
    return rows


if __name__ == "__main__":
    main()
