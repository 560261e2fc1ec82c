"""Variants of FedPuReL beyond its paper, by hand: one step of each, and what stays true in every step."""

from typing import Any

import pytest
import torch
from torch import nn

from fedpurel_app.algorithms.base import Batch, Facts
from fedpurel_app.algorithms.beyond.projection import projected
from fedpurel_app.algorithms.beyond.registry import VARIANTS
from fedpurel_app.algorithms.beyond.strength import strength
from fedpurel_app.algorithms.fedpurel import aligned_kl, global_step
from fedpurel_app.algorithms.registry import METHODS
from fedpurel_app.config import load_config
from fedpurel_app.core.errors import ConfigError
from fedpurel_app.core.phase import Phase
from fedpurel_app.core.sgd import SgdSettings
from fedpurel_app.experiment import Experiment
from fedpurel_app.functional import purify
from fedpurel_app.functional.projection import purify_with_statistics
from fedpurel_app.training.inputs import LocalData
from fedpurel_app.training.local import train
from tests.support import run_tiny, timeless, tiny_config

FEDPUREL = METHODS["fedpurel"].defaults()


def sums(rows, labels, facts=None, velocity=(), momentum=0.0, decay=0.0, at=(0.0, 0.0), **options):
    """A batch whose logits are rows of coefficients times one parameter of shape (2,), so that ways back are sums."""
    unread: Any = None
    weight = nn.Parameter(torch.tensor(at))
    output = torch.tensor(rows) * weight
    chosen = FEDPUREL | {key.replace("_", "-"): value for key, value in options.items()}
    optimiser = {"velocity": velocity, "momentum": momentum, "decay": decay}
    return Batch(torch.zeros(0), torch.tensor(labels), output, output.detach(), unread, [weight], [weight.detach()],
                 facts or Facts(), chosen, 0.1, torch.Generator(), **optimiser)  # fmt: skip


ONES = [[1.0, 1.0], [1.0, 1.0]]
TASK, GUIDE = torch.tensor([[3.0, -4.0], [0.0, 0.0]]), torch.tensor([[0.0, 0.0], [0.0, 2.0]])


@pytest.mark.parametrize(("factor", "second"), [(0.0, -4.0), (0.25, -3.0), (1.0, 0.0), (1.5, 2.0)])
def test_the_strength_says_how_much_of_the_opposing_component_goes(factor, second):
    """g_task = (3, -4), g_align = (0, 2): the component along g_align is -4, of which a share goes."""
    found = projected(sums(ONES, [0, 1], projection_strength=factor), TASK, GUIDE)
    assert torch.equal(found.gradients[0], torch.tensor([3.0, second]))
    assert float(found.conflict) == 1 and float(found.cosine) == pytest.approx(-0.8)


@pytest.mark.parametrize("factor", [0.0, 0.5, 3.0])
def test_without_a_conflict_no_strength_changes_anything(factor):
    found = projected(sums(ONES, [0, 1], projection_strength=factor), -TASK, GUIDE)
    assert torch.equal(found.gradients[0], torch.tensor([-3.0, 4.0])) and float(found.conflict) == 0


def test_strength_goes_by_tensor_too():
    task, align = [torch.tensor([1.0, -2.0]), torch.tensor([-5.0])], [torch.tensor([0.0, 1.0]), torch.tensor([-1.0])]
    found = purify_with_statistics(task, align, "tensor", strength=0.5).gradients
    assert torch.equal(found[0], torch.tensor([1.0, -1.0])) and torch.equal(found[1], task[1])


def test_schedules_are_lines_over_the_rounds():
    def over(schedule):
        return [
            strength({"projection-strength": 2.0, "projection-schedule": schedule}, p) for p in (0, 0.25, 0.5, 0.75)
        ]

    assert over("constant") == [2.0] * 4
    assert over("rising") == [0.0, 0.5, 1.0, 1.5]
    assert over("falling") == [2.0, 1.5, 1.0, 0.5]


def test_progress_is_the_share_of_the_phases_rounds_that_are_done():
    two = load_config({"global-rounds": 4, "personal-rounds": 2})
    assert [two.progress(Phase.GLOBAL, number) for number in (1, 2, 3, 4)] == [0, 0.25, 0.5, 0.75]
    assert [two.progress(Phase.PERSONAL, number) for number in (5, 6, 99)] == [0, 0.5, 0.5]  # nobody makes it 1
    turns = load_config({"global-rounds": 2, "schedule": "interleaved"})
    assert [turns.progress(Phase.GLOBAL, number) for number in (1, 3)] == [0, 0.5]
    assert [turns.progress(Phase.PERSONAL, number) for number in (2, 4)] == [0, 0.5]
    assert load_config({"global-rounds": 2, "personal-rounds": 0}).progress(Phase.PERSONAL, 1) == 0


