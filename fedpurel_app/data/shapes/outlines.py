"""Outlines of the ``shapes`` data set: signed distances in half picture widths, negative inside."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[Any]
Ints = npt.NDArray[np.int64]

SIZE = 32  # pixels


def grid() -> tuple[Floats, Floats]:
    """Pixel centres x, shape (1, 1, 32), and y, shape (1, 32, 1), in [-1, 1]."""
    axis = (np.arange(SIZE, dtype=np.float32) + 0.5) / (SIZE / 2) - 1
    return axis[None, None, :], axis[None, :, None]


def signed_distance(shape: Ints, small: Floats, rng: np.random.Generator) -> Floats:
    """Draw a pose for every row and measure the signed distance to its outline.

    Parameters
    ----------
    shape : ndarray of int, shape (N,)
        Positions in ``OUTLINES``.
    small : ndarray of float, shape (N, 1, 1)
        Severity of the effect "small".
    rng : numpy.random.Generator
        Source of the poses.

    Returns
    -------
    ndarray of float32, shape (N, 32, 32)
        In half picture widths (16 pixels), negative inside.
    """
    count = len(shape)
    x, y = grid()
    centre = rng.uniform(-0.28, 0.28, (2, count, 1, 1))
    radius = rng.uniform(0.45, 0.72, (count, 1, 1)) * (1 - 0.45 * small)
    angle = rng.uniform(-0.5, 0.5, (count, 1, 1))
    u = ((x - centre[0]) * np.cos(angle) + (y - centre[1]) * np.sin(angle)) / radius
    v = ((y - centre[1]) * np.cos(angle) - (x - centre[0]) * np.sin(angle)) / radius
    unit = np.empty((count, SIZE, SIZE), np.float32)
    for index, outline in enumerate(OUTLINES.values()):
        rows = shape == index
        unit[rows] = outline(u[rows], v[rows])
    return (unit * radius).astype(np.float32)


def coverage(distance: Floats) -> Floats:
    """Share of a pixel inside an outline, by its signed distance: an edge one pixel wide."""
    return np.clip(0.5 - distance * (SIZE / 2), 0, 1)


def _circle(u: Floats, v: Floats) -> Floats:
    return np.hypot(u, v) - 0.9


def _polygon(sides: int) -> Callable[[Floats, Floats], Floats]:
    def outline(u: Floats, v: Floats) -> Floats:
        turns = np.arange(sides) * 2 * np.pi / sides + np.pi / 2
        return np.max([np.cos(t) * u + np.sin(t) * v for t in turns], axis=0) - 0.9 * np.cos(np.pi / sides) ** 0.5

    return outline


def _star(u: Floats, v: Floats) -> Floats:
    sector = 2 * np.pi / 5
    angle = np.abs((np.arctan2(u, -v) + sector / 2) % sector - sector / 2)
    radius = np.hypot(u, v)
    a, b = radius * np.cos(angle), radius * np.sin(angle)  # tip at (1, 0), notch at 0.42 (cos, sin)(pi/5)
    notch = 0.42 * np.array([np.cos(np.pi / 5), np.sin(np.pi / 5)])
    normal = np.array([notch[1], 1 - notch[0]])
    return ((a - 1) * normal[0] + b * normal[1]) / np.hypot(*normal)


def _cross(u: Floats, v: Floats) -> Floats:
    a, b = np.abs(u), np.abs(v)
    return np.minimum(np.maximum(a - 0.95, b - 0.3), np.maximum(b - 0.95, a - 0.3))


def _ring(u: Floats, v: Floats) -> Floats:
    return np.abs(np.hypot(u, v) - 0.72) - 0.22


def _crescent(u: Floats, v: Floats) -> Floats:
    return np.maximum(np.hypot(u, v) - 0.95, 0.78 - np.hypot(u - 0.5, v))


def _heart(u: Floats, v: Floats) -> Floats:
    lobes = np.hypot(np.abs(u) - 0.42, v + 0.3) - 0.5
    wedge = np.maximum(np.abs(u) * 0.72 + v * 0.69 - 0.62, -v - 0.35)
    return np.minimum(lobes, wedge)


OUTLINES: Mapping[str, Callable[[Floats, Floats], Floats]] = MappingProxyType(
    {
        "circle": _circle,
        "square": _polygon(4),
        "triangle": _polygon(3),
        "star": _star,
        "cross": _cross,
        "ring": _ring,
        "crescent": _crescent,
        "heart": _heart,
    }
)
