"""The emulated split of an image tower: what crosses, counted by hand, and what is done to it on the way."""

import pytest
import torch
from torch import nn

from benchmarks.split import CASES, Meter, cuts_of, split_at

WIDTH, RANK, RATIO = 16, 4, 8


class Scaled(nn.Module):
    """A block that doubles: it commutes with every rotation."""

    def forward(self, x):
        return 2 * x


class Bent(nn.Module):
    """A block that does not."""

    def forward(self, x):
        return torch.relu(x)


def through(case, edge, seed=0):
    """Put tokens (2, 5, W) through site, edge and site; return outcome, gradient, meter and the tokens."""
    blocks = nn.ModuleList([Scaled(), edge, Scaled()])
    tokens = torch.randn(2, 5, WIDTH, generator=torch.Generator().manual_seed(3)).requires_grad_()
    meter, directions = Meter(), torch.linalg.qr(torch.randn(WIDTH, RANK, generator=torch.Generator().manual_seed(4))).Q
    with split_at(blocks, (1, 2), cuts_of(case, directions, seed, RATIO), meter):
        x = tokens
        for block in blocks:
            x = block(x)
        x.square().sum().backward()
    return x.detach(), tokens.grad, meter, tokens.detach()


@pytest.mark.parametrize(("case", "sent"), zip(CASES, (4 * 16, 4 * 16, 4 * 16, 2 * 16, 4 * 2), strict=True))
def test_four_crossings_of_every_token_are_counted_as_they_are_sent(case, sent):
    meter = through(case, Scaled())[2]
    assert (meter.crossings, meter.sent) == (4, 4 * 2 * 5 * sent)


@pytest.mark.parametrize("edge", [Scaled(), Bent()])
def test_a_rotation_that_the_edge_undoes_changes_rounding_alone(edge):
    plain, turned = (through(case, edge) for case in CASES[:2])
    assert torch.allclose(plain[0], turned[0], atol=1e-4) and torch.allclose(plain[1], turned[1], atol=1e-3)
    assert not torch.equal(plain[0], turned[0])


def test_a_rotation_that_is_undone_after_the_edge_is_gone_only_where_the_edge_commutes():
    assert torch.allclose(through(CASES[2], Scaled())[0], 8 * through(CASES[0], Scaled())[3], atol=1e-4)
    plain, bent = (through(case, Bent())[0] for case in (CASES[0], CASES[2]))
    assert (plain - bent).abs().max() > 0.5


def test_a_sketch_is_right_on_average():
    tokens, found = through(CASES[4], Scaled())[3], [through(CASES[4], Scaled(), seed)[0] for seed in range(300)]
    away = torch.stack(found) - 8 * tokens
    assert away.square().mean() > 100, "each by itself is far off"
    assert (away.mean(0) / (away.std(0) / 300**0.5)).abs().max() < 5


def test_nothing_crosses_where_the_context_is_left():
    blocks, meter = nn.ModuleList([Scaled(), Scaled()]), Meter()
    with split_at(blocks, (0, 1), cuts_of(CASES[0], torch.eye(WIDTH, RANK), 0, RATIO), meter):
        pass
    blocks[1](blocks[0](torch.ones(1, WIDTH)))
    assert meter.sent == 0
