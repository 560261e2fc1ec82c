"""Backbones whose towers are open_clip's own, from a cache of the hub."""

import json
from copy import deepcopy
from typing import Any

import numpy as np
import open_clip
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file

from fedpurel_app.config import NodeConfig, refusals, stored_config
from fedpurel_app.core.errors import ConfigError
from fedpurel_app.inference.export import export
from fedpurel_app.inference.trained import load_trained
from fedpurel_app.launch.simulate import preflight
from fedpurel_app.models.backbone import load_backbone
from fedpurel_app.models.peft.base import Host
from tests.models.small_clips import put_hf_config, put_in_hub, put_tokenizer, use_hub, write_weights
from tests.support import run_tiny, tiny_config

CPU = torch.device("cpu")
NAME = "hf-hub:owner/clip"
PROMPTS = ["a photo of a red circle", "a photo of the very blue square"]
SIGLIP: dict[str, Any] = {  # its form: sees both ways, pools the last token, has a bias
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 16, "head_width": 32},
    "text_cfg": {
        "context_length": 16,
        "vocab_size": 64,
        "hf_tokenizer_name": "owner/words",
        "width": 64,
        "heads": 2,
        "layers": 2,
        "no_causal_mask": True,
        "proj_bias": True,
        "pool_type": "last",
    },
    "init_logit_bias": -10,
    "custom_text": True,
}
BIOMED: dict[str, Any] = {  # the form of BiomedCLIP: a BERT of transformers, an image tower of timm
    "embed_dim": 32,
    "vision_cfg": {"timm_model_name": "vit_tiny_patch16_224", "timm_model_pretrained": True, "image_size": 224},
    "text_cfg": {
        "hf_model_name": "owner/bert",
        "hf_tokenizer_name": "owner/bert",
        "hf_proj_type": "mlp",
        "hf_pooler_type": "cls_last_hidden_state_pooler",
        "context_length": 16,
    },
}
HALF = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "interpolation": "bicubic", "resize_mode": "squash"}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    return use_hub(tmp_path, monkeypatch)


def publish(cache, architecture):
    """Put a model of random weights with all that it needs into the cache; returns open_clip's model of it."""
    folder, text = put_in_hub(cache, "owner/clip"), architecture["text_cfg"]
    config = {"model_cfg": architecture, "preprocess_cfg": HALF}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    put_tokenizer(put_in_hub(cache, text["hf_tokenizer_name"]))
    if "hf_model_name" in text:
        put_hf_config(put_in_hub(cache, text["hf_model_name"]), "bert")
    torch.manual_seed(0)
    model = open_clip.create_model(NAME, load_weights=False, pretrained_text=False).eval()
    write_weights(model, folder / "open_clip_model.safetensors")
    return model


@pytest.mark.parametrize("architecture", [SIGLIP, BIOMED], ids=["siglip", "biomed"])
def test_a_model_in_the_hubs_cache_gives_the_features_that_open_clip_gives(cache, architecture, monkeypatch):
    model, whole, asked = publish(cache, architecture), timm.create_model, []

    def create_model(*args, **options):
        asked.append(options["pretrained"])
        return whole(*args, **options)

    monkeypatch.setattr(timm, "create_model", create_model)
    backbone = load_backbone(NAME, CPU, "openai")
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 60, 3), dtype=np.uint8))
    form = open_clip.transform.PreprocessCfg(**model.visual.preprocess_cfg)
    theirs = open_clip.transform.image_transform_v2(form, is_train=False)
    with torch.no_grad():
        expected = model.encode_image(theirs(image)[None])
        assert torch.allclose(backbone.encode_images([image]), expected, atol=1e-4)
        text = model.encode_text(open_clip.get_tokenizer(NAME)(PROMPTS), normalize=True)
        assert torch.allclose(backbone.encode_prompts(PROMPTS), text, atol=1e-5)
    assert backbone.logit_bias == pytest.approx(model.logit_bias.item() if model.logit_bias is not None else 0)
    assert not any(asked), "weights of timm's own are not asked for"


