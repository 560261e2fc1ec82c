"""Folders of classes: what counts, what is left out and said, and names that look alike."""

import os
import unicodedata

import numpy as np
import pytest
from PIL import Image

from fedpurel_app.config import load_config
from fedpurel_app.core.errors import ConfigError, DataError
from fedpurel_app.data.sources.feature_file import load_features
from fedpurel_app.data.sources.folders import load_imagefolder
from fedpurel_app.data.sources.inspection import look_at
from fedpurel_app.data.sources.own import load_own
from tests.support import tiny_features, write_images

CAFE = "caf\u00e9"
APART = unicodedata.normalize("NFD", CAFE)
LATIN = os.fsdecode(b"f\xe9")  # no UTF-8


def folder(root, names=("cat", "dog"), parts=("train", "test")):
    for part in parts:
        write_images(root / part, {name: [10 * place, 10 * place + 1] for place, name in enumerate(names)})
    return root


def own(root, names=("cat", "dog")):
    return load_own(str(root), names, 0)


def rows(source):
    return [*source.train.labels], [*source.test.labels]


def test_hidden_and_system_folders_are_no_classes_and_their_files_no_images(tmp_path):
    folder(tmp_path)
    plain = rows(load_imagefolder(str(tmp_path), 0))
    for odd in (".ipynb_checkpoints", "@eaDir/000.png"):
        write_images(tmp_path / "train" / "cat", {odd: [1]})
    for odd in ("@eaDir", "__MACOSX", "lost+found", ".cache"):
        write_images(tmp_path / "train", {odd: [1]})
    (tmp_path / "train" / "cat" / "x.png").mkdir()
    (tmp_path / "train" / "cat" / "._0.png").write_bytes(b"resource fork")
    source = load_imagefolder(str(tmp_path), 0)
    assert source.class_names == ("cat", "dog") and rows(source) == plain
    (note,) = source.notes
    assert note.startswith("train/: hidden folders, and those of a system, are left out: ") and "@eaDir" in note


@pytest.mark.parametrize("load", [lambda path: load_imagefolder(str(path), 0), own])
def test_an_empty_validation_folder_or_a_systems_one_leaves_no_site_out(tmp_path, load):
    folder(tmp_path)
    for name in ("__MACOSX", "@eaDir", "lost+found", "val"):
        (tmp_path / name).mkdir()
    source = load(tmp_path)
    assert source.class_names == ("cat", "dog") and rows(source) == ([0, 0, 1, 1], [0, 0, 1, 1])
    assert any("left out: val" in note for note in source.notes)


def test_a_folder_without_images_is_no_class_of_a_site(tmp_path):
    write_images(tmp_path, {"cat": [1, 2], "dog": [3, 4]})
    (tmp_path / "zebra").mkdir()
    source = own(tmp_path)
    assert len(source.train.labels) == len(source.test.labels) == 2
    assert "folders without an image are no classes: zebra" in source.notes


@pytest.mark.parametrize("load", [lambda path: load_imagefolder(str(path), 0), own])
@pytest.mark.parametrize(
    ("train", "test"), [("train", "val"), ("Train", "Test"), ("TRAIN", "valid"), ("train", "validation")]
)
def test_parts_are_known_in_any_case_and_validation_stands_in_for_a_test_part(tmp_path, load, train, test):
    folder(tmp_path, parts=(train, test))
    assert rows(load(tmp_path)) == ([0, 0, 1, 1], [0, 0, 1, 1])


@pytest.mark.parametrize("load", [lambda path: load_imagefolder(str(path), 0), own])
def test_validation_beside_a_test_part_is_left_out_with_a_word(tmp_path, load):
    folder(tmp_path, parts=("train", "test"))
    write_images(tmp_path / "val", {"cat": [9], "zebra": [8]})
    source = load(tmp_path)
    assert rows(source) == ([0, 0, 1, 1], [0, 0, 1, 1])
    assert any("left out: val" in note for note in source.notes)


def test_two_folders_that_could_be_one_part_are_refused(tmp_path):
    folder(tmp_path, parts=("train", "Train", "test"))
    with pytest.raises(DataError, match="Train and train could both be the train part"):
        load_imagefolder(str(tmp_path), 0)


def test_a_missing_part_is_named_with_what_is_there(tmp_path):
    folder(tmp_path, parts=("train", "holdout"))
    with pytest.raises(DataError, match='no folder "test"; there are holdout, train'):
        load_imagefolder(str(tmp_path), 0)


def test_files_left_out_are_counted_by_their_endings(tmp_path):
    folder(tmp_path)
    for name in ("a", "b.heic", "c.heic"):
        (tmp_path / "train" / "cat" / name).write_bytes(b"x")
    os.mkfifo(tmp_path / "train" / "cat" / "pipe.png")
    Image.new("RGB", (4, 4)).save(tmp_path / "test" / "loose.png")
    assert load_imagefolder(str(tmp_path), 0).notes == (
        "train/: 4 files without an image's ending are left out: 2 .heic, 1 without ending, 1 no regular file",
        "test/: 1 images outside the folders of classes are left out",
    )


def test_a_class_of_left_out_files_alone_is_refused_with_the_reason(tmp_path):
    folder(tmp_path)
    (tmp_path / "train" / "dog" / "10.png").rename(tmp_path / "train" / "dog" / "10.xyz")
    (tmp_path / "train" / "dog" / "11.png").unlink()
    with pytest.raises(DataError, match=r"no images in train/ of dog \(it holds 1 \.xyz\)"):
        load_imagefolder(str(tmp_path), 0)