def test_rounds_reach_the_step(tmp_path):
    """A strength that rises is 0 in the first round: what it trains is what is trained without purification."""
    settings = {"global_rounds": 2, "personal_rounds": 0, "evaluate_every": 1, "learning_rate": 0.5}
    rising = timeless(run_tiny(tmp_path / "a", projection_schedule="rising", **settings))
    none = timeless(run_tiny(tmp_path / "b", projection_strength=0.0, **settings))
    falling = timeless(run_tiny(tmp_path / "c", projection_schedule="falling", **settings))
    full = timeless(run_tiny(tmp_path / "d", **settings))
    assert full[1]["train"]["conflict"] > 0
    assert rising[1] == none[1] and rising[2] != none[2]
    assert falling[1] == full[1] and falling[2] != full[2]


def groups_of(*numbers):
    return Facts(groups=torch.tensor(numbers))


def test_every_group_of_classes_has_a_projection_of_its_own():
    """Class 0 is of Many, class 1 of Few, g_align = (0, 2).

    The images of Many have (3, -4), which loses its second part, those of Few (1, 5), which keeps it: the sum is
    (4, 5). As one gradient, (4, 1), they do not conflict at all: the tail's agreement would pay for the head.
    """
    task, guide = torch.tensor([[3.0, -4.0], [1.0, 5.0]]), torch.tensor([[0.0, 2.0], [0.0, 0.0]])
    facts = groups_of(0, 2)
    apart = projected(sums(ONES, [0, 1], facts, projection_scope="class-group"), task, guide)
    assert torch.equal(apart.gradients[0], torch.tensor([4.0, 5.0]))
    assert float(apart.conflict) == pytest.approx(1 / 3)  # of three groups, one of which has no image here
    whole = projected(sums(ONES, [0, 1], facts), task, guide)
    assert torch.equal(whole.gradients[0], torch.tensor([4.0, 1.0])) and float(whole.conflict) == 0
    assert float(apart.cosine) == pytest.approx(float(whole.cosine)) == pytest.approx(1 / 17**0.5)


def test_images_of_one_group_are_purified_as_ever():
    facts = groups_of(1, 1)
    apart = projected(sums(ONES, [0, 1], facts, projection_scope="class-group"), TASK, GUIDE)
    whole = projected(sums(ONES, [0, 1], facts), TASK, GUIDE)
    assert torch.equal(apart.gradients[0], whole.gradients[0])
    assert torch.equal(apart.gradients[0], torch.tensor([3.0, 0.0]))


def test_groups_must_be_known():
    with pytest.raises(ValueError, match="groups of classes are not known"):
        projected(sums(ONES, [0, 1], projection_scope="class-group"), TASK, GUIDE)


def test_sites_know_the_groups_of_the_federation(tmp_path):
    """Of four classes with falling numbers of images: terciles, the larger ones first."""
    config = {key: value for key, value in tiny_config(tmp_path).items() if key not in ("out", "num-sites")}
    one = Experiment(load_config(config), tmp_path)
    groups = one.federation.groups
    labels = one.images.labels("train", one.federation.partition(5).train[0])
    found = one.kit.facts(labels).groups
    assert groups is not None and found is not None
    for number, name in enumerate(("many", "medium", "few")):
        assert torch.nonzero(found == number)[:, 0].tolist() == groups[name].tolist()
    assert one.kit.facts().groups is None


def test_the_scope_is_of_use_with_one_tensor_when_it_goes_by_groups():
    assert load_config({"peft": "prompt", "projection-scope": "class-group"}).model_dump()["projection_scope"]
    with pytest.raises(ConfigError, match="projection-scope"):
        load_config({"peft": "prompt", "projection-scope": "tensor"})
    with pytest.raises(ConfigError, match="projection-scope"):
        load_config({"projection-scope": "class-group", "align-loss": "none"})


def test_what_the_optimiser_adds_is_momentum_and_decay():
    moving = sums(ONES, [0, 1], velocity=[torch.tensor([1.0, 2.0])], momentum=0.5, decay=0.1, at=(10.0, -10.0))
    assert torch.equal(moving.carried()[0], torch.tensor([1.5, 0.0]))
    first = sums(ONES, [0, 1], velocity=[None], momentum=0.5, decay=0.1, at=(10.0, -10.0))
    assert torch.equal(first.carried()[0], torch.tensor([1.0, -1.0]))


def test_the_step_is_purified_with_what_momentum_brings():
    """g_task = (3, 1) agrees with g_align = (0, 2); m v = (0, -6) makes the step (3, -5), which loses its -5.

    So the gradient is (3, 0) - (0, -6), from which the optimiser makes (3, 0).
    """
    task = torch.tensor([[3.0, 1.0], [0.0, 0.0]])
    batch = sums(ONES, [0, 1], velocity=[torch.tensor([0.0, -12.0])], momentum=0.5, projection_target="step")
    found = projected(batch, task, GUIDE)
    assert torch.equal(found.gradients[0], torch.tensor([3.0, 6.0])) and float(found.conflict) == 1
    of_gradient = projected(sums(ONES, [0, 1]), task, GUIDE)
    assert torch.equal(of_gradient.gradients[0], torch.tensor([3.0, 1.0]))


