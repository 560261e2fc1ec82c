"""Every entry of the catalogue on a small local stand-in of the same form."""

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Image, Value
from PIL import Image as Pillow

from fedpurel_app.core.errors import DataError
from fedpurel_app.data.sources.catalog import DATASETS, IMAGENET_LT, PLACES_LT
from fedpurel_app.data.sources.published import load_aircraft

# Columns, class names, splits, and what a class is called in prompts: as the hub has them.
HUB = {
    "cifar10": ("img", "label", ["airplane", "bird"], "test", ("airplane", "bird"), "a photo of a {}."),
    "cifar100": ("img", "fine_label", ["apple", "maple_tree"], "test", ("apple", "maple_tree"), "a photo of a {}."),
    "food101": ("image", "label", ["apple_pie", "ramen"], "validation", ("apple_pie", "ramen"), "a type of food, a ph"),
    "dtd": ("image", "label", ["banded", "dotted"], "test", ("banded", "dotted"), "a photo of a {} pattern."),
    "stanford-dogs": (
        "image",
        "label",
        ["n02085620-Chihuahua", "n02099601-golden_retriever"],
        "test",
        ("Chihuahua", "golden_retriever"),
        "a photo of a {}.",
    ),
    "oxford-pets": ("image", "label", ["abyssinian", "pug"], "test", ("abyssinian", "pug"), "a type of pet, a photo"),
}


def picture(seed=0, size=(40, 30)):
    return Pillow.fromarray(np.random.default_rng(seed).integers(0, 255, (*size[::-1], 3), np.uint8))


def write(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(seed).save(path)


@pytest.mark.parametrize("name", HUB)
def test_hub_data_load_from_a_folder_of_the_same_form(tmp_path, name):
    image, label, names, test, class_names, template = HUB[name]
    features = Features({image: Image(), label: ClassLabel(names=names)})
    table = {image: [picture(seed) for seed in range(4)], label: [0, 1, 0, 1]}
    if name == "cifar100":
        features["coarse_label"], table["coarse_label"] = Value("int64"), [3, 17, 3, 17]
    (tmp_path / "data").mkdir()
    for split in ("train", test):
        Dataset.from_dict(table, features=features).to_parquet(tmp_path / "data" / f"{split}-00000-of-00001.parquet")
    source = DATASETS[name].load(str(tmp_path), 0)
    assert source.class_names == class_names and source.template.startswith(template)
    assert source.train.labels.tolist() == [0, 1, 0, 1] and len(source.test.labels) == 4
    assert source.train.images(np.array([2]))[0].mode == "RGB"
    assert source.superclass == ((3, 17) if name == "cifar100" else None)


def test_hub_data_without_class_names_are_refused(tmp_path):
    (tmp_path / "data").mkdir()
    for split in ("train", "test"):
        table = Dataset.from_dict(
            {"img": [picture()], "label": [0]}, Features({"img": Image(), "label": Value("int64")})
        )
        table.to_parquet(tmp_path / "data" / f"{split}-00000-of-00001.parquet")
    with pytest.raises(DataError, match='column "label" has no class names'):
        DATASETS["cifar10"].load(str(tmp_path), 0)


def test_images_of_ones_own(tmp_path):
    for part in ("train", "test"):
        for number, name in enumerate(("old_car", "bus")):
            write(tmp_path / part / name / f"{number}.png", number)
    (tmp_path / "train" / "bus" / "notes.txt").write_text("not an image")
    source = DATASETS["imagefolder"].load(str(tmp_path), 0)
    assert source.class_names == ("bus", "old_car") and source.train.labels.tolist() == [0, 1]
    assert source.train.images(np.array([1]))[0].size == (40, 30)
    before = source.train.fingerprint
    write(tmp_path / "train" / "bus" / "9.png", 9)
    assert DATASETS["imagefolder"].load(str(tmp_path), 0).train.fingerprint != before


def test_other_pixels_under_the_same_name_are_other_data(tmp_path):
    for part in ("train", "test"):
        (tmp_path / part / "a").mkdir(parents=True)
        Pillow.new("RGB", (8, 8), "red").save(tmp_path / part / "a" / "1.bmp")
    before = DATASETS["imagefolder"].load(str(tmp_path), 0).train.fingerprint
    Pillow.new("RGB", (8, 8), "blue").save(tmp_path / "train" / "a" / "1.bmp")
    assert DATASETS["imagefolder"].load(str(tmp_path), 0).train.fingerprint != before


def test_an_image_that_cannot_be_read_is_named(tmp_path):
    for part in ("train", "test"):
        write(tmp_path / part / "a" / "1.jpg")
    path = tmp_path / "train" / "a" / "1.jpg"
    path.write_bytes(path.read_bytes()[:300])
    source = DATASETS["imagefolder"].load(str(tmp_path), 0)
    with pytest.raises(DataError, match=r"1\.jpg cannot be read as an image \(Truncated File Read"):
        source.train.images(np.array([0]))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], 'no folder "train" and "test"; it has none'),
        (["train/a/1.png", "test/b/1.png"], "classes that are in test/ alone: b; classes that are in train/ alone: a"),
        (["train/a/1.txt", "test/a/1.png"], r"no images in train/ of a \(it holds 1 .txt\)"),
        (["train/a/1.png", "train/b/._1.png", "test/a/1.png", "test/b/1.png"], "no images in train/ of b"),
    ],
)
def test_folders_of_another_form_are_refused(tmp_path, files, message):
    for file in files:
        if file.endswith(".png"):
            write(tmp_path / file)
        else:
            (tmp_path / file).parent.mkdir(parents=True)
            (tmp_path / file).write_text("")
    with pytest.raises(DataError, match=f"{message}.*train/CLASS"):
        DATASETS["imagefolder"].load(str(tmp_path), 0)


