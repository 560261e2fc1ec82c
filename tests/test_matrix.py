"""Every family under every algorithm, and the options of families, through both phases on images."""

import json
import re

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file

from fedpurel_app.algorithms.registry import METHODS
from fedpurel_app.config import load_config
from fedpurel_app.core.errors import ConfigError
from fedpurel_app.data.shapes import rendered
from fedpurel_app.models.peft.registry import FAMILIES
from tests.support import private_files, run_tiny


@pytest.fixture(autouse=True)
def few_images(monkeypatch):
    monkeypatch.setattr(rendered, "SHAPES_TEST", 2)


def run(folder, **changes):
    settings = {
        "dataset": "shapes",
        "dataset_path": "",
        "max_per_class": 4,
        "imbalance_factor": 4,
        "num_sites": 3,
        "global_rounds": 1,
        "evaluate_every": 1,
    }
    return run_tiny(folder, **(settings | changes))


INSIDE = ("lora", "visual-prompt")  # the image tower: every step takes it forward and back


def is_slow(family, algorithm):
    """Tell what has a cheap case: a method runs with the text residual, where it can, in test_registry.py too."""
    settings = load_config({}).model_dump(by_alias=True) | {"peft": family, "algorithm": algorithm}
    return family in (*INSIDE, "text-residual") and algorithm != "fedavg" and not METHODS[algorithm].unfit(settings)


@pytest.mark.parametrize(
    ("family", "algorithm"),
    [
        pytest.param(family, algorithm, marks=[pytest.mark.slow] * is_slow(family, algorithm))
        for family in FAMILIES
        for algorithm in METHODS
    ],
)
def test_every_family_runs_under_every_algorithm_or_is_refused(tmp_path, family, algorithm):
    method, settings = METHODS[algorithm], {"peft": family, "algorithm": algorithm}
    if why := method.unfit(load_config({}).model_dump(by_alias=True) | settings):
        with pytest.raises(ConfigError, match=f'(?s)algorithm = "{algorithm}" cannot be used.*{re.escape(why)}'):
            run(tmp_path, **settings)
        return
    folder = run(tmp_path, **settings, learning_rate=0.01)  # of a few images, no step is wide
    summary, keeps = folder.summary(), method.load().keeps_state
    assert summary["outcome"] == "completed" and summary["rounds"] == 1 + method.personal_rounds
    assert bool(private_files(folder)) == (method.personal_rounds or keeps)
    assert (summary["personalized"] is not None) == method.personalizes
    assert (summary["global"] or summary["global_at_sites"])["all"] > 10
    if not method.trains:
        return
    first = folder.rounds()[1]["train"]
    assert first["drift"] > 0 and np.isfinite(first["loss"])
    assert "conflict" in first or algorithm not in ("fedpurel", "prograd")


@pytest.mark.parametrize("method", ["promptfolio", pytest.param("kgcoop", marks=pytest.mark.slow)])
def test_methods_of_text_features_work_with_an_adapted_text_tower(tmp_path, method):
    assert run(tmp_path / "text", peft="lora", lora_tower="text", algorithm=method).summary()["outcome"] == "completed"
    if method == "promptfolio":  # whose two modules see an image through one of them
        with pytest.raises(ConfigError, match='set lora-tower = "text"'):
            run(tmp_path / "both", peft="lora", lora_tower="both", algorithm=method)
    else:
        assert run(tmp_path / "both", peft="lora", lora_tower="both", algorithm=method).summary()["global"]


@pytest.mark.parametrize(
    "options",
    [
        {"peft": "lora", "lora_tower": "text", "lora_rank": 2},
        {"peft": "prompt", "class_specific_context": True, "context_position": "middle"},
        {"peft": "prompt", "augment": "crop-flip"},
        {"peft": "adapter", "template": "a drawing of a {}."},
        {"peft": "lora", "lora_tower": "both", "lora_blocks": "0-1", "lora_projections": "q,v"},
        {"peft": "visual-prompt", "prompt_depth": "shallow", "prompt_tokens": 3},
        {"peft": "prompt", "context_words": "a photo of a", "precision": "bf16"},
        {"peft": "lora", "precision": "bf16"},
        {"peft": "text-residual", "augment": "views", "views": 2},
        {"peft": "lora", "augment": "views", "views": 2},
        {"peft": "visual-prompt", "augment": "crop-flip"},
    ],
)
@pytest.mark.slow
def test_options_of_families_run(tmp_path, options):
    assert run(tmp_path, **options).summary()["outcome"] == "completed"


