import json
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from fedpurel_app.core.errors import ConfigError, StateError
from fedpurel_app.models.backbone import load_backbone
from fedpurel_app.models.checkpoints import _configs, find_checkpoint, model_names, read_tensors
from fedpurel_app.models.fitting import misfits

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
        find_checkpoint("ViT-H-14-quickgelu", "dfn5b")  # other weights of this model want another transform


@pytest.mark.parametrize("tower", ["text", "image", "logit_scale"])
def test_weights_of_another_model_or_form_are_refused(tmp_path, tower):
    save_file({"text_model.embeddings.weight": torch.ones(3)}, tmp_path / "weights.safetensors")
    backbone = load_backbone("ViT-B-16", CPU, str(tmp_path / "weights.safetensors"))
    with pytest.raises(ConfigError, match='does not hold the weights of "ViT-B-16" in open_clip\'s form'):
        getattr(backbone, tower)


def test_a_prompt_that_is_too_long_is_named():
    with pytest.raises(ConfigError, match=r'the prompt "red red .* has 42 tokens, and the text tower of "demo" takes'):
        load_backbone("demo", CPU).encode_prompts(["red", "red " * 40])


@pytest.mark.parametrize(
    ("name", "mean", "resize_mode"),
    [
        ("ViT-B-16-SigLIP", (0.5, 0.5, 0.5), "squash"),  # its one tag says so
        ("MobileCLIP-B", (0.0, 0.0, 0.0), "shortest"),
        ("ViT-B-16", (0.48145466, 0.4578275, 0.40821073), "shortest"),
        ("ViT-L-14", (0.48145466, 0.4578275, 0.40821073), "shortest"),  # its tags differ: OpenAI's
        ("ViT-M-16-alt", (0.48145466, 0.4578275, 0.40821073), "shortest"),  # it has none
    ],
)
def test_a_file_gets_the_image_transform_that_all_published_weights_of_its_model_want(
    tmp_path, name, mean, resize_mode
):
    save_file({"logit_scale": torch.ones(())}, tmp_path / "weights.safetensors")
    transform = find_checkpoint(name, str(tmp_path / "weights.safetensors")).preprocessing
    assert (transform["mean"], transform["resize_mode"]) == (mean, resize_mode)


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


# --- weights of another architecture ----------------------------------------------------------------------------------

SMALL: dict[str, Any] = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 16, "head_width": 32},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}


def changed(tower="", **values):
    """The small architecture with some values of a tower, or of the whole, otherwise."""
    if not tower:
        return {**SMALL, **values}
    return {**SMALL, tower: {**SMALL[tower], **values}}


def shapes_of(architecture):
    import open_clip

    parts = {key: value for key, value in architecture.items() if key in ("embed_dim", "vision_cfg", "text_cfg")}
    kind = open_clip.model.CustomTextCLIP if architecture.get("custom_text") else open_clip.model.CLIP
    with torch.device("meta"):
        state = kind(**parts, quick_gelu=bool(architecture.get("quick_gelu"))).state_dict()
    return {name: tuple(value.shape) for name, value in state.items()}


@pytest.mark.parametrize(
    ("written", "problem"),
    [
        (changed("vision_cfg", patch_size=8), "visual.conv1.weight is of shape [64, 3, 8, 8], not [64, 3, 16, 16]"),
        (changed("vision_cfg", image_size=64), "visual.positional_embedding is of shape [17, 64], not [5, 64]"),
        (changed("vision_cfg", layers=3), "the image tower has 3 blocks, not 2"),
        (changed("vision_cfg", width=128), "visual.class_embedding is of shape [128], not [64]"),
        (changed("vision_cfg", mlp_ratio=2.0), "mlp.c_fc.weight is of shape [128, 64], not [256, 64]"),
        (changed("text_cfg", layers=1), "the text tower has 1 blocks, not 2"),
        (changed("text_cfg", context_length=16), "positional_embedding is of shape [16, 32], not [77, 32]"),
        (changed("text_cfg", vocab_size=99), "token_embedding.weight is of shape [99, 32], not [49408, 32]"),
        (changed("text_cfg", width=64), "ln_final.weight is of shape [64], not [32]"),
        (changed(embed_dim=16), "visual.proj is of shape [64, 16], not [64, 32]"),
    ],
)
def test_weights_of_another_architecture_are_refused_with_the_shape(written, problem):
    assert misfits(shapes_of(SMALL), SMALL) == []
    found = misfits(shapes_of(written), SMALL)
    assert any(problem in line for line in found), found


def test_all_that_does_not_fit_is_told_at_once_before_any_tower_is_built(tmp_path, monkeypatch):
    written = changed("vision_cfg", patch_size=8, layers=3)
    state = {name: torch.zeros(shape) for name, shape in shapes_of(written).items()}
    (tmp_path / "RN50.json").write_text(json.dumps(SMALL))
    monkeypatch.setattr("fedpurel_app.models.checkpoints._configs", lambda: tmp_path)
    for name in ("weights.safetensors", "weights.pt"):
        path = tmp_path / name
        save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
        backbone = load_backbone("RN50", CPU, str(path))
        for use in (backbone.check, lambda: backbone.text, lambda: backbone.image):  # noqa: B023
            with pytest.raises(ConfigError, match=r'weights of "RN50".*conv1.*positional_embedding.*3 blocks, not 2'):
                use()


@pytest.mark.parametrize("name", ["ViT-B-32", "ViT-S-16-alt", "ViT-S-32-alt", "ViT-B-16-plus-240", "ViT-L-14", "RN50"])
def test_models_as_open_clip_makes_them_fit_their_own_name_alone(name):
    architecture = json.loads((_configs() / f"{name}.json").read_text())
    vit = name != "RN50"
    shapes = shapes_of(architecture)
    assert misfits(shapes, architecture, with_image_tower=vit) == []
    other = json.loads((_configs() / "ViT-B-16.json").read_text())
    assert misfits(shapes, other, with_image_tower=vit)
