"""The validation part of every site: how it is cut, what is scored on it, and what of that leaves a site."""

from typing import Any

import numpy as np
import pytest
from flwr.app import MetricRecord

from fedpurel_app.client_app import app as client_app
from fedpurel_app.config import load_config
from fedpurel_app.core.errors import ConfigError
from fedpurel_app.data.dealing.partition import validation_images
from fedpurel_app.data.sources.subsets import identities
from fedpurel_app.federation import Federation
from fedpurel_app.reporting.run_folder import RunFolder
from fedpurel_app.server_app import app as server_app
from fedpurel_app.site.site import Site
from tests.attacks.conftest import feature_site, initial
from tests.attacks.server import Server, metrics
from tests.support import own_sites, run_app, run_tiny, tiny_config
from tests.test_own_sites import settings as own_settings

SHARE = {"validation_share": 0.2, "evaluate_every": 1}


def federation(folder, **changes):
    return Federation(load_config(tiny_config(folder, **changes)))


# --- the cut --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "share", "held"), [(4, 0.5, 0), (5, 0.1, 1), (5, 0.5, 2), (29, 0.1, 2), (100, 0.29, 29), (30, 0.1, 3)]
)
def test_a_class_gives_its_share_rounded_down_but_one_and_of_fewer_than_five_none(count, share, held):
    assert validation_images(count, share) == held


