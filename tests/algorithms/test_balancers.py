"""What is put on a method for the sake of its tail: by hand, and as its host where it has nothing to do."""

import math
from pathlib import Path

import pytest
import torch
from safetensors.numpy import load_file
from torch.nn import functional

import fedpurel_app
from fedpurel_app.algorithms.balancers.base import balanced
from fedpurel_app.algorithms.balancers.fed_grab import controlled, step_controllers, weight
from fedpurel_app.algorithms.balancers.registry import BALANCERS, Balancer
from fedpurel_app.algorithms.base import Balance, Facts
from fedpurel_app.algorithms.registry import METHODS
from fedpurel_app.config import RunConfig, load_config
from fedpurel_app.core.errors import ConfigError, StateError
from fedpurel_app.core.phase import Phase
from fedpurel_app.data.shapes import rendered
from fedpurel_app.functional import residual_loss
from fedpurel_app.inference.trained import load_trained
from fedpurel_app.models.peft.registry import FAMILIES
from tests.algorithms.test_methods import INPUTS, LABELS, a_batch, autograd, same, shared, text_module
from tests.algorithms.test_registry import SMALL_IMAGES, family_of, runs_on_features
from tests.support import private_files, run_tiny, run_whole_and_resumed, timeless, tiny_features

COUNTS = torch.tensor([60, 30, 10])
GAINS = {"proportional-gain": 10.0, "integral-gain": 0.01, "derivative-gain": 0.1}
PUT_ON = sorted(set(BALANCERS) - {"none"})
DEFAULTS = RunConfig().model_dump(by_alias=True)


def options_of(name, **changes):
    return {option.key: option.default for option in BALANCERS[name].options} | changes


def on(name, host="fedavg"):
    return BALANCERS[name].put_on(METHODS[host].load())


def a_balanced_batch(module, name, facts, host="fedavg", **changes):
    batch = a_batch(module, host, facts=facts)
    batch.options = {**batch.options, **options_of(name, **changes)}
    return batch


def test_logit_adjustment_in_training():
    """CE(l + tau log pi): relative to the largest, 2 log(1), 2 log(1/2), 2 log(1/6) are added."""
    module = text_module(1.0)
    batch = a_balanced_batch(module, "logit-adjustment", Facts(prior=COUNTS), **{"adjustment-strength": 2.0})
    found, metrics = on("logit-adjustment").visits[Phase.GLOBAL].rule(batch)
    shift = torch.tensor([0.0, 2 * math.log(1 / 2), 2 * math.log(1 / 6)])
    loss = functional.cross_entropy(module.logits(INPUTS) + shift, LABELS)
    assert torch.allclose(found[0], autograd(module, loss)[0], atol=1e-6)
    assert float(metrics["loss"]) == pytest.approx(loss.item(), rel=1e-6)


def test_logit_adjustment_reaches_both_losses_of_a_residual_branch():
    module = text_module(1.0)
    batch = a_balanced_batch(module, "logit-adjustment", Facts(prior=COUNTS), "fedpurel")
    (found,), _ = on("logit-adjustment", "fedpurel").visits[Phase.PERSONAL].rule(batch)
    shift = (COUNTS / 60).log()
    logits = module.logits(INPUTS) + shift
    loss = residual_loss(batch.reference, logits, LABELS, 0.9)  # the shift is in the sum of both once, too
    assert torch.allclose(found, autograd(module, loss)[0], atol=1e-6)


def test_a_site_may_go_by_its_own_counts_and_a_class_without_an_image_counts_as_one():
    facts = Facts(counts=torch.tensor([4, 0, 1]), prior=COUNTS)
    batch = a_balanced_batch(text_module(), "logit-adjustment", facts, **{"class-prior": "local"})
    on("logit-adjustment").visits[Phase.GLOBAL].rule(batch)
    assert batch.balance.shift is not None
    assert batch.balance.shift.tolist() == pytest.approx([0.0, -math.log(4), -math.log(4)])


