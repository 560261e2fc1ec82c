import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value
from PIL import Image as Pillow

from fedpurel_app.core.errors import DataError
from fedpurel_app.data.sources.catalog import CIFAR100
from fedpurel_app.data.sources.feature_file import load_features
from fedpurel_app.data.sources.source import FeatureSplit
from tests.support import SHARED


def good(classes=3, width=4):
    rng = np.random.default_rng(0)
    return {
        "train_features": rng.normal(size=(9, width)).astype(np.float16),
        "train_labels": np.arange(9) % classes,
        "test_features": rng.normal(size=(6, width)).astype(np.float32),
        "test_labels": np.arange(6) % classes,
        "text_features": rng.normal(size=(classes, width)).astype(np.float32),
        "class_names": np.array([f"class {i}" for i in range(classes)]),
        "logit_scale": np.float32(100),
    }


def save(folder, arrays):
    path = folder / "features.npz"
    np.savez(path, **arrays)
    return str(path)


def test_features_load(tmp_path):
    source = load_features(save(tmp_path, good()), 0)
    assert isinstance(source.train, FeatureSplit) and source.classifier is not None
    assert source.train.features.dtype == np.float32 and source.train.features.shape == (9, 4)
    assert source.class_names == ("class 0", "class 1", "class 2") and source.classifier.logit_scale == 100
    assert source.train.fingerprint != source.test.fingerprint


def broken(name, change):
    arrays = good()
    arrays[name] = change(arrays[name])
    return arrays


def with_nan(values):
    values = values.copy()
    values[1, 2] = np.nan
    return values


@pytest.mark.parametrize(
    ("arrays", "part"),
    [
        (broken("train_features", with_nan), "train_features: 1 rows hold NaN or Inf"),
        (broken("train_features", lambda v: v[:, :3]), "features differ in width"),
        (broken("train_features", lambda v: v[0]), r"train_features: shape \(4,\)"),
        (broken("train_features", lambda v: v.astype(int)), "of floats"),
        (broken("test_features", lambda v: 0 * v), "rows of zeros"),
        (broken("train_labels", lambda v: v + 1), r"3 of 9 rows of the train part have a label outside 0 to 2 \(3\)"),
        (broken("train_labels", lambda v: v[:-1]), r"train_labels: shape \(8,\)"),
        (broken("test_labels", lambda v: v / 2), "expected one whole number per row"),
        (broken("class_names", lambda v: v[:2]), "expected 3 strings"),
        (broken("logit_scale", lambda v: -v), "one positive number"),
        (broken("text_features", lambda v: np.float32(1)), "text_features"),
    ],
)
def test_what_is_wrong_with_features_is_named(tmp_path, arrays, part):
    with pytest.raises(DataError, match=part):
        load_features(save(tmp_path, arrays), 0)


def test_all_that_is_wrong_is_named_at_once(tmp_path):
    arrays = broken("train_features", with_nan)
    arrays["test_labels"] = arrays["test_labels"] - 1
    with pytest.raises(DataError, match="2 problem"):
        load_features(save(tmp_path, arrays), 0)


def test_missing_arrays_are_named(tmp_path):
    arrays = good()
    del arrays["text_features"], arrays["logit_scale"]
    with pytest.raises(DataError, match="missing: text_features, logit_scale"):
        load_features(save(tmp_path, arrays), 0)


def test_what_is_no_feature_file_is_refused(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        load_features(str(tmp_path / "absent.npz"), 0)
    (tmp_path / "text.npz").write_text("not an archive")
    with pytest.raises(DataError, match="not a readable .npz"):
        load_features(str(tmp_path / "text.npz"), 0)
    np.savez(tmp_path / "pickle.npz", train_features=np.array([{"a": 1}], dtype=object))
    with pytest.raises(DataError, match="without pickles"):
        load_features(str(tmp_path / "pickle.npz"), 0)


def stand_in(folder, **drop):
    """A small data set with CIFAR-100's columns, as parquet."""
    features = Features(
        {
            "img": Image(),
            "fine_label": ClassLabel(names=[f"name_{i}" for i in range(100)]),
            "coarse_label": Value("int64"),
        }
    )
    splits = {}
    for number, name in enumerate(("train", "test")):
        rng = np.random.default_rng(number)
        labels = list(range(100)) * 2
        images = [Pillow.fromarray(rng.integers(0, 255, (32, 32, 3), np.uint8)) for _ in labels]
        table = {"img": images, "fine_label": labels, "coarse_label": [label % 20 for label in labels]}
        splits[name] = Dataset.from_dict(table, features=features).remove_columns(list(drop))
    (folder / "data").mkdir()
    for name, split in DatasetDict(splits).items():
        split.to_parquet(folder / "data" / f"{name}-00000-of-00001.parquet")
    return str(folder)


def test_cifar100_loads_from_a_local_folder_in_the_hubs_form(tmp_path):
    source = CIFAR100.load(stand_in(tmp_path), 0)
    assert source.class_names[7] == "name_7" and source.superclass is not None and source.superclass[47] == 7
    assert source.train.labels.tolist() == list(range(100)) * 2
    (image,) = source.test.images(np.array([3]))
    assert image.mode == "RGB" and image.size == (32, 32)
    assert source.train.fingerprint != source.test.fingerprint


def test_the_fingerprint_is_of_the_content(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    first, second = (CIFAR100.load(stand_in(tmp_path / name), 0).train.fingerprint for name in ("a", "b"))
    assert first == second


def test_missing_columns_are_named(tmp_path):
    with pytest.raises(DataError, match=r"lacks \['coarse_label'\]"):
        CIFAR100.load(stand_in(tmp_path, coarse_label=True), 0)


def test_an_absent_folder_and_an_unreachable_hub_say_what_to_do(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        CIFAR100.load(str(tmp_path / "absent"), 0)
    with pytest.raises(DataError, match="Set dataset-path to a local folder"):
        CIFAR100.load("", 0)


@pytest.mark.skipif(not (SHARED / "cifar100").is_dir(), reason="the CIFAR-100 parquet files are not here")
def test_real_cifar100_has_its_counts():
    source = CIFAR100.load(str(SHARED / "cifar100"), 0)
    counts = np.bincount(source.train.labels)
    assert (len(counts), counts.max(), counts.min(), counts.sum()) == (100, 500, 5, 10_847)
    assert np.bincount(source.test.labels).tolist() == [100] * 100
