"""Render the ``shapes`` data set: coloured shapes under nameable styles, from a seed alone.

A class is a colour and a shape ("red circle"): 6 x 8 = 48 classes. Everything else is nuisance: pose, lighting,
background, and a *style*, that is a medium ("photo", "drawing", "painting") and any number of effects, each with an
adjective as its name and a severity in [0, 1] ("a dark noisy photo of a red circle"). A :class:`Domain` is a
distribution over styles. The embedded CLIP is trained on captions of the ``easy`` domain, which never shows more than
two effects at once; the federation works on ``hard``, a combination that no caption ever named.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from fedpurel_app.data.shapes import outlines, painting
from fedpurel_app.data.shapes.outlines import SIZE, Floats, Ints

VERSION = 1  # of the rendering; features are cached by it
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
SHAPES = tuple(outlines.OUTLINES)
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
HARD = Domain(("photo", "painting"), {"pixelated": (0.8, 1.0), "warm": (0.6, 1.0), "dark": (0.6, 1.0)})


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
    blocks += [block_of(split, label, block, domain, seed) for block in range(first, -(-stop // BLOCK))]
    return np.concatenate(blocks)[start - first * BLOCK : stop - first * BLOCK]


def block_of(split: str, label: int, block: int, domain: Domain, seed: int) -> npt.NDArray[np.uint8]:
    """Render one block of a class of a split: its ``BLOCK`` images, shape (BLOCK, 32, 32, 3)."""
    rng = np.random.default_rng([seed, SPLITS.index(split), label, block])
    media, severity = domain.draw(BLOCK, rng)
    return render(np.full(BLOCK, label), media, severity, rng)


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
    drawn, painted = ((media == MEDIA.index(name))[:, None, None] for name in ("drawing", "painting"))

    colour, shape = np.array(CLASSES)[labels].T
    distance = outlines.signed_distance(shape, level["small"], rng)
    fill = outlines.coverage(distance)
    stroke = outlines.coverage(np.abs(distance + 0.06) - 0.07)
    mask = np.where(drawn, np.maximum(stroke, 0.18 * fill), fill)

    front = painting.foreground(np.array(list(COLOURS.values()), np.float32)[colour], rng)
    front = front * (1 + 0.25 * painting.ramp(count, rng))[..., None]
    back = painting.background(drawn, level["striped"], rng)
    texture = painting.brush(count, rng)[..., None] * painted[..., None]
    back = painting.clutter(back + 0.30 * texture, level["cluttered"], rng)
    picture = back + mask[..., None] * (front + 0.22 * texture - back)
    picture = painting.hide(picture, level["hidden"], rng)
    picture = painting.blur(picture, level["blurry"])
    picture = painting.pixelate(picture, level["pixelated"])
    picture = painting.light(picture, level)
    picture = picture + rng.normal(0, 1, picture.shape) * (0.02 + 0.22 * level["noisy"][..., None])
    return (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8)
