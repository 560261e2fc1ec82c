"""A table of three centres, in a simulation and on three SuperNodes on loopback: the same images at the same sites."""

import json

import pytest

from fedpurel_app.cli import main as cli
from fedpurel_app.data.sources.manifest import load_manifest
from fedpurel_app.data.sources.manifest_rows import Form
from fedpurel_app.reporting.run_folder import RunFolder
from tests.integration.federation import CONNECTION, Federation
from tests.support import CLASS_NAMES, HELD, a_table, cut_by_site

pytestmark = pytest.mark.slow
NAMES = sorted(CLASS_NAMES)
ROUNDS = ("algorithm=fedavg", "peft=text-residual", "global-rounds=1", "fraction-train=1")


def pairs(*settings):
    return [word for setting in settings for word in ("--set", setting)]


def told(path):
    """Return what a run's sites said of themselves: training, test images, and of real sites training by class."""
    roster = RunFolder(path).read_checkpoint()[1]["roster"]
    return {site: (one["num_examples"], one["test_examples"], one["class_counts"]) for site, one in roster.items()}


def test_nodes_with_their_rows_have_what_the_sites_of_a_simulation_have(tmp_path):
    table = a_table(tmp_path / "data")
    source = load_manifest(str(table), 0, Form(natural=True))
    whole = ("dataset=manifest", f"dataset-path={table}", "partition=natural")
    assert cli.main(["run", "--in-process", *pairs(*ROUNDS, *whole), "--out", str(tmp_path / "simulated")]) == 0
    simulated = told(tmp_path / "simulated")
    parts = json.loads((tmp_path / "simulated" / "partition.json").read_text())["train"]
    counts = {
        site: [int((source.train.labels[rows] == label).sum()) for label in range(len(NAMES))]
        for site, rows in zip(sorted(HELD), parts, strict=True)
    }
    for site, held in HELD.items():  # of 6 images and two more for each class before it, two are tested on
        assert counts[site] == [4 + 2 * CLASS_NAMES.index(name) if CLASS_NAMES.index(name) in held else 0
                                for name in NAMES]  # fmt: skip
    (tmp_path / "federation").mkdir()
    with Federation(tmp_path / "federation") as federation:
        for node in cut_by_site(table, tmp_path):
            # The first of them has the whole table, and takes its own rows.
            own = {**node, "data": str(table)} if node["site"] == next(iter(HELD)) else node
            federation.add_node(node["site"], " ".join(f'{key}="{value}"' for key, value in own.items()))
        real = ("dataset=sites", f'classes="{", ".join(NAMES)}"', "num-sites=3", "share-class-counts=true")
        process = federation.fedpurel(
            "run", "--superlink", CONNECTION, *pairs(*ROUNDS, *real), "--out", str(tmp_path / "real")
        )
        output, _ = process.communicate(timeout=900)
        assert process.returncode == 0, output
    found = told(tmp_path / "real")
    assert sorted(found) == sorted(simulated) == sorted(HELD)
    for site in HELD:
        training, tested, _ = simulated[site]
        assert found[site] == (training, tested, counts[site]) and training == sum(counts[site])
        assert tested == 2 * len(HELD[site])
