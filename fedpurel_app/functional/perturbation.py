"""A secret rotation of activations within a public subspace: what a split network may send in their place.

It keeps every length and every angle, and is no privacy: of as many known pairs of inputs and outputs as the subspace
has dimensions, orthogonal Procrustes gives the rotation. Nothing in this app sends activations; it is here for what-if
measurements alone.

References
----------
ELSA (arXiv 2601.13824) perturbs activations so, as far as it is known to us by a description; its formula was not to be
had, and this is our reading. F. Mezzadri, "How to generate random matrices from the classical compact groups", Notices
of the AMS 54, 2007 (the signs in QR).
"""

from __future__ import annotations

import torch
from torch import Tensor


def principal_directions(activations: Tensor, rank: int) -> Tensor:
    """Return the directions in which activations vary most.

    Parameters
    ----------
    activations : Tensor, shape (..., D)
        Of public inputs.
    rank : int
        r, from 1 to D and to the number of activations.

    Returns
    -------
    Tensor, shape (D, r)
        V: orthonormal columns, by falling variance.

    Raises
    ------
    ValueError
        When the rank is outside its range.
    """
    rows = activations.reshape(-1, activations.shape[-1])
    if not 1 <= rank <= min(rows.shape):
        raise ValueError(f"rank = {rank} of {rows.shape[0]} activations of width {rows.shape[1]}")
    return torch.linalg.svd(rows - rows.mean(0), full_matrices=False).Vh[:rank].T


def haar_orthogonal(size: int, generator: torch.Generator, dtype: torch.dtype = torch.float32) -> Tensor:
    """Draw an orthogonal matrix, all of them equally likely.

    Parameters
    ----------
    size : int
        r
    generator : torch.Generator
        On the CPU; its seed is the secret.
    dtype : torch.dtype

    Returns
    -------
    Tensor, shape (r, r)
        Q, a rotation or a rotation with a reflection.
    """
    q, r = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))
    return (q * r.diagonal().sign()).to(dtype)  # else QR's own choice of signs makes some likelier than others


def rotate_within(activations: Tensor, directions: Tensor, rotation: Tensor) -> Tensor:
    """Compute h' = h + V (Q - I) V^T h for every activation; with Q^T in the place of Q, the inverse.

    Parameters
    ----------
    activations : Tensor, shape (..., D)
        h
    directions : Tensor, shape (D, r)
        V, of orthonormal columns.
    rotation : Tensor, shape (r, r)
        Q, orthogonal.

    Returns
    -------
    Tensor, shape (..., D)
        Of the same length as h, and equal to it outside the span of V.
    """
    inside = activations @ directions
    return activations + (inside @ rotation.T - inside) @ directions.T
