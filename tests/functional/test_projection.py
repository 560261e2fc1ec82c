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


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="as many"):
        purify([torch.ones(2)], [torch.ones(3)])
    with pytest.raises(ValueError, match="at least one"):
        purify([], [])
    with pytest.raises(ValueError, match='"global" or "tensor"'):
        purify([torch.ones(1)], [torch.ones(1)], "layer")
