"""A rotation within a subspace: orthogonal, undone by its transpose, and given away by a few known pairs."""

import math

import pytest
import torch

from fedpurel_app.functional import haar_orthogonal, principal_directions, rotate_within

WIDTH, RANK = 7, 3


def drawn(seed=0, count=40):
    """Activations (N, D), directions (D, r) and a secret Q (r, r), in double precision."""
    generator = torch.Generator().manual_seed(seed)
    scales = torch.arange(WIDTH, 0, -1, dtype=torch.double)
    activations = torch.randn(count, WIDTH, generator=generator, dtype=torch.double) * scales + 5
    return (
        activations,
        principal_directions(activations, RANK),
        haar_orthogonal(RANK, generator, torch.double),
    )


def test_a_quarter_turn_in_a_plane_by_hand():
    turn = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
    plane = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]])  # of the first and the last axis
    assert rotate_within(torch.tensor([[1.0, 2.0, 3.0]]), plane, turn).tolist() == [[-3.0, 2.0, 1.0]]


def test_it_is_orthogonal_and_keeps_what_is_outside():
    h, v, q = drawn()
    u = rotate_within(torch.eye(WIDTH, dtype=torch.double), v, q).T  # rows are images of the axes
    assert (u.T @ u - torch.eye(WIDTH, dtype=torch.double)).abs().max() < 1e-14
    turned, other = rotate_within(h, v, q), h.flip(0)
    assert torch.allclose(turned.norm(dim=1), h.norm(dim=1), rtol=1e-14)
    assert torch.allclose((turned * rotate_within(other, v, q)).sum(1), (h * other).sum(1), rtol=1e-13)
    assert torch.allclose(turned - turned @ v @ v.T, h - h @ v @ v.T, atol=1e-13)
    assert (turned - h).norm(dim=1).min() > 0.1, "and moves the rest"
    assert torch.allclose(rotate_within(turned, v, q.T), h, rtol=1e-13)
    assert torch.equal(rotate_within(h, v, torch.eye(RANK, dtype=torch.double)), h)


def test_directions_are_those_of_the_largest_variance():
    h, v, _ = drawn(count=20_000)
    assert (v.T @ v - torch.eye(RANK, dtype=torch.double)).abs().max() < 1e-14
    assert torch.allclose(v.abs(), torch.eye(WIDTH, RANK, dtype=torch.double), atol=0.05), "axes 0, 1 and 2, in order"
    assert torch.allclose(principal_directions(h[None] + 100, RANK).abs(), v.abs(), atol=1e-8), "about their mean"
    for rank in (0, WIDTH + 1):
        with pytest.raises(ValueError, match=f"rank = {rank} of 20000 activations of width 7"):
            principal_directions(h, rank)


def test_all_orthogonal_matrices_are_equally_likely():
    """Of 2 x 2: half of them reflect, which with QR's own signs all would, and the first column's angle is uniform."""
    generator = torch.Generator().manual_seed(1)
    found = torch.stack([haar_orthogonal(2, generator, torch.double) for _ in range(4000)])
    assert abs(torch.linalg.det(found).sign().mean()) < 4 / math.sqrt(4000)
    angles = torch.atan2(found[:, 1, 0], found[:, 0, 0])
    for turns in (1, 2, 4):
        assert abs((turns * angles).cos().mean()) < 4 / math.sqrt(2 * 4000)
    again = haar_orthogonal(2, torch.Generator().manual_seed(1), torch.double)
    assert torch.equal(again, found[0]) and haar_orthogonal(3, generator).dtype == torch.float32


def test_as_many_known_pairs_as_dimensions_give_the_secret_away():
    """Why it is never called privacy: Q = A B^T of the SVD A S B^T of what came out times what went in (Procrustes)."""
    h, v, q = drawn()
    known, seen = h[:RANK] @ v, rotate_within(h[:RANK], v, q) @ v
    left, _, right = torch.linalg.svd(seen.T @ known)
    assert torch.allclose(left @ right, q, atol=1e-10)
    assert torch.allclose(rotate_within(rotate_within(h, v, q), v, (left @ right).T), h, atol=1e-9), "and all the rest"
