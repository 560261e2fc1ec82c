import pytest
import torch
from safetensors.torch import save_file

from fedpurel_app.cli.main import main
from fedpurel_app.data.shapes import rendered


@pytest.fixture(autouse=True)
def fresh_home(monkeypatch, tmp_path):
    monkeypatch.setattr(rendered, "SHAPES_TEST", 2)
    monkeypatch.setenv("FEDPUREL_HOME", str(tmp_path / "home"))


def doctor(capsys, *arguments, status=0):
    assert main(["doctor", *arguments]) == status
    return capsys.readouterr().out


def test_it_tells_what_is_there_and_what_is_not(capsys):
    out = doctor(capsys, "--set", "max-per-class=4")
    assert "torch 2" in out and "cores" in out and "192 training and 96 test images, 48 classes" in out
    assert "cache     features of train: to be made of 60 images, once, 30.0 KiB on disk" in out
    assert "demo/clip-" in out and "sites at a time" in out


def test_patches_are_counted_for_methods_that_look_at_them(capsys):
    """64 patches of 128 numbers of 2 bytes: 16 KiB each."""
    out = doctor(capsys, "--set", "max-per-class=4", "--set", "algorithm=fedotp")
    assert "features of train: to be made of 60 images, once, 30.0 KiB on disk" in out
    assert "patches of train: to be made of 60 images, once, 960.0 KiB on disk" in out and "pixels of" not in out


def test_pixels_and_weights_are_counted_for_families_inside_the_image_tower(capsys):
    out = doctor(capsys, "--set", "max-per-class=4", "--set", "peft=lora")
    assert "pixels of train: to be made of 60 images, once, 180.0 KiB on disk" in out


ABSENT = ("--preset", "paper/cifar100-prompt")


def test_all_that_is_absent_is_named_without_a_network(capsys):
    out = doctor(capsys, *ABSENT, status=1)
    assert "data      CIFAR-100 could not be loaded" in out
    assert "Bring open_clip_model.safetensors of huggingface.co/timm/" in out


def test_all_that_would_be_downloaded_is_named_with_a_network(capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")  # which the command sets to 1 for itself
    out = doctor(capsys, *ABSENT)
    assert "data      to be downloaded: CIFAR-100 from huggingface.co/datasets/uoft-cs/cifar100\n" in out
    assert "weights   to be downloaded: open_clip_model.safetensors of huggingface.co/timm/" in out


def test_what_no_network_can_bring_is_an_error_in_any_case(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    out = doctor(capsys, *ABSENT, "--set", f"dataset-path={tmp_path}", "--set", "pretrained=no.pt", status=1)
    assert "CIFAR-100 could not be loaded" in out and 'no.pt": no such file' in out


def test_data_of_sites_are_at_the_sites(capsys):
    out = doctor(capsys, "--set", "dataset=sites", "--set", 'classes="a, b"')
    assert "data      at the sites, each of which brings its own, of 2 classes" in out
    assert "0 training" not in out and "cache " not in out and "memory " in out


def test_short_classes_are_counted(capsys, tmp_path):
    from PIL import Image

    for part, counts in (("train", (8, 1)), ("test", (1, 1))):
        for name, count in zip(("a", "b"), counts, strict=True):
            for number in range(count):
                path = tmp_path / "data" / part / name / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (8, 8)).save(path)
    arguments = ["--set", "dataset=imagefolder", "--set", f"dataset-path={tmp_path / 'data'}"]
    out = doctor(capsys, *arguments, "--set", "imbalance-factor=2")
    assert "1 classes have fewer images than the settings ask for" in out
    assert "fewer images" not in doctor(capsys, *arguments, "--set", "imbalance-factor=1")


def test_a_file_of_other_weights_is_named(capsys, tmp_path):
    save_file({"logit_scale": torch.ones(()), "visual.proj": torch.ones(768, 512)}, tmp_path / "w.safetensors")
    out = doctor(capsys, "--set", "backbone=ViT-B-16", "--set", f"pretrained={tmp_path / 'w.safetensors'}", status=1)
    assert "w.safetensors does not hold the weights of" in out
