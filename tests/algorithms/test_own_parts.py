"""Methods with more than a gradient of their own: a memory, experts, heads, clusters. Each by hand, and at its ends."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_tensors
from torch.nn import functional

from fedpurel_app.algorithms.balancers.registry import BALANCERS
from fedpurel_app.algorithms.base import Begun, Facts, Models, Visited
from fedpurel_app.algorithms.registry import METHODS
from fedpurel_app.config import load_config
from fedpurel_app.core.errors import ConfigError
from fedpurel_app.core.phase import Phase
from fedpurel_app.core.sgd import SgdSettings
from fedpurel_app.data.shapes import rendered
from fedpurel_app.inference.export import export
from fedpurel_app.inference.trained import load_trained
from fedpurel_app.models.peft.gated import Gate, Gated, pooled
from fedpurel_app.models.peft.heads import Heads, sparse_frame
from fedpurel_app.models.peft.key_value import KeyValueMemory
from fedpurel_app.models.peft.making import make_module
from fedpurel_app.models.peft.registry import FAMILIES
from fedpurel_app.models.peft.two_contexts import TwoContexts
from fedpurel_app.strategies.parts import Reply, load_part
from fedpurel_app.strategies.parts.clusters import Clusters, cluster
from fedpurel_app.strategies.parts.pair_bandit import UNKNOWN, PairBandit
from fedpurel_app.training.inputs import LocalData
from fedpurel_app.training.local import train
from tests.algorithms.test_methods import (
    HOST,
    INPUTS,
    KNOWN,
    LABELS,
    TEXT,
    a_batch,
    autograd,
    rule,
    same,
    shared,
    text_module,
)
from tests.support import private_files, run_tiny, run_whole_and_resumed, timeless

SGD = SgdSettings(0.1, 0.0, 0.0, 4, 1)


# --- pFedPrompt -------------------------------------------------------------------------------------------------------


def test_a_memory_of_images_votes_by_nearness():
    """Keys (1, 0) and (0, 1): of the image (1, 0) the cosines are 1 and 0, the votes 2 and 2 exp(-3)."""
    memory = KeyValueMemory(torch.eye(2), torch.tensor([2, 0]), 3, 2.0, 3.0)
    found = memory.frozen()(torch.tensor([[5.0, 0.0]]))
    assert torch.allclose(found, torch.tensor([[2 * math.exp(-3), 0.0, 2.0]]))
    several = KeyValueMemory(torch.eye(2)[[0, 0]], torch.tensor([1, 1]), 3, 1.0, 3.0)
    assert several.logits(torch.tensor([[1.0, 0.0]])).tolist() == [[0.0, 2.0, 0.0]]


def test_pfedprompt_trains_the_shared_prompt_as_promptfl_and_keeps_features_at_the_site(tmp_path):
    plain = run_tiny(tmp_path / "a", algorithm="fedavg", peft="text-residual")
    own = run_tiny(tmp_path / "b", algorithm="pfedprompt", peft="text-residual")
    assert same(shared(plain), shared(own))
    (last, *_) = (load_file(file) for file in own.path.rglob("private-*.safetensors"))
    assert set(last) == {"memory/keys", "memory/labels", "memory/classes"}
    assert np.allclose(np.linalg.norm(last["memory/keys"], axis=1), 1, atol=1e-6)
    assert plain.summary()["global"] == own.summary()["global"]
    assert own.summary()["personalized"]["all"] != own.summary()["global_at_sites"]["all"]


def test_pfedprompt_without_weight_predicts_as_its_prompt(tmp_path):
    summary = run_tiny(tmp_path, algorithm="pfedprompt", peft="text-residual", memory_weight=0.0).summary()
    assert summary["personalized"]["all"] == summary["global_at_sites"]["all"]


def test_a_model_that_is_no_classifier_predicts_and_is_not_exported(tmp_path):
    folder = run_tiny(tmp_path / "run", algorithm="pfedprompt", peft="text-residual")
    site = next(folder.path.rglob("private-*.safetensors")).parent.name
    model, features = load_trained(folder.path, site), torch.randn(4, 8)
    plain = load_trained(folder.path).logits(features)
    assert (model.logits(features) > plain).any() and (model.logits(features) >= plain).all()
    with pytest.raises(ConfigError, match="this model has no classifier"):
        export(model, tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*.safetensors"))


# --- pFedMoAP ---------------------------------------------------------------------------------------------------------


def wide_host():
    generator = torch.Generator().manual_seed(3)
    text = functional.normalize(torch.randn(3, 16, generator=generator), dim=1)
    return HOST.__class__(text, 10.0, ("a", "b", "c"), None)


def a_gated(weight=0.5):
    host, generator = wide_host(), torch.Generator().manual_seed(1)
    module: Any = make_module(FAMILIES["text-residual"], host, "global", {"residual-scale": 0.5}, generator)
    return Gated(module, Gate(4, generator), weight)


def test_the_gate_attends_per_class_by_hand():
    """One head of width 1, all projections the identity: weights are softmax(10 f t_j), the value their mean of t_j."""
    gate = Gate(1, torch.Generator())
    with torch.no_grad():
        for layer in (gate.query, gate.key, gate.value, gate.out):
            layer.weight.fill_(1.0)
    image, experts = torch.tensor([[0.5]]), torch.tensor([[[0.2]], [[0.4]]])
    weights = torch.tensor([10 * 0.5 * 0.2, 10 * 0.5 * 0.4]).softmax(0)
    assert gate(image, experts).item() == pytest.approx(float(weights @ torch.tensor([0.2, 0.4])), abs=1e-6)


def test_heads_divide_the_width():
    for width, heads in ((128, 8), (4, 4), (6, 2), (7, 1)):
        assert Gate(width, torch.Generator())._heads == heads


def test_logits_of_a_mixture_are_both_terms():
    mixed = a_gated(0.3)
    inputs = torch.randn(5, 16, generator=torch.Generator().manual_seed(2))
    plain = mixed.logits(inputs)
    assert torch.equal(plain, mixed.shared.logits(inputs)), "without experts it is its prompt"
    others = torch.randn(2, 3, 16, generator=torch.Generator().manual_seed(4))
    mixed.attend_to({"residual": others})
    assert mixed.experts is not None
    text, images = mixed.shared.class_features(), functional.normalize(inputs, dim=1)
    expected = functional.normalize(wide_host().zero_shot_text + 0.5 * others, dim=2)
    assert torch.allclose(mixed.experts, expected, atol=1e-6)
    values = mixed.gate(pooled(images), pooled(torch.cat([text[None], expected])))
    by_hand = 0.3 * plain + 10 * (pooled(images)[:, None] * values).sum(-1)
    assert torch.allclose(mixed.logits(inputs), by_hand, atol=1e-5)
    assert torch.allclose(mixed.frozen()(inputs), by_hand, atol=1e-5)
    assert mixed.logits(inputs).requires_grad and not mixed.experts.requires_grad


def test_a_site_goes_on_from_its_own_prompt_with_the_experts_that_came():
    module: Any = a_gated()
    visit = METHODS["pfedmoap"].load().visits[Phase.GLOBAL]
    last, experts = torch.full((3, 16), 0.1), torch.ones(2, 3, 16)
    options = METHODS["pfedmoap"].defaults()

    def experts_of():
        return module.experts

    def begin(memory, brief):
        assert visit.begin is not None
        visit.begin(Begun(module, None, LABELS, Facts(brief=brief), options, memory))
        return memory

    begin({}, {"expert/shared.residual": experts})
    assert experts_of() is None, "a first visit begins with the average, alone"
    memory = begin({"last/shared.residual": last, "expert/shared.residual": last[None]},
                   {"expert/shared.residual": experts})  # fmt: skip
    assert torch.equal(module.shared.residual, last) and len(experts_of()) == 2
    assert torch.equal(memory["expert/shared.residual"], experts)
    assert set(begin(dict(memory), {})) == {"last/shared.residual"} and experts_of() is None
    for wrong, reason in (
        ({"expert/shared.residual": torch.ones(2, 3, 4)}, "this site takes at most 9 of"),
        ({"expert/shared.other": experts}, "this site takes at most 9 of"),
        ({"expert/shared.residual": torch.ones(10, 3, 16)}, "this site takes at most 9 of"),
    ):
        with pytest.raises(ValueError, match=reason):
            begin(dict(memory), wrong)


def test_a_prompt_that_makes_no_finite_features_is_left_out(caplog):
    """Of another site, which can send numbers that a tower makes NaN of; this site's visit goes on."""
    module, visit = a_gated(), METHODS["pfedmoap"].load().visits[Phase.GLOBAL]
    poison = torch.stack([torch.full((3, 16), float("nan")), torch.ones(3, 16)])
    memory = {"last/shared.residual": torch.zeros(3, 16)}
    begun = Begun(module, None, LABELS, Facts(brief={"expert/shared.residual": poison}), METHODS["pfedmoap"].defaults(),
                  memory)  # fmt: skip
    assert visit.begin is not None
    with caplog.at_level("WARNING"):
        visit.begin(begun)
    assert "1 prompts of others" in caplog.text
    assert torch.equal(memory["expert/shared.residual"], poison[1:]) and module.experts is not None
    assert module.experts.isfinite().all() and len(module.experts) == 1


