"""The text split: equal to the unsplit step, sites without CLIP, and what the server refuses."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from fedpurel_app import model_kit
from fedpurel_app.algorithms.base import Batch, Begun, Facts
from fedpurel_app.algorithms.registry import METHODS
from fedpurel_app.algorithms.split import SPLITS
from fedpurel_app.client_app import app as client_app
from fedpurel_app.config import load_config, load_node_config
from fedpurel_app.config.policy import refusals, require_few_steps
from fedpurel_app.core.errors import ConfigError, DataError, PolicyError
from fedpurel_app.core.phase import Phase
from fedpurel_app.core.sgd import SgdSettings
from fedpurel_app.data.shapes import shapes
from fedpurel_app.data.sources.feature_file import read_texts
from fedpurel_app.experiment import Experiment
from fedpurel_app.functional import cross_entropy
from fedpurel_app.inference.trained import load_trained
from fedpurel_app.models.backbone import load_backbone
from fedpurel_app.models.peft.base import Host
from fedpurel_app.models.peft.split_text import SplitText
from fedpurel_app.server_app import app as server_app
from fedpurel_app.strategies.parts.base import Reply
from fedpurel_app.strategies.parts.text_split import TextSplit, Trained
from tests.support import EndedRun, run_app, run_tiny, run_whole_and_resumed, timeless

TEXT = torch.nn.functional.normalize(torch.tensor([[3.0, 1.0], [-1.0, 2.0], [0.5, -2.0]]), dim=-1)
FEATURES = torch.tensor([[1.0, 0.2], [-0.4, 1.0], [0.3, -0.9], [0.8, 0.8]])
LABELS = torch.tensor([0, 1, 2, 1])
SHAPES = {"dataset": "shapes", "dataset_path": "", "max_per_class": 4, "imbalance_factor": 2, "peft": "prompt"}


def split_module() -> SplitText:
    return SplitText(Host(TEXT, 10.0, ("a", "b", "c"), None))


# --- a site's part, by hand -----------------------------------------------------------------------------------------


def test_the_module_predicts_by_the_text_that_it_is_sent():
    module = split_module()
    with torch.no_grad():
        module.text.copy_(TEXT.flip(0))
    before = module.logits(FEATURES)
    unit = torch.nn.functional.normalize(FEATURES, dim=-1)
    assert torch.allclose(before, 10 * unit @ TEXT.flip(0).T, atol=1e-6)
    module.open()
    assert not module.text.any() and not module.align.any() and torch.equal(module.logits(FEATURES), before)


@pytest.mark.parametrize(("name", "loss"), [("fedavg", "none"), ("fedpurel", "tkl"), ("fedpurel", "kl")])
def test_a_site_sends_the_negative_gradients_at_the_text_features(name, loss):
    module, method = split_module(), METHODS[name]
    options = method.defaults() | ({"align-loss": loss} if name == "fedpurel" else {})
    visit = SPLITS["text"](method.load()).visits[Phase.GLOBAL]
    assert visit.begin is not None
    visit.begin(Begun(module, None, LABELS, Facts(), options, {}))
    reference = 10 * torch.nn.functional.normalize(FEATURES, dim=-1) @ TEXT.flip(1).T
    trained = [module.text, module.align]
    output = module.logits(FEATURES)
    batch = Batch(FEATURES, LABELS, output, reference, module, trained, [one.detach() for one in trained], Facts(),
                  options, 1.0, torch.Generator())  # fmt: skip
    (task, align), told = visit.rule(batch)
    free = TEXT.clone().requires_grad_()
    by_hand = cross_entropy(10 * torch.nn.functional.normalize(FEATURES, dim=-1) @ free.T, LABELS)
    assert torch.allclose(task, torch.autograd.grad(by_hand, free)[0], atol=1e-6)
    assert float(told["loss"]) == pytest.approx(float(by_hand.detach()), abs=1e-6)
    assert align.any() == (name == "fedpurel")


# --- the server's part ----------------------------------------------------------------------------------------------


class Linear:
    """A tower whose text features are a matrix times the prompt, and whose steps are of rate 1."""

    matrix = np.array([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]], np.float32)  # C = 3, one number each

    def first(self):
        return Trained({"context": np.array([1.0, -1.0], np.float32)}, {"context": np.zeros(2, np.float32)})

    def features(self, trained):
        return (self.matrix @ trained.prompt["context"])[:, None]

    def step(self, trained, task, align):
        moved = trained.prompt["context"] - self.matrix.T @ task[:, 0] - self.matrix.T @ align[:, 0]
        return Trained({"context": moved}, {"context": trained.velocity["context"] + 1})


def a_part() -> TextSplit:
    return TextSplit({}, SgdSettings(1.0, 0.0, 0.0, 1, 1), Linear())


def test_the_server_steps_from_the_mean_and_sends_new_text():
    part = a_part()
    sent = part.first({})
    assert sent["text"].ravel().tolist() == [1.0, -2.0, 0.0] and not sent["align"].any()
    mean = {"text": np.array([[0.5], [0.0], [0.0]], np.float32), "align": np.array([[0.0], [1.0], [0.0]], np.float32)}
    new = part.finish(sent, mean, {"north": Reply(mean, 4, 4)}, 4)
    # J^T (-mean) = (-0.5, 0) and (0, -2): the prompt goes from (1, -1) to (1.5, 1)
    assert new["text"].ravel().tolist() == [1.5, 2.0, 2.5] and not new["align"].any()
    other = a_part()
    other.restore(part.state())
    assert np.array_equal(other.first({})["text"], new["text"]) and other.state()["velocity/context"].tolist() == [1, 1]


def test_a_step_that_diverges_leaves_the_prompt_as_it_was():
    part = a_part()
    huge = {"text": np.full((3, 1), 3e38, np.float32), "align": np.full((3, 1), 3e38, np.float32)}
    with np.errstate(over="ignore", invalid="ignore"), pytest.raises(ValueError, match="lower the learning rate"):
        part.finish({}, huge, {}, 1)
    assert part.first({})["text"].ravel().tolist() == [1.0, -2.0, 0.0]


# --- runs -----------------------------------------------------------------------------------------------------------


def prompt_of(run) -> np.ndarray:
    found: dict[str, Any] = {}
    for path in run.path.glob("*.safetensors"):
        found |= load_file(path)
    return found["part/prompt/context"] if "part/prompt/context" in found else found["context"]


@pytest.mark.parametrize("name", ["fedavg", "fedpurel"])
def test_one_site_takes_the_step_that_it_would_take_with_the_tower(tmp_path, name):
    one = SHAPES | {"algorithm": name, "num_sites": 1, "global_rounds": 1, "fraction_train": 1.0, "momentum": 0.5}
    personal = {"personal_rounds": 0} if name == "fedpurel" else {}
    whole = run_tiny(tmp_path / "whole", **one, **personal, batch_size=100_000, drop_last=False)
    split = run_tiny(tmp_path / "split", **one, **personal, batch_size=32, split="text")
    moved = prompt_of(whole)
    assert np.abs(moved).max() > 0
    assert np.abs(prompt_of(split) - moved).max() <= 1e-6 * np.abs(moved).max()
    assert split.summary()["global"] == pytest.approx(whole.summary()["global"], abs=1e-3)


def test_the_mean_of_the_sites_gradients_is_the_gradient_of_all_images(tmp_path):
    """Sites of different sizes, against one site with all images."""
    common = SHAPES | {"algorithm": "fedavg", "global_rounds": 1, "fraction_train": 1.0, "batch_size": 32}
    apart = run_tiny(tmp_path / "apart", **common, num_sites=3, split="text")
    together = run_tiny(tmp_path / "together", **common, num_sites=1, split="text")
    one, other = prompt_of(apart), prompt_of(together)
    assert np.abs(one - other).max() <= 1e-6 * np.abs(other).max()


@pytest.fixture(scope="module")
def features(tmp_path_factory) -> Path:
    """Precomputed features of rendered shapes, by the demo's CLIP: what a site without CLIP brings."""
    backbone, path = load_backbone("demo", torch.device("cpu")), tmp_path_factory.mktemp("features") / "own.npz"
    names = shapes.CLASS_NAMES[:5]
    arrays: dict[str, Any] = {"class_names": np.array(names), "logit_scale": np.float32(backbone.logit_scale)}
    arrays["text_features"] = backbone.encode_prompts([f"a photo of a {name}." for name in names]).cpu().numpy()
    for split, first in (("train", 0), ("test", 20)):
        pictures = np.concatenate([shapes.images("train", label, first, first + 12) for label in range(5)])
        seen = backbone.seen(torch.from_numpy(pictures).permute(0, 3, 1, 2), "features")
        arrays |= {f"{split}_features": seen.numpy(), f"{split}_labels": np.repeat(np.arange(5), 12)}
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize("schedule", ["two-phase", "interleaved"])
def test_sites_without_clip_learn_a_prompt_and_private_branches(tmp_path, features, schedule):
    run = run_tiny(
        tmp_path, dataset_path=str(features), peft="prompt", split="text", imbalance_factor=1, num_sites=3,
        schedule=schedule, learning_rate=1.0, global_rounds=6, algorithm="fedpurel", batch_size=32,
    )  # fmt: skip
    found = run.summary()
    assert found["outcome"] == "completed" and not found["dropped_replies"]
    losses = [line["train"]["loss"] for line in run.rounds() if line["phase"] == "global"]
    assert losses[-1] < losses[0] and found["personalized"] is not None
    arrays = run.read_checkpoint()[0]
    assert arrays["text"].shape == (5, 128) and not arrays["align"].any()
    assert np.allclose(np.linalg.norm(arrays["text"], axis=1), 1, atol=1e-5)
    first = next(line for line in run.rounds() if line["phase"] == "global")
    up = first["bytes_up"] / len(first["usable"])
    assert 2 * 5 * 128 * 4 < up < 2 * 5 * 128 * 4 + 2000  # G_k and A_k
    model = load_trained(run.path)
    inputs = torch.from_numpy(np.load(features)["test_features"])
    scale = float(np.load(features)["logit_scale"])
    by_hand = scale * torch.nn.functional.normalize(inputs, dim=-1) @ torch.from_numpy(arrays["text"]).T
    assert torch.allclose(model.logits(inputs), by_hand, atol=1e-4)


