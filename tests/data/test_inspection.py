"""All images of a data set are looked at before any work begins, and all that is wrong is named at once."""

import datasets
import numpy as np
import pytest
from PIL import Image

from fedpurel_app.core.errors import DataError
from fedpurel_app.data.sources import inspection, tables
from fedpurel_app.data.sources.catalog import DATASETS
from fedpurel_app.data.sources.folders import load_imagefolder
from fedpurel_app.data.sources.inspection import look_at
from fedpurel_app.data.sources.own import load_own
from tests.support import write_images


@pytest.fixture
def folder(tmp_path):
    for part in ("train", "test"):
        write_images(tmp_path / part, {"cat": range(10), "dog": range(20, 30)})
    return tmp_path


def spoil(folder, count=1):
    for number in range(count):
        (folder / "train" / "cat" / f"z{number:02d}.jpg").touch()


@pytest.mark.parametrize("alone", [20_000, 1])
def test_all_files_that_cannot_be_read_are_named_at_once(folder, monkeypatch, alone):
    monkeypatch.setattr(inspection, "_ALONE", alone)  # by this process, and by all cores
    spoil(folder)
    Image.new("1", (20_000, 20_000)).save(folder / "test" / "dog" / "bomb.png")
    with pytest.raises(DataError) as caught:
        look_at(load_imagefolder(str(folder), 0))
    first, *lines = str(caught.value).splitlines()
    assert first.startswith("2 of 42 images cannot be read") and len(lines) == 2
    assert "z00.jpg cannot be read as an image (it is empty)" in lines[0]
    assert "bomb.png is too large to be read" in lines[1] and "400000000 pixels" in lines[1]


def test_of_very_many_faults_some_are_named_and_all_counted(folder):
    spoil(folder, 25)
    with pytest.raises(DataError) as caught:
        look_at(load_imagefolder(str(folder), 0))
    first, *lines = str(caught.value).splitlines()
    assert first.startswith("25 of 65") and len(lines) == 21 and lines[-1] == "and 5 more"


def test_what_was_sound_is_not_looked_at_again_until_it_changes(folder, monkeypatch):
    looked = []

    def sound(path):
        looked.append(path)
        return ""

    monkeypatch.setattr("fedpurel_app.data.sources.inspection.fault_of", sound)
    for expected in (40, 40):  # the second time by memory
        look_at(load_imagefolder(str(folder), 0))
        assert len(looked) == expected
    spoil(folder)
    look_at(load_imagefolder(str(folder), 0))
    assert len(looked) == 81


def test_what_was_not_sound_is_looked_at_again(folder):
    spoil(folder)
    for _ in range(2):
        with pytest.raises(DataError, match="1 of 41"):
            look_at(load_imagefolder(str(folder), 0))


def test_progress_is_told(folder, monkeypatch):
    seconds = iter(range(0, 1000, 5))
    monkeypatch.setattr("fedpurel_app.data.sources.inspection.time.monotonic", lambda: next(seconds))
    told = []
    look_at(load_imagefolder(str(folder), 0), lambda number, total: told.append((number, total)))
    assert told and told == sorted(told) and {total for _, total in told} == {40}


def test_a_sites_held_out_rows_are_looked_at_once(tmp_path):
    write_images(tmp_path, {"cat": range(10), "dog": range(20, 30)})
    (tmp_path / "cat" / "z.png").touch()
    with pytest.raises(DataError, match="1 of 21 images"):
        look_at(load_own(str(tmp_path), ("cat", "dog"), 0))


def table(path, images, labels, names, **columns):
    image, label = columns.get("image", "image"), columns.get("label", "label")
    features = datasets.Features({image: datasets.Image(), label: datasets.ClassLabel(names=names)})
    path.parent.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_dict({image: images, label: labels}, features=features).to_parquet(path)


def coloured(colour):
    return Image.new("RGB", (4, 4), colour)


def test_a_row_without_an_image_is_named_with_its_split_and_number(tmp_path):
    images = [coloured("red"), {"bytes": b"", "path": None}, coloured("blue")]
    table(tmp_path / "own" / "train.parquet", images, [0, 1, 0], ["cat", "dog"])
    with pytest.raises(DataError, match=r"1 of 3 images.*\n.*own\", train part, row 1, cannot be read .*empty"):
        look_at(load_own(str(tmp_path / "own"), ("cat", "dog"), 0))
    hub = tmp_path / "hub" / "data"
    for part in ("train", "test"):
        found = images if part == "train" else [coloured("red")] * 3
        table(hub / f"{part}-00000-of-00001.parquet", found, [0, 1, 0], ["cat", "dog"], image="img")
    source = DATASETS["cifar10"].load(str(tmp_path / "hub"), 0)
    with pytest.raises(DataError, match=r"split train, row 1, cannot be read as an image \(it is empty\)"):
        look_at(source)
    with pytest.raises(DataError, match=r"split train, row 1, cannot be read as an image \(it is empty\)"):
        source.train.images(np.array([0, 1]))


