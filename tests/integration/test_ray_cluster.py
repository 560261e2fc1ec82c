"""A run on a Ray cluster that is already there: two of its nodes on this machine, each with one processor."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
import pytest

from fedpurel_app.reporting.run_folder import RunFolder
from tests.integration.test_flower import command, finish, start, wait_for_round
from tests.support import EndedRun, private_files

pytestmark = pytest.mark.slow


class Node:
    """One node of a Ray cluster, as ``ray start --block`` runs it; ``ray stop`` would end those of others, too."""

    def __init__(self, *arguments, cwd):
        ray = str(Path(sys.executable).parent / "ray")
        one_host = ["--min-worker-port", "0", "--max-worker-port", "0"]  # two nodes on one host share its ports
        plain = ["--block", "--num-cpus", "1", "--disable-usage-stats"]
        environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "RAY_ADDRESS")}
        log = cwd / f"{arguments[0]}.log"
        with log.open("w") as file:
            self.process = subprocess.Popen(
                [ray, "start", *arguments, *plain, *one_host],
                cwd=cwd,
                env=environment,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = time.monotonic() + 120
        while "block forever" not in log.read_text():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                pytest.fail(f"ray start failed:\n{log.read_text()}")
            time.sleep(0.1)

    def members(self):
        return psutil.Process(self.process.pid).children(recursive=True)

    def actors(self):
        """Return the command lines of this node's processes that hold sites; Ray adds ".run" while one is at work."""
        found = {}
        for process in self.members():
            try:
                line = " ".join(process.cmdline()).strip()
            except psutil.Error:
                continue
            if line.startswith("ray::ClientAppActor"):
                found[process.pid] = line
        return found

    def stop(self):
        if self.process.poll() is not None:
            return
        members = self.members()
        self.process.terminate()
        self.process.wait(30)
        for process in psutil.wait_procs(members, timeout=10)[1]:
            process.kill()


class Witness(threading.Thread):
    """Notes which nodes' processes were seen at work."""

    def __init__(self, nodes):
        super().__init__(daemon=True)
        self.worked: list[set[int]] = [set() for _ in nodes]
        self._nodes, self._over = nodes, threading.Event()
        self.start()

    def run(self):
        while not self._over.wait(0.02):
            for node, worked in zip(self._nodes, self.worked, strict=True):
                worked |= {pid for pid, line in node.actors().items() if line.endswith(".run")}

    def stop(self):
        self._over.set()
        self.join()


@pytest.fixture(scope="module")
def cluster():
    """Return the address and the nodes of a cluster; its own folder keeps it out of others' ``ray.init``."""
    folder, nodes = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp")), []  # Ray's sockets want a short path
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    try:
        head = ("--head", "--port", str(port), "--include-dashboard", "false", "--temp-dir", str(folder / "ray"))
        nodes.append(Node(*head, cwd=folder))
        nodes.append(Node("--address", f"127.0.0.1:{port}", cwd=folder))
        yield f"127.0.0.1:{port}", nodes, folder
    finally:
        for node in reversed(nodes):
            node.stop()
        shutil.rmtree(folder, ignore_errors=True)


def assert_alive_and_idle(nodes):
    """Check that the cluster survived a run, and that nothing of the run survived on it."""
    deadline = time.monotonic() + 20
    while any(node.actors() for node in nodes) and time.monotonic() < deadline:
        time.sleep(0.2)
    for node in nodes:
        assert node.process.poll() is None and not node.actors()
        assert any("raylet" in " ".join(process.cmdline()) for process in node.members())


def test_sites_work_on_all_machines_of_a_cluster_that_outlives_the_run(cluster, tmp_path, monkeypatch):
    address, nodes, _ = cluster
    monkeypatch.setenv("RAY_ADDRESS", address)
    witness = Witness(nodes)
    try:
        code, output = finish(start(command(tmp_path, "--set", "fraction-train=1"), tmp_path))
    finally:
        witness.stop()
    assert code == 0 and f"on the Ray cluster at {address}" in output, output
    assert all(len(worked) == 1 for worked in witness.worked), "one process of one processor on each node"
    folder = EndedRun(tmp_path / "run")
    assert folder.summary()["outcome"] == "completed" and folder.summary()["dropped_replies"] == 0
    assert len(private_files(folder)) == 2 * 5
    assert_alive_and_idle(nodes)


def test_ctrl_c_ends_the_run_on_the_cluster_and_nothing_else(cluster, tmp_path, monkeypatch):
    address, nodes, _ = cluster
    monkeypatch.setenv("RAY_ADDRESS", address)
    process = start(command(tmp_path, "--set", "global-rounds=5000"), tmp_path)
    wait_for_round(RunFolder(tmp_path / "run"), 1, process)
    assert all(len(node.actors()) == 1 for node in nodes)
    os.kill(process.pid, signal.SIGINT)
    code, output = finish(process)
    assert code == 130, output
    assert_alive_and_idle(nodes)


def test_a_run_that_names_no_cluster_stays_off_the_one_that_is_there(cluster, tmp_path, monkeypatch):
    """Ray left to itself reads the last cluster's address from its folder and joins it."""
    _, nodes, folder = cluster
    assert (folder / "ray" / "ray_current_cluster").exists()
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(folder))
    process = start(command(tmp_path, "--set", "global-rounds=5000"), tmp_path)
    try:
        wait_for_round(RunFolder(tmp_path / "run"), 1, process)
        assert not any(node.actors() for node in nodes)
    finally:
        os.kill(process.pid, signal.SIGINT)
        code, output = finish(process)
    assert code == 130, output
    assert_alive_and_idle(nodes)