def test_a_private_branch_is_trained_at_the_rate_of_a_text_residual(tmp_path):
    for split, rate in (("none", 0.1), ("text", 0.03)):
        kit = Experiment(load_config({"split": split}), tmp_path).kit
        assert kit.sgd(Phase.PERSONAL).learning_rate == rate


def test_a_resumed_run_is_the_whole_one(tmp_path, features):
    whole, cut = run_whole_and_resumed(
        tmp_path, "train", 3, dataset_path=str(features), peft="prompt", split="text", imbalance_factor=1,
        num_sites=3, batch_size=32, algorithm="fedavg",
    )  # fmt: skip
    assert timeless(whole) == timeless(cut) and np.array_equal(prompt_of(whole), prompt_of(cut))


def test_sites_that_bring_features_of_their_own_and_no_clip_learn_a_prompt(tmp_path, features, monkeypatch):
    held = dict(np.load(features))
    nodes = []
    for name, labels in (("north", (0, 1, 2)), ("south", (2, 3, 4))):
        mine = dict(held)
        for part in ("train", "test"):
            rows = np.isin(held[f"{part}_labels"], labels)
            mine |= {f"{part}_{kind}": held[f"{part}_{kind}"][rows] for kind in ("features", "labels")}
        np.savez(tmp_path / f"{name}.npz", **mine)
        state = str(tmp_path / f"{name}-state")
        nodes.append({"site": name, "data": str(tmp_path / f"{name}.npz"), "state-dir": state, "text-split": True})
    names = ", ".join(str(name) for name in held["class_names"])
    config = {"dataset": "sites", "classes": names, "split": "text", "global-rounds": 3, "personal-rounds": 2}
    config |= {"fraction-train": 1.0, "learning-rate": 1.0, "out": str(tmp_path / "run")}
    loaded = []

    def load(*args):
        loaded.append(args)
        return load_backbone(*args)

    monkeypatch.setattr(model_kit, "load_backbone", load)
    run_app(server_app, client_app, 2, config, nodes=nodes)
    found = EndedRun(tmp_path / "run")
    assert found.summary()["outcome"] == "completed" and not found.summary()["dropped_replies"]
    losses = [line["train"]["loss"] for line in found.rounds() if line["phase"] == "global"]
    assert losses[-1] < losses[0] and found.summary()["personalized"] is not None
    assert len(loaded) == 1  # at the server


