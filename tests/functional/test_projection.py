import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedpurel_app.functional import purify, purify_with_statistics

vectors = st.lists(st.floats(-100, 100, width=32), min_size=6, max_size=6)


def split(values):
    """One vector as two tensors of different shapes."""
    flat = torch.tensor(values)
    return [flat[:4].reshape(2, 2), flat[4:]]


def dot(left, right):
    return float(sum((a.double() * b.double()).sum() for a, b in zip(left, right, strict=True)))


def size(gradients):
    return math.sqrt(dot(gradients, gradients))


def test_by_hand():
    """g = (1, -1), a = (1, 3): <g, a> = -2, |a|^2 = 10, so g + 0.2 a = (1.2, -0.4)."""
    (purified,) = purify([torch.tensor([1.0, -1.0])], [torch.tensor([1.0, 3.0])])
    assert purified.tolist() == pytest.approx([1.2, -0.4])


@given(vectors, vectors)
def test_purified_gradient_never_opposes_alignment(task, align):
    task, align = split(task), split(align)
    purified = purify(task, align)
    assert dot(purified, align) >= -1e-5 * size(task) * size(align) or size(align) <= 1e-6 * size(task)


@given(vectors, vectors)
def test_agreeing_gradients_are_left_alone(task, align):
    task, align = split(task), split(align)
    if dot(task, align) < 0:
        align = [-value for value in align]
    if dot(task, align) > 1e-3:
        assert all(torch.equal(a, b) for a, b in zip(purify(task, align), task, strict=True))


@given(vectors, vectors, st.floats(1e-2, 1e2))
def test_scale_of_the_alignment_gradient_does_not_matter(task, align, scale):
    task, align = split(task), split(align)
    if 1e-3 * size(task) < size(align):
        ours = torch.cat([g.flatten() for g in purify(task, align)])
        scaled = torch.cat([g.flatten() for g in purify(task, [scale * value for value in align])])
        assert torch.allclose(ours, scaled, atol=1e-3 * max(1.0, size(task)))


def test_scopes_differ():
    """Tensor 1 agrees (+3), tensor 2 conflicts (-1): one inner product over all is positive and changes nothing."""
    task, align = [torch.tensor([3.0]), torch.tensor([-1.0])], [torch.tensor([1.0]), torch.tensor([1.0])]
    assert [g.item() for g in purify(task, align, "global")] == [3.0, -1.0]
    assert [g.item() for g in purify(task, align, "tensor")] == [3.0, 0.0]
    assert purify_with_statistics(task, align, "global").conflict == 0
    assert purify_with_statistics(task, align, "tensor").conflict == 0.5


def test_statistics_by_hand():
    found = purify_with_statistics([torch.tensor([1.0, 0.0])], [torch.tensor([-1.0, 1.0])])
    assert float(found.cosine) == pytest.approx(-1 / math.sqrt(2))
    assert found.conflict == 1


@pytest.mark.parametrize("scope", ["global", "tensor"])
@pytest.mark.parametrize("scale", [0.0, 1e-8, 1e-30])
def test_a_vanishing_alignment_gradient_changes_nothing(scope, scale):
    task = [torch.tensor([1.0, 2.0]), torch.tensor([3.0])]
    found = purify_with_statistics(task, [-scale * value for value in task], scope)
    assert all(torch.equal(a, b) for a, b in zip(found.gradients, task, strict=True))
    assert found.conflict == 0 and torch.isfinite(found.cosine)


def test_half_precision_is_projected_in_single():
    generator = torch.Generator().manual_seed(0)
    task = [torch.randn(1000, generator=generator).bfloat16()]
    align = [(-task[0].float() + torch.randn(1000, generator=generator)).bfloat16()]
    (ours,) = purify(task, align)
    (exact,) = purify([task[0].double()], [align[0].double()])
    assert torch.equal(ours, exact.bfloat16()), "rounded once, at the end"


def test_the_cosine_of_tiny_gradients_does_not_underflow():
    statistics = purify_with_statistics([torch.tensor([1e-13, 0.0])], [torch.tensor([-1e-10, 0.0])])
    assert float(statistics.cosine) == pytest.approx(-1)


