"""Pareto personalisation, by hand: the losses, the knob, what is averaged, and both schedules."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import Tensor, nn
from torch.nn import functional

from fedpurel_app.algorithms.base import Batch, Begun, Facts, Models
from fedpurel_app.algorithms.fedpurel import residual_step
from fedpurel_app.algorithms.pareto import objectives, pareto_step
from fedpurel_app.algorithms.registry import METHODS
from fedpurel_app.config import load_config
from fedpurel_app.core.errors import ConfigError
from fedpurel_app.core.phase import Phase
from fedpurel_app.functional import loss_weights, smoothed_log_prior
from fedpurel_app.models.peft.base import FromText, load_parameters, parameters_of
from fedpurel_app.models.peft.knobs import Perceptron
from fedpurel_app.models.peft.pareto import Pareto
from tests.support import private_files, run_tiny, run_whole_and_resumed, timeless

COPSL = METHODS["copsl"]
LOG_PRIOR = torch.tensor([0.9, 0.1]).log()


class Text(FromText, nn.Module):
    """Logits x T, of text features T that are the parameter."""

    takes, logit_scale = "features", 1.0

    def __init__(self, text):
        super().__init__()
        self.text = nn.Parameter(torch.as_tensor(text, dtype=torch.float32))

    def class_features(self):
        return self.text

    def logits_of(self, inputs, class_features):
        return inputs @ class_features.T


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def a_pareto(text: Any, rank: int = 2, preferences: int = 2, draws: int = 1, shifts: bool = True) -> Pareto:
    base: Any = Text(text)
    knob = Perceptron(preferences, rank, generator()) if rank else None
    return Pareto(base, knob, preferences, rank, draws, shifts)


def a_batch(module: Any, inputs: Tensor, labels: Tensor, reference: Tensor, **options: Any) -> Batch:
    module.train(True)
    trained = [value for _, value in module.named_parameters()]
    values = COPSL.defaults() | {key.replace("_", "-"): value for key, value in options.items()}
    return Batch(inputs, labels, module.logits(inputs), reference, module, trained,
                 [value.detach() for value in trained], Facts(), values, 0.1, torch.Generator())  # fmt: skip


INPUTS = torch.tensor([[1.0, 0.5], [-0.3, 2.0], [0.7, -1.0]])
LABELS, COMMON = torch.tensor([0, 1, 1]), torch.tensor([[0.2, -0.1], [0.0, 0.4], [1.0, 0.3]])
PLANE = [[0.3, -0.2], [0.1, 0.6]]


# --- the module -------------------------------------------------------------------------------------------------------


def test_with_no_basis_the_knob_is_logit_adjustment_after_training():
    """B = 0, as at first: l(p) = l_G + l_P - p_all log pi, exactly."""
    module, plain = a_pareto(PLANE, rank=8), INPUTS @ torch.tensor(PLANE).T
    for own in (0.0, 0.3, 1.0):
        found = module.at(torch.tensor([own, 1 - own]), LOG_PRIOR).frozen()(INPUTS)
        assert torch.equal(found, plain - torch.tensor(1 - own) * LOG_PRIOR)
    assert torch.equal(a_pareto(PLANE, shifts=False).at(torch.tensor([0.0, 1.0]), LOG_PRIOR).frozen()(INPUTS), plain)


def test_parameters_go_along_the_basis_as_h_says():
    """phi0 + B h(p) / sqrt(2), with h made to be p itself."""
    module = a_pareto(PLANE, rank=2)
    values = dict(module.named_parameters())
    with torch.no_grad():
        for name, value in values.items():
            value.zero_() if name.startswith("h.") or name == "own.basis.text" else None
        values["h.inner.weight"][:2] = torch.eye(2)
        values["h.outer.weight"][:, :2] = torch.eye(2)
        values["own.basis.text"][0, 1] = torch.tensor([2.0, -1.0])
    found = module.parameters_at(torch.tensor([0.25, 0.75]))["text"]
    moved = torch.tensor(PLANE)
    moved[0, 1] += (2 * 0.25 - 0.75) / math.sqrt(2)
    assert torch.allclose(found, moved)
    into: Any = Text(torch.zeros(2, 2))
    bias = module.at(torch.tensor([0.25, 0.75]), LOG_PRIOR).settle(into)
    assert bias is not None and torch.allclose(into.text, moved) and torch.allclose(bias, -0.75 * LOG_PRIOR)


def test_names_say_what_stays_and_what_is_shared():
    shapes = {name: tuple(value.shape) for name, value in a_pareto(PLANE, rank=8).named_parameters()}
    knob = {name: shape for name, shape in shapes.items() if name.startswith("h.")}
    assert sum(math.prod(shape) for shape in knob.values()) == 712  # 2.8 KB
    assert set(shapes) - set(knob) == {"own.text", "own.basis.text"} and shapes["own.basis.text"] == (2, 2, 8)
    assert [name for name, _ in a_pareto(PLANE, rank=0).named_parameters()] == ["own.text"]


def test_preferences_are_drawn_in_training_alone_and_are_uniform_on_the_simplex():
    module = a_pareto(PLANE, draws=4000, preferences=3)
    assert module.logits(INPUTS).shape == (3, 2)
    module.train(True)
    torch.manual_seed(0)
    assert module.logits(INPUTS[:1]).shape == (1, 4000, 2)
    drawn = module.drawn
    assert torch.allclose(drawn.sum(1), torch.ones(4000)) and (drawn >= 0).all()
    # Of Dirichlet(1, 1, 1): mean 1/3, variance 2 / (9 * 4), with 5 standard errors.
    assert torch.allclose(drawn.mean(0), torch.full((3,), 1 / 3), atol=5 * math.sqrt(1 / 18 / 4000))
    assert torch.allclose(drawn.var(0), torch.full((3,), 1 / 18), atol=0.005)


# --- the losses -------------------------------------------------------------------------------------------------------


def losses_of(own, log_prior, common=COMMON, weight=0.9):
    """l_own, l_all and l_keep of logits l_P, by torch's own functions."""
    both = own + common

    def task(offset):
        total = functional.cross_entropy(both + offset, LABELS)
        return (1 - weight) * total + weight * functional.cross_entropy(own + offset, LABELS)

    keep = functional.kl_div(both.log_softmax(1), common.log_softmax(1), reduction="batchmean", log_target=True)
    return torch.stack([task(0.0), task(log_prior), keep])