def test_a_site_without_the_texts_of_all_classes_is_told_to_add_them(tmp_path, features):
    held = dict(np.load(features))
    names = [str(name) for name in held["class_names"]]
    turned = read_texts(features, names[::-1])
    assert np.array_equal(turned.text_features, held["text_features"][::-1])
    with pytest.raises(DataError, match="text_features lacks polar bear: add them"):
        read_texts(features, [*names, "polar bear"])
    del held["text_features"]
    np.savez(tmp_path / "bare.npz", **held)
    with pytest.raises(DataError, match="text_features"):
        read_texts(tmp_path / "bare.npz", names)


def test_a_real_site_serves_the_split_only_where_its_owner_says_so():
    run = load_config({"split": "text", "dataset": "sites", "classes": "cat, dog"})
    node = {"site": "north", "data": "/data"}
    (said,) = refusals(run, load_node_config(node))
    assert (
        said.startswith('split = "text": its gradients tell which classes this site has') and "text-split=true" in said
    )
    assert not refusals(run, load_node_config({**node, "text-split": True}))


def test_a_site_bounds_the_images_of_the_one_step_and_not_what_has_no_effect():
    run = load_config({"split": "text", "dataset": "sites", "classes": "cat, dog"})
    node = load_node_config({"site": "n", "data": "/d", "text-split": True, "max-batch-size": 16, "max-steps": 1})
    assert not refusals(run, node)
    require_few_steps(run, node, 16)
    with pytest.raises(PolicyError, match="one step over all 17 images here: this site allows batches of at most 16"):
        require_few_steps(run, node, 17)