@pytest.mark.slow
def test_a_family_inside_the_image_tower_repeats_bit_for_bit(tmp_path):
    folders = [run(tmp_path / name, peft="lora") for name in ("a", "b")]
    checkpoints = [(folder.path / "checkpoint.safetensors").read_bytes() for folder in folders]
    assert checkpoints[0] == checkpoints[1]
    assert list(private_files(folders[0])) == list(private_files(folders[1]))


@pytest.mark.parametrize(
    ("family", "form"),
    [("prompt", "safetensors"), ("prompt", "pt"), ("lora", "safetensors"), ("lora", "pt")],
)
@pytest.mark.slow
def test_a_local_checkpoint_of_an_open_clip_model(tmp_path, monkeypatch, form, family):
    """A model of open_clip's list, made small here, from a file in either form."""
    architecture = {
        "embed_dim": 32,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 16, "head_width": 32},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
    }
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "ViT-B-16.json").write_text(json.dumps(architecture))
    monkeypatch.setattr("fedpurel_app.models.checkpoints._configs", lambda: tmp_path / "models")
    torch.manual_seed(0)
    state = open_clip.model.CLIP(**architecture).state_dict()
    path = tmp_path / f"weights.{form}"
    if form == "pt":
        torch.save({"state_dict": {f"module.{name}": value for name, value in state.items()}}, path)
    else:
        save_file(state, path)
    folder = run(tmp_path, backbone="ViT-B-16", pretrained=str(path), peft=family)
    assert folder.summary()["outcome"] == "completed"


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["fedavg", "fedpurel"])
def test_with_shares_lora_a_no_b_leaves_a_site(tmp_path, algorithm):
    """FedSA: A is averaged; every site has a B of its own, which is zero at first and trained in global rounds."""
    sent: list[tuple[str, str]] = []
    stamps = []

    def spy(message, reply):
        stamps.append((message.metadata.message_type, message.content.get("config", {}).get("private-round")))
        sent.extend((message.metadata.message_type, name) for name in message.content.get("arrays", {}))
        if reply.has_content():
            sent.extend(("reply", name) for name in reply.content.get("arrays", {}))

    changes = {"peft": "lora", "shares": "lora-a", "algorithm": algorithm, "global_rounds": 2, "fraction_train": 1.0}
    changes |= {"personal_rounds": 1} if algorithm == "fedpurel" else {}
    folder = run(tmp_path, **changes, grid={"spy": spy})
    assert {"train", "reply"} <= {kind for kind, _ in sent} and all(name.endswith(".A") for _, name in sent)
    summary, last = folder.summary(), folder.rounds()[-1]
    assert summary["outcome"] == "completed" and summary["global"] is None  # no place but the sites has all of it
    assert last["sites"]["global"]["all"] is not None
    private_part = algorithm == "fedpurel"
    assert summary["reasons"]["global"] == "sites keep a part of the global model"
    assert summary["global_at_sites"]["all"] == last["sites"]["global"]["all"] > 10  # with the B of each
    if private_part:
        assert summary["personalized"]["all"] == last["sites"]["personalized"]["all"] > 10
    else:
        assert summary["personalized"] is None
        assert summary["reasons"]["personalized"] == "this algorithm has no private part"
    assert all(line.get("tkl") is None for line in folder.rounds()), "of no model that anybody has"
    classes = folder.read_csv("classes.csv")
    assert any(row["zero_shot"] for row in classes) and not any(row["global"] for row in classes)
    for site in ("site-0", "site-1", "site-2"):
        latest = sorted((folder.path / "private").glob(f"*/{site}/*.safetensors"))[-1]
        tensors = load_file(latest)
        kept = {name for name in tensors if name.startswith("kept/")}
        assert kept and all(name.endswith(".B") and tensors[name].abs().max() > 0 for name in kept)
        assert bool(tensors.keys() - kept) == private_part
    assert {stamp for kind, stamp in stamps if kind == "train"} == {
        0,
        1,
    }  # the second round starts from the B of the first
    b_of = [load_file(path) for path in sorted((folder.path / "private").rglob("private-000002*"))]
    assert len(b_of) == 3 and not torch.equal(*(one["kept/vision.blocks.0.attention.q.B"] for one in b_of[:2]))


@pytest.mark.slow
def test_a_resumed_run_that_shares_a_alone_is_the_same_run(tmp_path):
    changes = {"peft": "lora", "shares": "lora-a", "global_rounds": 3, "personal_rounds": 0, "fraction_train": 0.7}
    whole = run(tmp_path / "whole", experiment_id="e", **changes)

    def stop(message, reply):
        if message.metadata.message_type == "train" and message.content["config"]["round"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", experiment_id="e", **changes, grid={"spy": stop})
    cut = run(tmp_path / "cut", experiment_id="e", resume_from=str(tmp_path / "cut" / "run"), out="", **changes)
    assert private_files(cut) == private_files(whole)