def test_losses_and_their_gradients_are_those_of_autograd():
    own = torch.tensor([[0.4, -0.3], [0.2, 0.1], [-0.5, 0.9]], requires_grad=True)
    batch = a_batch(a_pareto(PLANE), INPUTS, LABELS, COMMON)
    gradients, losses = objectives(batch, own.detach(), LOG_PRIOR, 3)
    expected = losses_of(own, LOG_PRIOR)
    assert torch.allclose(losses, expected.detach())
    for number in range(3):
        (gradient,) = torch.autograd.grad(expected[number], own, retain_graph=True)
        assert torch.allclose(gradients[number], gradient, atol=1e-6)
    assert torch.equal(objectives(batch, own.detach(), LOG_PRIOR, 2)[0], gradients[:2])


def test_both_losses_are_one_where_the_site_has_all_classes_alike():
    even = smoothed_log_prior(torch.tensor([7, 7]))
    gradients, losses = objectives(a_batch(a_pareto(PLANE), INPUTS, LABELS, COMMON), COMMON, even, 2)
    assert torch.allclose(losses[0], losses[1]) and torch.allclose(gradients[0], gradients[1], atol=1e-6)


@pytest.mark.parametrize(("own", "expected"), [(0.0, 0.0), (0.5, 1.5388), (1.0, math.log(9))])
def test_what_images_say_nothing_of_is_settled_by_the_preference(own, expected):
    """d = l_1 - l_2 solves p_1 (s(d) - 0.9) + p_2 (s(d + ln 9) - 0.9) = 0, s the logistic function."""
    labels = torch.tensor([0] * 9 + [1])
    batch = a_batch(a_pareto(PLANE), torch.zeros(10, 2), labels, torch.zeros(10, 2), private_weight=0.0)

    def slope(d: float) -> float:
        logits = torch.tensor([[d, 0.0]]).expand(10, 2)
        gradients, losses = objectives(batch, logits, LOG_PRIOR, 2)
        weights = loss_weights(torch.tensor([own, 1 - own]), losses, losses, "linear")
        return float((weights[:, None, None] * gradients).sum(0)[:, 0].sum())

    low, high = -5.0, 5.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    assert low == pytest.approx(expected, abs=1e-4)


