"""Render the ``shapes`` data set: coloured shapes under nameable styles, from a seed alone.

A class is a colour and a shape ("red circle"): 6 x 8 = 48 classes. Everything else is nuisance: pose, lighting,
background, and a *style*, that is a medium ("photo", "drawing", "painting") and any number of effects, each with an
adjective as its name and a severity in [0, 1] ("a dark noisy photo of a red circle"). A :class:`Domain` is a
distribution over styles. The embedded CLIP is trained on captions of the ``easy`` domain, which never shows more than
two effects at once; the federation works on ``hard``, a combination that no caption ever named.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[Any]
Ints = npt.NDArray[np.int64]

VERSION = 1  # of the rendering; features are cached by it
SIZE = 32
BLOCK = 50  # images that share one random stream; a split is a row of whole blocks, so its length changes no image
COLOURS: Mapping[str, tuple[float, float, float]] = MappingProxyType(
    {  # hue [turns], saturation, value
        "red": (0.00, 0.90, 0.90),
        "orange": (0.08, 0.95, 0.95),
        "yellow": (0.16, 0.90, 0.95),
        "green": (0.34, 0.80, 0.75),
        "blue": (0.61, 0.85, 0.90),
        "purple": (0.78, 0.75, 0.80),
    }
)
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring", "crescent", "heart")
MEDIA = ("photo", "drawing", "painting")
EFFECTS = (
    "noisy",
    "dark",
    "bright",
    "faded",
    "blurry",
    "warm",
    "cold",
    "cluttered",
    "striped",
    "hidden",
    "small",
    "pixelated",
)
# Every run of classes has all colours and shapes in turn, so head and tail of a long tail are equally hard.
CLASSES = tuple(
    (colour, (colour + 3 * turn) % len(SHAPES)) for turn in range(len(SHAPES)) for colour in range(len(COLOURS))
)
NAMED_EFFECTS = EFFECTS[:-1]  # those that captions of the easy domain name
CLASS_NAMES = tuple(f"{list(COLOURS)[colour]} {SHAPES[shape]}" for colour, shape in CLASSES)
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Domain:
    """A distribution over styles.

    Parameters
    ----------
    media : tuple of str
        Media drawn with equal probability.
    always : mapping of str to (float, float)
        Effects present in every image, with the range of their severity.
    sometimes : int
        Largest number of further effects per image, drawn without replacement; the number is uniform on 0..sometimes.
    among : tuple of str
        Effects that the further ones are drawn from.
    severity : (float, float)
        Range of the severity of the further effects.
    """

    media: tuple[str, ...]
    always: Mapping[str, tuple[float, float]]
    sometimes: int = 0
    among: tuple[str, ...] = NAMED_EFFECTS
    severity: tuple[float, float] = (0.3, 1.0)

    def draw(self, count: int, rng: np.random.Generator) -> tuple[Ints, Floats]:
        """Draw media ids, shape (count,), and severities, shape (count, number of effects), 0 where absent."""
        media = rng.choice([MEDIA.index(name) for name in self.media], size=count)
        severity = np.zeros((count, len(EFFECTS)), np.float32)
        for name, (low, high) in self.always.items():
            severity[:, EFFECTS.index(name)] = rng.uniform(low, high, count)
        if self.sometimes:
            rank = rng.permuted(np.tile(np.arange(len(self.among)), (count, 1)), axis=1)
            chosen = rank < rng.integers(0, self.sometimes + 1, (count, 1))
            columns = [EFFECTS.index(name) for name in self.among]
            severity[:, columns] = np.maximum(severity[:, columns], rng.uniform(*self.severity, rank.shape) * chosen)
        return media.astype(np.int64), severity


EASY = Domain(MEDIA, {}, sometimes=2)
HARD = Domain(("photo", "painting"), {"pixelated": (0.8, 1.0), "warm": (0.3, 0.9), "dark": (0.2, 0.6)})


def images(
    split: str, label: int, start: int, stop: int, domain: Domain = HARD, seed: int = 0
) -> npt.NDArray[np.uint8]:
    """Render the images ``start`` to ``stop`` (excluded) of one class of one split.

    Parameters
    ----------
    split : str
        One of ``SPLITS``; the splits share no image.
    label : int
        Class index into ``CLASS_NAMES``.
    start, stop : int
        Image i is the same whatever the range.
    domain : Domain
        Distribution of the styles.
    seed : int
        Seed of the data set itself (not of a run).

    Returns
    -------
    ndarray of uint8, shape (stop - start, 32, 32, 3)
    """
    first = start // BLOCK
    blocks = [np.empty((0, SIZE, SIZE, 3), np.uint8)]
    for block in range(first, -(-stop // BLOCK)):
        rng = np.random.default_rng([seed, SPLITS.index(split), label, block])
        media, severity = domain.draw(BLOCK, rng)
        blocks.append(render(np.full(BLOCK, label), media, severity, rng))
    return np.concatenate(blocks)[start - first * BLOCK : stop - first * BLOCK]


def render(labels: Ints, media: Ints, severity: Floats, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Render one image per row.

    Parameters
    ----------
    labels : ndarray of int, shape (N,)
        Class indices.
    media : ndarray of int, shape (N,)
        Indices into ``MEDIA``.
    severity : ndarray of float, shape (N, len(EFFECTS))
        Severity of every effect in [0, 1]; 0 = absent.
    rng : numpy.random.Generator
        Source of all nuisance.

    Returns
    -------
    ndarray of uint8, shape (N, 32, 32, 3)
    """
    count = len(labels)
    level = {name: severity[:, i, None, None] for i, name in enumerate(EFFECTS)}
    drawing, painting = ((media == MEDIA.index(name))[:, None, None] for name in ("drawing", "painting"))

    colour, shape = np.array(CLASSES)[labels].T
    distance = _distance(shape, level["small"], rng)
    fill = _coverage(distance)
    stroke = _coverage(np.abs(distance + 0.06) - 0.07)
    mask = np.where(drawing, np.maximum(stroke, 0.18 * fill), fill)

    front = _foreground(colour, count, rng)
    front = front * (1 + 0.25 * _ramp(count, rng))[..., None]
    back = _background(count, drawing, level["striped"], rng)
    texture = _brush(count, rng)[..., None] * painting[..., None]
    back = _clutter(back + 0.30 * texture, level["cluttered"], rng)
    picture = back + mask[..., None] * (front + 0.22 * texture - back)
    picture = _hide(picture, level["hidden"], rng)
    picture = _blur(picture, level["blurry"])
    picture = _pixelate(picture, level["pixelated"])
    picture = _light(picture, level)
    picture = picture + rng.normal(0, 1, picture.shape) * (0.02 + 0.22 * level["noisy"][..., None])
    return (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8)


