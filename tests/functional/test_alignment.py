import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedpurel_app.functional import align, alignment_gradient, alignment_loss, entropy, tkl


def pair(batch=16, classes=12, scale=6.0, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (scale * torch.randn(batch, classes, generator=generator, dtype=dtype) for _ in range(2))
    return student, teacher


def test_both_reach_the_mean_of_their_entropies():
    student, teacher = pair()
    aligned = align(student, teacher)
    wanted = (entropy(student) + entropy(teacher)) / 2
    for logits, temperature in ((student, aligned.student_temperature), (teacher, aligned.teacher_temperature)):
        assert torch.allclose(entropy(logits / temperature[:, None]), wanted, atol=1e-5)


def test_loss_is_teacher_first_and_metric_student_first():
    student, teacher = pair(batch=1)
    aligned = align(student, teacher)
    p_student = (student / aligned.student_temperature).softmax(-1)
    p_teacher = (teacher / aligned.teacher_temperature).softmax(-1)

    def kl(p, q):
        return float((p * (p / q).log()).sum())

    assert float(alignment_loss(student, teacher)) == pytest.approx(kl(p_teacher, p_student), rel=1e-4)
    assert float(tkl(student, teacher)) == pytest.approx(kl(p_student, p_teacher), rel=1e-4)
    assert kl(p_teacher, p_student) != pytest.approx(kl(p_student, p_teacher), rel=1e-2)


@given(st.floats(0.05, 20), st.integers(0, 1000))
def test_a_scaled_teacher_is_at_no_distance(scale, seed):
    _, teacher = pair(seed=seed)
    assert float(tkl(scale * teacher, teacher).max()) < 1e-4
    assert float(alignment_loss(scale * teacher, teacher)) < 1e-4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_closed_form_gradient_equals_autograd(dtype):
    student, teacher = pair(dtype=dtype)
    student.requires_grad_()
    (expected,) = torch.autograd.grad(alignment_loss(student, teacher), student)
    ours = alignment_gradient(align(student.detach(), teacher))
    assert torch.allclose(ours, expected, rtol=1e-5, atol=1e-7)


def test_frozen_gradient_along_the_logits_is_the_loss():
    """At equal entropies <l, (p_f - p_z) / tau_f> equals KL(p_z || p_f) of the sample."""
    student, teacher = pair(dtype=torch.float64)
    gradient = alignment_gradient(align(student, teacher)) * len(student)
    radial = (student * gradient).sum(-1)
    # the solver's tolerance of 5e-6 nats, times temperatures of a few, is what is left
    assert torch.allclose(radial, alignment_loss(student, teacher, reduction="none"), atol=1e-4)


def test_implicit_gradient_has_no_part_along_the_logits():
    student, teacher = pair(dtype=torch.float64)
    aligned = align(student, teacher)
    implicit = alignment_gradient(aligned, "implicit")
    assert float((student * implicit).sum(-1).abs().max()) < 1e-12
    assert float((student * alignment_gradient(aligned)).sum(-1).abs().max()) > 1e-2


def test_implicit_gradient_is_that_of_the_loss_with_moving_student_temperature():
    """Finite differences of A(l) = KL(p_z || softmax(l / tau_f(l))) at constant H* and teacher."""
    student, teacher = pair(batch=1, classes=5, scale=2.0, dtype=torch.float64)
    aligned = align(student, teacher)

    def loss(logits):
        low, high = 1e-6, 1e3
        for _ in range(200):  # bisection to machine precision
            middle = math.sqrt(low * high)
            low, high = (middle, high) if entropy(logits / middle) < aligned.target_entropy else (low, middle)
        return float(
            (aligned.teacher_log_probs.exp() * (aligned.teacher_log_probs - (logits / low).log_softmax(-1))).sum()
        )

    numeric = torch.zeros_like(student)
    for index in range(student.shape[1]):
        step = torch.zeros_like(student)
        step[0, index] = 1e-5
        numeric[0, index] = (loss(student + step) - loss(student - step)) / 2e-5
    assert torch.allclose(alignment_gradient(aligned, "implicit"), numeric, atol=1e-4)


def test_mean_counts_samples_that_cannot_be_aligned():
    student, teacher = pair(batch=2)
    student[1] = 1.5
    per_sample = alignment_loss(student, teacher, reduction="none")
    assert per_sample[1] == 0 and per_sample[0] > 0
    assert float(alignment_loss(student, teacher)) == pytest.approx(float(per_sample[0]) / 2)
    assert (alignment_gradient(align(student, teacher))[1] == 0).all()


@pytest.mark.parametrize("variant", ["frozen", "implicit"])
def test_never_nan(variant):
    rows = [
        torch.zeros(1, 6),
        torch.tensor([[80.0, 0, 0, 0, 0, 0]]),
        torch.tensor([[5.0, 5, 5, 0, 0, 0]]),
        torch.tensor([[1e4, -1e4, 0, 0, 0, 0]]),
        torch.full((1, 6), 3.0) + torch.tensor([[1e-6, 0, 0, 0, 0, 0]]),
    ]
    for student in rows:
        for teacher in rows:
            aligned = align(student, teacher)
            assert all(torch.isfinite(part).all() for part in aligned)
            assert torch.isfinite(alignment_gradient(aligned, variant)).all()
            assert torch.isfinite(tkl(student, teacher)).all()


def test_gradient_flows_to_the_student_alone():
    student, teacher = (value.requires_grad_() for value in pair())
    alignment_loss(student, teacher).backward()
    assert student.grad is not None and teacher.grad is None


def test_bad_arguments_are_named():
    student, teacher = pair()
    with pytest.raises(ValueError, match=r"\(16, 12\).*\(16, 11\)"):
        alignment_loss(student, teacher[:, :11])
    with pytest.raises(ValueError, match='"mean" or "none"'):
        alignment_loss(student, teacher, reduction="sum")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match='"frozen" or "implicit"'):
        alignment_gradient(align(student, teacher), "exact")  # type: ignore[arg-type]
