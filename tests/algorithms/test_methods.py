"""Each method by hand: one step of its definition, and what it must be equal to at the ends of its options."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch.nn import functional

from fedpurel_app.algorithms import moon
from fedpurel_app.algorithms.base import Algorithm, Batch, Facts, Models, Visited
from fedpurel_app.algorithms.fedper import base_layers
from fedpurel_app.algorithms.fedsa_lora import SHARES
from fedpurel_app.algorithms.promptfolio import Mixture
from fedpurel_app.algorithms.registry import METHODS
from fedpurel_app.config import load_config
from fedpurel_app.core.errors import ConfigError, StateError
from fedpurel_app.core.phase import Phase
from fedpurel_app.core.records import to_arrays
from fedpurel_app.core.sgd import SgdSettings
from fedpurel_app.data.shapes import rendered
from fedpurel_app.inference.trained import load_trained
from fedpurel_app.models.peft.base import Host
from fedpurel_app.models.peft.making import make_module
from fedpurel_app.models.peft.registry import FAMILIES
from fedpurel_app.training.inputs import LocalData
from fedpurel_app.training.local import train
from tests.support import private_files, run_tiny, run_whole_and_resumed, timeless

TEXT = functional.normalize(torch.tensor([[1.0, 0.2], [0.1, 1.0], [-0.6, 0.5]]), dim=-1)
HOST = Host(TEXT, 10.0, ("a", "b", "c"), None)
INPUTS = torch.tensor([[0.9, 0.4], [0.3, 1.0], [-0.2, 0.8], [1.0, 1.0]])
PATCHES = functional.normalize(torch.randn(4, 3, 2, generator=torch.Generator().manual_seed(0)), dim=-1)
LABELS = torch.tensor([0, 1, 2, 0])
KNOWN = Facts(zero_shot_text=TEXT)


def text_module(shift=0.0):
    module: Any = make_module(FAMILIES["text-residual"], HOST, "global", {"residual-scale": 0.5}, torch.Generator())
    with torch.no_grad():
        module.residual.add_(shift * torch.tensor([[0.3, -0.2], [0.1, 0.4], [-0.5, 0.2]]))
    return module


def a_batch(module, name, anchor=None, rate=0.1, facts=KNOWN, **options):
    inputs = {"features": INPUTS, "patches": PATCHES}[module.takes]
    trained = [value for _, value in module.named_parameters()]
    start = [value.detach().clone() for value in trained] if anchor is None else anchor
    chosen = METHODS[name].defaults() | {key.replace("_", "-"): value for key, value in options.items()}
    reference = HOST.zero_shot_logits(INPUTS)
    return Batch(inputs, LABELS, module.logits(inputs), reference, module, trained, start, facts, chosen, rate,
                 torch.Generator())  # fmt: skip


def rule(name, phase=Phase.GLOBAL):
    return METHODS[name].load().visits[phase].rule


def autograd(module, loss):
    return torch.autograd.grad(loss, [value for _, value in module.named_parameters()])


def task_loss(module):
    return functional.cross_entropy(module.logits(INPUTS), LABELS)


def shared(folder):
    return load_file(folder.path / "checkpoint.safetensors")


def same(first, second):
    return first.keys() == second.keys() and all(np.array_equal(first[key], second[key]) for key in first)


def test_fedprox_adds_the_way_back_to_what_was_received():
    module, anchor = text_module(1.0), [torch.full((3, 2), 0.25)]
    (found,), _ = rule("fedprox")(a_batch(module, "fedprox", anchor, proximal_weight=0.7))
    loss = task_loss(module) + 0.35 * (module.residual - 0.25).square().sum()
    assert torch.allclose(found, autograd(module, loss)[0], atol=1e-6)


@pytest.mark.parametrize("family", ["text-residual", "adapter"])
def test_fedprox_without_weight_is_fedavg_to_the_bit(tmp_path, family):
    plain = run_tiny(tmp_path / "a", algorithm="fedavg", peft=family)
    held = run_tiny(tmp_path / "b", algorithm="fedprox", proximal_weight=0.0, peft=family)
    assert same(shared(plain), shared(held)) and not same(
        shared(plain), shared(run_tiny(tmp_path / "c", algorithm="fedprox", proximal_weight=1.0, peft=family))
    )


def centred_cosine(first, second):
    return functional.cosine_similarity(first - first.mean(1, keepdim=True), second - second.mean(1, keepdim=True))


def moon_loss(module, received, last, temperature):
    """L_con as the paper has it, of logits without their mean."""
    near, far = (torch.exp(centred_cosine(module.logits(INPUTS), one) / temperature) for one in (received, last))
    return -torch.log(near / (near + far)).mean()


def test_moon_draws_logits_to_those_received_and_away_from_the_last():
    module, received, last = text_module(1.0), text_module(0.4), text_module(-2.0)
    batch = a_batch(module, "moon", [received.residual.detach()], moon_weight=3.0, moon_temperature=0.2)
    batch.memory["last/residual"] = last.residual.detach()
    (found,), metrics = rule("moon")(batch)
    contrast = moon_loss(module, received.logits(INPUTS).detach(), last.logits(INPUTS).detach(), 0.2)
    (expected,) = autograd(module, task_loss(module) + 3 * contrast)
    assert torch.allclose(found, expected, atol=1e-5)
    assert not torch.allclose(found, autograd(module, task_loss(module))[0], atol=1e-3)
    assert float(metrics["align-loss"]) == pytest.approx(contrast.item(), rel=1e-5)
    assert float(metrics["loss"]) == pytest.approx(task_loss(module).item(), rel=1e-6)


def test_moons_contrast_by_hand():
    """At tau = 0.5.

    Without their mean (2, 0) is (1, -1), as (7, 1) but for its length, and (0, 3) points the other way: s_glob = 1,
    s_prev = -1, l_con = log(1 + e^-4), and no way to turn is down. (1, -1, 0) is at right angles to (2, 2, -4) and to
    (-1, -1, 2), which are u_glob = -u_prev: l_con = log 2, w = 1/2 / 0.5, the slope 2 u_prev / |z|.
    """
    for rows, value, slope in (
        ([[2.0, 0.0], [7.0, 1.0], [0.0, 3.0]], math.log(1 + math.exp(-4)), [0.0, 0.0]),
        ([[1.0, -1.0, 0.0], [5.0, 5.0, -1.0], [0.0, 0.0, 3.0]], math.log(2), [-1 / 3**0.5, -1 / 3**0.5, 2 / 3**0.5]),
    ):
        logits, received, last = torch.tensor(rows).split(1)
        found, contrast = moon.contrast(logits, received, last, 0.5)
        assert contrast.item() == pytest.approx(value) and torch.allclose(found, torch.tensor(slope), atol=1e-6)


@pytest.mark.parametrize("family", ["text-residual", "adapter"])
def test_moon_without_weight_and_at_first_visits_is_fedavg_to_the_bit(tmp_path, family):
    """All sites are in all rounds: round 1 has first visits alone, and round 2 none."""
    settings = {"peft": family, "fraction_train": 1.0, "global_rounds": 2, "learning_rate": 0.5}
    plain = shared(run_tiny(tmp_path / "a", algorithm="fedavg", **settings))
    assert same(plain, shared(run_tiny(tmp_path / "b", algorithm="moon", moon_weight=0.0, **settings)))
    assert not same(plain, shared(run_tiny(tmp_path / "c", algorithm="moon", **settings)))
    settings["global_rounds"] = 1
    first = run_tiny(tmp_path / "d", algorithm="moon", moon_weight=9.0, **settings)
    assert same(shared(first), shared(run_tiny(tmp_path / "e", algorithm="fedavg", **settings)))
    assert "align-loss" not in first.rounds()[1]["train"]


def test_moon_knows_a_first_visit_where_a_balancer_remembers_something(tmp_path):
    settings = {"balancer": "fed-grab", "fraction_train": 1.0, "global_rounds": 1}
    plain, own = (run_tiny(tmp_path / name, algorithm=name, **settings) for name in ("fedavg", "moon"))
    assert same(shared(plain), shared(own))


@pytest.mark.parametrize("privacy", ["none", "local"])
def test_moons_last_module_stays_at_the_site(tmp_path, privacy):
    """A reply has what its own visit trained, with the noise that there is, and nothing of the visit before."""
    sent: dict[int, list[bytes]] = {1: [], 2: []}

    def spy(message, reply):
        if message.metadata.message_type == "train":
            assert set(reply.content["arrays"]) == {"residual"} and "brief" not in message.content
            assert set(reply.content) - {"privacy"} == {"arrays", "metrics"}  # that one says what was done
            values = to_arrays(reply.content["arrays"])["residual"]
            sent[message.content["config"]["round"]].append(values.tobytes())

    settings = {"algorithm": "moon", "privacy": privacy, "global_rounds": 2, "fraction_train": 1.0}
    folder = run_tiny(tmp_path, **settings, grid={"spy": spy})
    for number, messages in sent.items():
        files = [load_file(file) for file in folder.path.rglob(f"private-{number:06}.safetensors")]
        assert len(files) == len(messages) == 5 and all(set(file) == {"memory/last/residual"} for file in files)
        kept = {file["memory/last/residual"].tobytes() for file in files}
        assert kept == set(messages) if privacy == "none" else not kept & {*sent[1], *sent[2]}
    assert not set(sent[1]) & set(sent[2])


def test_moon_remembers_the_module_as_the_visit_leaves_it():
    end, after = METHODS["moon"].load().visits[Phase.GLOBAL].end, torch.tensor([2.0])
    memory = {"last/w": torch.ones(1), "fed-grab/u": torch.ones(1)}
    assert end is not None
    end(Visited(["w"], [], [after], 1.0, KNOWN, {}, memory))
    after.zero_()  # the module goes on
    assert {name: value.item() for name, value in memory.items()} == {"last/w": 2.0, "fed-grab/u": 1.0}


def test_moon_encodes_the_texts_of_both_constant_modules_once_a_visit():
    module, calls = text_module(0.3), list[int]()
    encode = module.class_features

    def counted():
        calls.append(1)
        return encode()

    module.class_features = counted
    data, memory = LocalData(INPUTS, LABELS, HOST.zero_shot_logits(INPUTS)), {"last/residual": torch.ones(3, 2)}
    settings = SgdSettings(0.1, 0.0, 0.0, 1, 1)
    found = train(module, data, METHODS["moon"].load().visits[Phase.GLOBAL], settings, torch.Generator(),
                  METHODS["moon"].defaults(), KNOWN, memory=memory)  # fmt: skip
    assert found["steps"] == 4 and len(calls) == 4 + 2


def test_ditto_pulls_towards_the_global_model():
    """At a small rate it is the paper's explicit step; its fixed point does not depend on the rate."""
    module, anchor = text_module(1.0), [torch.full((3, 2), 0.25)]
    loss = task_loss(module) + 0.35 * (module.residual - 0.25).square().sum()
    (expected,) = autograd(module, loss)
    for rate, factor in ((1e-6, 1.0), (0.5, 1 / (1 + 0.5 * 0.7))):
        batch = a_batch(module, "ditto", anchor, rate, ditto_weight=0.7)
        (found,), _ = rule("ditto", Phase.PERSONAL)(batch)
        assert torch.allclose(found, factor * expected, atol=1e-5)


