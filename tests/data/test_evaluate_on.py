"""``evaluate-on = "validation"``: settings are chosen without a look at test data."""

import numpy as np
import pytest

from fedpurel_app.config import load_config
from fedpurel_app.core.errors import ConfigError
from fedpurel_app.data.sources.source import FeatureSplit, Source
from fedpurel_app.data.sources.subsets import on_validation
from fedpurel_app.federation import Federation


def split(counts, offset=0):
    """A split of features, one number a row that tells which it is."""
    labels = np.repeat(np.arange(len(counts)), counts)
    rows = np.arange(len(labels), dtype=np.float32)[:, None] + offset
    return FeatureSplit(rows, labels.astype(np.int64), f"f{offset}")


def rows_of(found):
    assert isinstance(found, FeatureSplit)
    return found.features[:, 0]


def source(train, **options):
    return Source("s", ("a", "b", "c"), "{}", train, split((2, 2, 2), 1000), **options)


def test_a_split_of_its_own_takes_the_place_of_the_test_data():
    own = split((1, 1, 1), 500)
    found = on_validation(source(split((8, 4, 2)), validation=own))
    assert found.test is own and len(found.train.labels) == 14


def test_else_a_quarter_of_every_class_is_held_out_of_training():
    found = on_validation(source(split((8, 4, 3))))
    assert np.bincount(found.test.labels, minlength=3).tolist() == [2, 1, 0]  # of 3 images none
    assert np.bincount(found.train.labels, minlength=3).tolist() == [6, 3, 3]
    rows = np.concatenate([rows_of(found.train), rows_of(found.test)])
    assert sorted(rows) == list(range(15))  # each row on one side, and none of the test rows, which begin at 1000


def test_what_is_held_out_does_not_depend_on_the_run():
    one, other = (on_validation(source(split((40, 40, 40)))) for _ in range(2))
    assert np.array_equal(rows_of(one.test), rows_of(other.test))
    assert one.train.fingerprint != one.test.fingerprint == other.test.fingerprint


def test_the_federation_evaluates_on_it():
    config = load_config({"evaluate-on": "validation", "max-per-class": 4, "imbalance-factor": 2.0})
    found = Federation(config)
    assert "validation" in found.source.test.fingerprint
    assert "-test-" in Federation(load_config({"max-per-class": 4, "imbalance-factor": 2.0})).source.test.fingerprint


def test_sites_with_own_data_have_no_use_for_it():
    with pytest.raises(ConfigError, match="evaluate-on"):
        load_config({"dataset": "sites", "classes": "cat, dog", "evaluate-on": "validation"})