def test_logit_adjustment_after_training_lifts_the_tail():
    bias = on("logit-adjustment-post-hoc").bias
    assert bias and on("logit-adjustment").bias is None
    lift = bias(Facts(prior=COUNTS), options_of("logit-adjustment-post-hoc"))
    assert lift is not None and lift.tolist() == pytest.approx([0.0, math.log(2), math.log(6)])
    assert (torch.tensor([2.0, 1.0, 0.5]) + lift).argmax() == 2


@pytest.mark.parametrize("name", ["logit-adjustment", "logit-adjustment-post-hoc", "fed-grab"])
@pytest.mark.parametrize("host", ["fedavg", "fedpurel"])
def test_with_a_uniform_prior_a_balancer_is_its_host_to_the_bit(tmp_path, name, host):
    even = {"imbalance_factor": 1.0, "dataset_path": str(tiny_features(tmp_path / "even.npz")), "experiment_id": "e"}
    plain = run_tiny(tmp_path / "a", algorithm=host, **even)
    adjusted = run_tiny(tmp_path / "b", algorithm=host, balancer=name, **even)
    assert same(shared(plain), shared(adjusted)) and plain.summary()["global"] == adjusted.summary()["global"]
    assert plain.summary()["personalized"] == adjusted.summary()["personalized"]


@pytest.mark.parametrize("host", ["fedavg", "prograd", "scaffold", "promptfolio"])
def test_fed_grab_without_gains_is_its_host_to_the_bit(tmp_path, host):
    none = {"proportional_gain": 0.0, "integral_gain": 0.0, "derivative_gain": 0.0}
    plain = shared(run_tiny(tmp_path / "a", algorithm=host))
    assert same(plain, shared(run_tiny(tmp_path / "b", algorithm=host, balancer="fed-grab", **none)))
    assert not same(plain, shared(run_tiny(tmp_path / "c", algorithm=host, balancer="fed-grab")))


def test_fed_grabs_weight_is_1_at_0_and_ends_at_0_and_10():
    found = weight(torch.tensor([0.0, 2 * math.log(9), -1e4, 1e4]))
    assert found.tolist() == pytest.approx([1.0, 5.0, 0.0, 10.0]) and float(found[0]) == 1.0


def test_fed_grabs_controllers_by_hand():
    """Two steps of one class; e = N - P, u += 10 (e - e1) + 0.01 e + 0.1 (e - 2 e1 + e2)."""
    state = {name: torch.zeros(1) for name in ("P", "N", "u", "e1", "e2")}
    step_controllers(state, torch.tensor([[-0.25], [0.5], [0.25]]), torch.tensor([[True], [False], [False]]), GAINS)
    assert (float(state["P"]), float(state["N"]), float(state["e1"]), float(state["e2"])) == (0.25, 0.75, 0.5, 0.0)
    assert float(state["u"]) == pytest.approx(10 * 0.5 + 0.01 * 0.5 + 0.1 * 0.5)
    step_controllers(state, torch.tensor([[-1.0]]), torch.tensor([[True]]), GAINS)
    assert (float(state["P"]), float(state["e1"]), float(state["e2"])) == (1.25, -0.5, 0.5)
    assert float(state["u"]) == pytest.approx(5.055 + 10 * -1.0 + 0.01 * -0.5 + 0.1 * (-0.5 - 1.0))


def test_fed_grab_multiplies_the_gradient_at_the_logits_of_tail_classes():
    """Counts 60, 30, 10: the mean is 33.3, so classes 1 and 2 are the tail. u = 2 ln 9: f(u) = 5, f(-u) = 10 / 82."""
    module, facts = text_module(1.0), Facts(prior=COUNTS)
    batch = a_balanced_batch(module, "fed-grab", facts)
    algorithm = on("fed-grab")
    assert algorithm.memory is not None
    batch.memory = algorithm.memory({}, Facts(zero_shot_text=torch.zeros(3, 2)))
    batch.memory["fed-grab/global/u"] += torch.full((3,), 2 * math.log(9))
    (found,), _ = algorithm.visits[Phase.GLOBAL].rule(batch)
    up, down = 5.0, 10 / 82
    weights = torch.tensor([[1, down, down], [1, up, down], [1, down, up], [1, down, down]])
    logits = module.logits(INPUTS)
    slope = (logits.softmax(1) - functional.one_hot(LABELS, 3)) / 4 * weights
    assert torch.allclose(found, autograd(module, (logits * slope.detach()).sum())[0], atol=1e-6)
    assert torch.allclose(batch.memory["fed-grab/global/P"][1], slope[1, 1].abs(), atol=1e-7)
    assert torch.allclose(batch.memory["fed-grab/global/N"][1], slope[[0, 2, 3], 1].sum(), atol=1e-7)