def test_a_sites_model_has_its_own_prompt_in_its_parameters():
    module, last = a_gated(), torch.full((3, 16), 0.3)
    own = module.at({"residual": last}, {})
    assert torch.equal(dict(own.named_parameters())["shared.residual"], last)
    assert not torch.equal(module.shared.residual, last) and not torch.equal(
        own.class_features(), module.class_features()
    )


def a_reply(value, examples=1, loss=None, name="shared.p"):
    return Reply({name: np.array([value], np.float32)}, examples, examples, loss)


def test_the_server_sends_the_nearest_prompts_of_others():
    part = load_part("nearest", {"experts": 3}, SGD)
    assert part is not None
    sent = {"shared.p": np.zeros(1, np.float32)}
    assert part.brief(sent, "a") == {}
    replies = {name: a_reply(value) for name, value in (("a", 0), ("b", 5), ("c", 1), ("d", -2))}
    mean = {"shared.p": np.ones(1, np.float32)}
    assert part.finish(sent, mean, replies, 4) is mean
    assert part.brief(sent, "a")["expert/shared.p"].tolist() == [[1], [-2]]
    assert part.brief(sent, "b")["expert/shared.p"].tolist() == [[1], [0]]
    assert part.brief(sent, "new") == {}
    other = load_part("nearest", {"experts": 3}, SGD)
    assert other is not None
    other.restore(part.state())
    assert other.brief(sent, "d")["expert/shared.p"].tolist() == part.brief(sent, "d")["expert/shared.p"].tolist()