# --- geometry: signed distances in pixels / 16, negative inside ---------------------------------------------------


def _grid() -> tuple[Floats, Floats]:
    axis = (np.arange(SIZE, dtype=np.float32) + 0.5) / (SIZE / 2) - 1
    return axis[None, None, :], axis[None, :, None]


def _distance(shape: Ints, small: Floats, rng: np.random.Generator) -> Floats:
    """Signed distance to the outline of every row's shape, shape (N, 32, 32)."""
    count = len(shape)
    x, y = _grid()
    centre = rng.uniform(-0.28, 0.28, (2, count, 1, 1))
    radius = rng.uniform(0.45, 0.72, (count, 1, 1)) * (1 - 0.45 * small)
    angle = rng.uniform(-0.5, 0.5, (count, 1, 1))
    u = ((x - centre[0]) * np.cos(angle) + (y - centre[1]) * np.sin(angle)) / radius
    v = ((y - centre[1]) * np.cos(angle) - (x - centre[0]) * np.sin(angle)) / radius
    unit = np.empty((count, SIZE, SIZE), np.float32)
    for index, name in enumerate(SHAPES):
        rows = shape == index
        unit[rows] = _OUTLINES[name](u[rows], v[rows])
    return (unit * radius).astype(np.float32)


def _coverage(distance: Floats) -> Floats:
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


