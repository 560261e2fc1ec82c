"""Variants of FedPuReL's predictions: beside zero-shot CLIP, and as each site chooses on its validation part."""

import itertools
import math
from pathlib import Path

import pytest
import torch
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_tensors
from torch.nn import functional

from fedpurel_app.algorithms.base import Held, Models
from fedpurel_app.algorithms.beyond import site_choice
from fedpurel_app.algorithms.beyond.ensemble import beside_zero_shot
from fedpurel_app.algorithms.beyond.site_choice import SCALES, TEMPERATURES, choose
from fedpurel_app.algorithms.fedpurel import ALGORITHM, residual
from fedpurel_app.algorithms.registry import METHODS
from fedpurel_app.config import load_config
from fedpurel_app.core.errors import ConfigError
from fedpurel_app.core.phase import Phase
from fedpurel_app.data.shapes import rendered
from fedpurel_app.experiment import Experiment
from fedpurel_app.inference.export import export
from fedpurel_app.inference.trained import load_trained
from fedpurel_app.models.peft.base import summed
from fedpurel_app.models.peft.scaled import Scaled, ZeroShot, scaled
from fedpurel_app.site.site_data import SiteData
from tests.algorithms.test_methods import HOST, INPUTS, same, shared, text_module
from tests.support import private_files, run_tiny, timeless, tiny_config

DEFAULTS = METHODS["fedpurel"].defaults()


def models(private=None, memory=None, **options):
    chosen = DEFAULTS | {key.replace("_", "-"): value for key, value in options.items()}
    return Models(text_module(1.0), private, memory or {}, chosen, ZeroShot(HOST, "features"))


def test_a_scaled_module_has_its_logits_times_a_factor_and_its_parameters():
    module = text_module(1.0)
    twice = Scaled(module, 2.0)
    assert torch.equal(twice.logits(INPUTS), 2 * module.logits(INPUTS))
    assert torch.equal(twice.frozen()(INPUTS), 2 * module.frozen()(INPUTS))
    assert torch.equal(twice.class_features(), module.class_features()) and twice.logit_scale == 20
    assert [name for name, _ in twice.named_parameters()] == ["residual"]
    assert scaled(module, 1) is module and scaled(module, 2.0) == twice
    assert len({twice, scaled(module, 2.0), scaled(module, 3.0), scaled(text_module(1.0), 2.0)}) == 3


def test_the_global_model_beside_zero_shot_is_the_weighted_mean_of_logits():
    one = models(zero_shot_weight=0.25)
    expected = 0.75 * one.shared.logits(INPUTS) + 0.25 * HOST.zero_shot_logits(INPUTS)
    assert torch.allclose(summed(beside_zero_shot(one))(INPUTS), expected, atol=1e-6)
    private = text_module(-2.0)
    with_branch = models(private, zero_shot_weight=0.25)
    expected = expected + private.logits(INPUTS)
    assert torch.allclose(summed(residual(with_branch))(INPUTS), expected, atol=1e-6)


def test_without_weight_there_is_no_other_module():
    one, private = models(), text_module(-2.0)
    assert beside_zero_shot(one) == residual(one) == (one.shared,)
    both = models(private)
    assert residual(both) == (both.shared, private)


def test_the_server_has_all_of_a_global_model_beside_zero_shot():
    module = text_module(1.0)
    assert ALGORITHM.is_known(module, DEFAULTS | {"zero-shot-weight": 0.5})


@pytest.mark.parametrize("family", ["text-residual", pytest.param("adapter", marks=pytest.mark.slow)])
def test_global_rounds_are_the_same_and_the_branch_is_trained_beside_what_predicts(tmp_path, family):
    settings = {"peft": family, "learning_rate": 0.5, "experiment_id": "e", "personal_rounds": 1}
    plain, other = run_tiny(tmp_path / "a", **settings), run_tiny(tmp_path / "b", **settings, zero_shot_weight=0.5)
    assert same(shared(plain), shared(other)) and private_files(plain) != private_files(other)
    assert [line["train"]["loss"] for line in plain.rounds()[1:4]] == [
        line["train"]["loss"] for line in other.rounds()[1:4]
    ]
    assert plain.summary()["global"] != other.summary()["global"]


