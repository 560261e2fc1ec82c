"""``fedpurel run --superlink`` against a real SuperLink and two SuperNodes on loopback."""

import signal
import time

import pytest

from fedpurel_app.reporting.run_folder import RunFolder
from tests.integration.federation import CONNECTION, Federation
from tests.support import EndedRun, tiny_features

pytestmark = pytest.mark.slow
TINY = {
    "dataset": "features",
    "peft": "text-residual",
    "imbalance_factor": 3,
    "global_rounds": 1,
    "personal_rounds": 1,
    "fraction_train": 1,
}


@pytest.fixture(scope="module")
def federation(tmp_path_factory):
    with Federation(tmp_path_factory.mktemp("federation")) as one:
        for site in range(2):
            data = tiny_features(one.home(f"site-{site}") / "features.npz")
            parts = f'partition-id={site} num-partitions=2 data="{data}"'
            one.add_node(f"site-{site}", f'{parts} state-dir="{data.parent}/private"')
        yield one


def start(federation, *arguments, **changes):
    """Start a run with changed settings; what is None is left at its default."""
    data = federation.home("site-0") / "features.npz"  # any whole copy of what the sites have
    settings = {"dataset_path": data} | TINY | changes
    pairs = [
        word
        for key, value in settings.items()
        if value is not None
        for word in ("--set", f"{key.replace('_', '-')}={value}")
    ]
    return federation.fedpurel("run", "--superlink", CONNECTION, *pairs, *map(str, arguments))


def run(federation, *arguments, **changes):
    process = start(federation, *arguments, **changes)
    output, _ = process.communicate(timeout=400)
    return process.returncode, output


def test_a_run_elsewhere_is_followed_to_its_end(federation):
    """The server chooses the folder; here it is visible, so the rounds come from it."""
    code, output = run(federation)
    assert code == 0, output
    lines = output.splitlines()
    assert sum(line.startswith(("[1/2 global", "[2/2 personal")) for line in lines) == 2, output
    assert any("personalized, at sites" in line for line in lines), output
    folder = EndedRun(next((federation.home("superlink") / "runs").iterdir()))
    assert f"run folder: {folder.path}" in lines and folder.summary()["outcome"] == "completed"
    for site in range(2):
        assert len(list((federation.home(f"site-{site}") / "private").rglob("*.safetensors"))) == 1
    assert federation.is_up(), "it was not ours to stop"


def test_what_a_method_does_at_the_server_and_sends_in_personal_rounds(federation):
    """Trust and clusters go by replies of real processes, and what is averaged of a private model makes its way."""
    folder = federation.folder / "elsa"
    two = {"global_rounds": 2, "personal_rounds": None, "evaluate_every": 2}
    code, output = run(federation, "--out", folder, algorithm="elsa", **two)
    assert code == 0, output
    sites = {"site-0", "site-1"}
    for line in EndedRun(folder).rounds()[1:]:
        assert set(line["trust"]) == sites == {site for cluster in line["clusters"].values() for site in cluster}
    folder = federation.folder / "coaction"
    code, output = run(federation, "--out", folder, algorithm="coaction", schedule="interleaved")
    assert code == 0, output
    assert {row["site"] for row in EndedRun(folder).read_csv("fronts.csv")} == sites


def test_a_run_that_fails_there_exits_with_1_and_the_reason(federation):
    code, output = run(federation, dataset_path=federation.folder / "missing.npz")
    assert code == 1 and "error: the run failed" in output and "no such file" in output, output
    assert "Traceback" not in output and federation.is_up(), output


def test_a_folder_of_the_server_is_resumed_by_its_path_there(federation):
    code, output = run(federation, "--resume", federation.folder / "nowhere")
    assert code == 1 and "nowhere is not a run folder" in output, output


def test_ctrl_c_stops_the_run_and_leaves_the_superlink(federation):
    folder = RunFolder(federation.folder / "stopped")
    process = start(federation, "--out", folder.path, global_rounds=500)
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and len(folder.rounds()) < 2 and process.poll() is None:
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output
    assert f"--superlink {CONNECTION} --resume {folder.path}" in output and federation.is_up(), output
    assert EndedRun(folder.path).summary()["outcome"] == "stopped" and not folder.is_running
    assert folder.read_checkpoint()[1]["round"] >= 1