@pytest.mark.parametrize("ending", ["jfif", "JPE", "gif", "GIF", "ppm"])
def test_every_usual_ending_of_an_image_counts(tmp_path, ending):
    folder(tmp_path)
    form = {"jfif": "JPEG", "jpe": "JPEG"}.get(ending.lower(), ending.upper())
    Image.new("RGB", (4, 4), (99, 0, 0)).save(tmp_path / "train" / "cat" / f"x.{ending}", format=form)
    source = load_imagefolder(str(tmp_path), 0)
    assert np.bincount(source.train.labels).tolist() == [3, 2]
    assert [image.size for image in source.train.images(np.arange(5))] == [(4, 4)] * 5


# --- names ------------------------------------------------------------------------------------------------------------


def test_names_are_one_however_their_letters_are_composed(tmp_path):
    write_images(tmp_path / "train", {CAFE: [1], "dog": [2]})
    write_images(tmp_path / "test", {APART: [1], "dog": [2]})
    source = load_imagefolder(str(tmp_path), 0)
    assert source.class_names == (CAFE, "dog") and rows(source) == ([0, 1], [0, 1])
    site = load_own(str(tmp_path), load_config({"dataset": "sites", "classes": f"{APART}, dog"}).class_names, 0)
    assert site.class_names == (CAFE, "dog") and rows(site) == ([0, 1], [0, 1])


@pytest.mark.parametrize("names", [("polar_bear", "polar bear"), ("Cat", "cat"), (CAFE, APART)])
def test_folders_whose_names_are_one_text_are_refused(tmp_path, names):
    folder(tmp_path, (*names, "dog"))
    with pytest.raises(DataError, match="differ by no more than case, underscores and spaces: .* = "):
        load_imagefolder(str(tmp_path), 0)
    with pytest.raises(DataError, match="differ by no more than case, underscores and spaces: .* = "):
        load_own(str(tmp_path), (names[0], "dog"), 0)


def feature_file(tmp_path, names):
    path = tiny_features(tmp_path / "f.npz", classes=4, width=4)
    with np.load(path) as file:
        arrays = dict(file)
    np.savez(path, **{**arrays, "class_names": np.array(names)})
    return str(path)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["crane", "crane", "bat", "bat"], "crane = crane, bat = bat"),
        (["", " ", "bat", "cat"], r"2 without a text \(class 0, 1\)"),
        (["a\x1b[31m", "b", "c", "d"], "control characters"),
        ([1, 2, 3, 4], "class_names: int64; expected strings, or bytes of UTF-8"),
        ([b"a", b"b\xff", b"c", b"d"], "bytes that are no UTF-8"),
    ],
)
def test_class_names_of_a_feature_file_that_cannot_be_used_are_named(tmp_path, names, message):
    path = feature_file(tmp_path, names)
    with pytest.raises(DataError, match=message):
        load_features(path, 0)
    with pytest.raises(DataError, match=message):
        load_own(path, ("crane", "bat"), 0)


def test_class_names_in_bytes_are_read_as_text(tmp_path):
    source = load_features(feature_file(tmp_path, [CAFE.encode(), b"b", b" c ", b"d"]), 0)
    assert source.class_names == (CAFE, "b", "c", "d")


def test_classes_of_a_run_that_are_one_text_are_refused():
    with pytest.raises(ConfigError, match="each once"):
        load_config({"dataset": "sites", "classes": f"{CAFE}, {APART}"})


@pytest.mark.parametrize("scale", [4.6052, 2.6593])
def test_a_scale_that_looks_like_a_logarithm_is_doubted_with_both_numbers(tmp_path, scale):
    path = tiny_features(tmp_path / "f.npz")
    with np.load(path) as file:
        arrays = dict(file)
    np.savez(path, **{**arrays, "logit_scale": np.float32(scale)})
    (note,) = load_features(str(path), 0).notes
    assert f"logit_scale = {scale:g}" in note and f"{np.exp(scale):.4g}" in note
    assert not load_features(str(tiny_features(tmp_path / "g.npz")), 0).notes  # of 10


# --- names that are bytes ---------------------------------------------------------------------------------------------


def test_a_file_whose_name_is_no_utf8_counts_as_any_other(tmp_path):
    folder(tmp_path)
    (tmp_path / "train" / "cat" / "0.png").rename(tmp_path / "train" / "cat" / f"{LATIN}.png")
    for source in (load_imagefolder(str(tmp_path), 0), own(tmp_path)):
        look_at(source)
        assert len(source.train.fingerprint) == 64 and len(source.train.images(np.arange(4))) == 4


def test_a_broken_file_of_such_a_name_can_be_told(tmp_path):
    folder(tmp_path)
    (tmp_path / "train" / "cat" / f"{LATIN}.png").touch()
    with pytest.raises(DataError) as caught:
        look_at(load_imagefolder(str(tmp_path), 0))
    assert "f\\xe9.png" in str(caught.value).encode().decode()


@pytest.mark.parametrize("load", [lambda path: load_imagefolder(str(path), 0), own])
def test_a_class_whose_name_is_no_utf8_is_refused_by_name(tmp_path, load):
    folder(tmp_path, ("cat", LATIN))
    with pytest.raises(DataError, match="no UTF-8") as caught:
        load(tmp_path)
    assert "f\\xe9" in str(caught.value)
