"""Visual prompts, each of whose tokens has a block: deep prompts' bits where none moved, and by hand where some did."""

from typing import Any

import numpy as np
import pytest
import torch

from fedpurel_app.core.layout import of_lists
from fedpurel_app.models.backbone import load_backbone
from fedpurel_app.models.image import ImageTower
from fedpurel_app.models.peft.base import Host
from fedpurel_app.models.peft.making import make_module
from fedpurel_app.models.peft.registry import FAMILIES

BLOCKS, COUNT = 5, 3
OPTIONS = {"prompt-tokens": COUNT, "prompt-depth": "deep", "prompt-relocation": "bandit"}


@pytest.fixture(scope="module")
def host():
    demo = load_backbone("demo", torch.device("cpu"))
    prompts = ("a photo of a red circle.", "a photo of a blue star.")
    return Host(demo.encode_prompts(prompts), demo.logit_scale, ("red circle", "blue star"), demo, prompts)


def build(host, **changes):
    options = OPTIONS | {key.replace("_", "-"): value for key, value in changes.items()}
    module: Any = make_module(FAMILIES["visual-prompt"], host, "global", options, torch.Generator().manual_seed(0))
    return module


def pixels():
    return torch.randint(256, (4, 3, 32, 32), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def gradient(module):
    (found,) = torch.autograd.grad(module.logits(pixels())[:, 0].sum(), [module.tokens])
    return found


@pytest.mark.parametrize("home", [None, np.arange(BLOCKS).repeat(COUNT)])
def test_tokens_that_have_not_moved_are_deep_prompts_to_the_bit(host, home):
    deep, moved = build(host, prompt_relocation="none"), build(host, **({} if home is None else {"home": home}))
    assert deep.tokens.shape == (BLOCKS, COUNT, 128) and moved.tokens.shape == (BLOCKS * COUNT, 128)
    assert torch.equal(deep.tokens.flatten(0, 1), moved.tokens)
    assert torch.equal(deep.logits(pixels()), moved.logits(pixels()))
    assert torch.equal(gradient(deep).flatten(0, 1), gradient(moved))
    assert moved.layout == {"home": np.arange(BLOCKS).repeat(COUNT).tolist()} and deep.layout == {}


def test_by_hand_a_block_drops_the_tokens_of_the_one_before_even_if_it_has_none(host):
    home = np.array([1, 4, 0, 0, 4, 1, 4, 4, 4, 4, 4, 4, 4, 4, 4])  # 2 before block 0, 2 before 1, none before 2 and 3
    module, tower = build(host, home=home), host.backbone.image
    shown = host.backbone.normalise(pixels())
    with torch.no_grad():
        patches = torch.nn.functional.conv2d(shown, tower.patches, stride=tower.patches.shape[2:])
        x = torch.cat([tower.class_token.expand(4, 1, -1), patches.flatten(2).transpose(1, 2)], 1)
        x = tower.norm_before(x + tower.positions)
        for number, block in enumerate(tower.blocks):
            own = module.tokens[torch.from_numpy(home) == number].expand(4, -1, -1)
            x = block(torch.cat([x[:, :1], own, x[:, 1:]], 1))
            x = torch.cat([x[:, :1], x[:, 1 + own.shape[1] :]], 1)
        expected = tower.norm_after(x[:, 0]) @ tower.projection
        assert torch.allclose(module.image_features(pixels()), expected, atol=1e-5)
    assert float(gradient(module).abs().sum(1).min()) > 0, "every token has an effect"


def test_all_tokens_before_the_first_block_are_no_shallow_prompt(host):
    """Which goes through all blocks, where these are dropped before the second."""
    moved, shallow = (
        build(host, home=np.zeros(BLOCKS * COUNT, int)),
        build(host, prompt_relocation="none", prompt_depth="shallow", prompt_tokens=BLOCKS * COUNT),
    )
    with torch.no_grad():
        shallow.tokens.copy_(moved.tokens[None])
    assert not torch.allclose(moved.logits(pixels()), shallow.logits(pixels()), atol=1e-3)


def test_a_tower_that_pools_by_the_mean_leaves_the_last_blocks_tokens_out(host):
    """By the sum of what it takes the mean of: a token before the last block is none of it, whatever their number."""
    backbone = host.backbone
    weights = backbone.checkpoint.load("visual.")
    config = {**backbone.checkpoint.architecture["vision_cfg"], "pool_type": "avg"}
    tower = ImageTower(weights, config)
    shown, tokens = backbone.normalise(pixels()), build(host).tokens.detach()
    ragged = [*[tokens[:0]] * 4, tokens[:2]]
    with torch.no_grad():
        found = tower(shown, ragged)
        x = tower._tokens(shown, ragged)
        assert torch.allclose(found, tower.norm_after(x[:, 3:]).mean(1) @ tower.projection, atol=1e-5)
        assert torch.equal(tower(shown, [tokens[:0]] * 5), tower(shown))


@pytest.mark.parametrize(
    "home",
    [
        np.zeros(BLOCKS * COUNT - 1, int),
        np.zeros((BLOCKS * COUNT, 1), int),
        np.full(BLOCKS * COUNT, BLOCKS),
        np.full(BLOCKS * COUNT, -1),
        np.zeros(BLOCKS * COUNT),
    ],
)
def test_a_layout_that_does_not_fit_is_refused(host, home):
    with pytest.raises(ValueError, match="home"):
        build(host, home=home)


@pytest.mark.parametrize(
    "values", ["0123", b"\0\1", 3, None, [True], [0.0], ["0"], [-1], [2**62], [0] * 1_000_001, {"a": 1}]
)
def test_what_is_no_list_of_whole_numbers_is_no_layout(values):
    with pytest.raises(ValueError, match="whole numbers"):
        of_lists({"home": values})


def test_of_a_message_only_known_names_are_read():
    found = of_lists({"home": [0, 1], "prompt-tokens": [10**9], "seed": 1})
    assert set(found) == {"home"} and found["home"].tolist() == [0, 1]
