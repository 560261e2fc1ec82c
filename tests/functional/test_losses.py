import math

import pytest
import torch
from torch.nn import functional

from fedpurel_app.functional import (
    cross_entropy_gradient,
    kl_gradient,
    kl_loss,
    residual_gradient,
    residual_loss,
)


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    first, second = (5 * torch.randn(8, 6, generator=generator) for _ in range(2))
    return first, second, torch.randint(6, (8,), generator=generator)


def autograd(loss, logits):
    logits = logits.clone().requires_grad_()
    return torch.autograd.grad(loss(logits), logits)[0]


def test_cross_entropy_gradient(batch):
    logits, _, labels = batch
    expected = autograd(lambda x: functional.cross_entropy(x, labels), logits)
    assert torch.allclose(cross_entropy_gradient(logits, labels), expected, atol=1e-7)


def test_kl_gradient(batch):
    student, teacher, _ = batch
    assert torch.allclose(kl_gradient(student, teacher), autograd(lambda x: kl_loss(x, teacher), student), atol=1e-7)


def test_kl_is_teacher_first():
    """KL((1/2, 1/2) || (3/4, 1/4)) = ln 2 - (ln 3) / 2."""
    student = torch.tensor([[math.log(3), 0.0]])
    assert float(kl_loss(student, torch.zeros(1, 2))) == pytest.approx(math.log(2) - math.log(3) / 2)


@pytest.mark.parametrize("weight", [0.0, 0.3, 0.9, 1.0])
def test_residual_gradient(batch, weight):
    ours, private, labels = batch
    expected = autograd(lambda x: residual_loss(ours, x, labels, weight), private)
    assert torch.allclose(residual_gradient(ours, private, labels, weight), expected, atol=1e-7)


def test_residual_loss_by_hand():
    """l_G = (ln 3, 0), l_P = 0, y = 0: CE(l_G + l_P) = ln(4/3), CE(l_P) = ln 2."""
    loss = residual_loss(torch.tensor([[math.log(3), 0.0]]), torch.zeros(1, 2), torch.tensor([0]), 0.25)
    assert float(loss) == pytest.approx(0.75 * math.log(4 / 3) + 0.25 * math.log(2))


def test_residual_loss_leaves_the_global_model_alone(batch):
    ours, private, labels = batch
    ours, private = ours.requires_grad_(), private.requires_grad_()
    residual_loss(ours, private, labels).backward()
    assert ours.grad is None and private.grad is not None


def test_weight_must_be_a_share(batch):
    with pytest.raises(ValueError, match=r"private_weight = 1.5: must lie in \[0, 1\]"):
        residual_loss(batch[0], batch[1], batch[2], 1.5)
