"""Every architecture that open_clip has, as a backbone: see what small_clips makes small."""

import time

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from fedpurel_app.core.errors import ConfigError
from fedpurel_app.models.backbone import load_backbone
from fedpurel_app.models.forms import families_for
from fedpurel_app.models.peft.base import Host
from fedpurel_app.models.peft.making import make_module
from fedpurel_app.models.peft.registry import FAMILIES
from tests.models.small_clips import SmallClips

CPU = torch.device("cpu")
NAMES = ("red circle", "blue square")
PROMPTS = ("a photo of a red circle.", "a photo of a blue square.")
ONE_OF_A_KIND = {  # and which families work with it
    "ViT-B-32": {"prompt", "adapter", "text-residual", "lora", "visual-prompt"},
    "RN50": {"prompt", "adapter", "text-residual"},
    "convnext_tiny": {"prompt", "adapter", "text-residual"},
    "ViT-B-16-SigLIP": {"adapter", "text-residual"},
    "ViT-B-16-SigLIP2": {"adapter", "text-residual"},
    "ViT-SO400M-16-SigLIP-i18n-256": {"adapter", "text-residual"},  # a text tower without projection
    "MobileCLIP-S1": {"adapter", "text-residual"},
    "ViT-L-14-CLIPA": {"adapter", "text-residual", "lora", "visual-prompt"},
    "ViT-L-14-worldwide": {"adapter", "text-residual", "lora", "visual-prompt"},
    "coca_ViT-B-32": {"adapter", "text-residual"},
    "roberta-ViT-B-32": {"adapter", "text-residual", "lora", "visual-prompt"},
    "nllb-clip-base-siglip": {"adapter", "text-residual"},
}


@pytest.fixture
def clips(tmp_path, monkeypatch):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # towers so small cost more to share out than to compute
    yield SmallClips(tmp_path, monkeypatch)
    torch.set_num_threads(threads)


def picture(seed):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (64, 80, 3), dtype=np.uint8))


def losses_along(module, inputs, labels, parameters, gradients):
    """Yield losses after steps against the gradient, short ones first: too short a one is lost in rounding."""
    start, norm = (
        [value.detach().clone() for value in parameters],
        torch.stack([one.norm() for one in gradients]).norm(),
    )
    for length in (1e-3, 1e-2, 1e-1):
        with torch.no_grad():
            for value, first, gradient in zip(parameters, start, gradients, strict=True):
                value.copy_(first - length * gradient / norm)
            yield torch.nn.functional.cross_entropy(module.logits(inputs), labels)


def steps_of_all_families(host, images):
    """Let every family that works take a gradient step; returns those that refused the backbone instead."""
    refused, labels = set(), torch.tensor([0, 1])
    pixels = torch.stack([host.backbone.preprocess(image) for image in images])
    for name, family in FAMILIES.items():
        options = {option.key: option.default for option in family.options}
        try:
            module = make_module(family, host, "global", options, torch.Generator().manual_seed(0))
        except ConfigError as error:
            assert f'backbone = "{host.backbone.name}": nothing can be put inside its' in str(error)
            refused.add(name)
            continue
        inputs = host.backbone.seen(pixels, module.takes)
        parameters = [value for _, value in module.named_parameters()]
        loss = torch.nn.functional.cross_entropy(module.logits(inputs), labels)
        gradients = torch.autograd.grad(loss, parameters)
        norm = torch.stack([gradient.norm() for gradient in gradients]).norm()
        assert torch.isfinite(loss) and torch.isfinite(norm) and norm > 0, name
        assert any(after < loss for after in losses_along(module, inputs, labels, parameters, gradients)), name
    return refused


def run_one(clips, name):
    """Hold a backbone's features against open_clip's whole model; returns the families that refused it."""
    model, path = clips.make(name)
    backbone = load_backbone(name, CPU, str(path))
    backbone.check()
    images = [picture(0), picture(1)]
    ids = open_clip.get_tokenizer(name)(list(PROMPTS))
    with torch.no_grad():
        pixels = backbone.normalise(torch.stack([backbone.preprocess(image) for image in images]))
        theirs = torch.nn.functional.normalize(model.encode_image(pixels), dim=-1)
        ours = torch.nn.functional.normalize(backbone.encode_images(images), dim=-1)
        assert torch.allclose(ours, theirs, atol=1e-4), "image features"
        text = torch.nn.functional.normalize(model.encode_text(ids), dim=-1)
        assert torch.allclose(backbone.encode_prompts(PROMPTS), text, atol=1e-4), "text features"
        assert not torch.allclose(text[0], text[1], atol=1e-4), "these prompts differ"
    bias = 0.0 if model.logit_bias is None else model.logit_bias.item()
    assert (backbone.logit_scale, backbone.logit_bias) == pytest.approx((model.logit_scale.detach().exp().item(), bias))
    host = Host(text, backbone.logit_scale, NAMES, backbone, PROMPTS)
    refused = steps_of_all_families(host, images)
    assert set(FAMILIES) - refused == set(families_for(backbone.checkpoint.architecture))
    return refused


@pytest.mark.parametrize("name", ONE_OF_A_KIND)
def test_one_of_every_kind_gives_open_clips_features_and_trains_what_works_with_it(clips, name):
    assert set(FAMILIES) - run_one(clips, name) == ONE_OF_A_KIND[name]


@pytest.mark.slow
def test_all_of_open_clips_architectures_run_a_step(clips):
    """Small, as small_clips says; none is left out."""
    wrong, begun = {}, time.monotonic()
    names = open_clip.list_models()
    for name in names:
        try:
            run_one(clips, name)
        except Exception as error:  # all that fail are told at once
            wrong[name] = f"{type(error).__name__}: {str(error)[:300]}"
    print(f"{len(names) - len(wrong)} of {len(names)} ran a step, in {time.monotonic() - begun:.0f} s")
    assert wrong == {}
    assert len(names) >= 140
