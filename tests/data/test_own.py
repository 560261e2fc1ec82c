"""Data that a site brings of its own."""

import numpy as np
import pytest
from PIL import Image

from fedpurel_app.core.errors import DataError
from fedpurel_app.data.sources.own import load_own
from fedpurel_app.data.sources.source import FeatureSplit
from fedpurel_app.data.sources.subsets import hold_out
from tests.support import write_images

NAMES = ("cat", "polar bear", "dog")


def colours(split):
    """Read back the colour that stands for every image."""
    return [image.getpixel((0, 0))[0] for image in split.images(np.arange(len(split.labels)))]


def test_folders_of_some_classes_get_the_labels_of_the_federation(tmp_path):
    write_images(tmp_path / "train", {"Polar_Bear": [10, 11, 12], "cat": [20, 21]})
    write_images(tmp_path / "test", {"Polar_Bear": [13]})
    source = load_own(str(tmp_path), NAMES, 0)
    assert source.class_names == NAMES
    assert dict(zip(colours(source.train), source.train.labels, strict=True)) == {10: 1, 11: 1, 12: 1, 20: 0, 21: 0}
    assert colours(source.test) == [13] and source.test.labels.tolist() == [1]


def test_without_a_test_part_a_fifth_of_every_class_is_held_out(tmp_path):
    write_images(tmp_path, {"cat": range(10), "dog": range(10, 13), "polar bear": [20]})
    source = load_own(str(tmp_path), NAMES, 0)
    assert np.bincount(source.test.labels, minlength=3).tolist() == [2, 0, 1]
    assert np.bincount(source.train.labels, minlength=3).tolist() == [8, 1, 2]
    assert sorted(colours(source.train) + colours(source.test)) == [*range(13), 20]
    again, other = load_own(str(tmp_path), NAMES, 0), load_own(str(tmp_path), NAMES, 1)
    assert colours(again.test) == colours(source.test) != colours(other.test)
    assert again.train.fingerprint == source.train.fingerprint != other.train.fingerprint


def test_hold_out_deals_every_row_once():
    labels = np.array([3, 1, 3, 3, 1, 0, 3, 3, 3])
    names = [f"{row}.png" for row in range(9)]
    train, test = hold_out(labels, names, 0)
    assert sorted([*train, *test]) == list(range(9))
    assert np.bincount(labels[test], minlength=4).tolist() == [0, 1, 0, 1]


def test_one_image_more_moves_at_most_one_other_to_the_other_side():
    names = [f"{row}.png" for row in range(100)]
    before = {names[row] for row in hold_out(np.zeros(100, np.int64), names, 0)[1]}
    for new in ("a.png", "b.png", "c.png"):
        more = sorted([*names, new])
        after = {more[row] for row in hold_out(np.zeros(101, np.int64), more, 0)[1]}
        assert len(before - after) <= 1 and len(after) == 20


def test_a_class_may_be_called_train(tmp_path):
    write_images(tmp_path, {"train": [1, 2], "dog": [3, 4]})
    source = load_own(str(tmp_path), ("dog", "train"), 0)
    assert sorted(colours(source.train) + colours(source.test)) == [1, 2, 3, 4]
    with pytest.raises(DataError, match=r"\(or \"val\"\) are parts only where there is no other"):
        load_own(str(tmp_path), NAMES, 0)


def test_parquet_parts_are_known_by_their_folders_too(tmp_path):
    import datasets

    for part, shades in (("train", (1, 2)), ("test", (3,))):
        images = [Image.new("RGB", (4, 4), (shade, 0, 0)) for shade in shades]
        table = datasets.Dataset.from_dict({"image": images, "label": ["cat"] * len(shades)})
        (tmp_path / part).mkdir()
        table.cast_column("image", datasets.Image()).to_parquet(tmp_path / part / "0000.parquet")
    alone = load_own(str(tmp_path / "train" / "0000.parquet"), NAMES, 0)
    assert sorted(colours(alone.train) + colours(alone.test)) == [1, 2]
    source = load_own(str(tmp_path), NAMES, 0)
    assert (colours(source.train), colours(source.test)) == ([1, 2], [3])


