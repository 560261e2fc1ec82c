"""Paint and style effects of the ``shapes`` data set, on float RGB pictures of shape (N, 32, 32, 3).

Severities have the shape (N, 1, 1) and lie in [0, 1]; 0 leaves a picture as it is.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from fedpurel_app.data.shapes.outlines import SIZE, Floats, coverage, grid


def rgb(hue: Floats, saturation: Floats, value: Floats) -> Floats:
    """Convert HSV in [0, 1] to RGB; the last axis of the result is the channel."""
    k = (np.asarray(hue)[..., None] * 6 + np.array([5, 3, 1])) % 6
    value, saturation = np.asarray(value)[..., None], np.asarray(saturation)[..., None]
    return (value - value * saturation * np.clip(np.minimum(k, 4 - k), 0, 1)).astype(np.float32)


def foreground(prototype: Floats, rng: np.random.Generator) -> Floats:
    """Vary each row's colour (hue [turns], saturation, value), shape (N, 3); RGB of shape (N, 1, 1, 3)."""
    count = len(prototype)
    hue = prototype[:, 0] + rng.uniform(-0.02, 0.02, count)
    saturation = np.clip(prototype[:, 1] + rng.uniform(-0.15, 0.1, count), 0, 1)
    value = np.clip(prototype[:, 2] + rng.uniform(-0.15, 0.1, count), 0, 1)
    return rgb(hue, saturation, value)[:, None, None, :]


def ramp(count: int, rng: np.random.Generator) -> Floats:
    """Linear brightness ramps in random directions, within [-1, 1], shape (count, 32, 32)."""
    x, y = grid()
    angle = rng.uniform(0, 2 * np.pi, (count, 1, 1))
    return ((x * np.cos(angle) + y * np.sin(angle)) / np.sqrt(2)).astype(np.float32)


def background(drawing: npt.NDArray[np.bool_], striped: Floats, rng: np.random.Generator) -> Floats:
    """Paint plain or striped backgrounds, light ones for drawings, shape (N, 32, 32, 3)."""
    count = len(drawing)
    value = np.where(drawing[:, 0, 0], rng.uniform(0.85, 1, count), rng.uniform(0.15, 0.85, count))
    saturation = np.where(drawing[:, 0, 0], 0.05, rng.uniform(0, 0.35, count))
    plain = rgb(rng.uniform(0, 1, count), saturation, value)[:, None, None, :]
    plain = plain * (1 + 0.2 * ramp(count, rng))[..., None]
    wave = np.sign(np.sin(ramp(count, rng) * rng.uniform(12, 24, (count, 1, 1)) + rng.uniform(0, 6, (count, 1, 1))))
    ink = rgb(rng.uniform(0, 1, count), rng.uniform(0.2, 0.9, count), rng.uniform(0.2, 0.9, count))[:, None, None, :]
    amount = (0.8 * striped * (wave > 0))[..., None]
    return (plain + amount * (ink - plain)).astype(np.float32)


def brush(count: int, rng: np.random.Generator) -> Floats:
    """Oriented brush strokes: a product of two waves, within [-1, 1], shape (count, 32, 32)."""
    phase = rng.uniform(0, 6.28, (2, count, 1, 1))
    along = np.sin(ramp(count, rng) * rng.uniform(14, 26, (count, 1, 1)) + phase[0])
    across = np.sin(ramp(count, rng) * rng.uniform(3, 9, (count, 1, 1)) + phase[1])
    return (along * across).astype(np.float32)


def clutter(picture: Floats, level: Floats, rng: np.random.Generator) -> Floats:
    """Scatter up to seven small coloured blobs; the number grows with the severity."""
    count = len(picture)
    x, y = grid()
    for index in range(7):
        centre = rng.uniform(-1, 1, (2, count, 1, 1))
        size = rng.uniform(0.08, 0.26, (2, count, 1, 1))
        ink = rgb(rng.uniform(0, 1, count), rng.uniform(0.4, 1, count), rng.uniform(0.3, 1, count))[:, None, None, :]
        box = rng.uniform(0, 1, (count, 1, 1)) < 0.5
        du, dv = np.abs(x - centre[0]) - size[0], np.abs(y - centre[1]) - size[1]
        blob = coverage(np.where(box, np.maximum(du, dv), np.hypot(x - centre[0], y - centre[1]) - size[0]))
        picture = picture + (blob * (level * 7 > index))[..., None] * (ink - picture)
    return picture.astype(np.float32)


def hide(picture: Floats, level: Floats, rng: np.random.Generator) -> Floats:
    """Cover a band of the picture, up to 14 pixels wide, with one grey."""
    count = len(picture)
    band = np.abs(ramp(count, rng) * np.sqrt(2) - rng.uniform(-0.5, 0.5, (count, 1, 1))) - 0.44 * level
    cover = (coverage(band) * (level > 0))[..., None]
    grey = rng.uniform(0.1, 0.9, (count, 1, 1, 1))
    return (picture + cover * (grey - picture)).astype(np.float32)


def blur(picture: Floats, level: Floats) -> Floats:
    """Two passes of a 5-point binomial filter, mixed in by the severity."""
    soft = picture
    for _ in range(2):
        for axis in (1, 2):
            wide = np.take(soft, np.clip(np.arange(-2, SIZE + 2), 0, SIZE - 1), axis=axis)
            part = [np.take(wide, np.arange(SIZE) + shift, axis=axis) for shift in range(5)]
            soft = (part[0] + part[4] + 4 * (part[1] + part[3]) + 6 * part[2]) / 16
    return picture + level[..., None] * (soft - picture)


def pixelate(picture: Floats, level: Floats) -> Floats:
    """Mix in a mosaic of 2 x 2 blocks."""
    half = SIZE // 2
    mosaic = picture.reshape(-1, half, 2, half, 2, 3).mean((2, 4)).repeat(2, axis=1).repeat(2, axis=2)
    return (picture + level[..., None] * (mosaic - picture)).astype(np.float32)


def light(picture: Floats, level: Mapping[str, Floats]) -> Floats:
    """Apply the effects that change colour: faded, warm, cold, dark, bright, in this order."""
    wide = {name: value[..., None] for name, value in level.items()}
    grey = picture @ np.array([0.3, 0.59, 0.11], np.float32)
    picture = picture + 0.8 * wide["faded"] * (grey[..., None] * 0.6 + 0.25 - picture)
    picture = picture * (1 + wide["warm"] * np.array([0.25, -0.18, -0.55], np.float32))
    picture = picture * (1 + wide["cold"] * np.array([-0.5, -0.15, 0.3], np.float32))
    picture = picture * (1 - 0.72 * wide["dark"])
    return (picture + 0.55 * wide["bright"] * (1 - picture)).astype(np.float32)