def test_a_balancer_moves_its_state_once_in_a_step_of_every_method():
    """A rule asks for the task gradient once: twice would step the controllers twice, not at all leave it out."""
    module, facts = text_module(1.0), Facts(counts=COUNTS, prior=COUNTS, zero_shot_text=torch.zeros(3, 2))
    for name, method in METHODS.items():
        # One with a balancer, any: some methods refuse them all.
        if method.unfit({**DEFAULTS, "algorithm": name, "peft": "text-residual", "balancer": "logit-adjustment"}):
            continue
        calls: list[Phase] = []

        def count(batch, phase, calls=calls):
            return Balance(weigh=lambda gradient: calls.append(phase) or gradient)

        algorithm = balanced(method.load(), count)
        for phase, visit in algorithm.visits.items():
            built = algorithm.compose(
                lambda role, **options: text_module(1.0), method.defaults(), torch.Generator().manual_seed(0)
            ) if phase is Phase.GLOBAL else module  # fmt: skip
            batch = a_batch(built, name, facts=facts._replace(zero_shot_text=a_batch(module, "kgcoop").facts[2]))
            batch.memory = {} if algorithm.memory is None else algorithm.memory(dict(built.named_parameters()), facts)
            visit.rule(batch)
        assert calls == list(algorithm.visits), name


def test_fed_grabs_state_stays_at_the_site(tmp_path):
    sent: set[str] = set()

    def spy(message, reply):
        sent.update(*(reply.content.get(name, {}) for name in ("arrays", "brief")))

    folder = run_tiny(tmp_path, algorithm="fedpurel", balancer="fed-grab", grid={"spy": spy})
    names = {name for file in folder.path.rglob("private-*.safetensors") for name in load_file(file)}
    state = ("P", "N", "u", "e1", "e2")
    kept = {f"memory/fed-grab/{phase}/{name}" for phase in ("global", "personal") for name in state}
    assert names == kept | {"residual"} and sent == {"residual"}


def test_a_resumed_run_of_fed_grab_is_the_same_run(tmp_path):
    settings = {"algorithm": "fedpurel", "balancer": "fed-grab", "global_rounds": 2, "fraction_train": 0.7}
    whole, cut = run_whole_and_resumed(tmp_path, "train.personalize", 4, **settings)
    assert private_files(cut) == private_files(whole) and same(shared(cut), shared(whole))
    assert timeless(cut) == timeless(whole)


def test_post_hoc_adjustment_trains_as_its_host_and_predicts_otherwise(tmp_path):
    plain = run_tiny(tmp_path / "a", algorithm="fedavg")
    adjusted = run_tiny(tmp_path / "b", algorithm="fedavg", balancer="logit-adjustment-post-hoc")
    assert same(shared(plain), shared(adjusted))
    before, after = plain.summary()["global"], adjusted.summary()["global"]
    assert after["few"] > before["few"] and after["many"] < before["many"]


@pytest.mark.parametrize("name", ["logit-adjustment", "logit-adjustment-post-hoc"])
def test_an_adjusted_model_is_loaded_with_its_bias_where_it_has_one(tmp_path, name):
    folder = run_tiny(tmp_path, algorithm="fedavg", balancer=name)
    features = torch.randn(5, 8)
    model = load_trained(folder.path)
    plain = model.branches["global"].frozen()(features)
    assert (model.bias is None) == (name == "logit-adjustment")
    assert torch.equal(model.logits(features), plain if model.bias is None else plain + model.bias)
    (folder.path / "partition.json").unlink()
    if name == "logit-adjustment":
        assert torch.equal(load_trained(folder.path).logits(features), plain)
    else:
        with pytest.raises(StateError, match=r"no partition.json, and with it no class counts"):
            load_trained(folder.path)


