"""FedOTP by hand: its step at a uniform plan, what two sites send, and a run in which images are encoded once."""

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file
from torch import nn

from fedpurel_app import model_kit
from fedpurel_app.algorithms.base import Models, names_of_shared
from fedpurel_app.algorithms.fedavg import task_step
from fedpurel_app.algorithms.fedotp import ALGORITHM
from fedpurel_app.config import load_config
from fedpurel_app.core.errors import ConfigError, DataError, StateError
from fedpurel_app.core.sgd import SgdSettings
from fedpurel_app.data.shapes import rendered, shapes
from fedpurel_app.experiment import Experiment
from fedpurel_app.functional import cross_entropy_gradient, transport_plan
from fedpurel_app.inference.export import export
from fedpurel_app.inference.predict import predict
from fedpurel_app.inference.trained import load_trained
from fedpurel_app.models.backbone import Backbone
from fedpurel_app.models.peft.base import parameters_of
from fedpurel_app.models.peft.transport import Transport
from fedpurel_app.models.pixels import PixelForm
from fedpurel_app.training.inputs import LocalData, StoredRows
from fedpurel_app.training.local import train
from tests.algorithms.test_methods import LABELS, PATCHES, a_batch, rule, text_module
from tests.support import private_files, run_tiny, tiny_features


class Free(nn.Module):
    """A module whose parameter is its features of two classes: at first the unit vectors."""

    takes = "features"
    logits: Any
    logits_of: Any
    frozen: Any
    logit_scale = 2.0

    def __init__(self):
        super().__init__()
        self.features = nn.Parameter(torch.eye(2))

    def class_features(self):
        return self.features


def transport(mass=0.8, epsilon=0.1, **prompts):
    return Transport(prompts or {"shared": text_module(0.5), "own": text_module(-1.0)}, mass, epsilon)


def test_logits_are_what_is_transported_between_both_prompts_and_the_patches():
    module = transport()
    text = torch.stack([text_module(0.5).class_features(), text_module(-1.0).class_features()]).detach()
    assert torch.equal(module.class_features(), text)
    logits = module.logits(PATCHES).detach()
    for image in range(4):
        for label in range(3):
            cosines = text[:, label] @ PATCHES[image].T
            expected = 10 * (transport_plan(cosines) * cosines).sum()
            assert float(logits[image, label]) == pytest.approx(float(expected), abs=1e-4)
    assert torch.equal(module.frozen()(PATCHES), module.logits(PATCHES))
    assert [name for name, _ in module.named_parameters()] == ["shared.residual", "own.residual"]


def test_patches_in_half_precision_are_read_as_such():
    module = transport()
    assert torch.equal(module.logits(PATCHES.half()), module.logits(PATCHES.half().float()))
    assert torch.allclose(module.logits(PATCHES.half()), module.logits(PATCHES), atol=0.02)


def test_its_step_is_the_task_s_with_both_prompts_trained():
    """At a uniform plan: dL / dT_nc = s gamma / N mean_b (p - y)_bc mean_m f_bm, and from there to the parameters."""
    module = transport(epsilon=1e8)
    found, metrics = rule("fedotp")(a_batch(module, "fedotp"))
    means = PATCHES.mean(1)
    texts = [text_module(shift).class_features().detach() for shift in (0.5, -1.0)]
    logits = 10 * 0.8 * means @ (texts[0] + texts[1]).T / 2
    assert float(metrics["loss"]) == pytest.approx(float(nn.functional.cross_entropy(logits, LABELS)), abs=1e-5)
    at_text = 10 * 0.8 / 2 * cross_entropy_gradient(logits, LABELS).T @ means
    for shift, one in zip((0.5, -1.0), found, strict=True):
        prompt = text_module(shift)
        (expected,) = torch.autograd.grad(prompt.class_features(), [prompt.residual], at_text)
        assert torch.allclose(one, expected, atol=1e-5) and one.abs().max() > 1e-3


def test_two_sites_by_hand():
    """One image each, s = 2, gamma = 0.8, uniform plan: logits 0.8 (T_shared + T_own) f, f the mean patch.

    The first, f = (1/2, 1/2) of class 0: logits (0.8, 0.8), p - y = (-1/2, 1/2), gradient 0.8 (p - y) f = -+(0.2, 0.2).
    The second, f = (1, 0) of class 1: logits (1.6, 0), p - y = +-q with q = 1 / (1 + e^-1.6), gradient +-(0.8 q, 0).
    Both prompts take the whole of it at rate 1. The mean of the shared ones is sent on; own ones stay.
    """
    patches = (torch.eye(2)[None], torch.tensor([[[1.0, 0.0], [1.0, 0.0]]]))
    sent, kept = [], []
    for label, image in enumerate(patches):
        module = transport(0.8, 1e8, shared=Free(), own=Free())
        data = LocalData(image, torch.tensor([label]), torch.zeros(1, 2))
        train(module, data, task_step, SgdSettings(1.0, 0.0, 0.0, 8, 1), torch.Generator(), {})
        found = parameters_of(module)
        names = names_of_shared(list(found), {})
        sent += [found[name] for name in names]
        kept += [found[name] for name in found if name not in names]
    q = 1 / (1 + math.exp(-1.6))
    first = torch.eye(2) + torch.tensor([[0.2, 0.2], [-0.2, -0.2]])
    second = torch.eye(2) + torch.tensor([[-0.8 * q, 0.0], [0.8 * q, 0.0]])
    for value, expected in zip((*sent, *kept), (first, second, first, second), strict=True):
        assert torch.allclose(value, expected, atol=1e-5)
    assert torch.allclose(
        torch.stack(sent).mean(0), torch.tensor([[1.1 - 0.4 * q, 0.1], [0.4 * q - 0.1, 0.9]]), atol=1e-5
    )


