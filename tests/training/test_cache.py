import logging
import multiprocessing
import random
import stat
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fedpurel_app.config import load_config
from fedpurel_app.core.errors import DiskFullError
from fedpurel_app.core.progress import Event, read
from fedpurel_app.experiment import Experiment
from fedpurel_app.training import encoding
from fedpurel_app.training import feature_store as module

image_features: Callable[..., np.ndarray] = module.image_features  # of stand-ins for a split and a backbone


class Numbers:
    """A split whose image i is the number i."""

    def __init__(self, count, fingerprint="numbers"):
        self.labels, self.fingerprint = np.zeros(count, np.int64), fingerprint

    def images(self, rows):
        return [int(row) for row in rows]


class Counting:
    """A backbone that notes in a file how many images it encoded, in whatever process."""

    name, fingerprint = "counting", "weights"

    def __init__(self, log):
        self.log = log

    def preprocess(self, image):
        return torch.tensor([image])

    def encode_pixels(self, pixels):
        with Path(self.log).open("a") as file:
            file.write(f"{len(pixels)}\n")
        return torch.cat([pixels, 2 * pixels], 1).float()

    @property
    def encoded(self):
        return sum(map(int, Path(self.log).read_text().split())) if Path(self.log).exists() else 0


@pytest.fixture
def backbone(tmp_path):
    return Counting(tmp_path / "log")


def test_a_split_is_encoded_once_in_order(tmp_path, backbone):
    expected = np.arange(600)[:, None] * np.array([1, 2])
    for _ in range(2):
        features = image_features(Numbers(600), backbone, tmp_path / "cache")
        assert np.array_equal(features, expected) and features.dtype == np.float32
    assert backbone.encoded == 600
    assert isinstance(features, np.memmap) and not features.flags.writeable


@pytest.mark.parametrize("change", [{"split": "other"}, {"weights": "other"}])
def test_other_content_or_weights_are_encoded_anew(tmp_path, backbone, change):
    image_features(Numbers(10), backbone, tmp_path)
    backbone.fingerprint = change.get("weights", backbone.fingerprint)
    image_features(Numbers(10, change.get("split", "numbers")), backbone, tmp_path)
    assert backbone.encoded == 20


def test_files_are_for_their_owner_alone(tmp_path, backbone):
    image_features(Numbers(10), backbone, tmp_path / "cache")
    assert stat.S_IMODE((tmp_path / "cache").stat().st_mode) == 0o700
    (path,) = (tmp_path / "cache").glob("*.npy")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("damage", [lambda b: b[:40], lambda b: b[:-8], lambda b: b""])
def test_a_damaged_file_is_made_again(tmp_path, backbone, damage, caplog):
    image_features(Numbers(10), backbone, tmp_path)
    (path,) = tmp_path.glob("*.npy")
    path.write_bytes(damage(path.read_bytes()))
    with caplog.at_level(logging.WARNING, "flwr.fedpurel"):
        features = image_features(Numbers(10), backbone, tmp_path)
    assert np.array_equal(features[:, 0], np.arange(10)) and backbone.encoded == 20
    assert "is damaged" in caplog.text


def test_a_failure_leaves_nothing_behind(tmp_path, backbone):
    class Broken(Counting):
        def encode_pixels(self, pixels):
            raise RuntimeError("out of memory")

    broken = Broken(tmp_path / "log")
    with pytest.raises(RuntimeError, match="out of memory"):
        image_features(Numbers(10), broken, tmp_path / "cache")
    assert not [path for path in (tmp_path / "cache").iterdir() if path.suffix != ".lock"]
    image_features(Numbers(10), backbone, tmp_path / "cache")


def test_interrupted_work_goes_on_where_it_stopped(tmp_path, backbone, monkeypatch):
    monkeypatch.setattr(encoding, "_REPORT", 0.0)  # progress is written down after every batch
    whole, calls = backbone.encode_pixels, []

    def fail_at_the_third(pixels):
        calls.append(len(pixels))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return whole(pixels)

    backbone.encode_pixels = fail_at_the_third
    with pytest.raises(KeyboardInterrupt):
        image_features(Numbers(1000), backbone, tmp_path / "cache")
    backbone.encode_pixels = whole
    features = image_features(Numbers(1000), backbone, tmp_path / "cache")
    assert np.array_equal(features[:, 0], np.arange(1000)) and backbone.encoded == 1000
    assert {path.suffix for path in (tmp_path / "cache").iterdir()} == {".npy", ".lock"}


