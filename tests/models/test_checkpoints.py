import json

import pytest
import torch
from safetensors.torch import save_file

from fedpurel_app.errors import ConfigError, StateError
from fedpurel_app.models.backbone import load_backbone
from fedpurel_app.models.checkpoints import find_checkpoint, model_names, read_tensors

CPU = torch.device("cpu")


def test_an_unknown_model_is_named_with_near_ones():
    with pytest.raises(ConfigError, match='backbone = "ViT-B16": not a model of open_clip; did you mean ViT-B-16'):
        find_checkpoint("ViT-B16", "openai")
    assert {"ViT-B-16", "ViT-B-32", "RN50"} <= set(model_names())


def test_an_absent_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r'pretrained = ".*absent\.safetensors": no such file'):
        find_checkpoint("ViT-B-16", str(tmp_path / "absent.safetensors"))


def test_an_unknown_tag_lists_the_known_ones():
    with pytest.raises(ConfigError, match='pretrained = "opneai": .* or one of open_clip\'s tags: openai, laion'):
        find_checkpoint("ViT-B-16", "opneai")


def test_an_unreachable_hub_says_which_file_to_bring():
    with pytest.raises(
        ConfigError, match=r"Bring open_clip_model\.safetensors of huggingface\.co/timm/.*pretrained = "
    ):
        find_checkpoint("ViT-B-16", "openai")


def test_the_advice_names_the_activation_of_the_weights():
    with pytest.raises(ConfigError, match='backbone = "ViT-B-16-quickgelu", the activation of these weights'):
        find_checkpoint("ViT-B-16", "openai")
    with pytest.raises(ConfigError, match="image transform of their own"):
        find_checkpoint("ViT-H-14-378-quickgelu", "dfn5b")


@pytest.mark.parametrize("tower", ["text", "image", "logit_scale"])
def test_weights_of_another_model_or_form_are_refused(tmp_path, tower):
    save_file({"text_model.embeddings.weight": torch.ones(3)}, tmp_path / "weights.safetensors")
    backbone = load_backbone("ViT-B-16", CPU, str(tmp_path / "weights.safetensors"))
    with pytest.raises(ConfigError, match='does not hold the weights of "ViT-B-16" in open_clip\'s form'):
        getattr(backbone, tower)


def test_a_prompt_that_is_too_long_is_named():
    with pytest.raises(ConfigError, match=r'the prompt "red red .* has 42 tokens, and the text tower of "demo" takes'):
        load_backbone("demo", CPU).encode_prompts(["red", "red " * 40])


def test_other_text_towers_are_refused(tmp_path):
    save_file({"logit_scale": torch.ones(())}, tmp_path / "weights.safetensors")
    with pytest.raises(ConfigError, match="has a text tower of another kind.*no_causal_mask"):
        load_backbone("ViT-B-16-SigLIP", CPU, str(tmp_path / "weights.safetensors"))


def test_half_precision_needs_a_gpu():
    with pytest.raises(ConfigError, match='precision = "fp16-autocast" needs a GPU'):
        load_backbone("demo", CPU, precision="fp16-autocast")


class Harmful:
    """What a pickle of a stranger may hold."""

    def __reduce__(self):
        return (exec, ("raise SystemExit('code was run')",))


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
def test_no_code_in_a_file_is_run(tmp_path, name):
    path = tmp_path / name
    torch.save({"state_dict": {"logit_scale": torch.ones(())}, "extra": Harmful()}, path)
    with pytest.raises(StateError, match=r"weights\.(pt is not a file of tensors|safetensors is not a readable)"):
        read_tensors(path, lambda name: True)


@pytest.mark.parametrize("form", ["vit", "resnet"])
def test_images_of_every_form_of_tower_are_encoded(tmp_path, monkeypatch, form):
    """A tower of another form than ours runs by open_clip, for families that work on features."""
    import open_clip

    vision = {
        "vit": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 16, "head_width": 32},
        "resnet": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 16, "patch_size": None},
    }[form]
    text = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    (tmp_path / "RN50.json").write_text(json.dumps({"embed_dim": 32, "vision_cfg": vision, "text_cfg": text}))
    monkeypatch.setattr("fedpurel_app.models.checkpoints._configs", lambda: tmp_path)
    torch.manual_seed(0)
    model = open_clip.model.CLIP(32, vision, text).eval()
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    backbone = load_backbone("RN50", CPU, str(tmp_path / "weights.safetensors"))
    pixels = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        expected = model.encode_image(backbone.normalise(pixels))
        assert torch.allclose(backbone.encode_pixels(pixels), expected, atol=1e-5)
        tokens = open_clip.get_tokenizer("ViT-B-16")(["a photo of a cat."])
        theirs = torch.nn.functional.normalize(model.encode_text(tokens), dim=-1)
    assert torch.allclose(backbone.encode_prompts(["a photo of a cat."]), theirs, atol=1e-5)
    if form == "resnet":
        with pytest.raises(ConfigError, match="nothing can be put inside its image tower .*ResNet"):
            _ = backbone.image


def test_statistics_of_cifar_change_the_input_and_the_cache_key():
    clip, cifar = (load_backbone("demo", CPU, statistics=name) for name in ("clip", "cifar"))
    pixels = torch.full((1, 3, 32, 32), 128, dtype=torch.uint8)
    expected = (128 / 255 - torch.tensor([0.5071, 0.4865, 0.4409])) / torch.tensor([0.2673, 0.2564, 0.2762])
    assert torch.allclose(cifar.normalise(pixels)[0, :, 0, 0], expected, atol=1e-6)
    assert not torch.allclose(clip.normalise(pixels)[0, :, 0, 0], expected, atol=1e-2)
    assert clip.fingerprint != cifar.fingerprint
