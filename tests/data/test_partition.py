import numpy as np
import pytest

from fedpurel_app.core.errors import DataError
from fedpurel_app.data.dealing.pachinko import pachinko
from fedpurel_app.data.dealing.partition import _deal, dirichlet, expected_empty, iid

CLASSES, SITES = 10, 8
PAIRS = [label // 2 for label in range(CLASSES)]
Splits = tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]  # rows and labels of both splits


@pytest.fixture
def splits():
    rng = np.random.default_rng(0)
    train_labels = np.repeat(np.arange(CLASSES), np.linspace(200, 5, CLASSES).astype(int))
    train = np.sort(rng.choice(5000, len(train_labels), replace=False))
    return (train, train_labels), (np.arange(400), np.repeat(np.arange(CLASSES), 40))


def every_kind(splits, seed):
    train, test = splits
    yield dirichlet(train, test, SITES, 0.5, np.random.default_rng(seed))
    yield pachinko(train, test, SITES, 0.5, PAIRS, np.random.default_rng(seed))
    yield iid(train, test, SITES, np.random.default_rng(seed))


def test_every_image_goes_to_one_site_and_keeps_its_split(splits):
    for split in every_kind(splits, 0):
        for parts, (rows, _) in ((split.train, splits[0]), (split.test, splits[1])):
            assert len(parts) == SITES and all(len(part) for part in parts)
            dealt = np.concatenate(parts)
            assert len(dealt) == len(set(dealt.tolist())) == len(rows) and set(dealt) == set(rows)


@pytest.mark.parametrize("sites", [1, 7, 300])
def test_dealing_with_one_sort_gives_what_a_search_for_each_site_gives(sites):
    rng = np.random.default_rng(sites)
    rows = [np.sort(rng.permutation(4000))[start::5] for start in range(5)] + [np.array([4000]), np.array([], int)]
    rows = [rng.permutation(one) for one in rows]
    shares = rng.dirichlet(np.full(sites, 0.3), len(rows))
    dealt = _deal(rows, shares, np.random.default_rng(5))
    starts, owners = np.random.default_rng(5), []
    for one, share in zip(rows, shares, strict=True):
        position = (np.arange(len(one)) + starts.random()) / max(1, len(one))
        owners.append(np.minimum(np.searchsorted(np.cumsum(share), position, side="right"), sites - 1))
    owner, everything = np.concatenate(owners), np.concatenate(rows)
    assert len(dealt) == sites
    for site, part in enumerate(dealt):
        assert part.dtype == np.int64
        np.testing.assert_array_equal(part, np.sort(everything[owner == site]))


def test_one_seed_gives_one_partition(splits):
    first, again, other = ([split.sha256 for split in every_kind(splits, seed)] for seed in (1, 1, 2))
    assert first == again and not set(first) & set(other)


def shares(parts, labels_of):
    """Share of each class that each site has, shape (sites, classes)."""
    counts = np.array([np.bincount(labels_of[part], minlength=CLASSES) for part in parts], float)
    return counts / counts.sum(0)


def test_dirichlet_test_parts_match_the_training_parts(splits: Splits):
    (train, train_labels), (_, test_labels) = splits
    labels_of = np.zeros(5000, int)
    labels_of[train] = train_labels
    split = dirichlet(*splits, SITES, 0.5, np.random.default_rng(0))
    big = np.arange(CLASSES) < 6  # classes with enough images for their shares to show
    distance = np.abs(shares(split.train, labels_of) - shares(split.test, test_labels))[:, big]
    assert distance.max() <= 1 / 40 + 1 / 80  # rounding of 40 test images and of at least 80 training images


