"""Plans by hand, what marks an optimal one, and logits with a gradient at a constant plan."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import normalize

from fedpurel_app.functional import transport_logits, transport_plan


def sets(seed, images=3, patches=7, prompts=2, classes=4, width=5):
    """Features of patches (B, M, D) and of texts (N, C, D), in double precision."""
    generator = torch.Generator().manual_seed(seed)
    draw = [torch.randn(*shape, width, generator=generator, dtype=torch.double)
            for shape in ((images, patches), (prompts, classes))]  # fmt: skip
    return [normalize(one, dim=-1) for one in draw]


def cosines(patches, text):
    return torch.einsum("bmd,ncd->bcnm", patches, text)


def test_a_prompt_takes_of_two_patches_what_the_full_one_leaves():
    """K = (1, e^-2): the better patch would get 0.8 / (1 + e^-2) = 0.70, and has 0.5."""
    plan = transport_plan(torch.tensor([[0.5, 0.3]], dtype=torch.double), 0.8, 0.1, 10_000, 1e-9)
    assert torch.allclose(plan, torch.tensor([[0.5, 0.3]], dtype=torch.double), atol=1e-7)


def test_where_no_patch_is_full_mass_goes_by_the_kernel():
    """K = (1, e^-0.2): 0.8 / (1 + e^-0.2) = 0.44 < 0.5."""
    plan = transport_plan(torch.tensor([[0.5, 0.3]], dtype=torch.double), 0.8, 1.0)
    first = 0.8 / (1 + math.exp(-0.2))
    assert torch.allclose(plan, torch.tensor([[first, 0.8 - first]], dtype=torch.double), atol=1e-9)


def test_two_prompts_that_mirror_each_other_share_the_patches():
    """Both have 0.4, of which 1 / (1 + e^-2) goes the short way; each patch holds 0.4 < 0.5."""
    plan = transport_plan(torch.tensor([[0.5, 0.3], [0.3, 0.5]], dtype=torch.double), 0.8, 0.1)
    near = 0.4 / (1 + math.exp(-2))
    expected = torch.tensor([[near, 0.4 - near], [0.4 - near, near]], dtype=torch.double)
    assert torch.allclose(plan, expected, atol=1e-9)


@given(st.integers(0, 10**6), st.floats(0.1, 0.9), st.floats(0.03, 3), st.integers(1, 3), st.integers(2, 9))
def test_prompts_get_equal_parts_of_the_mass_and_no_patch_gives_more_than_it_has(seed, mass, epsilon, prompts, patches):
    similarity = cosines(*sets(seed, prompts=prompts, patches=patches))
    plan = transport_plan(similarity, mass, epsilon, 100_000)
    assert float(plan.min()) >= 0
    assert torch.allclose(plan.sum(-1), torch.full_like(plan[..., 0], mass / prompts), rtol=1e-9)
    assert float(plan.sum(-2).max()) <= 1.001 / patches


@pytest.mark.parametrize("epsilon", [0.03, 0.1, 10.0])
def test_the_plan_is_the_best_one(epsilon):
    """Where P / K = v u, patches that are not full have u = 1, and a full one u <= 1: the conditions of the optimum."""
    similarity = cosines(*sets(1, patches=20))
    plan = transport_plan(similarity, 0.8, epsilon, 100_000, 1e-10)
    scaled = (plan / torch.exp((similarity - 1) / epsilon)).log()  # log v + log u
    log_u = scaled - scaled.amax(-1, keepdim=True)
    assert torch.allclose(log_u[:, :, 0], log_u[:, :, 1], atol=1e-6)
    full = plan.sum(-2) > (1 - 1e-6) / 20
    assert full.any() == (epsilon < 10) and not full.all()
    assert float(log_u[:, :, 0][~full].abs().max()) < 1e-6


@pytest.mark.parametrize("epsilon", [1e-3, 1e-2, 0.1, 10.0, 1e8])
def test_it_is_finite_in_single_precision_whatever_epsilon(epsilon):
    similarity = cosines(*sets(0, patches=50)).float()
    plan = transport_plan(similarity, 0.8, epsilon)
    assert plan.isfinite().all() and torch.allclose(plan.sum(-1), torch.tensor(0.4), atol=1e-3)
    assert torch.equal(plan, transport_plan(similarity.half().float(), 0.8, epsilon)) == (epsilon == 1e8)


def test_a_problem_has_the_plan_that_it_has_alone():
    """Although those beside it take more iterations, or fewer."""
    similarity = cosines(*sets(2, patches=30)).float() * torch.tensor([0.01, 0.3, 1.0])[:, None, None, None]
    together = transport_plan(similarity, 0.8, 0.05)
    for index in range(3):
        for label in range(4):
            alone = transport_plan(similarity[index, label], 0.8, 0.05)
            assert torch.allclose(together[index, label], alone, atol=1e-6), "but for rounding"
    unfinished = transport_plan(similarity, 0.8, 0.05, tolerance=1e-7)
    assert float((unfinished - together).abs().max()) > 1e-5, "or it would hold of any"


@pytest.mark.parametrize(("mass", "epsilon", "iterations"), [(0.0, 0.1, 9), (1.1, 0.1, 9), (0.8, 0.0, 9), (0.8, 1, 0)])
def test_what_is_outside_its_range_is_refused(mass, epsilon, iterations):
    with pytest.raises(ValueError, match=f"mass = {mass}, epsilon = {epsilon}, iterations = {iterations}"):
        transport_plan(torch.zeros(1, 2), mass, epsilon, iterations)


def test_with_a_large_epsilon_logits_are_the_mean_similarity_of_patches():
    patches, text = sets(4)
    expected = 0.8 * cosines(patches, text).mean((-2, -1))
    assert torch.allclose(transport_logits(patches, text, 0.8, 1e9), expected, atol=1e-9)
    assert not torch.allclose(transport_logits(patches, text, 0.8, 0.1), expected, atol=0.05)


def test_logits_of_one_prompt_by_hand():
    """Cosines 1 and 0 of two patches: the better gives its 0.5, and the other 0.3 of nothing."""
    patches, text = torch.eye(2)[None], torch.tensor([[[1.0, 0.0]]])
    assert float(transport_logits(patches, text, 0.8, 0.1)) == pytest.approx(0.5, abs=1e-3)


def test_the_gradient_is_that_at_a_constant_plan():
    """Against differences of sum P cos with P held, and not of P as it moves."""
    patches, text = sets(5)
    weights = torch.randn(3, 4, generator=torch.Generator().manual_seed(6), dtype=torch.double)
    text = text.contiguous().requires_grad_()
    (found,) = torch.autograd.grad((weights * transport_logits(patches, text, 0.8, 0.1)).sum(), text)
    plan, step = transport_plan(cosines(patches, text.detach()), 0.8, 0.1), 1e-6
    moved = torch.zeros(text.shape, dtype=torch.double)
    for index in range(text.numel()):
        change = torch.zeros(text.shape, dtype=torch.double)
        change.view(-1)[index] = step
        both = [text.detach() + change, text.detach() - change]
        held = [(weights * (plan * cosines(patches, one)).sum((-2, -1))).sum() for one in both]
        free = [(weights * transport_logits(patches, one, 0.8, 0.1)).sum() for one in both]
        assert float(held[0] - held[1]) / (2 * step) == pytest.approx(float(found.reshape(-1)[index]), abs=1e-8)
        moved.view(-1)[index] = (free[0] - free[1]) / (2 * step)
    assert not torch.allclose(moved, found, atol=0.01)