def test_a_run_trains_on_the_features_of_such_a_model_and_exports_its_bias(cache, tmp_path):
    model = publish(cache, SIGLIP)
    pixels = np.random.default_rng(0)
    for part, count in (("train", 6), ("test", 2)):
        for name in ("red circle", "blue square"):
            (folder := tmp_path / "images" / part / name).mkdir(parents=True)
            for index in range(count):
                Image.fromarray(pixels.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / f"{index}.png")
    data = {"dataset": "imagefolder", "dataset_path": str(tmp_path / "images"), "imbalance_factor": 1, "num_sites": 2}
    run = run_tiny(tmp_path, **data, partition="iid", backbone=NAME, peft="adapter", personal_rounds=1)
    assert run.summary()["global"]["all"] is not None
    export(load_trained(run.path), tmp_path / "out")
    found = load_file(tmp_path / "out" / "classifier.safetensors")
    assert found["logit_bias"].item() == pytest.approx(model.logit_bias.item()) and found["logit_bias"] < -9
    assert found["logit_scale"].item() == pytest.approx(model.logit_scale.detach().exp().item())
    assert "sigmoid" in json.loads((tmp_path / "out" / "export.json").read_text())["probabilities"]


def test_what_prompts_need_is_said_before_a_run(cache, tmp_path):
    publish(cache, SIGLIP)
    (tmp_path / "images").mkdir()
    settings = stored_config({**tiny_config(tmp_path), "dataset": "shapes", "dataset-path": "", "backbone": NAME})
    preflight(settings)
    for inside in ({"peft": "prompt"}, {"peft": "lora", "lora_tower": "text"}):
        with pytest.raises(ConfigError) as refused:
            preflight(settings.model_copy(update=inside))
        said = str(refused.value)
        assert 'backbone = "hf-hub:owner/clip": nothing can be put inside its text tower' in said
        assert "hf_tokenizer_name, no_causal_mask, proj_bias, pool_type = last" in said, "what it lacks"
        assert 'peft = "adapter", "text-residual", "lora" or "visual-prompt"' in said, "what works with it"
        assert "one of the 85 open_clip models" in said and "ViT-B-16" in said, "what works with prompt"


@pytest.mark.parametrize(
    ("tower", "values", "problem"),
    [
        ("text_cfg", {"layers": 3}, "the text tower has no transformer.resblocks.2"),
        ("text_cfg", {"layers": 1}, "the text tower lacks transformer.resblocks.1"),
        ("text_cfg", {"context_length": 8}, r"positional_embedding is of shape \[8, 64\], not \[16, 64\]"),
        ("vision_cfg", {"patch_size": 8}, r"conv1.weight is of shape \[64, 3, 8, 8\], not \[64, 3, 16, 16\]"),
        ("", {"init_logit_bias": None}, "logit_bias is missing"),
    ],
)
def test_a_file_of_another_architecture_is_refused(cache, tmp_path, tower, values, problem):
    publish(cache, SIGLIP)
    other = deepcopy(SIGLIP)
    (other[tower] if tower else other).update(values)
    custom = {key: value for key, value in other.items() if key != "custom_text"}
    write_weights(open_clip.CustomTextCLIP(**custom), tmp_path / "other.safetensors")
    with pytest.raises(ConfigError, match=f'does not hold the weights of "{NAME}" in open_clip\'s form: .*{problem}'):
        load_backbone(NAME, CPU, str(tmp_path / "other.safetensors")).check()


def test_a_prompt_that_a_tokenizer_would_cut_is_refused(cache):
    publish(cache, SIGLIP)
    backbone = load_backbone(NAME, CPU)
    backbone.encode_prompts(["red " * 14])  # and its beginning and end
    with pytest.raises(ConfigError, match=r'the prompt "red red .* has 17 tokens, and the text tower of .* takes 16'):
        backbone.encode_prompts(["red", "red " * 15])