def test_features_of_another_clip_are_refused(tmp_path, features):
    held = dict(np.load(features))
    held["text_features"] = np.roll(held["text_features"], 1, axis=0)
    np.savez(tmp_path / "other.npz", **held)
    with pytest.raises(ConfigError, match="text_features of the data set are not those of its template"):
        run_tiny(tmp_path, dataset_path=str(tmp_path / "other.npz"), peft="prompt", split="text", imbalance_factor=1,
                 batch_size=32)  # fmt: skip


# --- settings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"algorithm": "ditto"}, 'split = "text" does not go with algorithm = "ditto"'),
        ({"peft": "adapter"}, 'split = "text": it belongs to peft = "prompt"'),
        ({"balancer": "fed-grab"}, "controllers move with every step"),
        ({"privacy": "server-fixed"}, "sites send gradients, and norms of updates are clipped"),
        ({"aggregation": "norm-clipping"}, "norms of updates are clipped"),
        ({"compression": "top-k"}, "does not go with compression"),
        ({"local-epochs": 2}, 'local-epochs = 2: it has no use with split = "text"'),
        ({"private-init": "independent"}, "where a private branch is a text residual"),
        ({"novel-classes": "blue star"}, 'split = "text" does not go with novel-classes'),
        ({"batch-size": 8}, 'batch-size = 8: it has no use with split = "text"'),
        ({"projection-strength": 0.5}, "projection-strength = 0.5: it has no use"),
    ],
)
def test_what_it_does_not_go_with_is_said(change, reason):
    with pytest.raises(ConfigError, match=reason):
        load_config({"split": "text", **change})


def test_without_the_split_a_prompt_still_needs_the_tower():
    with pytest.raises(ConfigError, match='needs a text tower.*or split = "text", which leaves the text tower'):
        load_config({"dataset": "features", "dataset-path": "/f.npz", "peft": "prompt"})