def test_the_residual_is_of_the_model_that_predicts(tmp_path):
    config = {key: value for key, value in tiny_config(tmp_path, zero_shot_weight=0.25).items() if key != "out"}
    one = Experiment(load_config(config), tmp_path)
    module = one.kit.new_shared()
    with torch.no_grad():
        next(value for _, value in module.named_parameters()).add_(0.3)
    data = SiteData(one, 0, 5)
    rows = torch.arange(4)
    inputs, zero_shot = data.training(module, ALGORITHM.visits[Phase.GLOBAL], module).batch(rows, torch.Generator())
    _, reference = data.training(module, ALGORITHM.visits[Phase.PERSONAL], module).batch(rows, torch.Generator())
    assert torch.allclose(reference, 0.75 * module.logits(inputs) + 0.25 * zero_shot, atol=1e-5)
    assert not torch.allclose(reference, zero_shot, atol=1e-2)


IMAGES = {"dataset": "shapes", "dataset_path": "", "max_per_class": 4, "imbalance_factor": 4, "num_sites": 2}


@pytest.mark.parametrize(
    "family", ["adapter", *(pytest.param(name, marks=pytest.mark.slow) for name in ("prompt", "lora", "visual-prompt"))]
)
def test_with_almost_all_weight_the_model_is_zero_shot_clip(tmp_path, monkeypatch, family):
    """Modules inside the image tower take pixels, from which zero-shot CLIP's features are made here."""
    monkeypatch.setattr(rendered, "SHAPES_TEST", 2)
    folder = run_tiny(tmp_path, peft=family, zero_shot_weight=1 - 1e-7, global_rounds=1, personal_rounds=0,
                      learning_rate=0.3, **IMAGES)  # fmt: skip
    summary = folder.summary()
    for score in ("all", "few", "ece"):
        assert summary["global"][score] == pytest.approx(summary["zero_shot"][score], abs=1e-3)
    assert folder.rounds()[-1]["tkl"] == pytest.approx(0, abs=1e-4) and folder.rounds()[-1]["train"]["drift"] > 0


def of_files(folder, features):
    """Logits by the recipe of export.json, of the files alone."""
    images, total = functional.normalize(features, dim=-1), torch.zeros(())
    for path in Path(folder).rglob("classifier.safetensors"):
        tensors = load_tensors(path)
        assert torch.allclose(tensors["weights"], tensors["logit_scale"] * tensors["text_features"])
        total = total + images @ tensors["weights"].T
    return total


def test_predictions_and_files_are_those_of_all_parts(tmp_path):
    folder = run_tiny(tmp_path, zero_shot_weight=0.25, personal_rounds=1, learning_rate=0.5, fraction_train=1.0)
    features = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    model = load_trained(folder.path)
    host, module = model.experiment.kit.host, model.experiment.kit.shared_module(shared(folder))
    with torch.no_grad():
        expected = 0.75 * module.logits(features) + 0.25 * host.zero_shot_logits(features)
    assert list(model.branches) == ["global", "zero-shot"]
    assert torch.allclose(model.logits(features), expected, atol=1e-5)
    export(model, tmp_path / "global")
    assert torch.allclose(of_files(tmp_path / "global", features), expected, atol=1e-5)
    own = load_trained(folder.path, "site-0")
    assert list(own.branches) == ["global", "zero-shot", "private"]
    with torch.no_grad():
        expected = expected + own.branches["private"].logits(features)
    assert torch.allclose(own.logits(features), expected, atol=1e-5)
    export(own, tmp_path / "own")
    assert torch.allclose(of_files(tmp_path / "own", features), expected, atol=1e-5)
    assert "summed over the folders global and zero-shot and private" in (
        tmp_path / "own" / "global" / "export.json"
    ).read_text("utf-8")


# --- what a site chooses --------------------------------------------------------------------------------------------


