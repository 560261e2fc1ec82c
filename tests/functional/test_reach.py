"""Samples that are aligned as closely as temperatures can be found: they are no direction to purify by."""

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from fedpurel_app.functional import (
    align,
    alignment_gradient,
    alignment_loss,
    cross_entropy_gradient,
    purify_with_statistics,
    tkl,
)
from fedpurel_app.functional.temperature import reach


def softmax_at_entropy(logits, target):
    """Probabilities (B, C) at entropies (B,) in double precision, by bisection; nothing of the product's solver."""
    rows = logits.double().numpy()
    rows = rows - rows.max(1, keepdims=True)
    low, high = np.full(len(rows), -60.0), np.full(len(rows), 60.0)
    for _ in range(100):
        middle = (low + high) / 2
        weights = np.exp(rows / np.exp(middle)[:, None])
        probs = weights / weights.sum(1, keepdims=True)
        entropy = -(probs * np.log(np.where(probs > 0, probs, 1.0))).sum(1)
        low, high = np.where(entropy < target, middle, low), np.where(entropy < target, high, middle)
    return probs


def distance(p, q):
    return np.abs(p - q).sum(1)


def clip_like(classes, rows, scale, seed):
    """Logits as CLIP's: 100 times cosines that lie around 0.2, a few hundredths apart."""
    return 20 + scale * torch.randn(rows, classes, generator=torch.Generator().manual_seed(seed))


two_logits = st.lists(st.floats(-100, 100, width=32), min_size=2, max_size=2)


@pytest.mark.parametrize("variant", ["frozen", "implicit"])
@given(two_logits, two_logits)
def test_two_classes_with_one_arg_max_are_aligned(variant, student, teacher):
    """With two classes, an entropy and an arg max are the whole distribution."""
    assume((student[0] - student[1]) * (teacher[0] - teacher[1]) > 0)
    rows, target = torch.tensor([student], requires_grad=True), torch.tensor([teacher])
    loss = alignment_loss(rows, target)
    assert loss == 0 and (torch.autograd.grad(loss, rows)[0] == 0).all()
    assert (alignment_gradient(align(rows.detach(), target), variant) == 0).all()
    assert tkl(rows.detach(), target) == 0


@given(two_logits, two_logits)
def test_two_classes_with_different_arg_max_are_not(student, teacher):
    assume((student[0] - student[1]) * (teacher[0] - teacher[1]) < -1e-6)
    rows, target = torch.tensor([student]), torch.tensor([teacher])
    gradient = alignment_gradient(align(rows, target))[0]
    assert gradient[student.index(max(student))] > 0 > gradient[student.index(min(student))]
    assert alignment_loss(rows, target) > 0 and tkl(rows, target) > 0


@pytest.mark.parametrize("scope", ["global", "tensor"])
@pytest.mark.parametrize("classes", [2, 3, 10, 100])
def test_nothing_conflicts_where_zero_shot_knows_nothing_else(classes, scope):
    """Linear student with two classes of one arg max; with more, a student that is the teacher at another scale."""
    generator = torch.Generator().manual_seed(classes)
    inputs = torch.randn(64, 20, generator=generator)
    teacher = 5 * torch.randn(64, classes, generator=generator)
    student = teacher * (0.2 + 3 * torch.rand(64, 1, generator=generator))
    labels = torch.randint(classes, (64,), generator=generator)
    cotangents = cross_entropy_gradient(student, labels), alignment_gradient(align(student, teacher))
    task, toward = ([cotangent.T @ inputs, cotangent.sum(0)] for cotangent in cotangents)
    found = purify_with_statistics(task, toward, scope)
    assert found.conflict == 0 and found.cosine == 0
    assert all(torch.equal(a, b) for a, b in zip(found.gradients, task, strict=True))


@pytest.mark.parametrize("classes", [2, 3, 10, 48, 365, 1000])
@pytest.mark.parametrize("scale", [0.5, 3.0, 20.0])
def test_reach_is_how_far_an_error_of_the_entropy_carries_probabilities(classes, scale):
    logits = clip_like(classes, 10, scale, classes)
    for share in (0.001, 0.1, 0.5, 0.9, 0.999):
        target = np.full(10, max(share * math.log(classes), 1.1e-4))
        probs = softmax_at_entropy(logits, target)
        moved = [distance(probs, softmax_at_entropy(logits, target + error)) for error in (-1e-5, 1e-5)]
        bound = reach(torch.from_numpy(probs).clamp_min(1e-300).log()).numpy()
        assert np.mean(moved, 0) == pytest.approx(bound, rel=0.02)


@pytest.mark.parametrize("classes", [2, 3, 5, 10, 48, 100, 365, 1000])
@pytest.mark.parametrize("scale", [1.0, 3.0, 15.0])
def test_only_samples_within_reach_are_touched(classes, scale):
    """Students from equal to unlike their teacher: exact distributions decide, and the rest keeps its formula."""
    rows = 60 if classes < 300 else 15
    teacher = clip_like(classes, rows, scale, 1)
    noise = scale * torch.randn(rows, classes, generator=torch.Generator().manual_seed(2))
    touched = []
    for drift in (0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0):
        student = 1.3 * teacher + drift * noise
        pair = align(student, teacher)
        exact = [softmax_at_entropy(logits, pair.target_entropy.double().numpy()) for logits in (student, teacher)]
        first, second = (reach(torch.from_numpy(p).clamp_min(1e-300).log()).numpy() for p in exact)
        bound = first + second
        gone = pair.weight.numpy() == 0
        assert (distance(*exact)[gone] <= 2 * bound[gone]).all(), "its true difference is no more than the solver's"
        assert gone[distance(*exact) <= 1e-3 * bound].all(), "what is equal is found equal"
        difference = pair.student_log_probs.exp() - pair.teacher_log_probs.exp()
        plain = difference * (1 / pair.student_temperature / rows)[:, None]
        gradient, kept = alignment_gradient(pair), ~torch.from_numpy(gone)
        assert torch.equal(gradient[kept], plain[kept]) and (gradient[~kept] == 0).all()
        touched.append(gone.mean())
    assert touched[0] == 1
    if classes > 2 and scale <= 3:  # more scale saturates rows, and leaves some with two classes in effect
        assert touched[-1] == 0


def test_unlike_models_of_many_classes_are_never_touched():
    """With three, a saturated row may have two classes in effect, and be one of those above."""
    for classes in range(10, 1000, 37):
        for scale in (1.0, 4.0, 12.0):
            weight = align(clip_like(classes, 40, scale, 3), clip_like(classes, 40, scale, 4)).weight
            assert (weight == 1).all(), (classes, scale)
