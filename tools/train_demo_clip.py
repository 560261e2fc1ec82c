"""Make the demo CLIP: train it on captioned shapes of the easy domain and write ``fedpurel_demo/``.

    python tools/train_demo_clip.py                  # 4,500 steps, about an hour on 2 CPU cores
    python tools/train_demo_clip.py --steps 50 --out /tmp/try

The captions name the style ("a very dark noisy photo of a red circle.") in three of four cases, so that words for
rendering styles move the text features, as they do in CLIP. At most two effects are shown at once, and the effect
"pixelated" never: what the federation's images look like is not in the vocabulary. Two runs on one machine, with the
same versions and number of threads, give the same weights.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.model import CLIP
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import DataLoader, Dataset

from fedpurel_app.data.shapes import shapes
from fedpurel_app.data.shapes.outlines import SIZE
from fedpurel_app.models.demo_weights import pack
from fedpurel_app.models.tokenizers import WordTokenizer

WORDS = ["a", "of", ".", "picture", "very", "slightly", *shapes.MEDIA, *shapes.NAMED_EFFECTS, *shapes.COLOURS]
# Words that the vocabulary lacks fall on one of the spare ones, which stay as they were drawn.
VOCABULARY = ["<pad>", "<start>", *WORDS, *shapes.SHAPES, *(f"<spare{i}>" for i in range(64)), "<end>"]
ARCHITECTURE = {
    "embed_dim": 128,
    "vision_cfg": {"image_size": SIZE, "patch_size": 4, "width": 128, "layers": 5, "head_width": 64},
    "text_cfg": {"context_length": 24, "vocab_size": len(VOCABULARY), "width": 128, "layers": 3, "heads": 2},
}
TEMPLATE = "a photo of a {}."


def caption(label: int, medium: int, severity: np.ndarray, rng: np.random.Generator) -> str:
    """Describe an image; effects are named in random order, strong and weak ones often as such."""
    words = ["a"]
    if rng.random() < 0.75:
        for effect in rng.permutation(np.flatnonzero(severity > 0)):
            if severity[effect] > 0.75 and rng.random() < 0.6:
                words.append("very")
            elif severity[effect] < 0.45 and rng.random() < 0.6:
                words.append("slightly")
            words.append(shapes.EFFECTS[effect])
    noun = "picture" if rng.random() < 0.25 else shapes.MEDIA[medium]
    return " ".join([*words, noun, "of a", shapes.CLASS_NAMES[label]]) + "."


class Captioned(Dataset[tuple[Tensor, Tensor]]):
    """Batches of images and caption tokens; item i is batch i, the same in every run."""

    def __init__(self, steps: int, batch: int) -> None:
        self.steps, self.batch, self.tokenizer = steps, batch, WordTokenizer(VOCABULARY)

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng([20261121, step])
        labels = rng.integers(0, len(shapes.CLASS_NAMES), self.batch)
        media, severity = shapes.EASY.draw(self.batch, rng)
        images = shapes.render(labels, media, severity, rng)
        rows = [self._tokens(caption(labels[i], media[i], severity[i], rng)) for i in range(self.batch)]
        return torch.from_numpy(images), torch.tensor(rows)

    def _tokens(self, text: str) -> list[int]:
        ids = [self.tokenizer.start, *self.tokenizer.encode_all([text])[0], self.tokenizer.end]
        return ids + [0] * (ARCHITECTURE["text_cfg"]["context_length"] - len(ids))  # type: ignore[index]


def normalized(images: Tensor) -> Tensor:
    """Turn uint8 (N, H, W, 3) into what CLIP's transform gives, (N, 3, H, W)."""
    mean, std = (
        torch.tensor(v, device=images.device)[:, None, None] for v in (OPENAI_DATASET_MEAN, OPENAI_DATASET_STD)
    )
    return (images.permute(0, 3, 1, 2).float() / 255 - mean) / std


def contrastive_loss(logits: Tensor, tokens: Tensor) -> Tensor:
    """Compute CLIP's symmetric loss; images with the same caption share it as their target."""
    same = (tokens[:, None] == tokens[None]).all(-1).float()
    target = same / same.sum(1, keepdim=True)
    return -((target * logits.log_softmax(1)).sum(1).mean() + (target * logits.T.log_softmax(1)).sum(1).mean()) / 2


@torch.no_grad()
def zero_shot_accuracy(model: CLIP, data: Captioned, domain: shapes.Domain, device: torch.device) -> float:
    """Score the template on 20 validation images of each class."""
    model.eval()
    classes = range(len(shapes.CLASS_NAMES))
    text = torch.tensor([data._tokens(TEMPLATE.format(name)) for name in shapes.CLASS_NAMES], device=device)
    features = functional.normalize(model.encode_text(text), dim=-1)
    hits = 0.0
    for label in classes:
        images = torch.from_numpy(shapes.images("validation", label, 0, 20, domain)).to(device)
        hits += float(((model.encode_image(normalized(images)) @ features.T).argmax(1) == label).float().mean())
    model.train()
    return 100 * hits / len(classes)


def main() -> None:
    """Train and write the weights (fp16) and the model's description."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=4_500)
    parser.add_argument("--batch", type=int, default=160)
    parser.add_argument("--learning-rate", type=float, default=1.5e-3)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "fedpurel_demo")
    options = parser.parse_args()

    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = CLIP(**ARCHITECTURE).to(device)
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}],
        lr=options.learning_rate,
        betas=(0.9, 0.98),
    )
    data = Captioned(options.steps, options.batch)
    started, average = time.time(), 0.0
    for step, (images, tokens) in enumerate(DataLoader(data, batch_size=None, num_workers=1, prefetch_factor=8)):
        progress = step / options.steps
        rate = options.learning_rate * min(1, (step + 1) / 300) * (0.02 + 0.49 * (1 + math.cos(math.pi * progress)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        images, tokens = images.to(device), tokens.to(device)
        # The plain attention kernel: the fused one is twice as slow on CPUs in bf16.
        with torch.autocast(device.type, torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
            image = functional.normalize(model.encode_image(normalized(images)).float(), dim=-1)
            text = functional.normalize(model.encode_text(tokens).float(), dim=-1)
        loss = contrastive_loss(model.logit_scale.exp() * image @ text.T, tokens)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
        average = loss.item() if step == 0 else 0.98 * average + 0.02 * loss.item()
        if step % 500 == 0 or step == options.steps - 1:
            easy, hard = (zero_shot_accuracy(model, data, domain, device) for domain in (shapes.EASY, shapes.HARD))
            spent = time.time() - started
            print(f"{step:6d}  {spent:6.0f} s  loss {average:.3f}  easy {easy:.1f}  hard {hard:.1f}", flush=True)

    options.out.mkdir(parents=True, exist_ok=True)
    weights = save({k: v.half().contiguous().cpu() for k, v in model.state_dict().items()})
    description = {"architecture": ARCHITECTURE, "vocabulary": VOCABULARY, "weights": pack(weights, options.out)}
    (options.out / "clip.json").write_text(json.dumps(description, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