# --- labels -----------------------------------------------------------------------------------------------------------

SHADES = {"cat": "red", "dog": "blue"}


def by_colour(split):
    """Read back which animal every row shows."""
    return ["cat" if image.getpixel((0, 0))[0] else "dog" for image in split.images(np.arange(len(split.labels)))]


@pytest.mark.parametrize("second", [["dog", "cat"], ["dog"], "text"])
def test_labels_of_parquet_files_are_read_by_each_files_own_names(tmp_path, second):
    shown = ["cat", "dog"] * 3
    table(tmp_path / "train-0.parquet", [coloured(SHADES[one]) for one in shown], [0, 1] * 3, ["cat", "dog"])
    held = ["dog"] * 4 if second == ["dog"] else ["dog", "cat"] * 2
    images = [coloured(SHADES[one]) for one in held]
    if second == "text":
        words = datasets.Dataset.from_dict({"image": images, "label": held}).cast_column("image", datasets.Image())
        words.to_parquet(tmp_path / "test-0.parquet")
    else:
        table(tmp_path / "test-0.parquet", images, [second.index(one) for one in held], second)
    source = load_own(str(tmp_path), ("cat", "dog"), 0)
    for split in (source.train, source.test):
        assert [source.class_names[label] for label in split.labels] == by_colour(split)
    assert len(source.test.labels) == 4


def test_numbers_without_names_beside_numbers_with_names_are_refused(tmp_path):
    table(tmp_path / "train-0.parquet", [coloured("red")] * 2, [0, 1], ["cat", "dog"])
    bare = datasets.Dataset.from_dict({"image": [coloured("red")], "label": [1]}).cast_column("image", datasets.Image())
    bare.to_parquet(tmp_path / "train-1.parquet")
    with pytest.raises(DataError, match=r"train-1\.parquet: column \"label\" has no class names of its own"):
        load_own(str(tmp_path), ("cat", "dog"), 0)


def hub(tmp_path, **labels):
    for part, (numbers, names) in labels.items():
        path = tmp_path / "data" / f"{part}-00000-of-00001.parquet"
        table(path, [coloured("red")] * len(numbers), numbers, names, image="img")
    return DATASETS["cifar10"].load(str(tmp_path), 0)


def test_splits_in_the_hubs_form_with_other_names_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"test-.*parquet: column \"label\" has the class names dog, cat; .* cat, dog"):
        hub(tmp_path, train=([0, 1], ["cat", "dog"]), test=([0, 1], ["dog", "cat"]))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([*range(10)] * 2 + [-1] * 20, r"20 of 40 rows of the test part have a label outside 0 to 9 \(-1\)"),
        ([-1] * 4, "4 of 4 rows of the test part"),
        ([0, None, 1], "1 of 3 rows of the test part have no label"),
    ],
)
def test_unlabelled_rows_in_the_hubs_form_are_counted(tmp_path, labels, message):
    names = [f"name {number}" for number in range(10)]
    with pytest.raises(DataError, match=message):
        hub(tmp_path, train=([*range(10)], names), test=(labels, names))


def test_a_superclass_that_is_not_one_is_refused(tmp_path):
    features = datasets.Features(
        {
            "img": datasets.Image(),
            "fine_label": datasets.ClassLabel(names=["a", "b"]),
            "coarse_label": datasets.Value("int64"),
        }
    )
    (tmp_path / "data").mkdir()
    for part in ("train", "test"):
        found = {"img": [coloured("red")] * 3, "fine_label": [0, 0, 1], "coarse_label": [3, 4, 5]}
        datasets.Dataset.from_dict(found, features=features).to_parquet(tmp_path / "data" / f"{part}-0.parquet")
    with pytest.raises(DataError, match='"coarse_label" .* one superclass for every class, and does not for a'):
        DATASETS["cifar100"].load(str(tmp_path), 0)


@pytest.mark.parametrize(
    ("limit", "size", "told"),
    [
        (2**24, 9 * 2**20, "18,8"),
        pytest.param(tables._MOST_UNPACKED, 150 * 2**20, "314,", marks=pytest.mark.slow),
    ],
)
def test_a_parquet_file_that_unpacks_to_very_much_is_not_opened(tmp_path, monkeypatch, limit, size, told):
    import pyarrow
    from pyarrow import parquet

    monkeypatch.setattr(tables, "_MOST_UNPACKED", limit)
    cells = [{"bytes": bytes(size), "path": None}] * 2
    table = pyarrow.table({"image": cells, "label": ["cat", "dog"]})
    parquet.write_table(table, tmp_path / "train.parquet", compression="zstd", use_dictionary=False)
    assert (tmp_path / "train.parquet").stat().st_size < 10**6
    with pytest.raises(DataError, match=rf"train.parquet has .* bytes and unpacks to {told}.*: it is not opened"):
        load_own(str(tmp_path), ("cat", "dog"), 0)