def test_what_it_says_of_its_progress_is_what_people_are_shown(tmp_path, backbone, monkeypatch, caplog):
    monkeypatch.setattr(encoding, "_REPORT", -1.0)
    backbone.image_size, backbone.checkpoint = 1, SimpleNamespace(preprocessing={})
    with caplog.at_level(logging.INFO, "flwr.fedpurel"):
        image_features(Numbers(300), backbone, tmp_path)
        module.image_pixels(Numbers(300), backbone, tmp_path)
    said = [note for record in caplog.records if (note := read(record.getMessage()))]
    events = [note.event for note in said]
    assert len(caplog.records) == len(events) >= 4 and events.count(Event.ENCODED) == 2
    assert set(events) == {Event.ENCODING, Event.ENCODED} and said[0].text.startswith("Encoding 300 images once with")


def test_progress_of_a_file_that_is_gone_counts_for_nothing(tmp_path, backbone, monkeypatch):
    """Rows that nobody wrote are zeros, and must not pass for features."""
    features = image_features(Numbers(700), backbone, tmp_path)
    (path,) = tmp_path.glob("*.npy")
    path.unlink()
    path.with_suffix(".rows").write_text("512")

    def interrupt(pixels):
        raise KeyboardInterrupt

    whole, backbone.encode_pixels = backbone.encode_pixels, interrupt
    with pytest.raises(KeyboardInterrupt):
        image_features(Numbers(700), backbone, tmp_path)
    backbone.encode_pixels = whole
    features = image_features(Numbers(700), backbone, tmp_path)
    assert np.array_equal(features[:, 0], np.arange(700))


def encode(folder, log):
    features = image_features(Numbers(2000), Counting(log), Path(folder))
    assert float(features[1999, 1]) == 3998


@pytest.fixture(scope="module", params=[2, pytest.param(3, marks=pytest.mark.slow)])
def processes(request):
    """Return some processes that are there, made once: each imports torch."""
    context = multiprocessing.get_context("spawn")
    all_there = context.Barrier(request.param, timeout=100)
    with ProcessPoolExecutor(request.param, context, initializer=all_there.wait) as pool:
        list(pool.map(abs, range(request.param)))
        yield pool


def together(processes, work, arguments):
    """Give each process its part of some work; raise what any of them raised."""
    for future in [processes.submit(work, *one) for one in arguments]:
        future.result(120)


def test_processes_that_start_together_encode_once(tmp_path, processes):
    log = tmp_path / "log"
    together(processes, encode, [(str(tmp_path / "cache"), str(log))] * 3)
    assert Counting(log).encoded == 2000


def encode_on_a_full_disk(folder, log):
    with pytest.raises(DiskFullError, match=r"1,600,000 bytes.*are free there"):
        image_features(Numbers(200_000), Counting(log), Path(folder))


def test_a_full_disk_is_an_error_and_no_dead_process(tmp_path, small_disk, processes):
    """Writing to a map of a file without room would be answered with SIGBUS."""
    together(processes, encode_on_a_full_disk, [(str(small_disk / "cache"), str(tmp_path / "log"))])
    assert not [path for path in (small_disk / "cache").iterdir() if path.suffix != ".lock"]


# --- rows that are used -----------------------------------------------------------------------------------------------


class Touchy(Counting):
    """A backbone whose last bits depend on an image's place in its batch and on the batch's size, as a GPU's may."""

    def encode_pixels(self, pixels):
        values = super().encode_pixels(pixels)
        place = torch.arange(len(pixels))[:, None] / 512
        return torch.where(pixels > 0, values + place + len(pixels) / 2**16, values)


def ask(split, backbone, folder, rows):
    rows = np.array(sorted(rows))
    return image_features(split, backbone, folder, rows=rows)[rows]