def test_pfedmoap_of_one_expert_is_its_prompt(tmp_path):
    """And no gate has a say: personal predictions are those of the site's own prompt."""
    sent = set()

    def spy(message, reply):
        sent.update(message.content.get("brief", {}))

    folder = run_tiny(tmp_path, algorithm="pfedmoap", peft="text-residual", experts=1, global_rounds=3,
                      fraction_train=0.7, grid={"spy": spy})  # fmt: skip
    assert not sent
    site = next(folder.path.rglob("private-000003.safetensors")).parent.name
    model, features = load_trained(folder.path, site), torch.randn(4, 8)
    own = load_file(next(folder.path.glob(f"private/*/{site}/private-000003.safetensors")))[
        "memory/last/shared.residual"
    ]
    host = model.experiment.kit.host
    text = functional.normalize(host.zero_shot_text + 0.5 * torch.from_numpy(own), dim=1)
    expected = host.logit_scale * functional.normalize(features, dim=1) @ text.T
    assert torch.allclose(model.logits(features), expected, atol=1e-5)


def moved(module, name, rate):
    """How far one step of a rate moves each parameter, over its gradient."""
    rates = {**METHODS[name].load().visits}[Phase.GLOBAL]
    before = {key: value.detach().clone() for key, value in module.named_parameters()}
    module.train()
    gradients, _ = rates.rule(a_batch(module, name))
    module.train(False)
    data = LocalData(INPUTS, LABELS, HOST.zero_shot_logits(INPUTS))
    step = SgdSettings(rate, 0.0, 0.0, 4, 1)
    train(module, data, replace(rates, begin=None, end=None), step, torch.Generator(), METHODS[name].defaults(), KNOWN)
    names = list(before)
    return {key: float((before[key] - value.detach()).norm() / gradients[names.index(key)].norm())
            for key, value in module.named_parameters()}  # fmt: skip