def test_ditto_with_a_huge_weight_returns_the_global_model(tmp_path):
    folder = run_tiny(tmp_path, algorithm="ditto", ditto_weight=1e9, private_init="independent", peft="adapter")
    files = sorted(folder.path.rglob("private-*.safetensors"))
    assert files
    for file in files:
        own = load_file(file)
        assert all(np.allclose(own[name], value, atol=1e-6) for name, value in shared(folder).items())
    free = run_tiny(tmp_path / "free", algorithm="ditto", ditto_weight=0.0, peft="adapter")
    assert not np.allclose(
        load_file(next(free.path.rglob("private-*.safetensors")))["weight1"], shared(free)["weight1"], atol=1e-6
    )


def test_ditto_predicts_by_the_sites_own_model_alone():
    algorithm, first, second = METHODS["ditto"].load(), text_module(), text_module(1.0)
    assert algorithm.personalized and algorithm.personalized(Models(first, second)) == (second,)
    assert algorithm.global_model(Models(first, second)) == (first,)


def test_promptfolio_mixes_features_of_unit_length_and_trains_both():
    mixed = Mixture(text_module(0.5), text_module(-1.0), 0.4)
    text = 0.6 * mixed.shared.class_features() + 0.4 * mixed.own.class_features()
    images = functional.normalize(INPUTS, dim=-1)
    assert torch.allclose(mixed.logits(INPUTS), 10 * images @ text.T, atol=1e-6)
    assert torch.equal(mixed.frozen()(INPUTS), mixed.logits(INPUTS))
    found, _ = rule("promptfolio")(a_batch(mixed, "promptfolio"))
    loss = functional.cross_entropy(10 * images @ text.T, LABELS)
    for own, expected in zip(found, autograd(mixed, loss), strict=True):
        assert torch.allclose(own, expected, atol=1e-6) and own.abs().max() > 1e-3


