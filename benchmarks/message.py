"""Cost of a message at a real site, where each one is a new process: seconds by part, outside training.

    python benchmarks/message.py                                     # ViT-B-16 with random weights
    python benchmarks/message.py --backbone demo --families adapter --json message.json

A site with images of its own and with everything cached answers one message of every kind, each in a fresh process, as
Flower starts them. ``bare`` is ``import torch, flwr.clientapp`` in such a process; ``beyond`` is what a message costs
on top of it, without the training or scoring itself. Processes of all kinds alternate; medians are reported. Files and
weights are in the page cache.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

STARTED = time.perf_counter()
sys.path.insert(0, str(Path(__file__).parent.parent))
os.environ |= {"HF_HUB_OFFLINE": "1", "FLWR_TELEMETRY_ENABLED": "0"}

KINDS = ("query.describe", "train", "train.personalize", "evaluate")
CLASSES, PER_CLASS = 20, 5
PARTS = ("bare", "imports", "settings", "data", "features", "texts", "branches", "rest")


class Clock:
    """Seconds by part; time inside an inner part is not the outer one's."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._open: list[str] = []
        self._since = time.perf_counter()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Charge what happens inside to a part."""
        self._charge()
        self._open.append(name)
        try:
            yield
        finally:
            self._charge()
            self._open.pop()

    def _charge(self) -> None:
        now = time.perf_counter()
        name = self._open[-1] if self._open else "rest"
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._since
        self._since = now

    def watch(self, owner: Any, name: str, part: str) -> None:
        """Charge every call of a function, or every making of a cached property, to a part."""
        found = vars(owner)[name]
        function: Callable[..., Any] = found.func if isinstance(found, functools.cached_property) else found

        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.part(part):
                return function(*args, **kwargs)

        if isinstance(found, functools.cached_property):
            replacement = functools.cached_property(timed)
            replacement.__set_name__(owner, name)
            setattr(owner, name, replacement)
        else:
            setattr(owner, name, timed)


def answer(
    kind: str, round_number: int, settings: dict[str, Any], node: dict[str, Any], arrays: Path
) -> dict[str, Any]:
    """Answer one message in this process; return seconds by part, and what was imported."""
    clock = Clock()
    with clock.part("bare"):
        import flwr.clientapp  # noqa: F401
        import torch  # noqa: F401
    clock.seconds["bare"] += clock._since - STARTED - sum(clock.seconds.values())
    with clock.part("imports"):
        import numpy as np

        from fedpurel_app.client_app import app
        from fedpurel_app.core.records import ARRAYS, CONFIG, Instruction, to_array_record
        from fedpurel_app.federation import Federation
        from fedpurel_app.images import Images
        from fedpurel_app.model_kit import ModelKit
        from fedpurel_app.site import site, site_data
    from flwr.app import Context, Message, RecordDict
    from flwr.supercore.task_identity import TaskIdentity

    for owner, name, part in (
        (site.Site, "__init__", "settings"),
        (Federation, "source", "data"),
        (Images, "_cached", "features"),
        (ModelKit, "host", "texts"),
        (ModelKit, "new_module", "branches"),
        (site, "train", "work"),
        (site_data, "evaluate", "work"),
    ):
        clock.watch(owner, name, part)
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
    phase = "personal" if kind == "train.personalize" else "global"
    experiment_id = f"benchmark-{settings['peft']}-{kind.replace('.', '-')}"  # of one method, and its rounds only rise
    content = RecordDict({CONFIG: Instruction(phase, round_number, experiment_id).to_config()})
    if arrays.exists():
        with np.load(arrays) as stored:
            content[ARRAYS] = to_array_record(dict(stored))
    message = Message(content, 1, kind)
    message.metadata.__dict__["_message_id"] = "1"
    reply = app(message, Context(1, 1, node, RecordDict(), settings))
    if reply.has_error():
        raise RuntimeError(reply.error.reason)
    with clock.part("rest"):
        pass
    if not arrays.exists():
        experiment = site.Site(settings, node).experiment
        np.savez(arrays, **experiment.kit.split(experiment.kit.new_shared())[0])  # type: ignore[arg-type]
    heavy = ("open_clip", "peft", "datasets", "torchvision", "transformers", "PIL", "matplotlib")
    return {"seconds": clock.seconds, "imported": [name for name in heavy if name in sys.modules]}


def ask(kind: str, round_number: int, settings: dict[str, Any], node: dict[str, Any], arrays: Path) -> dict[str, Any]:
    """Start a process that answers one message."""
    task = json.dumps([kind, round_number, settings, node, str(arrays)])
    command = [sys.executable, __file__, "--answer", task]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(f"{kind}: {result.stderr}")
    found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return found


def prepare(folder: Path, backbone: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Write a site's images and random weights; give the settings of run and node."""
    from PIL import Image

    from fedpurel_app.data.shapes import shapes

    names = shapes.CLASS_NAMES[:CLASSES]
    for label, name in enumerate(names):
        (folder / "data" / name).mkdir(parents=True)
        for index, picture in enumerate(shapes.images("train", label, 0, PER_CLASS)):
            Image.fromarray(picture).save(folder / "data" / name / f"{index}.png")
    settings: dict[str, Any] = {"dataset": "sites", "classes": ", ".join(names), "backbone": backbone}
    node: dict[str, Any] = {"site": "a", "data": str(folder / "data"), "state-dir": str(folder / "state")}
    if backbone != "demo":
        import open_clip
        from safetensors.torch import save_file

        weights = folder / "weights.safetensors"
        save_file({k: v.contiguous() for k, v in open_clip.create_model(backbone).state_dict().items()}, weights)
        settings["pretrained"] = node["pretrained"] = str(weights)
    return settings, node


def main() -> None:
    """Measure and print the table of parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    families = ["adapter", "text-residual", "prompt"]
    parser.add_argument("--backbone", default="ViT-B-16")
    parser.add_argument("--families", nargs="+", default=families)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--answer", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.answer:
        kind, round_number, settings, node, arrays = json.loads(options.answer)
        print(json.dumps(answer(kind, round_number, settings, node, Path(arrays))))
        return
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["FEDPUREL_HOME"] = str(folder / "home")
        settings, node = prepare(folder, options.backbone)
        cases = [(family, kind) for family in options.families for kind in KINDS]
        for family, kind in cases:  # fills the caches
            ask(kind, 1, settings | {"peft": family}, node, folder / f"{family}.npz")
        for number in range(2, options.rounds + 2):
            for family, kind in cases:
                one = ask(kind, number, settings | {"peft": family}, node, folder / f"{family}.npz")
                case = found.setdefault(f"{family} {kind}", {"runs": []})
                case["runs"].append(one["seconds"])
                case["imported"] = one["imported"]
    print(f"| message | {' | '.join(PARTS)} | beyond | training, scoring | imported |")
    print(f"|{'---|' * (len(PARTS) + 4)}")
    for message, case in found.items():
        parts = {p: statistics.median(run.get(p, 0.0) for run in case["runs"]) for p in (*PARTS, "work")}
        beyond = statistics.median(
            sum(value for part, value in run.items() if part not in ("bare", "work")) for run in case["runs"]
        )
        case |= {"parts": parts, "beyond_s": beyond}
        cells = " | ".join(f"{parts[part]:.2f}" for part in PARTS)
        print(f"| {message} | {cells} | {beyond:.2f} | {parts['work']:.2f} | {', '.join(case['imported']) or '–'} |")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
