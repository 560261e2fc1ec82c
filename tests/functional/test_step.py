"""One purified step of any model is the definition's: two backward passes, a projection, and the optimiser."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from fedpurel_app.functional import alignment_loss, purified_step, purify


@pytest.mark.parametrize("scope", ["global", "tensor"])
@pytest.mark.parametrize("seed", range(3))
def test_a_step_is_the_definitions(scope, seed):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 4))
    idle = nn.Parameter(torch.ones(3))  # has no part in the loss
    by_hand = copy.deepcopy(model)
    inputs, labels, zero_shot = torch.randn(9, 5), torch.arange(9) % 4, 3 * torch.randn(9, 4)
    optimizer = torch.optim.SGD([*model.parameters(), idle], lr=0.1, momentum=0.9, weight_decay=0.01)
    reference = torch.optim.SGD(by_hand.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    for _ in range(3):
        step = purified_step(model, (inputs, labels), zero_shot, optimizer, scope)
        parameters, logits = list(by_hand.parameters()), by_hand(inputs)
        loss = functional.cross_entropy(logits, labels)
        task = torch.autograd.grad(loss, parameters, retain_graph=True)
        align = torch.autograd.grad(alignment_loss(logits, zero_shot), parameters)
        for parameter, gradient in zip(parameters, purify(task, align, scope), strict=True):
            parameter.grad = gradient
        reference.step()
        assert step.loss == loss.detach() and 0 <= step.conflict <= 1
    for ours, expected in zip(model.parameters(), by_hand.parameters(), strict=True):
        assert torch.allclose(ours, expected, atol=1e-6)
    assert torch.equal(idle, torch.ones(3))