def test_promptfolio_without_its_own_prompt_is_promptfl(tmp_path):
    plain = shared(run_tiny(tmp_path / "a", algorithm="fedavg"))
    mixed = shared(run_tiny(tmp_path / "b", algorithm="promptfolio", mixing_weight=0.0))
    assert same({f"shared.{name}": value for name, value in plain.items()}, mixed)


def test_promptfolios_global_model_is_known_to_the_server_and_the_mixture_is_the_sites(tmp_path):
    folder = run_tiny(tmp_path, algorithm="promptfolio", global_rounds=4, learning_rate=0.5)
    summary = folder.summary()
    assert summary["global"]["all"] and summary["personalized"]["all"] != summary["global_at_sites"]["all"]
    assert all(set(load_file(file)) == {"kept/own.residual"} for file in folder.path.rglob("private-*.safetensors"))


def test_kgcoop_holds_text_features_near_those_of_zero_shot():
    module = text_module(1.0)
    (found,), metrics = rule("kgcoop")(a_batch(module, "kgcoop", text_weight=3.0))
    distance = 1 - functional.cosine_similarity(module.class_features(), TEXT).mean()
    assert torch.allclose(found, autograd(module, task_loss(module) + 3 * distance)[0], atol=1e-6)
    assert float(metrics["align-loss"]) == pytest.approx(distance.item(), abs=1e-6)