def test_the_tchebycheff_form_is_the_gradient_of_what_it_says():
    """max_i ((l_i - z_i) / p_i) / sum_j (1 / p_j) + 0.01 sum_i l_i."""
    p, least = torch.tensor([0.2, 0.5, 0.3]), torch.tensor([0.1, 0.0, 0.2])
    losses = torch.tensor([0.5, 1.4, 0.3], requires_grad=True)
    value = ((losses - least) / p).max() / (1 / p).sum() + 0.01 * losses.sum()
    (expected,) = torch.autograd.grad(value, losses)
    assert torch.allclose(loss_weights(p, losses.detach(), least, "tchebycheff"), expected)
    at_a_corner = loss_weights(torch.tensor([1.0, 0.0]), torch.tensor([1.0, 1.0]), torch.zeros(2), "tchebycheff")
    assert at_a_corner.isfinite().all() and float(at_a_corner.max()) <= 1.01


# --- the step ---------------------------------------------------------------------------------------------------------


def test_at_the_sites_own_mix_without_a_basis_a_step_is_that_of_fedpurel_to_the_bit(monkeypatch):
    one = a_pareto(PLANE, rank=0)
    one.log_prior = LOG_PRIOR
    monkeypatch.setattr(torch.Tensor, "exponential_", lambda self: self.copy_(torch.tensor([1.0, 0.0])))
    ours, _ = pareto_step(a_batch(one, INPUTS, LABELS, COMMON))
    plain: Any = Text(PLANE)
    theirs, _ = residual_step(a_batch(plain, INPUTS, LABELS, COMMON))
    assert torch.equal(one.drawn, torch.tensor([[1.0, 0.0]]))
    assert [value.numpy().tobytes() for value in ours] == [value.numpy().tobytes() for value in theirs]


@pytest.mark.parametrize("preferences", [2, 3])
def test_a_step_is_the_gradient_of_the_weighted_losses_for_all_parameters(preferences):
    module = a_pareto(PLANE, rank=3, preferences=preferences, draws=2)
    module.log_prior = LOG_PRIOR
    with torch.no_grad():
        dict(module.named_parameters())["own.basis.text"].normal_(generator=generator())
    batch = a_batch(module, INPUTS, LABELS, COMMON)
    found, metrics = pareto_step(batch)
    total = torch.zeros(())
    for p in module.drawn:
        own = INPUTS @ module.parameters_at(p)["text"].T - p[1] * LOG_PRIOR
        total = total + (p * losses_of(own, LOG_PRIOR)[:preferences]).sum() / 2
    expected = torch.autograd.grad(total, batch.trained)
    assert float(metrics["loss"]) == pytest.approx(float(total.detach()), rel=1e-5)
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_the_tchebycheff_form_remembers_the_least_losses():
    module = a_pareto(PLANE)
    module.log_prior = LOG_PRIOR
    batch = a_batch(module, INPUTS, LABELS, COMMON, scalarisation="tchebycheff")
    batch.memory["least-losses"] = torch.tensor([1e-3, 9.0])
    pareto_step(batch)
    least = batch.memory["least-losses"]
    assert least[0] == torch.tensor(1e-3) and 0 < float(least[1]) < 9
    plain = a_batch(module, INPUTS, LABELS, COMMON)
    pareto_step(plain)
    assert not plain.memory