def listed(folder, entry, names, count):
    """Write lists and images; the entry expects as many as are written."""
    for list_name in (entry.train, entry.test):
        (folder / list_name).write_text("".join(f"{name} {label}\n" for label, name in enumerate(names)))
    for seed, name in enumerate(names):
        write(folder / name, seed)
    return type(entry)(entry.title, entry.train, entry.test, count, entry.names_from_paths)


def test_published_counts():
    assert (IMAGENET_LT.count, PLACES_LT.count) == (115_846, 62_500)
    assert DATASETS["imagenet-lt"].load == IMAGENET_LT.load and DATASETS["places-lt"].load == PLACES_LT.load


def test_imagenet_lt_by_its_lists(tmp_path):
    entry = listed(tmp_path, IMAGENET_LT, ["train/n01440764/a.png", "train/n01443537/b.png"], 2)
    source = entry.load(str(tmp_path), 0)
    assert len(source.class_names) == 1000 and source.class_names[:2] == ("tench", "goldfish")
    assert source.train.labels.tolist() == [0, 1] and source.test.images(np.array([1]))[0].mode == "RGB"


def test_places_lt_names_its_classes_by_folders(tmp_path):
    names = ["data_256/a/airfield/a.png", "data_256/c/cabin/outdoor/b.png"]
    assert listed(tmp_path, PLACES_LT, names, 2).load(str(tmp_path), 0).class_names == ("airfield", "cabin outdoor")


def test_lists_that_are_not_the_published_ones_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"needs dataset-path: a folder with ImageNet_LT_train\.txt, ImageNet_LT_test"):
        IMAGENET_LT.load("", 0)
    entry = listed(tmp_path, IMAGENET_LT, ["train/n01440764/a.png"], 115_846)
    with pytest.raises(DataError, match="names 1 images; ImageNet-LT has 115,846"):
        entry.load(str(tmp_path), 0)
    (tmp_path / "ImageNet_LT_train.txt").write_text("train/n01440764/a.png\n")
    with pytest.raises(DataError, match='line 1: expected "path label"'):
        entry.load(str(tmp_path), 0)


def test_aircraft_from_its_archive(tmp_path):
    data = tmp_path / "fgvc-aircraft-2013b" / "data"
    for image in ("0034309", "1025794"):
        write(data / "images" / f"{image}.jpg")
    (data / "variants.txt").write_text("707-320\nA340-200\n")
    for part in ("trainval", "test"):
        (data / f"images_variant_{part}.txt").write_text("1025794 A340-200\n0034309 707-320\n")
    source = DATASETS["aircraft"].load(str(tmp_path), 0)
    assert source.class_names == ("707-320", "A340-200") and source.train.labels.tolist() == [1, 0]
    assert source.template == "a type of aircraft, a photo of a {}."


def test_aircraft_that_are_absent_say_what_to_bring(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="needs dataset-path"):
        load_aircraft("", 0)
    monkeypatch.setattr("torchvision.datasets.fgvc_aircraft.download_and_extract_archive", lambda *a, **k: exit(1))
    with pytest.raises(DataError, match=r"could not be downloaded.*fgvc-aircraft-2013b\.tar\.gz"):
        load_aircraft(str(tmp_path), 0)