def test_heads_learn_at_a_quarter_of_the_rate():
    found = moved(adapter_heads(), "fedloge", 1e-3)
    assert found["head"] == pytest.approx(2.5e-4, rel=1e-2) == found["own.head"]
    assert found["shared.weight1"] == pytest.approx(1e-3, rel=1e-2)


def test_the_gate_learns_at_a_rate_of_its_own_and_stays():
    module = a_gated()
    generator = torch.Generator().manual_seed(0)
    inputs, labels = torch.randn(4, 16, generator=generator), torch.tensor([0, 1, 2, 0])
    module.attend_to({"residual": torch.ones(1, 3, 16)})
    visit = replace(METHODS["pfedmoap"].load().visits[Phase.GLOBAL], begin=None, end=None)
    before = {name: value.detach().clone() for name, value in module.named_parameters()}
    gradients = autograd(module, functional.cross_entropy(module.logits(inputs), labels))
    data = LocalData(inputs, labels, wide_host().zero_shot_logits(inputs))
    train(module, data, visit, SgdSettings(1e-3, 0.0, 0.0, 4, 1), torch.Generator(), METHODS["pfedmoap"].defaults())
    for (name, value), gradient in zip(module.named_parameters(), gradients, strict=True):
        rate = 1e-2 if name.startswith("own.") else 1e-3
        assert torch.allclose(before[name] - value.detach(), rate * gradient, atol=1e-6), name
    assert METHODS["pfedmoap"].load().sent(a_gated(), {}) == {"shared.residual"}
    assert len(list(a_gated().named_parameters())) == 9


# --- FedLoGe ----------------------------------------------------------------------------------------------------------


def test_the_frame_is_equiangular_and_nearest_to_the_text():
    generator = torch.Generator().manual_seed(0)
    text = functional.normalize(torch.randn(5, 16, generator=generator), dim=1)
    frame = sparse_frame(text, 0.0)
    assert torch.allclose(frame @ frame.T, torch.full((5, 5), -0.25) + 1.25 * torch.eye(5), atol=1e-5)
    nearness = (frame * text).sum()
    for seed in range(20):
        basis, _ = torch.linalg.qr(torch.randn(16, 5, generator=torch.Generator().manual_seed(seed)))
        other = math.sqrt(5 / 4) * (basis @ (torch.eye(5) - 1 / 5)).T
        assert torch.allclose(other @ other.T, frame @ frame.T, atol=1e-5) and (other * text).sum() < nearness
    sparse = sparse_frame(text, 0.6)
    assert ((sparse == 0).sum(1) == 9).all() and torch.allclose(sparse.norm(dim=1), torch.ones(5))
    with pytest.raises(ConfigError, match="4 classes: 2 numbers of a feature hold a frame of at most 3"):
        sparse_frame(torch.ones(4, 2), 0.0)


def adapter_heads():
    adapter: Any = make_module(FAMILIES["adapter"], HOST, "global", {}, torch.Generator().manual_seed(0))
    return Heads(adapter, TEXT, 0.0)


def test_fedloge_trains_the_module_by_the_frame_and_the_heads_on_what_it_makes():
    heads = adapter_heads()
    heads.train()
    found, metrics = rule("fedloge")(a_batch(heads, "fedloge"))
    names = [name for name, _ in heads.named_parameters()]
    images = heads.shared.logits_of(INPUTS, torch.eye(2)) / 10
    losses = [functional.cross_entropy(10 * images @ heads.frame.T, LABELS)]
    losses += [functional.cross_entropy(10 * images.detach() @ weight.T, LABELS)
               for name, weight in heads.named_parameters() if name in ("head", "own.head")]  # fmt: skip
    expected = autograd(heads, sum(losses))
    for name, one, other in zip(names, found, expected, strict=True):
        assert torch.allclose(one, other, atol=1e-5) and one.abs().max() > 0, name
    assert float(metrics["loss"]) == pytest.approx(losses[1].item(), rel=1e-5)