def test_the_global_model_is_the_shared_prompt_with_all_of_the_mass():
    module = transport()
    (alone,) = ALGORITHM.global_model(Models(module))
    assert [name for name, _ in alone.named_parameters()] == ["shared.residual"]
    expected = transport(shared=text_module(0.5)).logits(PATCHES)
    assert torch.equal(alone.logits(PATCHES), expected) and alone.takes == "patches"
    cosines = torch.einsum("bmd,cd->bcm", PATCHES, text_module(0.5).class_features())
    plan = transport_plan(cosines[:, :, None])
    assert torch.allclose(plan.sum(-1), torch.tensor(0.8))
    assert torch.allclose(expected, 10 * (plan[:, :, 0] * cosines).sum(-1), atol=1e-5)
    assert ALGORITHM.is_known(module, {}) and ALGORITHM.personalized is not None
    assert ALGORITHM.personalized(Models(module)) == (module,)


# --- runs -------------------------------------------------------------------------------------------------------------


SMALL = {"dataset": "shapes", "dataset_path": "", "algorithm": "fedotp", "peft": "prompt", "max_per_class": 6}
SMALL |= {"imbalance_factor": 3, "num_sites": 2, "evaluate_every": 1}


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """Run it; with what was encoded up to each answer to a message."""
    encoded: list[int] = [0]
    answers: list[tuple[str, int, frozenset[str]]] = []
    folder = tmp_path_factory.mktemp("fedotp")

    def normalise(self, pixels):
        encoded[0] += len(pixels)
        return whole(self, pixels)

    def spy(message, reply):
        sent = frozenset(reply.content.get("arrays", {}))
        answers.append((message.metadata.message_type, encoded[0], sent))

    with pytest.MonkeyPatch.context() as patch:
        whole = PixelForm.normalise
        patch.setattr(PixelForm, "normalise", normalise)
        patch.setattr(rendered, "SHAPES_TEST", 2)
        patch.setenv("FEDPUREL_HOME", str(folder / "home"))
        run = run_tiny(folder, **SMALL, global_rounds=3, fraction_train=1.0, learning_rate=0.5, grid={"spy": spy})
        yield SimpleNamespace(run=run, answers=answers, encoded=encoded[0])


def test_images_are_encoded_before_the_first_answer_and_in_no_round_after(played):
    trained = [count for kind, count, _ in played.answers if kind == "train"]
    assert len(trained) == 6 and trained[0] > 0
    assert trained[1:] == trained[:-1] and played.encoded == trained[0]


def test_the_shared_prompt_travels_and_the_own_one_stays(played):
    assert {sent for kind, _, sent in played.answers if kind == "train"} == {frozenset({"shared.context"})}
    assert set(load_file(played.run.path / "checkpoint.safetensors")) == {"shared.context"}
    assert len(private_files(played.run)) >= 2
    for file in played.run.path.rglob("private-*.safetensors"):
        assert set(load_file(file)) == {"kept/own.context"}
    summary = played.run.summary()
    assert summary["global"]["all"] is not None and summary["personalized"]["all"] is not None


def test_images_are_classified_by_their_patches(played, tmp_path):
    """The logits of a picture are those of its patches, and an export has nothing to write."""
    picture = Image.fromarray(shapes.images("test", 0, 0, 1)[0])
    picture.save(tmp_path / "one.png")
    for site in ("", "site-1"):
        model = load_trained(played.run.path, site)
        backbone = model.experiment.kit.images_backbone
        pixels = torch.stack([backbone.preprocess(picture)])
        (found,) = predict(model, [tmp_path / "one.png"], top=3)
        text = model.branches["global"].class_features().detach()
        assert len(text) == (2 if site else 1)
        _, patches = backbone.encode_patches(pixels)
        cosines = torch.einsum("bmd,ncd->bcnm", patches, text)
        logits = model.experiment.kit.host.logit_scale * (transport_plan(cosines) * cosines).sum((-2, -1))
        probabilities = dict(zip(model.class_names, logits.softmax(-1)[0].tolist(), strict=True))
        for name, probability in found.classes:
            assert probability == pytest.approx(probabilities[name], abs=1e-4)
        with pytest.raises(StateError, match=r'algorithm = "fedotp" compares every patch.*fedpurel predict'):
            export(model, tmp_path / "out")
        assert not (tmp_path / "out").exists()


