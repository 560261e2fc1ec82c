"""The sites that a table of images names: in a simulation, and the same table cut by site at real nodes."""

import json

import numpy as np
import pytest

from fedpurel_app.cli import main as cli
from fedpurel_app.client_app import app as client_app
from fedpurel_app.config import load_config
from fedpurel_app.core.errors import ConfigError, DataError, RunError
from fedpurel_app.federation import Federation
from fedpurel_app.launch.choose import begun
from fedpurel_app.reporting.page.blocks import Items, Part
from fedpurel_app.reporting.page.drawn import site_names
from fedpurel_app.reporting.page.sites import sites_section
from fedpurel_app.reporting.page.snapshot import Snapshot
from fedpurel_app.reporting.run_folder import RunFolder
from fedpurel_app.server_app import app as server_app
from fedpurel_app.site.site import Site
from fedpurel_app.strategies import FedPuReL
from tests.support import CLASS_NAMES, HELD, a_table, cut_by_site, run_app, tiny_config

# A class has 6 + 2 * label images at a site that has it, two of which are to test on.
TRAIN = {site: [4 + 2 * label if label in held else 0 for label in range(5)] for site, held in HELD.items()}
TEST = {site: 2 * len(held) for site, held in HELD.items()}


def settings(table, **changes):
    config = {"dataset": "manifest", "dataset-path": str(table), "partition": "natural", "fraction-train": 1.0}
    return config | {"global-rounds": 1, "personal-rounds": 1} | changes


def sites_of(config, nodes):
    """Ask every node for what it says of itself."""
    return {site.name: (site.describe(), site.data.class_counts()) for site in (Site(config, node) for node in nodes)}


def simulated(count):
    return [{"partition-id": number, "num-partitions": count, "simulation": True} for number in range(count)]


def own(**changes):
    config = {"dataset": "sites", "classes": ", ".join(sorted(CLASS_NAMES)), "global-rounds": 1, "personal-rounds": 1}
    return config | changes


def in_order(counts):
    """Bring counts by label of the table into the alphabetical order of class names."""
    return [counts[CLASS_NAMES.index(name)] for name in sorted(CLASS_NAMES)]


@pytest.mark.parametrize("split", [True, False])
def test_a_table_cut_by_site_gives_nodes_what_a_simulation_gives_its_sites(tmp_path, split):
    table = a_table(tmp_path / "data", split=split)
    found = sites_of(settings(table), simulated(3))
    assert sorted(found) == sorted(HELD), "the names of the column are those of the sites"
    own_files = sites_of(own(), cut_by_site(table, tmp_path))
    nodes = [{"site": name, "data": str(table), "state-dir": str(tmp_path / f"{name}-b")} for name in HELD]
    own_rows = sites_of(own(), nodes)
    for name in HELD:
        description, counts = found[name]
        if split:
            assert counts == in_order(TRAIN[name]) and description.test_examples == TEST[name]
        for other, other_counts in (own_files[name], own_rows[name]):
            assert other_counts == counts and other.num_examples == sum(counts)
            assert other.test_examples == description.test_examples > 0


def test_a_run_has_the_sites_of_the_table_under_their_names(tmp_path):
    """Flower gives a node more than there are sites, which is spare."""
    table = a_table(tmp_path / "data")
    config, path = begun("shapes", settings(table), tmp_path / "run")
    assert config.num_sites == 3, "and not the 20 of the preset"
    run_app(server_app, client_app, 4, {**settings(table), "out": str(path)})
    folder = RunFolder(path)
    assert folder.rounds()[-1]["cohort"] == folder.rounds()[-1]["usable"] == sorted(HELD)
    summary = folder.summary()
    assert summary is not None and summary["outcome"] == "completed"
    parts = json.loads((path / "partition.json").read_text())
    assert [len(rows) for rows in parts["train"]] == [sum(TRAIN[name]) for name in sorted(HELD)]
    assert [len(rows) for rows in parts["test"]] == [TEST[name] for name in sorted(HELD)]
    assert parts["train_counts"] == in_order(np.sum(list(TRAIN.values()), 0).tolist()), "all of the table, no profile"
    counted = [int(row["train_images"]) for row in folder.read_csv("classes.csv")]
    assert counted == parts["train_counts"]


def test_the_page_of_a_run_knows_the_classes_of_the_table_s_sites(tmp_path):
    table = a_table(tmp_path / "data")
    run_app(server_app, client_app, 3, {**settings(table), "num-sites": 3, "out": str(tmp_path / "run")})
    run = Snapshot(tmp_path / "run")
    assert site_names(run) == sorted(HELD) == run.partition["site_names"]
    counts = dict(zip(site_names(run), run.partition["train_by_class"], strict=True))
    for name in HELD:
        named = {label: count for label, count in enumerate(in_order(TRAIN[name])) if count}
        assert {int(label): count for label, count in counts[name].items()} == named
        part = next(one for one in sites_section(run).blocks if isinstance(one, Part) and one.heading == name)
        said = " ".join(text for one in part.blocks if isinstance(one, Items) for text in one.items)
        assert f"Training images of {len(named)} of 5 classes" in said


def test_all_sites_of_the_table_are_waited_for(tmp_path, monkeypatch):
    monkeypatch.setitem(FedPuReL.__init__.__kwdefaults__, "connect_timeout", 0.1)
    config = settings(a_table(tmp_path / "data"), out=str(tmp_path / "run"))
    with pytest.raises(RunError, match="2 of 3 sites can take part"):
        run_app(server_app, client_app, 2, config)