def test_fedloge_predicts_by_rows_of_one_length_and_sites_add_their_own():
    heads, algorithm = adapter_heads(), METHODS["fedloge"].load()
    with torch.no_grad():
        dict(heads.named_parameters())["head"].mul_(3.0)
        dict(heads.named_parameters())["own.head"].copy_(torch.eye(3, 2))
    images = heads.shared.logits_of(INPUTS, torch.eye(2))
    (general,), own = algorithm.global_model(Models(heads)), algorithm.personalized
    assert own is not None and torch.allclose(general.frozen()(INPUTS), images @ TEXT.T, atol=1e-5)
    (personal,) = own(Models(heads))
    assert torch.allclose(personal.frozen()(INPUTS), images @ (TEXT + torch.eye(3, 2)).T, atol=1e-5)
    assert {name for name, _ in heads.named_parameters()} - algorithm.sent(heads, {}) == {"own.head"}
    assert algorithm.is_known(heads, {})


def test_an_exported_head_gives_the_logits_by_its_own_recipe(tmp_path):
    folder = run_tiny(tmp_path / "run", algorithm="fedloge", peft="adapter", global_rounds=2, fraction_train=1.0)
    site, x = next(folder.path.rglob("private-*.safetensors")).parent.name, torch.randn(5, 8)
    for name in ("", site):
        model, out = load_trained(folder.path, name), tmp_path / f"out{name}"
        export(model, out)
        weights, head = load_tensors(out / "parameters.safetensors"), load_tensors(out / "classifier.safetensors")
        gate = torch.tanh(x @ weights["weight1"].T + weights["bias1"]) @ weights["weight2"].T + weights["bias2"]
        seen = functional.normalize(gate.softmax(1) * x, dim=1)
        assert torch.allclose(model.logits(x), seen @ head["weights"].T, atol=1e-4)


@pytest.mark.slow
def test_an_exported_head_on_lora_brings_the_backbone_it_names(tmp_path, monkeypatch):
    monkeypatch.setattr(rendered, "SHAPES_TEST", 2)
    images = {"dataset": "shapes", "dataset_path": "", "max_per_class": 4, "imbalance_factor": 4, "num_sites": 2}
    folder = run_tiny(tmp_path / "run", algorithm="fedloge", peft="lora", global_rounds=1, learning_rate=0.01, **images)
    export(load_trained(folder.path), tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"open_clip_model.safetensors", "open_clip_config.json", "classifier.safetensors"} <= names
    assert "head" in load_tensors(tmp_path / "out" / "parameters.safetensors")


# --- CAPT -------------------------------------------------------------------------------------------------------------


def test_sites_with_alike_classes_form_a_cluster():
    shares = np.array([[1, 0, 0], [0, 0.5, 0.5], [0.9, 0.1, 0], [0, 0.4, 0.6]])
    assert cluster(shares, 2).tolist() == [0, 1, 0, 1]
    assert cluster(shares, 9).tolist() == [0, 1, 2, 3] and cluster(shares[:1], 2).tolist() == [0]


def clusters(most=2):
    part = load_part("clusters", {"clusters": most}, SGD)
    assert isinstance(part, Clusters)
    return part


def a_w(value, examples=1, loss=None):
    return Reply({"classes": np.full((3, 1), value, np.float32)}, examples, examples, loss)


def w_of(part, sent, sites):
    return [float(part.brief(sent, site)["classes"][0, 0]) for site in sites]


def test_clusters_average_their_own_and_two_of_them_exchange():
    part, sent = clusters(3), {"classes": np.zeros((3, 1), np.float32)}
    part.meet(sent, {"a": [8, 0, 0], "b": [0, 9, 0], "c": [9, 1, 0], "d": [0, 0, 7]})
    assert part.brief(sent, "a")["classes"] is sent["classes"]
    mean = {"classes": np.ones((3, 1), np.float32)}
    assert part.finish(sent, mean, {"a": a_w(1, 1, 2.0), "c": a_w(4, 2, 2.0), "d": a_w(9, 5, 1.0)}, 8) is mean
    # Within: (1 + 2 * 4) / 3 = 3, and 9; the first pair is of both: 6.
    assert w_of(part, sent, "abcd") == [6, 0, 6, 6]
    part.meet(sent, {"a": [8, 0, 0], "new": [0, 3, 1]})
    assert w_of(part, sent, ["new"]) == [0], "the cluster of the nearest site"
    other = clusters(3)
    other.restore(part.state())
    for one in (part, other):
        one.finish(sent, mean, {"a": a_w(2, 1, 1.5)}, 8)
    assert w_of(part, sent, "abcd") == w_of(other, sent, "abcd")