@pytest.fixture
def shapes_of_two(monkeypatch, tmp_path):
    monkeypatch.setattr(rendered, "SHAPES_TEST", 2)
    config = {key.replace("_", "-"): value for key, value in SMALL.items()}
    return Experiment(load_config(config), tmp_path)


def test_stored_patches_are_mapped_and_equal_fresh_ones_to_half_precision(shapes_of_two, tmp_path):
    images, rows = shapes_of_two.images, np.array([3, 5, 90])
    data = images.data("test", rows, "patches")
    assert isinstance(data.inputs, StoredRows) and data.index_device.type == "cpu"
    stored = data.inputs[torch.tensor([2, 0])]
    backbone, split = shapes_of_two.kit.images_backbone, shapes_of_two.federation.source.test
    pixels = torch.stack([backbone.preprocess(picture) for picture in split.images(rows[[2, 0]])])
    features, fresh = backbone.encode_patches(pixels)
    assert stored.dtype == torch.float16 and stored.shape == (2, 64, 128)
    assert float((stored.float() - fresh).abs().max()) < 2**-11, "of numbers up to 1, half a step is 2^-12"
    assert torch.allclose(fresh.norm(dim=-1), torch.ones(2, 64), atol=1e-5)
    assert torch.allclose(features, backbone.encode_pixels(pixels), atol=1e-5)
    mapped = [np.load(path, mmap_mode="r") for path in tmp_path.glob("*.npy")]
    (file,) = (one for one in mapped if one.dtype == np.float16)
    assert file.shape == (96, 64, 128) and np.array_equal(file[90], stored[0].numpy())


def test_a_batch_reads_its_own_rows_of_the_file_and_no_other():
    class File:
        def __init__(self):
            self.asked = []

        def __getitem__(self, rows):
            self.asked.append(rows.tolist())
            return np.zeros((len(rows), 2, 2), np.float16)

    file: Any = File()
    stored = StoredRows(file, np.array([7, 9, 11, 13]))
    assert stored[torch.tensor([2, 0])].shape == (2, 2, 2) and stored[1:3].shape == (2, 2, 2)
    assert file.asked == [[11, 7], [9, 11]]


@pytest.mark.parametrize("augment", [{"augment": "views", "views": 2}, {"augment": "crop-flip"}])
@pytest.mark.slow
def test_it_runs_on_augmented_images(tmp_path, monkeypatch, augment):
    monkeypatch.setattr(rendered, "SHAPES_TEST", 1)
    summary = run_tiny(tmp_path, **SMALL | {"peft": "text-residual"}, global_rounds=1, **augment).summary()
    assert summary["outcome"] == "completed"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"peft": "adapter"}, "works on the text features"),
        ({"peft": "lora", "lora-tower": "both"}, 'set lora-tower = "text"'),
        ({"peft": "text-residual", "dataset": "features", "dataset-path": "f.npz"}, "features of patches.*use images"),
    ],
)
def test_it_is_refused_where_there_are_no_patches_or_no_prompts_to_train(change, reason):
    with pytest.raises(ConfigError, match=reason):
        load_config({"algorithm": "fedotp", **change})


def test_a_site_with_features_of_its_own_is_told_to_bring_images(tmp_path):
    path = tiny_features(tmp_path / "own.npz")
    names = ", ".join(f"class {label}" for label in range(6))
    settings = {"algorithm": "fedotp", "peft": "text-residual", "dataset": "sites", "classes": names}
    config = load_config(settings).model_copy(update={"dataset_path": str(path)})
    with pytest.raises(DataError, match=r'algorithm = "fedotp" cannot be used with .*features of patches.*use images'):
        _ = Experiment(config, tmp_path, own=True).federation.source


def test_a_tower_without_patches_is_refused_before_a_round(shapes_of_two, monkeypatch):
    backbone = shapes_of_two.kit.images_backbone
    assert backbone.patch_count == 64
    vision = {**backbone.checkpoint.architecture["vision_cfg"], "layers": [3, 4, 6, 3]}
    resnet = replace(backbone.checkpoint, architecture={**backbone.checkpoint.architecture, "vision_cfg": vision})
    monkeypatch.setattr(shapes_of_two.kit, "backbone", Backbone("RN50", resnet, torch.device("cpu")))
    monkeypatch.setattr(model_kit, "make_module", lambda *_: text_module())
    with pytest.raises(ConfigError, match='backbone = "RN50" has no features of patches.*ResNet.*ViT-B-16'):
        shapes_of_two.kit.new_shared()