def held(common, private, labels, bias=None, **options):
    """A validation part on which the two modules have given logits."""
    one = models(text_module(-2.0), private_scale="validation", **options)
    rows = {id(one.shared): torch.tensor(common), id(one.private): torch.tensor(private)}
    return Held(one, torch.tensor(labels), lambda model: rows[id(model[0])], bias)


def chosen(*arguments, **options):
    part = held(*arguments, **options)
    found = choose(part, (part.models.shared,))
    return float(found["private-scale"]), float(found["site-temperature"])


def test_a_site_chooses_how_much_its_branch_says():
    """Class 0 is right. Margins are s where the branch is right, -s where it is wrong.

    In the third case they are 2 s and 2 - 2 s, with one loss for each, which is convex: at their best they are equal.
    """
    assert chosen([[0.0, 0.0]], [[1.0, 0.0]], [0]) == (1, 1)
    assert chosen([[0.0, 0.0]], [[0.0, 1.0]], [0]) == (0, 1)
    assert chosen([[0.0, 0.0], [2.0, 0.0]], [[2.0, 0.0], [-2.0, 0.0]], [0, 0]) == (0.5, 1)
    assert chosen([[1.0, 0.0]], [[0.0, 0.0]], [0]) == (1, 1)  # of equals, the paper's


def test_a_site_chooses_how_sure_it_is():
    """All right: as sure as can be. Half of it right, at equal margins: as modest as can be."""
    only = {"private_scale": "one", "site_temperature": "validation"}

    def temperature(common, labels):
        part = held(common, [[0.0, 0.0]] * len(common), labels)
        part.models.options.update({key.replace("_", "-"): value for key, value in only.items()})
        return float(choose(part, (part.models.shared,))["site-temperature"])

    assert temperature([[3.0, 0.0], [3.0, 0.0]], [0, 0]) == 0.5
    assert temperature([[3.0, 0.0], [3.0, 0.0]], [0, 1]) == 2.0
    assert temperature([[0.0, 0.0]], [0]) == 1.0


@pytest.mark.parametrize("bias", [None, torch.tensor([0.0, 1.5, -1.0])])
def test_both_are_chosen_together_by_the_mean_cross_entropy_of_what_is_predicted(bias):
    generator = torch.Generator().manual_seed(3)
    common, private = (2 * torch.randn(6, 3, generator=generator) for _ in range(2))
    labels = [0, 1, 2, 0, 1, 2]

    def loss(scale, tau):
        rows = ((common + scale * private) / tau + (0 if bias is None else bias)).tolist()
        return sum(math.log(sum(map(math.exp, row))) - row[label] for row, label in zip(rows, labels, strict=True))

    expected = min(itertools.product(SCALES, TEMPERATURES), key=lambda pair: loss(*pair))
    found = chosen(common.tolist(), private.tolist(), labels, bias, site_temperature="validation")
    assert found == pytest.approx(expected) and len(set(SCALES)) == len(set(TEMPERATURES)) == 5


def test_predictions_are_as_the_site_has_chosen():
    private = text_module(-2.0)
    one = models(private, {"private-scale": torch.tensor(0.5), "site-temperature": torch.tensor(2.0)})
    expected = (one.shared.logits(INPUTS) + 0.5 * private.logits(INPUTS)) / 2
    assert torch.allclose(summed(residual(one))(INPUTS), expected, atol=1e-6)
    without = models(private, {"private-scale": torch.tensor(0.0), "site-temperature": torch.tensor(1.0)})
    assert residual(without) == (without.shared,)  # s = 0 is the global model


def test_nothing_is_chosen_by_default_and_nothing_is_computed():
    def never(model):
        raise AssertionError("no logits are asked for")

    one = models(text_module())
    assert choose(Held(one, torch.tensor([0]), never), (one.shared,)) == {}


@pytest.mark.parametrize("key", ["private-scale", "site-temperature"])
def test_a_choice_needs_validation_parts(key):
    with pytest.raises(ConfigError, match=f"{key} = .*validation-share = 0.0: sites choose it"):
        load_config({key: "validation"})
    assert load_config({key: "validation", "validation-share": 0.2})


