"""What if the image tower were split between a site and an edge: bytes a step, and what happens to training.

    python benchmarks/split.py
    python benchmarks/split.py --quick

A what-if. The app does no such thing, and what is tried at the cut is no privacy. One process emulates it on the demo:
a site runs the blocks of the image tower before the first number of ``--cut``, an edge those up to the second, and it
the rest, the loss and the labels. A visual prompt is trained before the first block, so that every step crosses
four times: activations to the edge and back, and gradients the same ways. What crosses is counted, as it is sent.

All training images of a draw of the demo are taken as one site's; then test images are scored, through the same cuts.
What is done at the cuts: nothing; a secret rotation within some principal directions of public activations, which the
edge undoes; the same, which the site undoes on what comes back, after the edge's blocks have worked on it; float16; a
count sketch of every token. Differences from nothing are paired by seed, with the interval of ``fedpurel table``. Below
it the bytes of a site's round beside those of what the app does send.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parent.parent))
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from torch import Tensor

from fedpurel_app.config import load_config
from fedpurel_app.config.presets import load_preset, merged
from fedpurel_app.core.files import home
from fedpurel_app.core.phase import Phase
from fedpurel_app.data.dealing.partition import Ints, SplitName
from fedpurel_app.experiment import Experiment
from fedpurel_app.functional import haar_orthogonal, principal_directions, rotate_within
from fedpurel_app.models.peft.base import parameters_of
from fedpurel_app.reporting.leaderboard.paired import compare
from fedpurel_app.server.probes import probes_of
from fedpurel_app.training.inputs import LocalData, all_logits
from fedpurel_app.training.local import train

Code = Callable[[Tensor], Tensor]
CASES = ("nothing", "rotation, undone by the edge", "rotation, undone after it", "float16", "sketch")
SETTINGS = {"algorithm": "fedavg", "peft": "visual-prompt", "prompt-depth": "shallow"}


class Cut(NamedTuple):
    """What becomes of activations, shape (B, L, W), where they cross: what is sent, and what is made of it."""

    encode: Code
    decode: Code


def _same(x: Tensor) -> Tensor:
    return x


class Meter:
    """Counts the bytes that cross: activations as they are sent, and the gradients with respect to these."""

    def __init__(self) -> None:
        self.sent = self.crossings = 0

    def _count(self, wire: Tensor) -> None:
        self.sent += wire.numel() * wire.element_size()
        self.crossings += 1

    def cross(self, x: Tensor, cut: Cut) -> Tensor:
        """Send activations over a cut, and their gradient back when it comes."""
        wire = cut.encode(x)
        self._count(wire)
        if wire.requires_grad:
            wire.register_hook(self._count)
        return cut.decode(wire)


@contextmanager
def split_at(blocks: Any, places: tuple[int, int], cuts: tuple[Cut, Cut], meter: Meter) -> Iterator[None]:
    """Let what enters two blocks of a tower cross a cut each, for as long as the context lasts."""

    def hook(cut: Cut) -> Callable[[Any, Any], tuple[Tensor]]:
        return lambda block, inputs: (meter.cross(inputs[0], cut),)

    handles = [blocks[place].register_forward_pre_hook(hook(cut)) for place, cut in zip(places, cuts, strict=True)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def sketched(width: int, ratio: int, generator: torch.Generator) -> Cut:
    """Make a count sketch of every token: cells of signed sums, which the other side reads as estimates."""
    cells = torch.randint(-(-width // ratio), (width,), generator=generator)
    table = torch.zeros(width, -(-width // ratio))
    table[torch.arange(width), cells] = torch.randint(2, (width,), generator=generator) * 2.0 - 1
    return Cut(lambda x: x @ table, lambda wire: wire @ table.T)


def cuts_of(case: str, directions: Tensor, seed: int, ratio: int) -> tuple[Cut, Cut]:
    """Return what is done on the way to the edge, and on the way back."""
    generator, plain = torch.Generator().manual_seed(seed), Cut(_same, _same)
    rotation = haar_orthogonal(directions.shape[1], generator)
    turned = partial(rotate_within, directions=directions, rotation=rotation)
    back = partial(rotate_within, directions=directions, rotation=rotation.T)
    half = Cut(Tensor.half, Tensor.float)
    first, second = (sketched(len(directions), ratio, generator) for _ in range(2))
    pairs = ((plain, plain), (Cut(turned, back),) * 2, (Cut(turned, _same), Cut(_same, back)), (half, half))
    return dict(zip(CASES, (*pairs, (first, second)), strict=True))[case]


class Outcome(NamedTuple):
    """What came of a training: right answers [%], mean loss [nats], of a step the bytes, crossings and CPU seconds."""

    accuracy: float
    loss: float
    sent: float
    crossings: float
    seconds: float
    tokens: Tensor


class Bench:
    """Trainings on one draw of the demo, by seed."""

    def __init__(self, options: argparse.Namespace, seed: int) -> None:
        asked = {**SETTINGS, "local-epochs": 1, "local-steps": options.steps, "seed": seed}
        self.options, self.seed = options, seed
        config = load_config(merged(load_preset("shapes"), asked | ({"max-per-class": 8} if options.quick else {})))
        self.one = Experiment(config, home() / "cache", together=False)
        self.blocks = self.one.kit.images_backbone.image.blocks
        federation = self.one.federation
        self.training = self._data("train", federation.train_rows)
        self.tested = self._data("test", federation.used("test")[:: options.every])

    def _data(self, split: SplitName, rows: Ints) -> LocalData:
        """Return images without the logits of zero-shot, for which all of them would have to be encoded."""
        labels = self.one.images.labels(split, rows)
        return LocalData(self.one.images.pixels(split, rows), labels, torch.zeros(len(rows), 0))

    def activations(self) -> Tensor:
        """Return what enters the edge for the public probes, shape (images, tokens, width)."""
        found: list[Tensor] = []
        take = Cut(lambda x: found.append(x) or x, _same)  # type: ignore[func-returns-value]
        with split_at(self.blocks, self.options.cut, (take, Cut(_same, _same)), Meter()), torch.no_grad():
            self.one.kit.new_shared().logits(probes_of(self.one.kit))
        return found[0]

    def run(self, case: str, rank: int) -> Outcome:
        """Train and score through the cuts."""
        kit, meter, started = self.one.kit, Meter(), time.process_time()
        directions = principal_directions(self.activations(), rank)
        module, visit = kit.new_shared(), kit.algorithm.visits[Phase.GLOBAL]
        cuts = cuts_of(case, directions, self.seed, self.options.ratio)
        with split_at(self.blocks, self.options.cut, cuts, meter):
            order = torch.Generator().manual_seed(self.seed)
            told = train(module, self.training, visit, kit.sgd(Phase.GLOBAL), order, kit.options)
            steps, seconds = told["steps"], time.process_time() - started
            sent, crossings = meter.sent / steps, meter.crossings / steps
            predicted = all_logits(module.frozen(), self.tested.inputs).argmax(1)
        right = 100 * float((predicted == self.tested.labels).double().mean())
        (tokens,) = parameters_of(module).values()
        return Outcome(right, told["loss"], sent, crossings, seconds / steps, tokens)


def report(found: dict[str, dict[int, Outcome]], batch: int) -> None:
    """Print the table."""
    plain = found[CASES[0]]
    print(
        f"| at the cuts | MB a step of {batch} | All | loss | All - nothing | prompt - nothing, most | CPU s a step |"
    )
    print("|---|---:|---|---|---|---|---|")
    for case, runs in found.items():
        accuracy, loss, sent, _, seconds = (fmean(one[place] for one in runs.values()) for place in range(5))
        ours, theirs = ({seed: run.accuracy for seed, run in part.items()} for part in (runs, plain))
        one = compare(ours, theirs)
        cells = [one.why or f"{one.difference:+.2f} [{one.low:+.2f}, {one.high:+.2f}]"]
        cells.append(f"{max(float((run.tokens - plain[seed].tokens).abs().max()) for seed, run in runs.items()):.1e}")
        print(f"| {case} | {sent / 1e6:.2f} | {accuracy:.2f} | {loss:.3f} | {' | '.join(cells)} | {seconds:.3f} |")


def per_round(bench: Bench, sent: float, crossings: float) -> None:
    """Print what a site sends and is sent in a round, beside what the app does."""
    kit, federation = bench.one.kit, bench.one.federation
    settings = load_config(load_preset("shapes").values)
    sgd = replace(kit.sgd(Phase.GLOBAL), epochs=settings.local_epochs, fixed_steps=0)
    steps = fmean(sgd.steps(len(rows)) for rows in federation.partition(settings.num_sites).train)
    prompt = Experiment(settings, home() / "cache").kit.first_arrays()
    print(f"\n{crossings:g} crossings a step, {steps:.1f} steps a round at the mean site of {settings.num_sites}\n")
    print("| a site's round, both ways | KB |\n|---|---:|")
    print(f"| image tower split, what-if | {steps * sent / 1e3:,.0f} |")
    print(f"| visual prompt, whole | {2 * sum(one.nbytes for one in kit.first_arrays().values()) / 1e3:,.1f} |")
    print(f"| prompt, whole | {2 * sum(one.nbytes for one in prompt.values()) / 1e3:,.1f} |")
    print(f"| prompt, text split | {4 * 4 * kit.host.zero_shot_text.numel() / 1e3:,.1f} |")
    width, tokens, images = 768, 197, 32
    print(f"\nViT-B/16: {images} x {tokens} x {width} x 4 = {images * tokens * width * 4 / 1e6:.1f} MB a crossing")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--cut", type=int, nargs=2, default=[1, 4], help="first block of the edge, and of the site again"
    )
    parser.add_argument(
        "--rank", type=int, nargs="+", default=[8, 128], help="directions that are rotated (default: 8 128)"
    )
    parser.add_argument("--ratio", type=int, default=8, help="of a sketch: numbers to one cell (default: 8)")
    parser.add_argument("--steps", type=int, default=40, help="of a training (default: 40)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[300, 301, 302])
    parser.add_argument("--every", type=int, default=4, help="of the test images, one of so many (default: 4)")
    parser.add_argument("--quick", action="store_true", help="one seed, two steps, few images")
    options = parser.parse_args()
    if options.quick:
        options.seeds, options.steps, options.every = options.seeds[:1], 2, 50
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1))
    found: dict[str, dict[int, Outcome]] = {}
    for seed in options.seeds:
        bench = Bench(options, seed)
        for case in CASES:
            for rank in options.rank if "rotation" in case else options.rank[:1]:
                name = f"{case}, r = {rank}" if "rotation" in case else case
                found.setdefault(name, {})[seed] = bench.run(case, rank)
                print(f"seed {seed}, {name}: {found[name][seed].accuracy:.2f}", file=sys.stderr, flush=True)
    report(found, bench.one.config.batch_size)
    plain = fmean(one.sent for one in found[CASES[0]].values()), found[CASES[0]][options.seeds[0]].crossings
    per_round(bench, *plain)


if __name__ == "__main__":
    main()