def plain(task, align, scope, eps=1e-6):
    """The formula as it is written, in fp32: right wherever no square leaves the range of fp32."""

    def products(left, right):
        values = torch.stack([torch.dot(a.reshape(-1), b.reshape(-1)) for a, b in zip(left, right, strict=True)])
        return values.sum(0, keepdim=True) if scope == "global" else values

    dot, task_square, align_square = products(task, align), products(task, task), products(align, align)
    opposed = (dot < 0) & (align_square > eps * eps * task_square)
    factor = torch.where(opposed, dot / torch.where(opposed, align_square, 1.0), 0.0).expand(len(task))
    gradients = [t - f * a for t, a, f in zip(task, align, factor, strict=True)]
    whole = [values.sum() for values in (dot, task_square, align_square)]
    return gradients, opposed.float().mean(), (whole[0] / (whole[1].sqrt() * whole[2].sqrt())).clamp(-1, 1)


@pytest.mark.parametrize("scope", ["global", "tensor"])
@given(st.integers(0, 10**6), st.floats(-12, 12), st.floats(-12, 12))
def test_gradients_of_ordinary_size_come_out_as_by_the_plain_formula_to_the_bit(scope, seed, task_size, align_size):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(4, 64), (700,), (3, 5, 7), (1,)]
    task, align = (
        [10**power * torch.randn(shape, generator=generator) for shape in shapes] for power in (task_size, align_size)
    )
    gradients, conflict, cosine = plain(task, align, scope)
    found = purify_with_statistics(task, align, scope)
    assert all(torch.equal(a, b) for a, b in zip(found.gradients, gradients, strict=True))
    assert torch.equal(found.conflict, conflict) and torch.equal(found.cosine, cosine)


@pytest.mark.parametrize("scope", ["global", "tensor"])
@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
@given(st.integers(0, 10**6), st.integers(-90, 90), st.integers(-90, 90))
def test_powers_of_two_pass_through_to_the_bit(scope, kind, seed, task_power, align_power):
    """purify(2^j g, 2^k a) = 2^j purify(g, a) for all that fp32 holds, and the statistics are the same."""
    generator = torch.Generator().manual_seed(seed)
    task, align = ([torch.randn(shape, generator=generator).to(kind) for shape in ((3, 4), (9,))] for _ in range(2))
    factors = [torch.tensor(2.0**power, dtype=kind) for power in (task_power, align_power)]
    expected = purify_with_statistics(task, align, scope, eps=0)
    found = purify_with_statistics([factors[0] * g for g in task], [factors[1] * g for g in align], scope, eps=0)
    assert all(torch.equal(a, factors[0] * b) for a, b in zip(found.gradients, expected.gradients, strict=True))
    assert torch.equal(found.conflict, expected.conflict) and torch.equal(found.cosine, expected.cosine)


@pytest.mark.parametrize(
    ("task", "align", "expected"),
    [
        ([-1e12, 1.0], [1e30, 0.0], [0.0, 1.0]),  # squares beyond fp32
        ([-3e38, 1.0], [3e38, 0.0], [0.0, 1.0]),
        ([1e-25, -1e-25], [0.0, 1e-25], [1e-25, 0.0]),  # squares below fp32
        ([1e-38, -1e-38], [0.0, 3e38], [1e-38, 0.0]),
        ([1.0, -1.0], [0.0, 1e-45], [1.0, -1.0]),  # next to nothing beside the task gradient: left alone
        ([1e30, -1e30], [0.0, 1e10], [1e30, -1e30]),
    ],
)
@pytest.mark.parametrize("scope", ["global", "tensor"])
def test_gradients_of_any_size_by_hand(task, align, expected, scope):
    found = purify_with_statistics([torch.tensor(task)], [torch.tensor(align)], scope)
    assert found.gradients[0].tolist() == pytest.approx(expected, rel=0, abs=1e-6 * max(map(abs, task)))
    length = math.hypot(*(value / max(map(abs, task)) for value in task)) * max(map(abs, task))
    axis = max(range(2), key=lambda index: abs(align[index]))
    assert float(found.cosine) == pytest.approx(task[axis] / length, rel=1e-6)