CHOICE = {"private_scale": "validation", "site_temperature": "validation"}
SPLIT = {  # so even a deal that every site has images to keep for validation
    "validation_share": 0.5,
    "personal_rounds": 2,
    "learning_rate": 0.5,
    "private_learning_rate": 0.5,
    "fraction_train": 1.0,
    "experiment_id": "e",
    "num_sites": 3,
    "alpha": 100.0,
    "imbalance_factor": 1,
}


def last_files(folder):
    """The last private file of every site."""
    found = {}
    for path in sorted(folder.path.rglob("private-*.safetensors")):
        found[path.parent.name] = load_file(path)
    return found


def test_a_choice_is_kept_with_the_branch_used_in_predictions_and_never_sent(tmp_path):
    sent: dict[bool, set[str]] = {True: set(), False: set()}

    def watch(is_on):
        def spy(message, reply):
            for name in ("metrics", "config", "arrays"):
                sent[is_on] |= {f"{message.metadata.message_type}/{key}" for key in reply.content.get(name, {})}

        return {"spy": spy}

    plain = run_tiny(tmp_path / "a", **SPLIT, grid=watch(False))
    folder = run_tiny(tmp_path / "b", **SPLIT, **CHOICE, grid=watch(True))
    assert sent[True] == sent[False]
    files, before = last_files(folder), last_files(plain)
    names = {"memory/private-scale", "memory/site-temperature"}
    assert len(files) == 3 and all(set(file) == {"residual", *names} for file in files.values())
    assert all(same({"residual": file["residual"]}, before[site]) for site, file in files.items())  # no training
    pairs = {site: tuple(float(file[name]) for name in sorted(names)) for site, file in files.items()}
    assert all(
        pair in [pytest.approx(one) for one in itertools.product(SCALES, TEMPERATURES)] for pair in pairs.values()
    )
    assert len(set(pairs.values())) > 1
    features = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    for site, (scale, tau) in pairs.items():
        usual, own = load_trained(plain.path, site), load_trained(folder.path, site)
        with torch.no_grad():
            common, private = (usual.branches[role].logits(features) for role in ("global", "private"))
        assert torch.allclose(own.logits(features), (common + scale * private) / tau, atol=1e-4)
        export(own, tmp_path / site)
        assert torch.allclose(of_files(tmp_path / site, features), own.logits(features), atol=1e-4)
    assert plain.summary()["personalized"] != folder.summary()["personalized"]
    assert plain.summary()["global"] == folder.summary()["global"]


def test_a_site_that_always_chooses_zero_has_the_global_model(tmp_path, monkeypatch):
    monkeypatch.setattr(site_choice, "SCALES", (0.0, 0.0))
    last = run_tiny(tmp_path, **SPLIT, private_scale="validation").rounds()[-1]["sites"]
    assert last["personalized"] == last["global"]


def test_without_images_to_choose_on_predictions_are_the_papers(tmp_path):
    """Of fewer than five images of a class, none is kept for validation."""
    settings = SPLIT | {"alpha": 1.0, "num_sites": 5, "imbalance_factor": 10, "max_per_class": 10}
    plain, folder = run_tiny(tmp_path / "a", **settings), run_tiny(tmp_path / "b", **settings, **CHOICE)
    without = [site for site, file in last_files(folder).items() if "memory/private-scale" not in file]
    assert without and plain.read_csv("sites.csv")
    for site in without:
        one, other = load_trained(plain.path, site), load_trained(folder.path, site)
        assert torch.equal(one.logits(torch.eye(8)), other.logits(torch.eye(8)))


def test_a_choice_goes_with_turns_of_rounds_and_with_what_a_balancer_remembers(tmp_path):
    settings = SPLIT | {"personal_rounds": 3, "schedule": "interleaved", "balancer": "fed-grab"}
    folder = run_tiny(tmp_path, **settings, **CHOICE)
    for file in last_files(folder).values():
        assert "memory/private-scale" in file and any(name.startswith("memory/fed-grab/") for name in file)
    assert len(timeless(folder)) == 7