def test_a_number_of_sites_that_is_not_the_tables_is_refused(tmp_path):
    table = a_table(tmp_path / "data")
    with pytest.raises(ConfigError, match=r"num-sites = 5: .* names, 3 \(east, north, south\). Drop num-sites"):
        begun("shapes", settings(table, **{"num-sites": 5}), None)
    federation = Federation(load_config(settings(table)))
    with pytest.raises(DataError, match=r"from 3 sites \(east, north, south\), and are asked for at 5"):
        federation.partition(5)


def test_other_partitions_of_a_table_deal_it_out_whole(tmp_path):
    table = a_table(tmp_path / "data")
    federation = Federation(load_config(settings(table, partition="iid")))
    dealt = federation.partition(4)
    assert sorted(np.concatenate(dealt.train)) == list(range(sum(map(sum, TRAIN.values()))))
    assert sorted(np.concatenate(dealt.test)) == list(range(sum(TEST.values())))
    assert federation.site_names == ()


def test_validation_parts_are_cut_at_every_site(tmp_path):
    table = a_table(tmp_path / "data")
    parts = Federation(load_config(settings(table, **{"validation-share": 0.25}))).partition(3)
    # 0.25 of a class at a site, at least one; of fewer than five images none
    expected = [sum(max(1, count // 4) for count in TRAIN[site] if count > 4) for site in sorted(HELD)]
    assert [len(rows) for rows in parts.validation] == expected
    assert [len(a) + len(b) for a, b in zip(parts.train, parts.validation, strict=True)] == [
        sum(TRAIN[site]) for site in sorted(HELD)
    ]


def test_a_node_that_is_given_a_part_of_the_table_reads_its_own_copy(tmp_path):
    table = a_table(tmp_path / "data")
    node = {"partition-id": 2, "num-partitions": 3, "data": str(table), "state-dir": str(tmp_path / "state")}
    site = Site(settings("/at/the/server.csv", **{"image-root": "/at/the/server"}), node)
    assert site.name == "south" and site.data.class_counts() == in_order(TRAIN["south"])
    with pytest.raises(ConfigError, match="site-column: a node that takes a part of the run's data set reads it as"):
        Site(settings(table), {**node, "site-column": "centre"})


def test_a_node_names_the_columns_and_the_root_of_its_own_table(tmp_path):
    table = a_table(tmp_path / "data")
    text = table.read_text().replace("path,label,split,site", "file,diagnosis,fold,centre")
    (tmp_path / "elsewhere.csv").write_text(text)
    columns = {"path-column": "file", "label-column": "diagnosis", "split-column": "fold", "site-column": "centre"}
    node = {"site": "east", "data": str(tmp_path / "elsewhere.csv"), "image-root": str(table.parent), **columns}
    assert Site(own(), {**node, "state-dir": str(tmp_path / "s")}).data.class_counts() == in_order(TRAIN["east"])


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"dataset-path": ""}, 'dataset = "manifest" needs dataset-path'),
        ({"imbalance-factor": 50}, 'imbalance-factor = 50.0 has no use with dataset = "manifest"'),
        ({"max-per-class": 5}, "max-per-class = 5 has no use with"),
        ({"max-per-class": 5, "imbalance-factor": 1}, "max-per-class = 5 has no use with"),
        ({"shots": 4}, "shots = 4 has no use with"),
        ({"class-order": "shuffled"}, 'class-order = "shuffled" has no use with'),
        ({"partition": "pachinko"}, 'use "natural", "dirichlet" or "iid"'),
        ({"alpha": 0.5}, 'alpha = 0.5 has no use with partition = "natural"'),
        ({"local-test": "uniform"}, 'works with partition = "dirichlet" only'),
        ({"site-column": "label"}, "name four different columns"),
        ({"label-column": ""}, "name four different columns"),
        ({"image-root": "images"}, 'image-root = "images" must be an absolute path'),
        ({"dataset": "shapes", "dataset-path": ""}, 'and dataset = "shapes" is none'),
        ({"dataset": "imagefolder", "partition": "iid", "site-column": "x"}, 'site-column = "x" has no use with'),
        ({"dataset": "sites", "classes": "a, b"}, "partition has no use"),
    ],
)
def test_settings_that_a_table_has_no_use_for_are_refused(changes, part):
    with pytest.raises(ConfigError) as caught:
        load_config(settings("/t.csv") | changes)
    assert len(caught.value.problems) == 1 and part in caught.value.problems[0]


def test_the_profile_may_be_switched_off_by_name(tmp_path):
    assert load_config(settings("/t.csv", **{"imbalance-factor": 1})).imbalance_factor == 1


def test_what_is_wrong_with_a_table_is_said_before_flower_starts(tmp_path, capsys):
    table = a_table(tmp_path / "data")
    with table.open("a") as file:
        file.write("images/none.png,yak,test,west\n")
    pairs = [f"{key}={value}" for key, value in settings(table).items()]
    code = cli.main(["run", *(word for pair in pairs for word in ("--set", pair)), "--out", str(tmp_path / "run")])
    err = capsys.readouterr().err
    assert code == 2 and not (tmp_path / "run").exists()
    for part in ("1 of 81 files do not exist", "1 classes have no training image: yak", "no training image: west"):
        assert part in err


def test_a_run_on_features_is_named_as_before(tmp_path):
    """Sites of data that are dealt out have numbers."""
    assert Site(tiny_config(tmp_path), simulated(5)[3]).name == "site-3"