_OUTLINES: Mapping[str, Callable[[Floats, Floats], Floats]] = MappingProxyType(
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


# --- paint --------------------------------------------------------------------------------------------------------


def _rgb(hue: Floats, saturation: Floats, value: Floats) -> Floats:
    """Convert HSV in [0, 1] to RGB; the last axis of the result is the channel."""
    k = (np.asarray(hue)[..., None] * 6 + np.array([5, 3, 1])) % 6
    value, saturation = np.asarray(value)[..., None], np.asarray(saturation)[..., None]
    return (value - value * saturation * np.clip(np.minimum(k, 4 - k), 0, 1)).astype(np.float32)


def _foreground(colour: Ints, count: int, rng: np.random.Generator) -> Floats:
    prototype = np.array(list(COLOURS.values()), np.float32)[colour]
    hue = prototype[:, 0] + rng.uniform(-0.02, 0.02, count)
    saturation = np.clip(prototype[:, 1] + rng.uniform(-0.15, 0.1, count), 0, 1)
    value = np.clip(prototype[:, 2] + rng.uniform(-0.15, 0.1, count), 0, 1)
    return _rgb(hue, saturation, value)[:, None, None, :]


def _ramp(count: int, rng: np.random.Generator) -> Floats:
    """Linear brightness ramps in random directions, within [-1, 1], shape (count, 32, 32)."""
    x, y = _grid()
    angle = rng.uniform(0, 2 * np.pi, (count, 1, 1))
    return ((x * np.cos(angle) + y * np.sin(angle)) / np.sqrt(2)).astype(np.float32)


def _background(count: int, drawing: npt.NDArray[np.bool_], striped: Floats, rng: np.random.Generator) -> Floats:
    value = np.where(drawing[:, 0, 0], rng.uniform(0.85, 1, count), rng.uniform(0.15, 0.85, count))
    saturation = np.where(drawing[:, 0, 0], 0.05, rng.uniform(0, 0.35, count))
    plain = _rgb(rng.uniform(0, 1, count), saturation, value)[:, None, None, :]
    plain = plain * (1 + 0.2 * _ramp(count, rng))[..., None]
    wave = np.sign(np.sin(_ramp(count, rng) * rng.uniform(12, 24, (count, 1, 1)) + rng.uniform(0, 6, (count, 1, 1))))
    ink = _rgb(rng.uniform(0, 1, count), rng.uniform(0.2, 0.9, count), rng.uniform(0.2, 0.9, count))[:, None, None, :]
    amount = (0.8 * striped * (wave > 0))[..., None]
    return (plain + amount * (ink - plain)).astype(np.float32)


def _brush(count: int, rng: np.random.Generator) -> Floats:
    """Oriented brush strokes: a product of two waves, within [-1, 1], shape (count, 32, 32)."""
    phase = rng.uniform(0, 6.28, (2, count, 1, 1))
    along = np.sin(_ramp(count, rng) * rng.uniform(14, 26, (count, 1, 1)) + phase[0])
    across = np.sin(_ramp(count, rng) * rng.uniform(3, 9, (count, 1, 1)) + phase[1])
    return (along * across).astype(np.float32)


def _clutter(picture: Floats, level: Floats, rng: np.random.Generator) -> Floats:
    """Scatter up to seven small coloured blobs; the number grows with the severity."""
    count = len(picture)
    x, y = _grid()
    for index in range(7):
        centre = rng.uniform(-1, 1, (2, count, 1, 1))
        size = rng.uniform(0.08, 0.26, (2, count, 1, 1))
        ink = _rgb(rng.uniform(0, 1, count), rng.uniform(0.4, 1, count), rng.uniform(0.3, 1, count))[:, None, None, :]
        box = rng.uniform(0, 1, (count, 1, 1)) < 0.5
        du, dv = np.abs(x - centre[0]) - size[0], np.abs(y - centre[1]) - size[1]
        blob = _coverage(np.where(box, np.maximum(du, dv), np.hypot(x - centre[0], y - centre[1]) - size[0]))
        picture = picture + (blob * (level * 7 > index))[..., None] * (ink - picture)
    return picture.astype(np.float32)


def _hide(picture: Floats, level: Floats, rng: np.random.Generator) -> Floats:
    """Cover a band of the picture, up to 14 pixels wide, with one grey."""
    count = len(picture)
    band = np.abs(_ramp(count, rng) * np.sqrt(2) - rng.uniform(-0.5, 0.5, (count, 1, 1))) - 0.44 * level
    cover = (_coverage(band) * (level > 0))[..., None]
    grey = rng.uniform(0.1, 0.9, (count, 1, 1, 1))
    return (picture + cover * (grey - picture)).astype(np.float32)


def _blur(picture: Floats, level: Floats) -> Floats:
    """Two passes of a 5-point binomial filter, mixed in by the severity."""
    soft = picture
    for _ in range(2):
        for axis in (1, 2):
            wide = np.take(soft, np.clip(np.arange(-2, SIZE + 2), 0, SIZE - 1), axis=axis)
            part = [np.take(wide, np.arange(SIZE) + shift, axis=axis) for shift in range(5)]
            soft = (part[0] + part[4] + 4 * (part[1] + part[3]) + 6 * part[2]) / 16
    return picture + level[..., None] * (soft - picture)


def _pixelate(picture: Floats, level: Floats) -> Floats:
    """Mix in a mosaic of 2 x 2 blocks."""
    half = SIZE // 2
    mosaic = picture.reshape(-1, half, 2, half, 2, 3).mean((2, 4)).repeat(2, axis=1).repeat(2, axis=2)
    return (picture + level[..., None] * (mosaic - picture)).astype(np.float32)


def _light(picture: Floats, level: Mapping[str, Floats]) -> Floats:
    """Apply the effects that change colour: faded, warm, cold, dark, bright, in this order."""
    wide = {name: value[..., None] for name, value in level.items()}
    grey = picture @ np.array([0.3, 0.59, 0.11], np.float32)
    picture = picture + 0.8 * wide["faded"] * (grey[..., None] * 0.6 + 0.25 - picture)
    picture = picture * (1 + wide["warm"] * np.array([0.25, -0.18, -0.55], np.float32))
    picture = picture * (1 + wide["cold"] * np.array([-0.5, -0.15, 0.3], np.float32))
    picture = picture * (1 - 0.72 * wide["dark"])
    return (picture + 0.55 * wide["bright"] * (1 - picture)).astype(np.float32)