def test_sites_are_clustered_anew_until_the_first_round_ends():
    part, sent = clusters(2), {"classes": np.zeros((3, 1), np.float32)}
    part.meet(sent, {"a": [8, 0, 0]})
    part.meet(sent, {"a": [8, 0, 0], "b": [0, 9, 0]})
    part.finish(sent, sent, {"a": a_w(1), "b": a_w(5)}, 8)  # no loss is told: they exchange, and wait for nothing
    part.finish(sent, sent, {"a": a_w(1)}, 8)
    assert w_of(part, sent, "ab") == [2, 2], "two clusters, that took turns"


@pytest.mark.parametrize("lie", [[], [1] * 2, [3], [0, 0, 0], [1] * 40])
def test_counts_of_other_classes_are_none(lie):
    """Whatever a site says of itself, the run goes on; it is in the first cluster."""
    part, sent = clusters(2), {"classes": np.zeros((3, 1), np.float32)}
    for _ in range(2):
        part.meet(sent, {"a": [8, 0, 0], "liar": lie, "b": [0, 9, 0]})
    part.finish(sent, sent, {"a": a_w(1), "liar": a_w(3), "b": a_w(9)}, 3)
    assert part.brief(sent, "liar")["classes"] is part.brief(sent, "a")["classes"]


def test_the_bandit_tries_all_pairs_then_goes_by_rewards():
    bandit = PairBandit(3)
    order = []
    for _ in range(3):
        pair = bandit.choose([0, 1, 2])
        assert pair is not None and bandit.choose([0, 1, 2]) is None, "one exchange waits for its reward"
        order.append(pair)
        bandit.judge({pair[0]: (2.0, 1.0 if pair == (0, 2) else 3.0)})
    assert order == [(0, 1), (0, 2), (1, 2)]
    # 0 + sqrt(2 ln 3), 1 + sqrt(2 ln 3), 0 + ...
    assert bandit.choose([0, 1, 2]) == (0, 2)
    bandit.judge({1: (2.0, 1.0)})
    assert bandit.choose([0, 1, 2]) is None, "neither of the two has a new loss"
    bandit.judge({0: (UNKNOWN, 1.0)})
    assert bandit.choose([0, 1, 2]) is None
    assert PairBandit.of(bandit.state()).choose([0, 1]) is None
    bandit.give_up()
    assert bandit.choose([1]) is None


class ByClass(torch.nn.Module):
    """Text features that are the contexts themselves, one of shape (1, 2) for each class."""

    takes, logit_scale = "features", 1.0

    def __init__(self):
        super().__init__()
        self.context = torch.nn.Parameter(torch.tensor([[[1.0, 2.0]], [[1.0, 2.0]], [[1.0, 2.0]]]))

    def class_features(self):
        return self.context[:, 0]

    def logits_of(self, inputs, class_features):
        return inputs @ class_features.T


def test_contexts_are_added_and_both_are_trained():
    base: Any = ByClass()
    module = TwoContexts(base)
    (general_name, general), (classes_name, classes) = module.named_parameters()
    assert (general_name, classes_name) == ("general", "classes") and general.tolist() == [[1.0, 2.0]]
    assert not classes.any() and torch.equal(module.class_features(), base.class_features())
    with torch.no_grad():
        general.copy_(torch.tensor([[0.5, 0.0]]))
        classes.copy_(torch.arange(6.0).reshape(3, 1, 2))
    assert module.class_features().tolist() == [[0.5, 1.0], [2.5, 3.0], [4.5, 5.0]]
    slope = torch.tensor([[1.0, 0.0], [2.0, 0.0], [3.0, -1.0]])
    found = torch.autograd.grad((module.class_features() * slope).sum(), [general, classes])
    assert found[0].tolist() == [[6.0, -1.0]] and torch.equal(found[1][:, 0], slope)
    other = module.at(torch.zeros(3, 1, 2))
    assert other.class_features().tolist() == [[0.5, 0.0]] * 3 and module.class_features()[0].tolist() == [0.5, 1.0]
    personalized = METHODS["capt"].load().personalized
    assert personalized is not None
    (own,) = personalized(Models(module, memory={"classes": torch.ones(3, 1, 2)}))
    assert own.class_features().tolist() == [[1.5, 1.0]] * 3 and personalized(Models(module)) == (module,)