def test_a_site_counts_its_classes_before_it_trains():
    visit = COPSL.load().visits[Phase.PERSONAL]
    module, memory = a_pareto(PLANE), dict[str, Tensor]()
    assert visit.begin is not None
    with pytest.raises(ValueError, match="class counts are not known"):
        visit.begin(Begun(module, INPUTS, LABELS, Facts(), {}, memory))
    with pytest.raises(ValueError, match="class counts are not known"):
        pareto_step(a_batch(module, INPUTS, LABELS, COMMON))
    visit.begin(Begun(module, INPUTS, LABELS, Facts(counts=torch.tensor([3, 0])), {}, memory))
    # (3 + 1/2) / (3 + 1) and (0 + 1/2) / (3 + 1)
    assert torch.allclose(memory["log-prior"].exp(), torch.tensor([0.875, 0.125]))
    assert module.log_prior is memory["log-prior"]


def test_a_model_is_asked_for_by_a_preference():
    personalized, module = COPSL.load().personalized, a_pareto(PLANE)
    assert personalized is not None
    shared: Any = Text(torch.eye(2))
    _, own = personalized(Models(shared, module, {"log-prior": LOG_PRIOR}))
    _, asked = personalized(replace(Models(shared, module, {"log-prior": LOG_PRIOR}), preference=(0.2, 0.8)))
    plain = INPUTS @ torch.tensor(PLANE).T
    assert torch.equal(own.frozen()(INPUTS), plain)
    assert torch.allclose(asked.frozen()(INPUTS), plain - 0.8 * LOG_PRIOR)
    assert personalized(Models(shared)) == (shared,)


# --- runs -------------------------------------------------------------------------------------------------------------


SMALL = {"algorithm": "copsl", "global_rounds": 2, "experiment_id": "e", "learning_rate": 0.5}


def arrays_of(folder):
    return folder.read_checkpoint()[0]


@pytest.mark.parametrize("schedule", ["two-phase", "interleaved"])
def test_personal_rounds_send_and_average_h_alone_and_global_rounds_have_none_of_it(tmp_path, schedule):
    replies: list[tuple[int, str, dict[str, np.ndarray], int]] = []
    asked: dict[str, set[str]] = {"train": set(), "train.personalize": set()}

    def spy(message, reply):
        kind = message.metadata.message_type
        if kind in asked:
            asked[kind] |= set(message.content["arrays"])
            arrays = {name: value.numpy() for name, value in reply.content["arrays"].items()}
            number = message.content["config"]["round"]
            replies.append((number, kind, arrays, reply.content["metrics"]["num-examples"]))

    folder = run_tiny(tmp_path, **SMALL, schedule=schedule, grid={"spy": spy})
    knob = {"h.inner.weight", "h.inner.bias", "h.outer.weight", "h.outer.bias"}
    sent = {kind: {name for _, one, arrays, _ in replies for name in arrays if one == kind} for kind in asked}
    assert sent == {"train": {"residual"}, "train.personalize": knob}
    assert asked == {"train": {"residual"}, "train.personalize": {"residual", *knob}}
    last = [(arrays, number) for round_, kind, arrays, number in replies if round_ == 4]
    found, images = arrays_of(folder), sum(number for _, number in last)
    for name in knob:
        mean = sum(number * arrays[name].astype(float) for arrays, number in last) / images
        assert np.allclose(found[name], mean, atol=1e-6) and (found[name] != last[0][0][name]).any()
    kept = {name for path in folder.path.rglob("private-*.safetensors") for name in load_file(path)}
    assert kept == {"own.residual", "own.basis.residual", "memory/log-prior"}