def remove(cache, repository):
    (cache / f"models--{repository.replace('/', '--')}").rename(cache / "gone")


@pytest.mark.parametrize(
    ("lacking", "said"),
    [
        (
            "owner/clip",
            r"open_clip_config\.json of huggingface\.co/owner/clip is not on this .*hf download owner",
        ),
        ("owner/bert", r"config\.json of huggingface\.co/owner/bert is not on this machine.*unset HF_HUB_OFFLINE"),
    ],
)
def test_what_is_not_on_this_machine_is_named_with_the_way_to_fetch_it(cache, lacking, said):
    publish(cache, BIOMED)
    remove(cache, lacking)
    with pytest.raises(ConfigError, match=said) as absent:
        load_backbone(NAME, CPU).check()
    assert absent.value.download


def test_a_tokenizer_of_which_a_part_is_here_is_named_with_the_call_that_fetches_it(cache):
    publish(cache, SIGLIP)
    for file in (cache / "models--owner--words").rglob("tokenizer.json"):
        file.unlink()
    with pytest.raises(ConfigError, match=r"tokenizer of huggingface\.co/owner/words cannot be made .*get_tokenizer"):
        load_backbone(NAME, CPU).check()


def test_options_of_a_tokenizer_that_may_run_code_are_refused(cache):
    architecture = deepcopy(SIGLIP)
    publish(cache, architecture)
    architecture["text_cfg"]["tokenizer_kwargs"] = {"clean": "canonicalize", "trust_remote_code": True}
    folder = put_in_hub(cache, "owner/clip")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": architecture}))
    with pytest.raises(ConfigError, match="options trust_remote_code, of which some run code"):
        load_backbone(NAME, CPU)


@pytest.mark.parametrize("content", ["{}", "[]", '{"model_cfg": {"embed_dim": 8}}', "no json"])
def test_a_config_of_another_form_is_refused(cache, content):
    (put_in_hub(cache, "owner/clip") / "open_clip_config.json").write_text(content)
    with pytest.raises(ConfigError, match=r"open_clip_config\.json of huggingface\.co/owner/clip is not of open_"):
        load_backbone(NAME, CPU)


@pytest.mark.parametrize("name", ["hf-hub:", "hf-hub:/etc/passwd", "hf-hub:../x", "hf-hub:a/b/c"])
def test_a_path_is_no_repository(cache, name):
    with pytest.raises(ConfigError, match="is no repository of the hub"):
        load_backbone(name, CPU)


def test_another_commit_of_the_tokenizer_is_another_backbone(cache):
    publish(cache, SIGLIP)
    first = load_backbone(NAME, CPU).fingerprint
    assert load_backbone(NAME, CPU).fingerprint == first
    put_tokenizer(put_in_hub(cache, "owner/words", commit="f" * 40))
    assert load_backbone(NAME, CPU).fingerprint != first


def test_the_same_bias_on_all_classes_changes_neither_softmax_nor_order():
    """Why logit_bias is in no loss: exp(z + b) / sum of exp(z + b) has exp(b) above and below."""
    host = Host(torch.eye(3), 117.0, ("a", "b", "c"), None)
    logits = host.zero_shot_logits(torch.randn(5, 3, generator=torch.Generator().manual_seed(0)))
    assert torch.allclose((logits - 16.5).softmax(1), logits.softmax(1), atol=1e-5)
    assert torch.equal((logits - 16.5).argmax(1), logits.argmax(1))


def test_a_site_loads_what_anybody_may_have_published_only_where_it_names_it(tmp_path):
    changes = {"dataset": "sites", "dataset-path": "", "classes": "a, b", "imbalance-factor": 1, "num-sites": 0}
    run = stored_config({**tiny_config(tmp_path), **changes, "backbone": NAME})
    wanted = "this site's `backbones` must name what it loads from the hub."
    assert refusals(run, NodeConfig()) == [f'backbone = "{NAME}": {wanted}']
    assert refusals(run, NodeConfig(backbones=f"demo, {NAME}")) == []