@pytest.mark.parametrize("scope", ["global", "tensor"])
def test_without_a_guard_any_alignment_gradient_counts(scope):
    (purified,) = purify([torch.tensor([1e30, -1e30])], [torch.tensor([0.0, 1e-30])], scope, eps=0)
    assert purified.tolist() == pytest.approx([1e30, 0.0])


def test_tensors_of_very_different_sizes_are_purified_one_by_one():
    """The first pair would vanish if it were scaled as the second is."""
    task = [torch.tensor([1e-30, -1e-30]), torch.tensor([1e30, -1e30])]
    align = [torch.tensor([0.0, 1e-32]), torch.tensor([0.0, 1e35])]
    found = purify_with_statistics(task, align, "tensor")
    assert [g.tolist() for g in found.gradients] == [pytest.approx([1e-30, 0.0]), pytest.approx([1e30, 0.0])]
    assert found.conflict == 1 and float(found.cosine) == pytest.approx(-math.sqrt(0.5))


def test_what_is_not_finite_is_not_spread():
    """A NaN in one tensor leaves the others as they are, as 0 times it would."""
    task = [torch.tensor([1.0, 2.0]), torch.tensor([3.0])]
    found = purify_with_statistics(task, [torch.tensor([-1.0, -2.0]), torch.tensor([math.nan])], "tensor")
    assert found.gradients[0].tolist() == [0.0, 0.0] and math.isnan(found.gradients[1])
    assert purify(task, [torch.tensor([math.inf, -2.0]), torch.tensor([3.0])])[1].tolist() == [3.0]


absent_or_not = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=4)


@pytest.mark.parametrize("scope", ["global", "tensor"])
@given(absent_or_not, st.integers(0, 1000))
def test_none_counts_as_zeros(scope, present, seed):
    generator = torch.Generator().manual_seed(seed)
    sides = [[torch.randn(3, generator=generator) if there[side] else None for there in present] for side in (0, 1)]
    if not any(any(there) for there in present):
        return
    zeros = [[torch.zeros(3) if g is None else g for g in side] for side in sides]
    found = purify_with_statistics(sides[0], sides[1], scope)
    expected = purify_with_statistics(zeros[0], zeros[1], scope)
    assert torch.equal(found.conflict, expected.conflict) and torch.equal(found.cosine, expected.cosine)
    for ours, right, there in zip(found.gradients, expected.gradients, present, strict=True):
        assert ours is None if not any(there) else ours is not None and torch.equal(ours, right)


def test_gradients_of_unused_parameters_come_straight_from_autograd():
    used, unused = torch.ones(2, requires_grad=True), torch.ones(3, requires_grad=True)
    task, align = (
        torch.autograd.grad((used * torch.tensor(weights)).sum(), [used, unused], allow_unused=True)
        for weights in ([1.0, -1.0], [0.0, 1.0])
    )
    purified, nothing = purify(task, align)
    assert purified.tolist() == [1.0, 0.0] and nothing is None


def test_generators_are_read_once():
    task, align = [torch.tensor([1.0, -1.0])], [torch.tensor([0.0, 1.0])]
    (purified,) = purify((g for g in task), (g for g in align))
    assert purified.tolist() == [1.0, 0.0]


def test_tensors_without_entries_are_passed_through():
    found = purify_with_statistics([torch.zeros(0, 3), torch.ones(1)], [torch.zeros(0, 3), -torch.ones(1)])
    assert [g.tolist() for g in found.gradients] == [[], [0.0]] and found.cosine == -1


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="as many"):
        purify([torch.ones(2)], [torch.ones(3)])
    with pytest.raises(ValueError, match="at least one"):
        purify([], [])
    with pytest.raises(ValueError, match="at least one"):
        purify([None], [None])
    with pytest.raises(ValueError, match=r"\[None, \(2,\)\].*\[\(2,\)\]"):
        purify([None, torch.ones(2)], [torch.ones(2)])
    with pytest.raises(TypeError, match="alignment gradients: entry 1 is of type float"):
        purify([torch.ones(1), None], [torch.ones(1), 2.0])  # type: ignore[type-var]
    with pytest.raises(ValueError, match='"global" or "tensor"'):
        purify([torch.ones(1)], [torch.ones(1)], "layer")  # type: ignore[arg-type]