def test_kgcoop_without_weight_is_fedavg_to_the_bit(tmp_path):
    plain = run_tiny(tmp_path / "a", algorithm="fedavg")
    held = run_tiny(tmp_path / "b", algorithm="kgcoop", text_weight=0.0)
    assert same(shared(plain), shared(held))


@pytest.mark.parametrize(("share", "sent"), [(0.01, "abc"), (0.5, "ab"), (0.75, "a"), (0.99, "a")])
def test_fedper_keeps_the_tensors_next_to_the_output(share, sent):
    assert base_layers(list("abcd"), {"personal-share": share}) == set(sent)


def test_fedper_sends_its_base_and_every_site_has_a_head_of_its_own(tmp_path):
    folder = run_tiny(tmp_path, algorithm="fedper", peft="adapter", global_rounds=2, fraction_train=1.0)
    assert set(shared(folder)) == {"weight1", "bias1"}
    heads = [load_file(file) for file in folder.path.rglob("private-000002.safetensors")]
    assert len(heads) == 5 and all(set(head) == {"kept/weight2", "kept/bias2"} for head in heads)
    assert not np.array_equal(heads[0]["kept/weight2"], heads[1]["kept/weight2"])
    summary = folder.summary()
    assert summary["global"] is None and summary["global_at_sites"]["all"] > 10
    assert summary["reasons"]["global"] == "sites keep a part of the global model"


def test_any_method_can_share_a_alone():
    names = ["x.A", "x.B", "shared.y.A", "own.y.A"]
    fedavg, folio = (SHARES["lora-a"](METHODS[name].load()) for name in ("fedavg", "promptfolio"))
    of_fedavg, of_folio = (one.visits[Phase.GLOBAL].sends for one in (fedavg, folio))
    assert of_fedavg is not None and of_fedavg(names, {}) == {"x.A", "shared.y.A", "own.y.A"}
    assert of_folio is not None and of_folio(names, {}) == {"shared.y.A"}, "what its host keeps, it keeps"
    assert SHARES["all"](METHODS["fedavg"].load()) is METHODS["fedavg"].load()