@pytest.mark.slow
def test_no_site_is_favoured():
    """Over many seeds every site has as many images of the smallest classes, and as many classes, as any other."""
    labels = np.repeat(np.arange(40), [60] * 10 + [1] * 30)
    test = (np.arange(1000), np.repeat(np.arange(40), 25))
    images, classes = np.zeros(5), np.zeros(5)
    for seed in range(300):
        split = dirichlet((np.arange(len(labels)), labels), test, 5, 1.0, np.random.default_rng(seed))
        images += [(labels[part] >= 10).sum() for part in split.train]
        classes += [len(np.unique(labels[part])) for part in split.train]
    # Of 9,000 single images each site expects 1,800, standard deviation about 38.
    assert np.abs(images - 1800).max() < 4 * 38
    assert classes.max() / classes.min() < 1.1


def test_uniform_test_parts_hold_all_classes_alike(splits: Splits):
    split = dirichlet(*splits, SITES, 0.1, np.random.default_rng(0), uniform_test=True)
    counts = np.array([np.bincount(splits[1][1][part], minlength=CLASSES) for part in split.test])
    assert (counts == 5).all()


def test_small_alpha_concentrates_classes(splits: Splits):
    def evenness(alpha):
        split = dirichlet(*splits, SITES, alpha, np.random.default_rng(0))
        share = shares(split.test, splits[1][1])
        return float((share**2).sum(0).mean())  # 1/8 when even, 1 when each class lives at one site

    assert evenness(0.1) > 0.5 > 0.2 > evenness(50)


def test_pachinko_sites_draw_equally_many_images(splits: Splits):
    split = pachinko(*splits, SITES, 0.5, PAIRS, np.random.default_rng(0))
    sizes = [len(a) + len(b) for a, b in zip(split.train, split.test, strict=True)]
    assert max(sizes) - min(sizes) <= 1


def test_iid_parts_are_equal_in_size(splits: Splits):
    split = iid(*splits, SITES, np.random.default_rng(0))
    assert max(map(len, split.train)) - min(map(len, split.train)) <= 1


def test_too_many_sites_are_refused_with_advice(splits: Splits):
    with pytest.raises(DataError, match=r"alpha = 0.05 left some of the 70 sites.*partition = \"iid\""):
        dirichlet(*splits, 70, 0.05, np.random.default_rng(0))
    with pytest.raises(DataError, match=r"would leave about 2\d\d of 300 sites without a training .*\"iid\""):
        dirichlet(*splits, 300, 0.01, np.random.default_rng(0))
    with pytest.raises(DataError, match="cannot be dealt out to 401 sites"):
        iid(*splits, 401, np.random.default_rng(0))


@pytest.mark.parametrize(("sites", "alpha"), [(5, 0.05), (20, 0.3), (100, 1.0), (400, 0.5)])
def test_the_number_of_sites_without_an_image_is_foreseen(splits, sites, alpha):
    """Mean over draws of what is dealt, against the estimate; a quarter off at most, or half a site."""
    labels = splits[0][1]
    rng, found = np.random.default_rng(1), []
    rows = [np.flatnonzero(labels == label) for label in range(CLASSES)]
    for _ in range(200):
        parts = _deal(rows, rng.dirichlet(np.full(sites, alpha), CLASSES), rng)
        found.append(sum(not len(part) for part in parts))
    expected = expected_empty(np.bincount(labels, minlength=CLASSES), sites, alpha)
    assert abs(np.mean(found) - expected) <= max(0.5, 0.25 * expected)


def test_what_cannot_be_met_is_said_without_drawing(splits):
    class NoDraw:
        def __getattr__(self, name):
            raise AssertionError("drawn")

    test = (np.arange(10_000), np.repeat(np.arange(100), 100))
    train = (np.arange(50_000), np.repeat(np.arange(100), 500))
    with pytest.raises(DataError, match=r"about \d\d\d of 5,000 sites without a test image: .* 2.0 for each site"):
        dirichlet(train, test, 5000, 1.0, NoDraw())  # type: ignore[arg-type]
    assert expected_empty(np.full(100, 100), 5000, 1.0, even=True) == pytest.approx(5000 * 0.98**100)