def test_global_rounds_are_those_of_fedpurel_to_the_bit(tmp_path):
    ours = run_tiny(tmp_path / "ours", **SMALL, personal_rounds=1)
    theirs = run_tiny(tmp_path / "theirs", **SMALL | {"algorithm": "fedpurel"}, personal_rounds=1)
    assert arrays_of(ours)["residual"].tobytes() == arrays_of(theirs)["residual"].tobytes()
    assert ours.rounds()[1]["bytes_down"] == theirs.rounds()[1]["bytes_down"]
    drop = ("seconds", "zero_shot", "bytes_down")  # an evaluation's messages have h
    first, second = ([{k: v for k, v in line.items() if k not in drop} for line in one.rounds()[:3]]
                     for one in (ours, theirs))  # fmt: skip
    assert first == second, "bytes that sites sent, too"


def test_two_sites_of_a_number_each_average_h_and_nothing_else(tmp_path):
    """What each keeps is what it trained; and with one h for both, their branches differ."""
    folder = run_tiny(tmp_path, **SMALL, num_sites=2, fraction_train=1.0)
    (one, other) = (load_file(path) for path in sorted(folder.path.rglob("private-000004.safetensors")))
    for name in ("own.residual", "own.basis.residual", "memory/log-prior"):
        assert not np.array_equal(one[name], other[name]), name
    assert not {name for name in arrays_of(folder) if name.startswith("own.")}


@pytest.mark.parametrize("schedule", ["two-phase", "interleaved"])
@pytest.mark.parametrize("scalarisation", ["linear", "tchebycheff"])
def test_a_resumed_run_is_the_same_run(tmp_path, schedule, scalarisation):
    changes = SMALL | {"schedule": schedule, "scalarisation": scalarisation, "fraction_train": 0.7}
    whole, cut = run_whole_and_resumed(tmp_path, "train.personalize", 4, **changes)
    assert private_files(cut) and private_files(cut) == private_files(whole) and timeless(cut) == timeless(whole)
    first, second = arrays_of(whole), arrays_of(cut)
    assert all(first[name].tobytes() == second[name].tobytes() for name in first) and first.keys() == second.keys()


def test_a_branch_may_begin_at_the_global_model(tmp_path):
    private: Any = a_pareto(PLANE)
    load_parameters(private.base, {"text": torch.ones(2, 2)})
    assert torch.equal(parameters_of(private)["own.text"], torch.ones(2, 2))
    starts = [
        run_tiny(tmp_path / start, **SMALL, private_init=start, private_learning_rate=1e-9)
        for start in ("global", "independent")
    ]
    from_global, fresh = (next(iter(map(load_file, one.path.rglob("private-000004.safetensors")))) for one in starts)
    assert np.allclose(from_global["own.residual"], arrays_of(starts[0])["residual"], atol=1e-6)
    assert not fresh["own.residual"].any() or not np.allclose(fresh["own.residual"], from_global["own.residual"])


def test_a_knob_of_no_rank_sends_nothing(tmp_path):
    sent = set()

    def spy(message, reply):
        if message.metadata.message_type == "train.personalize":
            sent.update(reply.content.get("arrays", {}))

    folder = run_tiny(tmp_path, **SMALL, pareto_rank=0, grid={"spy": spy})
    assert not sent and set(arrays_of(folder)) == {"residual"} and folder.summary()["personalized"]


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"privacy": "server-fixed"}, 'set privacy = "none"'),
        ({"aggregation": "norm-clipping"}, 'another aggregation than "norm-clipping"'),
        ({"balancer": "logit-adjustment"}, 'set balancer = "none"'),
        ({"preferences": 4}, "preferences"),
        ({"pareto-rank": 65}, "pareto-rank"),
        ({"scalarisation": "cosmos"}, "scalarisation"),
    ],
)
def test_what_the_knob_cannot_go_with_is_refused(changes, what):
    with pytest.raises(ConfigError, match=what):
        load_config({"algorithm": "copsl", **changes})
    with pytest.raises(ConfigError, match='"copsl"'):
        load_config({"algorithm": "fedpurel", "pareto-rank": 4})


def test_a_median_of_knobs_goes_too(tmp_path):
    assert run_tiny(tmp_path, **SMALL, aggregation="median", fraction_train=1.0).summary()["outcome"] == "completed"
