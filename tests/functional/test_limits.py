"""Batches and logits at the ends of what may come: nothing at all, and classes that are ruled out."""

import pytest
import torch

from fedpurel_app.functional import (
    align,
    alignment_gradient,
    alignment_loss,
    cross_entropy,
    cross_entropy_gradient,
    entropy,
    kl_gradient,
    kl_loss,
    match_temperature,
    purify,
    residual_gradient,
    residual_loss,
    tkl,
)

LEAST = torch.finfo(torch.float32).min


@pytest.fixture
def nothing():
    return torch.zeros(0, 5, requires_grad=True), torch.zeros(0, 5), torch.zeros(0, dtype=torch.int64)


def test_losses_of_an_empty_batch_are_zero(nothing):
    logits, other, labels = nothing
    losses = (
        alignment_loss(logits, other),
        kl_loss(logits, other),
        cross_entropy(logits, labels),
        residual_loss(other, logits, labels),
    )
    for loss in losses:
        (gradient,) = torch.autograd.grad(loss, logits)
        assert loss.shape == () and loss == 0 and gradient.shape == (0, 5)


def test_gradients_and_rows_of_an_empty_batch_are_empty(nothing):
    logits, other, labels = nothing
    logits = logits.detach()
    pair = align(logits, other)
    gradients = (
        alignment_gradient(pair),
        alignment_gradient(pair, "implicit"),
        cross_entropy_gradient(logits, labels),
        kl_gradient(logits, other),
        residual_gradient(other, logits, labels),
    )
    assert all(gradient.shape == (0, 5) for gradient in gradients)
    assert all(len(part) == 0 for part in pair)
    rows = tkl(logits, other), entropy(logits), match_temperature(logits, torch.zeros(0))
    assert all(row.shape == (0,) for row in (*rows, alignment_loss(logits, other, reduction="none")))
    assert [g.tolist() for g in purify([gradients[0]], [gradients[1]])] == [[]]


@pytest.mark.parametrize("ruled_out", [-1e9, -1e30, LEAST])
@pytest.mark.parametrize("scale", [0.3, 3.0, 20.0])
def test_classes_that_are_ruled_out_have_no_part_in_a_divergence(ruled_out, scale):
    """Both models give a class next to no weight: everything is as without that class, up to the solver's error."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = (scale * torch.randn(20, 6, generator=generator) for _ in range(2))
    out = torch.full((20, 2), ruled_out)
    wide_student, wide_teacher = (torch.cat([logits, out], 1) for logits in (student, teacher))
    assert torch.allclose(
        alignment_loss(wide_student, wide_teacher, "none"), alignment_loss(student, teacher, "none"), 1e-2, 1e-4
    )
    assert torch.allclose(tkl(wide_student, wide_teacher), tkl(student, teacher), 1e-2, 1e-4)
    for variant in ("frozen", "implicit"):
        wide, narrow = (
            alignment_gradient(align(*pair), variant) * align(*pair).student_temperature[:, None]
            for pair in ((wide_student, wide_teacher), (student, teacher))
        )
        assert torch.allclose(wide[:, :6], narrow, atol=1e-3) and (wide[:, 6:] == 0).all()


@pytest.mark.parametrize("ruled_out", [-1e9, LEAST])
def test_a_class_that_one_model_alone_rules_out_leaves_everything_finite(ruled_out):
    student, teacher = torch.tensor([[3.0, 1.0, ruled_out]]), torch.tensor([[0.5, 1.0, 2.0]])
    for pair in ((student, teacher), (teacher, student)):
        assert torch.isfinite(tkl(*pair)).all() and torch.isfinite(alignment_loss(*pair))
        for variant in ("frozen", "implicit"):
            assert torch.isfinite(alignment_gradient(align(*pair), variant)).all()
