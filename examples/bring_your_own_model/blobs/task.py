"""Data, teacher and model: all of it generated from a seed, so every process has the same."""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

CLASSES, WIDTH = 20, 32
LARGEST, IMBALANCE, TEST = 400, 100, 100  # training samples of the largest class, largest over smallest, test samples
GROUPS = {"many": range(6), "medium": range(6, 14), "few": range(14, 20)}


class Samples(NamedTuple):
    """Inputs of shape (N, WIDTH) and labels of shape (N,)."""

    x: Tensor
    y: Tensor


class World(NamedTuple):
    """A long-tailed training set, a balanced test set, and a teacher that has seen neither."""

    train: Samples
    test: Samples
    teacher: nn.Linear


@lru_cache(maxsize=1)
def make_world(seed: int) -> World:
    """Draw 20 Gaussian blobs, and a linear classifier that knows their centres only roughly.

    The teacher stands for a foundation model: no class is dearer to it than another, and it is not trained.
    """
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(CLASSES, WIDTH, generator=generator) / 2
    shift = torch.randn(WIDTH, generator=generator) / 2  # of all classes, and unknown to the teacher

    def sample(counts: Tensor) -> Samples:
        labels = torch.arange(CLASSES).repeat_interleave(counts)
        return Samples(centres[labels] + shift + torch.randn(len(labels), WIDTH, generator=generator), labels)

    teacher = nn.Linear(WIDTH, CLASSES).requires_grad_(False)
    teacher.weight.copy_(centres + 0.4 * torch.randn(CLASSES, WIDTH, generator=generator))
    teacher.bias.copy_(-teacher.weight.square().sum(1) / 2)
    counts = (LARGEST * IMBALANCE ** (-torch.arange(CLASSES) / (CLASSES - 1))).round().long()
    return World(sample(counts), sample(torch.full((CLASSES,), TEST)), teacher)


@lru_cache(maxsize=64)
def site_data(seed: int, alpha: float, site: int, sites: int) -> tuple[Samples, Samples]:
    """Return a site its part of both sets, of each class the same Dirichlet share."""
    shares = np.random.default_rng(seed).dirichlet(np.full(sites, alpha), CLASSES)  # (CLASSES, sites)
    edges = np.concatenate([np.zeros((CLASSES, 1)), shares.cumsum(1)], 1)

    def part(whole: Samples) -> Samples:
        rows = []
        for label in range(CLASSES):
            of_class = (whole.y == label).nonzero()[:, 0]
            first, last = (round(float(edge) * len(of_class)) for edge in edges[label, site : site + 2])
            rows.append(of_class[first:last])
        return Samples(*(values[torch.cat(rows)] for values in whole))

    world = make_world(seed)
    return part(world.train), part(world.test)


def linear(state: dict[str, Tensor] | None = None) -> nn.Linear:
    """Make a linear head: from parameters, or zero."""
    head = nn.Linear(WIDTH, CLASSES)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    if state is not None:
        head.load_state_dict(state)
    return head


def count(logits: Tensor, labels: Tensor) -> tuple[list[int], list[int]]:
    """Count correct and all predictions by class."""
    right = labels[logits.argmax(1) == labels]
    return right.bincount(minlength=CLASSES).tolist(), labels.bincount(minlength=CLASSES).tolist()