def test_by_groups_the_momentum_is_one_more_part():
    """Many has (3, -4) and Few (1, 5), as above, and m v = (0, -6) loses all: (3, 0) + (1, 5) + 0 - m v."""
    task, guide = torch.tensor([[3.0, -4.0], [1.0, 5.0]]), torch.tensor([[0.0, 2.0], [0.0, 0.0]])
    batch = sums(ONES, [0, 1], groups_of(0, 2), [torch.tensor([0.0, -12.0])], 0.5,
                 projection_target="step", projection_scope="class-group")  # fmt: skip
    found = projected(batch, task, guide)
    assert torch.equal(found.gradients[0], torch.tensor([4.0, 11.0]))
    assert float(found.conflict) == pytest.approx(2 / 4)


class Linear(nn.Module):
    """Logits x W."""

    takes: Any  # what a module has besides, and nobody asks for here
    logit_scale: Any
    class_features: Any
    logits: Any
    logits_of: Any
    frozen: Any

    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(weight.clone())

    def with_text(self, inputs):
        return inputs @ self.weight, torch.zeros(0)


def steps_of(seed, groups=(0, 1, 2, 2), **options):
    """Train some epochs; return, for every step, the parameters' change and the alignment gradient it began at."""
    generator = torch.Generator().manual_seed(seed)
    inputs, weight = torch.randn(40, 3, generator=generator), torch.randn(3, 4, generator=generator)
    labels = torch.randint(4, (40,), generator=generator)
    reference = 2 * inputs @ weight + 0.5 * torch.randn(40, 4, generator=generator)
    seen = []

    def spy(batch):
        seen.append((batch.trained[0].detach().clone(), batch.pull_back(aligned_kl(batch).gradient)[0]))
        return global_step(batch)

    chosen = FEDPUREL | {key.replace("_", "-"): value for key, value in options.items()}
    module, sgd = Linear(weight), SgdSettings(0.1, 0.9, 0.05, 8, 4)
    train(module, LocalData(inputs, labels, reference), spy, sgd, torch.Generator().manual_seed(seed), chosen,
          Facts(groups=torch.tensor(groups)))  # fmt: skip
    after = [*(before for before, _ in seen[1:]), module.weight.detach()]
    return [(new - before, aligned) for new, (before, aligned) in zip(after, seen, strict=True)]


def cosines(steps):
    return [float((moved * -aligned).sum() / moved.norm() / aligned.norm()) for moved, aligned in steps]


@pytest.mark.parametrize("scope", ["global", "tensor", "class-group"])
@pytest.mark.parametrize("seed", range(3))
def test_no_purified_step_opposes_clip_whatever_momentum_and_decay_bring(seed, scope):
    """<change of the parameters, -g_align> >= 0 at every step; of a purified gradient that does not hold."""
    assert min(cosines(steps_of(seed, projection_target="step", projection_scope=scope))) > -1e-5
    assert min(cosines(steps_of(seed, projection_scope=scope))) < -0.05


@pytest.mark.parametrize("seed", range(3))
def test_a_purified_step_is_that_of_the_definition(seed):
    """v <- purify(g + m v + d w), w <- w - r v: as the velocity is what is left of the step, it need not be asked."""
    velocity = torch.zeros(3, 4)
    generator = torch.Generator().manual_seed(seed)
    inputs, weight = torch.randn(8, 3, generator=generator), torch.randn(3, 4, generator=generator)
    labels, reference = torch.arange(8) % 4, 2 * inputs @ weight
    module = Linear(weight)
    guides: list[torch.Tensor] = []

    def spy(batch):
        guides.append(batch.pull_back(aligned_kl(batch).gradient)[0])
        return global_step(batch)

    sgd = SgdSettings(0.1, 0.9, 0.05, 8, 5)
    chosen = FEDPUREL | {"projection-target": "step"}
    train(module, LocalData(inputs, labels, reference), spy, sgd, torch.Generator().manual_seed(0), chosen)
    for aligned in guides:
        logits = inputs @ weight
        task = inputs.T @ (logits.softmax(1) - nn.functional.one_hot(labels, 4)) / 8
        (velocity,) = purify([task + 0.9 * velocity + 0.05 * weight], [aligned])
        weight = weight - 0.1 * velocity
    assert torch.allclose(module.weight.detach(), weight, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda one: one.name)
def test_a_variant_is_off_by_default_and_runs_when_it_is_put_on(tmp_path, variant):
    key, _, text = variant.setting.partition(" = ")
    value = text.strip('"') if '"' in text else float(text)
    assert load_config({}).model_dump(by_alias=True)[key] != value
    settings = {"learning_rate": 0.5, "personal_rounds": 1, "experiment_id": "e", "validation_share": 0.3}
    plain, other = (
        run_tiny(tmp_path / str(number), **settings, **more) for number, more in enumerate(({}, {key: value}))
    )
    assert timeless(plain)[-1] != timeless(other)[-1] and other.summary()["outcome"] == "completed"