def test_what_capt_remembers_is_no_secret_and_a_balancers_state_on_it_is():
    capt = METHODS["capt"].load()
    assert capt.keeps_state and not capt.keeps_secrets
    assert BALANCERS["fed-grab"].put_on(capt).keeps_secrets
    assert METHODS["pfedmoap"].load().keeps_secrets and METHODS["scaffold"].load().keeps_secrets


CAPT = {"algorithm": "capt", "peft": "prompt", "dataset": "shapes", "dataset_path": "", "max_per_class": 6,
        "imbalance_factor": 3, "num_sites": 3, "global_rounds": 2, "clusters": 2, "fraction_train": 1.0,
        "experiment_id": "e", "learning_rate": 0.5}  # fmt: skip


@pytest.mark.slow
def test_capt_sends_both_contexts_and_predicts_by_the_clusters(tmp_path):
    briefs: list[dict[str, tuple[int, ...]]] = []

    def spy(message, reply):
        if message.metadata.message_type == "train":
            briefs.append({name: tuple(value.shape) for name, value in message.content["brief"].items()})

    folder = run_tiny(tmp_path, **CAPT, grid={"spy": spy})
    classes = len(folder.read_csv("classes.csv"))
    sent, _ = folder.read_checkpoint()
    assert set(sent) == {"general", "classes"} and sent["classes"].shape[0] == classes
    assert all(brief == {"classes": sent["classes"].shape} for brief in briefs) and len(briefs) == 6
    names = {name for file in folder.path.rglob("private-*.safetensors") for name in load_file(file)}
    assert names == {"memory/classes"}
    assert folder.summary()["personalized"] != folder.summary()["global_at_sites"]


def test_capt_needs_one_context_and_counts_of_classes():
    base = {"algorithm": "capt", "peft": "prompt"}
    with pytest.raises(ConfigError, match="set class-specific-context = false"):
        load_config(base | {"class-specific-context": True})
    own = base | {"dataset": "sites", "classes": "a,b"}
    with pytest.raises(ConfigError, match="set share-class-counts = true"):
        load_config(own)
    assert load_config(own | {"share-class-counts": True})


def test_a_site_takes_up_its_clusters_prompts_or_refuses_another_shape():
    algorithm = METHODS["capt"].load()
    visit, module = algorithm.visits[Phase.GLOBAL], text_module()
    module.register_parameter("classes", torch.nn.Parameter(torch.zeros(3, 2)))
    assert visit.begin is not None and visit.end is not None
    begun = Begun(module, None, LABELS, Facts(brief={"classes": torch.ones(3, 2)}), {}, {})
    visit.begin(begun)
    assert torch.equal(module.classes, torch.ones(3, 2))
    with pytest.raises(ValueError, match=r"have the shape \(2, 2\), not \(3, 2\)"):
        visit.begin(Begun(module, None, LABELS, Facts(brief={"classes": torch.ones(2, 2)}), {}, {}))
    memory: dict[str, torch.Tensor] = {}
    visit.end(Visited(["classes"], [], [torch.full((3, 2), 2.0)], 1.0, Facts(), {}, memory))
    assert torch.equal(memory["classes"], torch.full((3, 2), 2.0))


# --- all of them ------------------------------------------------------------------------------------------------------

RESUMED = [
    pytest.param({"algorithm": "pfedprompt", "peft": "text-residual"}, id="pfedprompt"),
    pytest.param({"algorithm": "pfedmoap", "peft": "text-residual"}, id="pfedmoap"),
    pytest.param({"algorithm": "fedloge", "peft": "adapter"}, id="fedloge"),
    pytest.param(CAPT, id="capt", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("settings", RESUMED)
def test_a_resumed_run_is_the_same_run(tmp_path, settings):
    changes = settings | {"global_rounds": 3, "fraction_train": 0.7}
    whole, cut = run_whole_and_resumed(tmp_path, "train", 3, **changes)
    assert private_files(cut) and private_files(cut) == private_files(whole) and same(shared(cut), shared(whole))
    assert timeless(cut) == timeless(whole)
