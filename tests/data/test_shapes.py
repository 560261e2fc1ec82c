import numpy as np
import pytest

from fedpurel_app.data.shapes import painting, shapes
from fedpurel_app.data.shapes.rendered import load_shapes


def test_every_colour_meets_every_shape_once():
    assert len(set(shapes.CLASS_NAMES)) == len(shapes.COLOURS) * len(shapes.SHAPES) == 48


def test_head_and_tail_have_all_colours_and_shapes():
    for third in np.array_split(np.array(shapes.CLASSES), 3):
        assert set(third[:, 0]) == set(range(6)) and len(set(third[:, 1])) == 8


def test_an_image_depends_on_nothing_but_its_number():
    whole = shapes.images("test", 7, 0, 130)
    assert whole.shape == (130, 32, 32, 3) and whole.dtype == np.uint8
    assert np.array_equal(whole[60:110], shapes.images("test", 7, 60, 110))
    assert np.array_equal(whole[:3], shapes.images("test", 7, 0, 3))


def test_splits_and_seeds_share_no_image():
    kinds = [shapes.images(split, 7, 0, 20, seed=seed) for split in shapes.SPLITS for seed in (0, 1)]
    flat = np.concatenate(kinds).reshape(120, -1)
    assert len(np.unique(flat, axis=0)) == 120


@pytest.mark.parametrize("label", [0, 13, 47])
def test_the_class_can_be_seen(label):
    """Without nuisance of colour, the shape's pixels have the class's hue: the rendered colour dominates the centre."""
    plain = shapes.Domain(("photo",), {})
    pictures = shapes.images("train", label, 0, 50, plain).astype(float) / 255
    colour = list(shapes.COLOURS.values())[shapes.CLASSES[label][0]]
    target = painting.rgb(*(np.array(part) for part in colour))
    distance = np.abs(pictures - target).sum(-1)
    assert (distance.min((1, 2)) < 0.5).mean() > 0.9


def test_easy_styles_have_at_most_two_effects_and_never_the_unnamed_one():
    _, severity = shapes.EASY.draw(2000, np.random.default_rng(0))
    number = (severity > 0).sum(1)
    assert number.max() == 2 and number.min() == 0
    assert (severity[:, shapes.EFFECTS.index("pixelated")] == 0).all()
    assert (severity.max(0)[:-1] > 0.9).all() and severity.max() <= 1


def test_hard_styles_were_never_seen_together():
    _, severity = shapes.HARD.draw(100, np.random.default_rng(0))
    assert ((severity > 0).sum(1) > 2).all()


def test_the_loaded_split_knows_its_labels_and_renders_any_rows():
    source = load_shapes("", 4)
    assert np.bincount(source.train.labels).tolist() == [4] * 48 and len(source.test.labels) == 4800
    rows = np.array([190, 5, 6])
    images = [np.asarray(image) for image in source.train.images(rows)]
    for row, image in zip(rows, images, strict=True):
        assert np.array_equal(image, shapes.images("train", row // 4, row % 4, row % 4 + 1)[0])


def test_superclasses_are_the_colours():
    source = load_shapes("", 4)
    assert source.superclass is not None
    colours = [name.split()[0] for name in source.class_names]
    assert len({(a, b) for a, b in zip(colours, source.superclass, strict=True)}) == 6


def test_the_fingerprint_names_split_and_size():
    prints = {load_shapes("", size).train.fingerprint for size in (4, 5)} | {load_shapes("", 4).test.fingerprint}
    assert len(prints) == 3