@pytest.mark.parametrize("count", [1, 200, 256, 257, 700, 1024])
@pytest.mark.parametrize("seed", range(4))
def test_features_are_those_of_the_whole_split_whoever_asked_first(tmp_path, count, seed):
    split, touchy = Numbers(count), Touchy(tmp_path / "log")
    whole = np.array(image_features(split, touchy, tmp_path / "whole"))
    draw = random.Random(seed)
    for _ in range(4):  # runs that use other rows, many or few
        rows = draw.sample(range(count), draw.choice([1, max(1, count // 3), count]))
        assert np.array_equal(ask(split, touchy, tmp_path / "cache", rows), whole[sorted(rows)])
    assert np.array_equal(image_features(split, touchy, tmp_path / "cache"), whole)
    assert {path.suffix for path in (tmp_path / "cache").iterdir()} == {".npy", ".lock"}, "whole at last"


@pytest.mark.parametrize("batch", [64, pytest.param(encoding._BATCH, marks=pytest.mark.slow)])
def test_the_real_towers_give_the_bits_of_the_whole_split(tmp_path, monkeypatch, batch):
    """In a first batch, and in one that is smaller."""
    monkeypatch.setattr(encoding, "_BATCH", batch)
    experiment = Experiment(load_config({"dataset": "shapes"}), tmp_path)
    backbone, source = experiment.kit.backbone, experiment.federation.source.test

    class Part:
        labels, fingerprint = source.labels[: batch + 44], "part"
        images = staticmethod(source.images)

    whole = np.array(image_features(Part(), backbone, tmp_path / "whole"))
    for rows in ([3, batch + 3, batch + 43], [0, 1, 3, batch - 30, batch], range(40, 60)):
        assert np.array_equal(ask(Part(), backbone, tmp_path / "cache", rows), whole[sorted(rows)])


class Asked(Numbers):
    """A split that notes which images were loaded."""

    def __init__(self, count):
        super().__init__(count)
        self.loaded = []

    def images(self, rows):
        self.loaded += rows.tolist()
        return super().images(rows)


def test_only_what_is_asked_for_is_loaded_and_each_image_once(tmp_path, backbone):
    split = Asked(2000)
    for rows in ([5, 300], [5, 300, 1999], [7]):
        assert ask(split, backbone, tmp_path, rows)[:, 0].tolist() == sorted(rows)
    assert sorted(split.loaded) == [5, 7, 300, 1999]


def test_what_is_missing_is_counted(tmp_path, backbone):
    split, rows = Numbers(1000), np.array([1, 2, 900])
    assert module.count_missing("features", split, backbone, tmp_path) == 1000
    ask(split, backbone, tmp_path, rows)
    assert module.count_missing("features", split, backbone, tmp_path) == 997
    assert module.count_missing("features", split, backbone, tmp_path, rows=rows) == 0
    assert module.count_missing("features", split, backbone, tmp_path, rows=np.array([1, 3, 3])) == 1


def test_a_file_takes_the_room_of_its_rows(tmp_path, backbone):
    split = Numbers(4_000_000)
    ask(split, backbone, tmp_path, range(10))
    (path,) = tmp_path.glob("*.partial.npy")
    assert path.stat().st_size > 32_000_000 and 512 * path.stat().st_blocks < 1_000_000
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("damage", [lambda b: b"", lambda b: b[:-1], lambda b: b"512", lambda b: b"x" + b])
def test_a_record_that_is_none_counts_for_nothing(tmp_path, backbone, damage):
    """Rows that nobody wrote are zeros, and must not pass for features."""
    split = Numbers(1000)
    ask(split, backbone, tmp_path, range(300))
    (record,) = tmp_path.glob("*.rows")
    record.write_bytes(damage(record.read_bytes()))
    assert ask(split, backbone, tmp_path, [3, 500])[:, 0].tolist() == [3, 500]
    assert np.array_equal(image_features(split, backbone, tmp_path)[:, 0], np.arange(1000))


def test_a_partial_file_of_another_shape_is_made_anew(tmp_path, backbone):
    split = Numbers(1000)
    ask(split, backbone, tmp_path, range(300))
    (path,) = tmp_path.glob("*.partial.npy")
    np.save(path, np.ones((1000, 5), np.float64))
    assert ask(split, backbone, tmp_path, range(300, 310))[:, 0].tolist() == list(range(300, 310))
    assert ask(split, backbone, tmp_path, range(300))[:, 0].tolist() == list(range(300))


def ask_for_some(folder, log, first):
    rows = np.arange(first, 3000, 3)
    features = image_features(Numbers(3000), Counting(log), Path(folder), rows=rows)
    assert np.array_equal(features[rows, 0], rows)


def test_processes_that_ask_for_other_rows_share_the_file(tmp_path, processes):
    arguments = [(str(tmp_path / "cache"), str(tmp_path / f"log{first}"), first) for first in range(3)]
    together(processes, ask_for_some, arguments)
    found = image_features(Numbers(3000), Counting(tmp_path / "more"), tmp_path / "cache")
    assert np.array_equal(found[:, 0], np.arange(3000)) and not (tmp_path / "more").exists()


def test_threads_are_given_back(tmp_path, backbone):
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        image_features(Numbers(10), backbone, tmp_path)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
