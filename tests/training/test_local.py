import itertools
import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from fedpurel_app.algorithms.fedpurel import global_step, residual_step
from fedpurel_app.algorithms.registry import METHODS
from fedpurel_app.core.phase import Phase
from fedpurel_app.core.sgd import SgdSettings
from fedpurel_app.functional import align, alignment_gradient, alignment_loss, kl_loss, purify, residual_loss
from fedpurel_app.training.inputs import LocalData
from fedpurel_app.training.local import _rates, _step, train


class Linear(nn.Module):
    """A module with hand-made logits: x W."""

    takes: Any  # what a module has besides, and nobody asks for here
    logit_scale: Any
    class_features: Any
    logits_of: Any
    frozen: Any

    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(weight.clone())

    def logits(self, inputs):
        return inputs @ self.weight

    def with_text(self, inputs):
        return self.logits(inputs), torch.zeros(0)


def setting(rows=20, width=3, classes=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(rows, width, generator=generator)
    labels = torch.randint(classes, (rows,), generator=generator)
    weight = torch.randn(width, classes, generator=generator)
    # Near the student, as zero-shot CLIP is: so far from the labels that the two gradients often conflict.
    reference = 2 * inputs @ weight + 0.5 * torch.randn(rows, classes, generator=generator)
    return LocalData(inputs, labels, reference), weight


def sgd(**changes):
    plain: dict[str, Any] = {"learning_rate": 0.1, "momentum": 0.0, "weight_decay": 0.0, "batch_size": 100, "epochs": 1}
    return SgdSettings(**plain | changes)


def rule_of(name):
    return METHODS[name].load().visits[Phase.GLOBAL].rule


def options_of(name, **changes):
    return METHODS[name].defaults() | {key.replace("_", "-"): value for key, value in changes.items()}


FEDPUREL = options_of("fedpurel")


def run(weight, data, step, settings, seed=0, options=FEDPUREL):
    module = Linear(weight)
    metrics = train(module, data, step, settings, torch.Generator().manual_seed(seed), options)
    return module.weight.detach(), metrics


def gradient(weight, loss):
    weight = weight.clone().requires_grad_()
    return torch.autograd.grad(loss(weight), weight)[0]


def plain_step(name, weight, data, options):
    """The step as the definitions state it: two losses, two backward passes through softmax graphs."""

    def task_loss(w):
        return functional.cross_entropy(data.inputs @ w, data.labels)

    def regulariser(w):
        loss = alignment_loss if name == "fedpurel" else kl_loss
        return loss(data.inputs @ w, data.reference_logits)

    task = gradient(weight, task_loss)
    if name == "fedavg":
        return task
    other = gradient(weight, regulariser)
    if name == "fedavg-kl":
        return task + options["penalty-weight"] * other
    return purify([task], [other])[0]


@pytest.mark.parametrize("name", ["fedpurel", "fedavg", "fedavg-kl", "prograd"])
@pytest.mark.parametrize("seed", range(4))
def test_one_step_equals_the_definition(name, seed):
    data, weight = setting(seed=seed)
    options = options_of(name, **({"penalty_weight": 0.7} if name == "fedavg-kl" else {}))
    ours, _ = run(weight, data, rule_of(name), sgd(), options=options)
    assert torch.allclose(ours, weight - 0.1 * plain_step(name, weight, data, options), atol=1e-6)


class Affine(Linear):
    """x W + b: two tensors, so that the scope of the projection shows."""

    def __init__(self, weight, bias):
        super().__init__(weight)
        self.bias = nn.Parameter(bias.clone())

    def logits(self, inputs):
        return inputs @ self.weight + self.bias


def steps_of_all_options(seed):
    """One step for each scope and variant, held against the definition."""
    data, weight = setting(seed=seed)
    results = {}
    for scope in ("global", "tensor"):
        for variant in ("frozen", "implicit"):
            module = Affine(weight, 0.3 * weight[0])
            parameters = [module.weight, module.bias]
            logits = module.logits(data.inputs)
            task = torch.autograd.grad(functional.cross_entropy(logits, data.labels), parameters, retain_graph=True)
            cotangent = alignment_gradient(align(logits.detach(), data.reference_logits), variant)
            expected = purify(task, torch.autograd.grad(logits, parameters, cotangent), scope)
            options = options_of("fedpurel", projection_scope=scope, align_gradient=variant)
            before = [value.detach().clone() for value in parameters]
            train(module, data, global_step, sgd(), torch.Generator().manual_seed(0), options)
            for value, old, gradient in zip(parameters, before, expected, strict=True):
                assert torch.allclose(value, old - 0.1 * gradient, atol=1e-6), (scope, variant)
            results[scope, variant] = torch.cat([value.detach().flatten() for value in parameters])
    return results


def test_options_reach_the_step():
    runs = [steps_of_all_options(seed) for seed in range(6)]
    for first, second in itertools.combinations(runs[0], 2):
        assert any(not torch.allclose(run[first], run[second]) for run in runs), (first, second)


def test_residual_step_equals_the_definition():
    data, weight = setting()
    ours, metrics = run(weight, data, residual_step, sgd(), options=options_of("fedpurel", private_weight=0.6))

    def loss(w):
        return residual_loss(data.reference_logits, data.inputs @ w, data.labels, 0.6)

    assert torch.allclose(ours, weight - 0.1 * gradient(weight, loss), atol=1e-6)
    assert metrics["loss"] == pytest.approx(float(loss(weight)), rel=1e-5)


def test_momentum_and_decay_act_after_purification():
    """Three full-batch steps by hand: v <- 0.9 v + (g + 0.01 w), w <- w - 0.1 v, with g purified before decay."""
    data, weight = setting()
    ours, _ = run(weight, data, global_step, sgd(momentum=0.9, weight_decay=0.01, epochs=3))
    expected, velocity = weight.clone(), torch.zeros_like(weight)
    for _ in range(3):
        velocity = 0.9 * velocity + plain_step("fedpurel", expected, data, FEDPUREL) + 0.01 * expected
        expected = expected - 0.1 * velocity
    assert torch.allclose(ours, expected, atol=1e-5)


def test_sgd_is_torchs():
    generator = torch.Generator().manual_seed(0)
    ours, theirs = ([nn.Parameter(torch.full(shape, 0.5)) for shape in ((3, 4), (5,))] for _ in range(2))
    settings = sgd(momentum=0.9, weight_decay=0.1)
    velocity: list[torch.Tensor | None] = [None] * len(ours)
    groups = [{"params": theirs[:1], "lr": 0.1}, {"params": theirs[1:], "lr": 0.2}]
    reference = torch.optim.SGD(groups, momentum=0.9, weight_decay=0.1)
    rates = _rates(["shared.w", "own.b"], 0.1, {"own.": 0.2})
    assert rates == [(0.1, [0]), (0.2, [1])]
    for _ in range(5):
        gradients = [torch.randn(value.shape, generator=generator) for value in ours]
        for value, gradient in zip(theirs, gradients, strict=True):
            value.grad = gradient.clone()
        reference.step()
        _step(ours, gradients, velocity, settings, rates)
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize(
    ("rows", "batch", "epochs", "steps"), [(20, 8, 1, 2), (20, 8, 3, 6), (5, 8, 1, 1), (16, 8, 1, 2)]
)
def test_partial_batches_are_dropped_when_there_is_a_full_one(rows, batch, epochs, steps):
    data, weight = setting(rows)
    _, metrics = run(weight, data, rule_of("fedavg"), sgd(batch_size=batch, epochs=epochs))
    assert metrics["steps"] == steps


@pytest.mark.parametrize(("rows", "batch", "steps"), [(20, 8, 3), (5, 8, 1), (16, 8, 2)])
def test_partial_batches_are_kept_on_demand(rows, batch, steps):
    data, weight = setting(rows)
    _, metrics = run(weight, data, rule_of("fedavg"), sgd(batch_size=batch, drop_last=False))
    assert metrics["steps"] == steps


def test_every_image_has_its_share_of_a_pass_that_keeps_the_last_batch():
    """Of 3 images in batches of 2, the one that is left over makes a step of its own."""
    data, weight = setting(3)
    order = torch.randperm(3, generator=torch.Generator().manual_seed(0))
    expected = weight
    for rows in order.split(2):
        inputs, labels = data.inputs[rows], data.labels[rows]
        loss = partial(lambda x, y, w: functional.cross_entropy(x @ w, y), inputs, labels)
        expected = expected - 0.1 * gradient(expected, loss)
    ours, _ = run(weight, data, rule_of("fedavg"), sgd(batch_size=2, drop_last=False))
    assert torch.allclose(ours, expected, atol=1e-6)


@pytest.mark.parametrize("steps", [1, 5, 7])
def test_local_steps_are_as_many_whatever_the_number_of_images(steps):
    for rows in (3, 20, 100):
        data, weight = setting(rows)
        _, metrics = run(weight, data, rule_of("fedavg"), sgd(batch_size=4, epochs=1, fixed_steps=steps))
        assert metrics["steps"] == steps


def test_local_steps_that_make_whole_passes_are_those_passes_to_the_bit():
    data, weight = setting(20)
    by_steps, by_epochs = (
        run(weight, data, global_step, sgd(batch_size=8, momentum=0.9, **pace))[0]
        for pace in ({"fixed_steps": 6}, {"epochs": 3})
    )
    assert torch.equal(by_steps, by_epochs)


def test_the_generator_orders_the_data():
    data, weight = setting()
    step, settings = global_step, sgd(batch_size=4, momentum=0.9)
    first, again, other = (run(weight, data, step, settings, seed)[0] for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_what_is_reported():
    data, weight = setting()
    ours, metrics = run(weight, data, global_step, sgd())
    task = gradient(weight, lambda w: functional.cross_entropy(data.inputs @ w, data.labels))
    align = gradient(weight, lambda w: alignment_loss(data.inputs @ w, data.reference_logits))
    cosine = float((task * align).sum() / task.norm() / align.norm())
    assert metrics["angle"] == pytest.approx(math.degrees(math.acos(cosine)), abs=0.1)
    assert metrics["conflict"] == float(cosine < 0)
    assert metrics["drift"] == pytest.approx(float((ours - weight).norm()), rel=1e-5)
    assert metrics["align-loss"] == pytest.approx(
        float(alignment_loss(data.inputs @ weight, data.reference_logits)), rel=1e-4
    )


def test_projection_acts_somewhere():
    """Among random settings some must conflict, or the tests above would not see the projection."""
    conflicts = []
    for seed in range(8):
        data, weight = setting(seed=seed)
        _, metrics = run(weight, data, global_step, sgd())
        conflicts.append(metrics["conflict"])
    assert 0 < sum(conflicts) < 8


@pytest.mark.parametrize("wrong", ["too many", "too few", "of another shape"])
def test_gradients_that_do_not_fit_are_refused_by_their_shapes(wrong):
    def rule(batch):
        gradients, metrics = rule_of("fedavg")(batch)
        return {"too many": 2 * gradients, "too few": [], "of another shape": [gradients[0].mean(0)]}[wrong], metrics

    data, weight = setting()
    with pytest.raises(ValueError, match=r"gradients of shapes .*; the parameters have \[\(3, 4\)\]"):
        train(Linear(weight), data, rule, sgd(), torch.Generator(), FEDPUREL)
