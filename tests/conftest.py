"""Settings for all tests: offline, silent, and nothing written outside pytest's own folders."""

import gc
import os
import signal
import subprocess
import tempfile
from pathlib import Path

os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "FLWR_TELEMETRY_ENABLED": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
}
if "PYTEST_XDIST_WORKER_COUNT" in os.environ:  # workers that each take all cores only slow each other
    share = (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, share)))
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # nor may a thread that waits for another keep a core busy

import pytest
from hypothesis import settings

gc.disable()  # it would look at all modules of all packages, again and again, while they load
settings.register_profile("default", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("default")


def pytest_configure():
    """Take interrupts, as from a terminal: a shell's background jobs, and all their children, ignore them."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish():
    """Let the collector look at what tests make alone: the packages stay."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def home(tmp_path_factory):
    """Return runs and caches a home of their own, shared by all tests so that images are encoded once."""
    folder = tmp_path_factory.mktemp("home")
    before = os.environ.get("FEDPUREL_HOME")
    os.environ["FEDPUREL_HOME"] = str(folder)
    yield folder
    os.environ.pop("FEDPUREL_HOME")
    if before is not None:
        os.environ["FEDPUREL_HOME"] = before


@pytest.fixture(scope="session", autouse=True)
def no_waiting():
    """Do not wait for the disk, ten thousand times, nor a second until no more sites come: here all are there at once.

    That writes survive a power loss is tested in a process of its own, ``crashing.py``.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", os.fstat)  # which fails for a file that is not open, too
        patch.setattr("fedpurel_app.strategies.sites._POLL", 0.01)
        yield


@pytest.fixture
def as_plain_user():
    """Return a folder of somebody who is not root, and be that one for the test: root may write anywhere."""
    with tempfile.TemporaryDirectory() as name:  # unlike pytest's own, everybody may enter its parent
        if os.geteuid() != 0:
            yield Path(name)
            return
        os.chown(name, 65534, 65534)
        os.seteuid(65534)
        try:
            yield Path(name)
        finally:
            os.seteuid(0)


@pytest.fixture
def small_disk(tmp_path):
    """Return a file system of 1 MiB of its own; making one takes root."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)