@pytest.mark.parametrize("dealt", [{}, {"partition": "iid"}, {"shots": 12, "imbalance_factor": 1}])
def test_every_site_cuts_its_own_training_images_by_class(tmp_path, dealt):
    whole, cut = federation(tmp_path, **dealt), federation(tmp_path, validation_share=0.2, **dealt)
    before, after, labels = whole.partition(5), cut.partition(5), cut.source.train.labels
    for site in range(5):
        both = np.concatenate([after.train[site], after.validation[site]])
        assert sorted(both) == before.train[site].tolist() and len(set(both)) == len(both)
        sizes = np.bincount(labels[before.train[site]], minlength=6)
        expected = [0 if size < 5 else max(1, size // 5) for size in sizes.tolist()]
        assert np.bincount(labels[after.validation[site]], minlength=6).tolist() == expected
    assert sum(map(len, after.validation)) > 0
    assert all(np.array_equal(a, b) for a, b in zip(before.test, after.test, strict=True))
    assert whole.train_counts.tolist() == cut.train_counts.tolist(), "groups of classes do not depend on it"
    assert whole.partition(5).sha256 != cut.partition(5).sha256 == federation(
        tmp_path, validation_share=0.2, **dealt
    ).partition(5).sha256  # fmt: skip


def test_another_seed_cuts_other_images(tmp_path):
    """The data are dealt out by the seed, too: so this is seen where there is one site, which has all."""
    parts = [
        federation(tmp_path, validation_share=0.2, imbalance_factor=1, seed=seed).partition(1).validation[0].tolist()
        for seed in (0, 0, 1)
    ]
    assert parts[0] == parts[1] != parts[2] and len(parts[0]) == len(parts[2])


def test_what_a_site_counts_is_its_training_part(tmp_path):
    config, node = feature_site(tmp_path)  # of its classes it has 23, 11, 7 and 4 training images
    plain, cut = Site(config, node).describe(), Site({**config, "validation-share": 0.2}, node).describe()
    assert (plain.num_examples, plain.test_examples, plain.validation_examples) == (45, 30, 0)
    assert (cut.num_examples, cut.test_examples, cut.validation_examples) == (45 - 7, 30, 7)
    shared = Site({**config, "validation-share": 0.2, "share-class-counts": True}, node)
    assert shared.describe().class_counts == [23 - 4, 11 - 2, 7 - 1, 4]
    assert (facts := shared.data.facts().counts) is not None and facts.tolist() == [19, 9, 6, 4]
    reply = Server({**config, "validation-share": 0.2}, node).train(initial(Server(config, node)), 1)
    assert metrics(reply)["num-examples"] == 38


def test_images_on_disk_keep_their_side_when_others_come(tmp_path):
    nodes = own_sites(tmp_path)
    config = own_settings(tmp_path) | {"validation-share": 0.5}

    def held():
        federation = Federation(load_config({**config, "dataset-path": nodes[0]["data"]}), own=True)
        names = identities(federation.source.train)
        assert federation.train_counts.sum() == len(federation.partition(1).train[0])
        return {names[row] for row in federation.partition(1).validation[0]}

    before = held()
    folder = next((tmp_path / "north").iterdir())
    (folder / "zz.png").write_bytes(next(folder.glob("*.png")).read_bytes())  # one image more
    after = held()
    assert len(before) == 2 + 3 + 4 and all(name.endswith(".png") for name in before)
    assert len(before - after) <= 2, "of one class one image may go to the test part, and one come or go"


# --- what is scored -------------------------------------------------------------------------------------------------


def test_scores_of_the_validation_part_are_in_the_files_and_pool_exactly(tmp_path):
    folder = run_tiny(tmp_path, **SHARE)
    rounds, rows = folder.rounds(), folder.read_csv("validation.csv")
    assert [bool(line.get("validation")) for line in rounds] == [False] + 6 * [True]
    parts = folder.read_json("partition.json")["validation"]
    assert {row["site"]: int(row["validation_images"]) for row in rows} == {
        f"site-{index}": len(part) for index, part in enumerate(parts) if part
    }
    sizes = np.array([float(row["validation_images"]) for row in rows])
    for model in ("global", "personalized"):
        values, last = np.array([float(row[model]) for row in rows]), rounds[-1]["validation"][model]
        assert last["all"] == pytest.approx(values.mean(), abs=1e-3)
        assert last["pooled"] == pytest.approx((values * sizes).sum() / sizes.sum(), abs=1e-3)
    assert rounds[-1]["sites"]["global"]["pooled"] != rounds[-1]["validation"]["global"]["pooled"]


def test_the_reference_scores_of_a_site_are_those_of_its_validation_images(tmp_path):
    """Zero-shot logits are known without the app: x T' times a constant."""
    config, node = feature_site(tmp_path)
    site = Server({**config, "validation-share": 0.2}, node)
    told = metrics(site.evaluate(initial(site), 1))
    cut = Federation(load_config({**config, "validation-share": 0.2, "dataset-path": node["data"]}), own=True)
    rows = cut.partition(1).validation[0]
    data = np.load(node["data"])
    text = data["text_features"] / np.linalg.norm(data["text_features"], axis=1, keepdims=True)
    hits = (data["train_features"][rows] @ text.T).argmax(1) == data["train_labels"][rows]
    assert told["validation/zero-shot/correct"] == hits.sum() and told["validation/zero-shot/total"] == 7
    assert told["validation/num-examples"] == 7 and told["num-examples"] == 30


def test_without_a_share_nothing_of_it_is_in_a_message_or_a_file(tmp_path):
    config, node = feature_site(tmp_path / "site")
    site = Server(config, node)
    assert not [name for name in metrics(site.evaluate(initial(site), 1)) if "validation" in name]
    folder = run_tiny(tmp_path / "run")
    assert not [path for path in folder.path.rglob("*") if "validation" in path.name or "best" in path.name]
    assert "validation" not in folder.read_json("partition.json")
    assert not [line for line in folder.rounds() if "validation" in line or "best" in line]


def test_augmented_training_leaves_validation_images_as_they_are(tmp_path, monkeypatch):
    from fedpurel_app.data.shapes import rendered

    monkeypatch.setattr(rendered, "SHAPES_TEST", 2)
    shapes = {"dataset": "shapes", "dataset_path": "", "max_per_class": 16, "imbalance_factor": 1, "num_sites": 3}
    few = {"global_rounds": 1, "personal_rounds": 1, "augment": "views", "views": 2, "peft": "text-residual"}
    plain, views = (
        run_tiny(tmp_path / name, **shapes, **SHARE, **{**few, **more})
        for name, more in (("plain", {"augment": "none", "views": 4}), ("views", {}))
    )
    first, second = ([line["validation"]["zero_shot"] for line in one.rounds()[1:]] for one in (plain, views))
    assert first == second


def test_sites_with_data_of_their_own_have_one_too(tmp_path):
    nodes = own_sites(tmp_path)
    config = own_settings(tmp_path) | {"validation-share": 0.2, "share-class-counts": True, "select-by": "balancedness"}
    run_app(server_app, client_app, 3, config, nodes=nodes)
    folder = RunFolder(tmp_path / "run")
    summary = folder.summary()
    assert summary is not None and summary["outcome"] == "completed"
    held = {"north": [5, 7, 8], "south": [8, 10, 12], "east": [5, 12]}  # after four in five went to training
    expected = {site: sum(max(1, size // 5) for size in sizes) for site, sizes in held.items()}
    assert {row["site"]: int(row["validation_images"]) for row in folder.read_csv("validation.csv")} == expected
    assert summary["best"]["select_by"] == "balancedness"
    assert summary["best"]["personalized"]["validation"] is not None


# --- what leaves a site ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("node", "models", "step"),
    [
        ({}, ["global", "personalized", "zero-shot"], 1),
        ({"scores": "totals"}, ["global", "personalized", "zero-shot"], 1),
        ({"scores": "global"}, ["global", "zero-shot"], 1),
        ({"scores": "none"}, [], 1),
        ({"min-test-images": 31}, [], 1),  # there are 30, and 7 for validation
        ({"round-scores": 5}, ["global", "personalized", "zero-shot"], 5),
    ],
)
def test_validation_scores_leave_a_site_by_the_rules_of_test_scores(tmp_path, node, models, step):
    config, own = feature_site(tmp_path, **node)
    site = Server({**config, "validation-share": 0.2}, own)
    arrays = initial(site)
    assert not site.personalize(arrays, 1, 0).has_error()
    told = metrics(site.evaluate(arrays, 1, 1))
    found = {name: value for name, value in told.items() if name.startswith("validation/")}
    assert sorted({name.split("/")[1] for name in found if name.count("/") == 2}) == models
    assert {name.removeprefix("validation/") for name in found} in (set(), {name for name in told if name not in found})
    for name, value in found.items():  # totals, for the run does not have share-class-counts = true
        assert name.split("/")[-1] not in ("correct", "total", "num-examples") or value % step == 0, name
    described = Site({**config, "validation-share": 0.2}, own).describe()
    assert (described.validation_examples == 0) == (node.get("scores") == "none")


def test_a_small_validation_part_is_kept_where_the_test_part_is_not(tmp_path):
    config, node = feature_site(tmp_path, **{"min-test-images": 8})
    site = Server({**config, "validation-share": 0.2}, node)
    told = metrics(site.evaluate(initial(site), 1))
    assert told["global/total"] == 30 and not [name for name in told if name.startswith("validation/")]


def test_counts_by_class_of_the_validation_part_leave_when_run_and_site_agree(tmp_path):
    config, node = feature_site(tmp_path)
    config |= {"validation-share": 0.2, "share-class-counts": True}
    told = metrics(Server(config, node).evaluate(initial(Server(config, node)), 1))
    assert told["validation/global/total"] == [4, 2, 1, 0]
    kept = metrics(Server(config, {**node, "share-class-counts": False}).evaluate(initial(Server(config, node)), 2))
    assert kept["validation/global/total"] == 7


LIES: dict[str, dict[str, Any]] = {
    "more right than there are": {"validation/global/correct": 900},
    "another number": {"validation/num-examples": 3},
    "far more images than a site has": {
        f"validation/{name}": 5000 for name in ("num-examples", "global/total", "zero-shot/total", "personalized/total")
    },
    "no global model": {"validation/global/correct": None, "validation/global/total": None},
}


@pytest.mark.parametrize("lie", LIES)
def test_validation_scores_that_fit_nothing_cost_their_site_the_evaluation_with_a_reason(tmp_path, lie):
    def spy(message, reply):
        own = message.metadata.message_type == "evaluate" and reply.metadata.src_node_id % 5 == 0
        if own and "validation/num-examples" in reply.content["metrics"]:
            told = {**reply.content["metrics"], **LIES[lie]}
            totals = {name: sum(value) if isinstance(value, list) else value for name, value in told.items()}
            kept = {name: value for name, value in totals.items() if value is not None}
            reply.content["metrics"] = MetricRecord(kept)
            liars.add(reply.metadata.src_node_id)

    liars: set[int] = set()
    folder = run_tiny(tmp_path, **SHARE, imbalance_factor=1, global_rounds=1, personal_rounds=0, grid={"spy": spy})
    last = folder.rounds()[-1]
    assert len(liars) == 1 and len(last["dropped"]) == 1 and len(folder.read_csv("validation.csv")) == 4
    assert folder.summary()["outcome"] == "completed" and last["validation"]["global"]["all"] is not None


# --- settings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "part"),
    [
        ({"validation-share": 0.6}, "less than or equal to 0.5"),
        ({"validation-share": -0.1}, "greater than or equal to 0"),
        ({"select-by": "few"}, 'select-by = "few" has no use with validation-share = 0'),
        ({"validation-share": 0.1, "select-by": "test"}, "should be 'all', 'few'"),
        ({"validation-share": 0.1, "select-by": "few", "share-class-counts": False}, "needs class counts"),
    ],
)
def test_settings_of_validation_that_cannot_be(values, part):
    with pytest.raises(ConfigError) as caught:
        load_config(values)
    assert part in str(caught.value)