@pytest.mark.parametrize(
    ("labels", "shades", "message"),
    [
        ([0, -1, 1], [1, 2, 3], "1 of 3 rows of the train part have a label outside 0 to 1"),
        ([0, None, 1], [1, 2, 3], "1 of 3 rows of the train part have no label"),
        (["cat", None, "dog"], [1, 2, 3], "1 of 3 rows of the train part have no label"),
        ([0, 1, 1], [1, None, 3], '1 of 3 rows of the train part have nothing in column "image"'),
    ],
)
def test_parquet_rows_without_a_label_or_an_image_are_refused(tmp_path, labels, shades, message):
    import datasets

    images = [None if shade is None else Image.new("RGB", (4, 4), (shade, 0, 0)) for shade in shades]
    table = datasets.Dataset.from_dict({"image": images, "label": labels}).cast_column("image", datasets.Image())
    if not any(isinstance(label, str) for label in labels):
        table = table.cast_column("label", datasets.ClassLabel(names=["cat", "dog"]))
    table.to_parquet(tmp_path / "x.parquet")
    with pytest.raises(DataError, match=message):
        load_own(str(tmp_path), NAMES, 0)


def test_parquet_beside_folders_of_images_is_refused(tmp_path):
    write_images(tmp_path, {"cat": [1, 2]})
    (tmp_path / "x.parquet").write_bytes(b"")
    with pytest.raises(DataError, match="holds parquet files and folders of images"):
        load_own(str(tmp_path), NAMES, 0)


@pytest.mark.parametrize("labels", ["classes", "text"])
@pytest.mark.parametrize("parts", [("train",), ("train", "test")])
def test_parquet(tmp_path, labels, parts):
    import datasets

    for part in parts:
        images = [Image.new("RGB", (4, 4), (shade, 0, 0)) for shade in (5, 6, 7, 8, 9)]
        names = ["dog", "cat", "dog", "cat", "dog"]
        table = datasets.Dataset.from_dict({"picture": images, "animal": names})
        table = table.cast_column("picture", datasets.Image())
        if labels == "classes":
            table = table.class_encode_column("animal")
        table.to_parquet(tmp_path / f"{part}-0.parquet")
    source = load_own(str(tmp_path if len(parts) == 2 else tmp_path / "train-0.parquet"), NAMES, 0)
    assert {shade: NAMES[label] for shade, label in zip(colours(source.train), source.train.labels, strict=True)} == {
        shade: "dog" if shade % 2 else "cat" for shade in colours(source.train)
    }
    assert (len(source.train.labels), len(source.test.labels)) == ((5, 5) if len(parts) == 2 else (3, 2))


def test_features_of_some_classes(tmp_path):
    rows = np.arange(1, 19, dtype=np.float32).reshape(6, 3)
    path = tmp_path / "own.npz"
    np.savez(path, train_features=rows, train_labels=[0, 1, 0, 1, 1, 0], class_names=np.array(["dog", "cat"]))
    source = load_own(str(path), NAMES, 0)
    found = {
        tuple(row): label
        for split in (source.train, source.test)
        if isinstance(split, FeatureSplit)
        for row, label in zip(split.features, split.labels, strict=True)
    }
    assert found == {tuple(row): label for row, label in zip(rows, [2, 0, 2, 0, 0, 2], strict=True)}
    assert source.classifier is None


def test_no_path_is_no_data():
    source = load_own("", NAMES, 0)
    assert len(source.train.labels) == len(source.test.labels) == 0 and source.class_names == NAMES


def test_unknown_classes_are_all_named(tmp_path):
    write_images(tmp_path, {"cat": [1, 2], "zebra": [3], "yak": [4]})
    with pytest.raises(DataError, match=r"does not know: yak, zebra\. Its classes are cat, polar bear, dog"):
        load_own(str(tmp_path), NAMES, 0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "no such folder. It should be a folder with one folder of images per class"),
        (lambda path: path.mkdir(), "has no folders in it"),
        (lambda path: (path / "cat").mkdir(parents=True), "holds no training image"),
        (lambda path: write_images(path, {"cat": [1], "dog": [2]}), "no image to test on"),
    ],
)
def test_what_is_not_data_is_refused(tmp_path, make, message):
    make(tmp_path / "data")
    with pytest.raises(DataError, match=message):
        load_own(str(tmp_path / "data"), NAMES, 0)


def test_parquet_without_images_is_refused(tmp_path):
    import datasets

    datasets.Dataset.from_dict({"a": [1.0], "b": ["cat"]}).to_parquet(tmp_path / "x.parquet")
    with pytest.raises(DataError, match="has columns a, b: there must be one of images"):
        load_own(str(tmp_path), NAMES, 0)