@pytest.mark.parametrize("algorithm", ["promptfolio", "scaffold", "moon"])
def test_a_resumed_run_of_a_method_that_keeps_state_is_the_same_run(tmp_path, algorithm):
    settings = {"algorithm": algorithm, "global_rounds": 3, "fraction_train": 0.7}
    whole, cut = run_whole_and_resumed(tmp_path, "train", 3, **settings)
    assert private_files(cut) and private_files(cut) == private_files(whole) and same(shared(cut), shared(whole))
    assert timeless(cut) == timeless(whole)


def test_a_site_of_promptfolio_that_never_trained_has_the_global_model(tmp_path):
    folder = run_tiny(tmp_path, algorithm="promptfolio", global_rounds=1, fraction_train=0.2)
    trained = {path.parent.name for path in folder.path.rglob("private-*.safetensors")}
    other = next(name for name in ("site-0", "site-1") if name not in trained)
    with pytest.raises(StateError, match="its model is the global one, without --site"):
        load_trained(folder.path, other)


def test_a_method_that_cannot_be_is_refused_when_it_is_made():
    visit = METHODS["fedavg"].load().visits[Phase.GLOBAL]
    with pytest.raises(ValueError, match="needs a visit for global rounds"):
        Algorithm(visits={Phase.PERSONAL: visit})


def test_zero_shot_asks_nobody_to_train_and_its_global_model_is_the_frozen_one(tmp_path):
    asked = []

    def spy(message, reply):
        asked.append(message.metadata.message_type)

    folder = run_tiny(tmp_path, algorithm="zero-shot", grid={"spy": spy})
    summary, last = folder.summary(), folder.rounds()[-1]
    assert set(asked) == {"query.describe", "evaluate"} and shared(folder) == {}
    assert summary["outcome"] == "completed" and summary["rounds"] == 1 and last["cohort"] == []
    assert summary["global"] == summary["zero_shot"] and last["sites"]["global"] == last["sites"]["zero_shot"]
    assert summary["bytes_up"] < 50_000 and summary["best_on_test"]["global"]["round"] == 1
    features = torch.randn(5, 8)
    model = load_trained(folder.path)
    assert torch.equal(model.logits(features), model.experiment.kit.host.zero_shot_logits(features))


def test_zero_shot_has_nothing_to_cover_or_to_balance_in_training():
    for settings, reason in (
        ({"privacy": "server-fixed"}, "trains nothing that could be covered"),
        ({"balancer": "fed-grab"}, 'it changes training, and algorithm = "zero-shot" trains nothing'),
    ):
        with pytest.raises(ConfigError, match=reason):
            load_config({"algorithm": "zero-shot", **settings})
    assert load_config({"algorithm": "zero-shot", "balancer": "logit-adjustment-post-hoc"})


@pytest.mark.slow
def test_fedsa_lora_is_fedavg_that_shares_a_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(rendered, "SHAPES_TEST", 2)
    images = {"dataset": "shapes", "dataset_path": "", "max_per_class": 6, "imbalance_factor": 3, "num_sites": 2,
              "peft": "lora", "global_rounds": 2, "fraction_train": 1.0, "experiment_id": "e"}  # fmt: skip
    own = run_tiny(tmp_path / "a", algorithm="fedsa-lora", **images)
    host = run_tiny(tmp_path / "b", algorithm="fedavg", shares="lora-a", **images)
    assert same(shared(own), shared(host)) and private_files(own) == private_files(host)
    assert all(name.endswith(".A") for name in shared(own))
    first, second = (load_file(file) for file in sorted(own.path.rglob("private-000002.safetensors")))
    assert all(name.endswith(".B") for name in first) and not same(first, second)


def test_fedpurel_that_does_not_purify_is_fedavg_with_residual_branches(tmp_path):
    plain = run_tiny(tmp_path / "a", algorithm="fedavg", peft="adapter")
    bare = run_tiny(tmp_path / "b", algorithm="fedpurel", peft="adapter", align_loss="none")
    assert same(shared(plain), shared(bare)) and "conflict" not in bare.rounds()[1]["train"]
    assert plain.summary()["global"] == bare.summary()["global"] and bare.summary()["personalized"]
    with pytest.raises(ConfigError, match='it has no use with align-loss = "none"'):
        load_config({"peft": "adapter", "align-loss": "none", "projection-scope": "tensor"})