KEYS = [(name, option.key) for name in PUT_ON for option in BALANCERS[name].options]
OTHER = {"adjustment-strength": 0.3, "class-prior": "local", "proportional-gain": 0.0, "integral-gain": 5.0,
         "derivative-gain": 7.0}  # fmt: skip


@pytest.mark.parametrize(("name", "key"), KEYS)
def test_a_key_of_a_balancer_has_an_effect_and_belongs_to_it(tmp_path, name, key):
    change = {key.replace("-", "_"): OTHER[key]}
    common = {"algorithm": "fedavg", "balancer": name, "global_rounds": 2, "learning_rate": 0.5, "fraction_train": 0.7}
    plain, other = (run_tiny(tmp_path / str(len(more)), **common, **more) for more in ({}, change))
    assert not same(shared(plain), shared(other)) or plain.summary()["global"] != other.summary()["global"]
    owners = [one for one in PUT_ON if key in BALANCERS[one].keys]
    with pytest.raises(ConfigError) as caught:
        load_config({key: OTHER[key]})
    (problem,) = caught.value.problems
    assert problem.startswith(f"{key} = ") and all(
        f'balancer = "{one}"' in problem or f'"{one}"' in problem for one in owners
    )


@pytest.mark.parametrize("name", PUT_ON)
def test_sites_with_data_of_their_own_have_no_global_prior(name):
    settings = {"dataset": "sites", "classes": "a,b", "balancer": name}
    with pytest.raises(ConfigError, match="tell nobody their class counts"):
        load_config(settings)
    if "class-prior" in BALANCERS[name].keys:
        assert load_config(settings | {"class-prior": "local"}).balancer == name


HOSTS = [
    pytest.param(host, name, marks=[] if host in ("fedavg", "ditto", "scaffold") else pytest.mark.slow)
    for host in METHODS
    for name in PUT_ON
    if (METHODS[host].trains or not BALANCERS[name].in_training)
    and not METHODS[host].unfit({**DEFAULTS, "algorithm": host, "peft": family_of(host), "balancer": name})
]


@pytest.mark.parametrize(("host", "name"), HOSTS)
def test_every_balancer_goes_on_every_method_that_trains(tmp_path, monkeypatch, host, name):
    """On features where the method can; rates are such that predictions change."""
    monkeypatch.setattr(rendered, "SHAPES_TEST", 1)
    family = family_of(host)
    data = {} if runs_on_features(host, family) else SMALL_IMAGES
    common = {"algorithm": host, "peft": family, "experiment_id": "e", **data}
    common |= {} if FAMILIES[family].needs != "features" else {"learning_rate": 0.5}
    plain = run_tiny(tmp_path / "a", **common)
    put = run_tiny(tmp_path / "b", **common, balancer=name)
    scores = [[line.get("sites") for line in run.rounds()] for run in (plain, put)]
    assert scores[0] != scores[1] or not same(shared(plain), shared(put))


def test_the_docs_have_a_row_for_every_balancer():
    page = (Path(fedpurel_app.__file__).parent.parent / "docs" / "choose.md").read_text("utf-8")
    table = page.partition("| `balancer`")[2].partition("| `peft` |")[0]
    assert all(f"\n| `{name}` |" in table for name in BALANCERS)


def test_a_balancer_without_a_file_is_named():
    with pytest.raises(ConfigError, match=r'balancer = "no-such" needs a file .*/balancers/no_such\.py'):
        Balancer("no-such", "No such", "").put_on(METHODS["fedavg"].load())


def test_controlled_names_the_phase():
    """Controllers of personal rounds are others than those of global rounds."""
    batch = a_balanced_batch(text_module(), "fed-grab", Facts(prior=COUNTS))
    batch.memory = {f"fed-grab/personal/{name}": torch.zeros(3) for name in ("P", "N", "u", "e1", "e2")}
    assert controlled(batch, Phase.PERSONAL).weigh is not None
    with pytest.raises(KeyError):
        controlled(batch, Phase.GLOBAL)
