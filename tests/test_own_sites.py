"""Sites with data of their own, each with some of the classes, and a server without any."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from fedpurel_app.cli import main as cli
from fedpurel_app.client_app import app as client_app
from fedpurel_app.core.errors import ConfigError
from fedpurel_app.data.shapes import shapes
from fedpurel_app.reporting.run_folder import RunFolder
from fedpurel_app.server_app import app as server_app
from fedpurel_app.site.site import Site
from tests.support import CLASS_NAMES as NAMES
from tests.support import HELD, own_sites, run_app, tiny_features, write_images


@pytest.fixture
def nodes(tmp_path):
    return own_sites(tmp_path)


def settings(tmp_path, **changes):
    config = {
        "dataset": "sites",
        "classes": ", ".join(NAMES),
        "global-rounds": 2,
        "personal-rounds": 1,
        "fraction-train": 1.0,
        "evaluate-every": 1,
        "out": str(tmp_path / "run"),
    }
    return config | changes


def run(tmp_path, nodes, **changes):
    run_app(server_app, client_app, len(nodes), settings(tmp_path, **changes), nodes=nodes)
    return RunFolder(tmp_path / "run")


def test_a_run_without_data_at_the_server(tmp_path, nodes, home):
    before = set(home.rglob("*.npy"))
    folder = run(tmp_path, nodes)
    summary = folder.summary()
    assert summary["outcome"] == "completed" and summary["rounds"] == 3
    assert summary["global"] is None and summary["zero_shot"] is None
    last = folder.rounds()[-1]
    assert sorted(last["cohort"]) == ["east", "north", "south"]
    assert last["sites"]["personalized"]["all"] is not None
    assert last["sites"]["global"]["many"] is None and last["sites"]["global"]["balancedness"] is None  # totals alone
    for name in HELD:  # its own disk
        assert list((tmp_path / f"{name}-state").rglob("private-*.safetensors"))
        assert list((tmp_path / f"{name}-state" / ".cache").glob("*.npy"))
    assert not (folder.path / "private").exists()
    new = set(home.rglob("*.npy")) - before
    assert {len(np.load(path)) for path in new} <= {len(NAMES)}, "the server's text features, and no site's images"


def test_the_run_folder_has_the_log_of_the_site_that_shares_it(tmp_path, nodes):
    """One site shares all, one warnings, of which it has none, and one nothing."""
    for node, share in zip(nodes, ("all", "warnings", "none"), strict=True):
        node["share-log"] = share
    folder = run(tmp_path, nodes, **{"global-rounds": 1})
    told = [json.loads(line) for line in (folder.path / "site-logs.jsonl").read_text().splitlines()]
    site = nodes[0]["site"]
    assert {one["site"] for one in told} == {site} and [one["round"] for one in told] == [0, 1]
    first, second = (one["lines"] for one in told)
    assert first == [f"INFO: {site} is asked: query.describe"]
    assert second[0] == f"INFO: {site} is asked: train" and second[1].startswith("INFO: Encoding 20 images once")
    assert len(second) == 3, "no line of the personal round or of evaluations"


@pytest.mark.slow
def test_a_run_whose_sites_share_totals_alone_can_be_read(tmp_path, nodes, capsys):
    folder = run(tmp_path, nodes)

    def call(*arguments):
        code = cli.main([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    code, out, _ = call("show", folder.path)
    assert code == 0 and "prompt on sites, 5 classes, seed 0" in out and "alpha" not in out
    assert call("watch", folder.path)[0] == 0
    code, out, _ = call("compare", folder.path, "--out", tmp_path / "table")
    assert code == 0 and "| fedpurel, prompt, sites | 1 | – |" in (tmp_path / "table.md").read_text()
    code, out, err = call("plot", folder.path)
    assert code == 0 and "curves.png" in out and "sites.png" in out and "classes" not in out
    assert "not drawn, for the run has no numbers for them: classes, balance, contribution" in err
    for picture in ("balancedness", "convergence"):
        code, _, err = call("plot", folder.path, "--across", picture, "--out", tmp_path / picture)
        assert code == 2 and "of zero-shot at the server; leave it out" in err
    (folder.path / "summary.json").unlink()
    assert f"fedpurel run --superlink CONNECTION --resume {folder.path}, with" in call("show", folder.path)[1]
    code, _, err = call("run", "--resume", folder.path)
    assert code == 2 and f"`fedpurel run --superlink CONNECTION --resume {folder.path}`" in err


@pytest.mark.slow
def test_classes_are_drawn_by_label_where_only_the_server_knows_them(tmp_path, nodes, capsys):
    folder = run(tmp_path, nodes, **{"dataset-path": str(tmp_path / "north")})
    summary, rows = folder.summary(), folder.read_csv("classes.csv")
    assert summary["reasons"]["global.groups"] == "the sites shared totals, not class counts"
    assert all(row["train_images"] == row["group"] == "" for row in rows) and any(row["global"] for row in rows)
    assert cli.main(["plot", str(folder.path)]) == 0
    out, err = capsys.readouterr()
    assert (
        "classes.svg" in out and "balance.svg" in out and "not drawn, for the run has no numbers for them: con" in err
    )


@pytest.mark.slow
def test_no_simulation_is_advised_to_sites_with_data_of_their_own(tmp_path, nodes, caplog):
    run(tmp_path, nodes)
    assert "on sites (5 classes); 3 sites" in caplog.text
    assert "num-supernodes" not in caplog.text and "this setting is made for" not in caplog.text


def test_counts_of_classes_leave_when_run_and_site_agree(tmp_path, nodes):
    folder = run(tmp_path, nodes, **{"share-class-counts": True})
    last = folder.rounds()[-1]["sites"]["personalized"]
    assert last["few"] is not None and last["balancedness"] is not None
    lines = (folder.path / "classes.csv").read_text().splitlines()[1:]
    held = [sum(label in labels for labels in HELD.values()) for label in range(5)]
    per_site = [6 + 2 * label - (6 + 2 * label) // 5 for label in range(5)]
    assert [int(line.split(",")[3]) for line in lines] == [a * b for a, b in zip(held, per_site, strict=True)]
    nodes[0]["share-class-counts"] = False
    folder = run(tmp_path, nodes, **{"share-class-counts": True, "out": str(tmp_path / "again")})
    last = RunFolder(tmp_path / "again").rounds()[-1]["sites"]["personalized"]
    assert last["few"] is not None and last["sites_by_class"] == 2, "two sites of three tell"


def test_a_site_of_strange_classes_is_left_out_and_the_run_goes_on(tmp_path, nodes, caplog):
    write_images(tmp_path / "east", {"zebra": [1]})
    folder = run(tmp_path, nodes)
    assert folder.summary()["outcome"] == "completed"
    assert sorted(folder.rounds()[-1]["cohort"]) == ["north", "south"]
    assert "does not know: zebra" in caplog.text  # at the site


def test_feature_files_of_a_federation_without_a_backbone(tmp_path):
    config = settings(tmp_path, dataset="features", peft="text-residual") | {"imbalance-factor": 1}
    config["classes"] = ", ".join(f"class {label}" for label in range(6))
    nodes = [
        {"site": name, "data": str(tiny_features(tmp_path / f"{name}.npz", per_class=10 + seed, seed=0))}
        for seed, name in enumerate(("a", "b"))
    ]
    config["dataset-path"] = str(tiny_features(tmp_path / "server.npz", seed=0))
    run_app(server_app, client_app, 2, config, nodes=nodes)
    last = RunFolder(tmp_path / "run").rounds()[-1]
    assert last["sites"]["personalized"]["all"] is not None and last["global"]["all"] is not None
    descriptions = json.loads((tmp_path / "run" / "state.json").read_text())["roster"]
    assert {name: one["num_examples"] for name, one in descriptions.items()} == {"a": 60, "b": 66}


def test_features_of_the_run_s_backbone(tmp_path):
    from fedpurel_app.models.backbone import load_backbone

    backbone = load_backbone("demo", torch.device("cpu"))
    pictures = [Image.fromarray(p) for label in (0, 1) for p in shapes.images("train", label, 0, 5)]
    features = backbone.encode_images(pictures).numpy()
    path = tmp_path / "own.npz"
    np.savez(path, train_features=features, train_labels=np.repeat([0, 1], 5), class_names=np.array(NAMES[:2]))
    one = Site(settings(tmp_path), {"site": "a", "data": str(path)})
    assert one.describe().num_examples == 8
    path = tmp_path / "narrow.npz"
    np.savez(path, train_features=features[:, :7], train_labels=np.repeat([0, 1], 5), class_names=np.array(NAMES[:2]))
    odd = Site(settings(tmp_path), {"site": "b", "data": str(path)})
    with pytest.raises(Exception, match="has features of 7 numbers; demo makes 128"):
        odd.experiment.images.data("train", np.arange(2), "features")
    with pytest.raises(Exception, match="bring images, not features"):
        _ = Site(settings(tmp_path, peft="lora"), {"site": "c", "data": str(path)}).describe()


@pytest.mark.parametrize(
    ("changes", "node", "message"),
    [
        ({}, {"partition-id": 0, "num-partitions": 2}, 'start this node with --node-config \'site="hospital-a"'),
        ({}, {"data": "/x"}, "This node has no part in the data: start it with"),
        ({}, {"site": "../x", "data": "/x"}, "site = '../x' in the node config"),
        ({}, {"site": "a", "data": "/x", "state_dir": "/y"}, 'unknown key "state_dir".*Did you mean "state-dir"'),
        ({}, {"site": "a", "dataset-path": "/x"}, "dataset-path belongs to the settings of the run"),
        ({"dataset": "shapes", "classes": ""}, {"site": "a", "data": "/x"}, 'or run with dataset = "sites"'),
        (
            {"dataset": "features", "classes": "", "dataset-path": "/x", "peft": "adapter"},
            {"site": "a", "data": "/x"},
            "let the run name them",
        ),
        ({}, {"site": "a", "data": "x"}, "data = 'x' in the node config: .*must be an absolute path"),
        ({"classes": "a_b, a b"}, {"site": "a", "data": "/x"}, "needs the names of all classes, each once"),
        ({"classes": "cat"}, {"site": "a", "data": "/x"}, 'dataset = "sites" needs the names of all classes'),
        ({"alpha": 0.1}, {"site": "a", "data": "/x"}, 'alpha has no use with dataset = "sites"'),
        ({"imbalance-factor": 10.0}, {"site": "a", "data": "/x"}, "imbalance-factor = 10 has no use"),
    ],
)
def test_settings_that_do_not_fit_are_refused(tmp_path, changes, node, message):
    with pytest.raises(ConfigError, match=message):
        Site(settings(tmp_path, **changes), node)
