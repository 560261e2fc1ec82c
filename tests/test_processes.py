"""What ends a run, and that nothing of it is left: signals, and the guard of the processes that were started."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from fedpurel_app.core.errors import RunError
from fedpurel_app.launch.flower_run import SCRATCH
from fedpurel_app.launch.own_superlink import _SOCKET, short_folder
from fedpurel_app.launch.processes import Interrupts

# Starts a child out of reach of signals to its group, and that a grandchild; writes their ids, and waits.
FAMILY = """
import subprocess, sys, time
from pathlib import Path
from fedpurel_app.launch.processes import ProcessFamily
scratch, family = Path(sys.argv[1]), ProcessFamily()
with family.guarded(scratch):
    code = "import subprocess, sys; print(subprocess.Popen(['sleep', '600']).pid, flush=True); sys.stdin.read()"
    child = subprocess.Popen([sys.executable, "-c", code], env=family.mark, start_new_session=True,
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    print(child.pid, child.stdout.readline().strip(), flush=True)
    sys.stdin.readline()
    family.stop()
"""


@pytest.fixture
def family(tmp_path):
    """A command with a family, the members, and its scratch folder."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    command = [sys.executable, "-c", FAMILY, str(scratch)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    members = [psutil.Process(int(pid)) for pid in process.stdout.readline().split()]
    guards = [one for one in psutil.Process(process.pid).children() if "fedpurel_app.launch.guard" in one.cmdline()]
    assert len(members) == 2 and len(guards) == 1
    yield process, [*members, *guards], scratch
    for one in members:
        if one.is_running():
            one.kill()
    process.kill()
    process.communicate()


def live(members):
    return [one for one in members if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]


def wait_until_gone(members, seconds=10):
    deadline = time.monotonic() + seconds
    while live(members) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not live(members)


def test_a_family_ends_with_its_command_even_where_that_is_killed(family):
    process, members, scratch = family
    assert len(live(members)) == 3
    process.kill()
    wait_until_gone(members)
    assert not scratch.exists()


def test_a_command_that_ends_by_itself_leaves_no_guard(family):
    process, members, scratch = family
    process.communicate("go on\n", timeout=20)
    wait_until_gone(members, 1)
    assert process.returncode == 0 and scratch.exists(), "the scratch folder is the command's own to remove"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_signal_is_answered_and_the_second_ends(capfd, number):
    interrupts = Interrupts(lambda: ("stopping after round 31; press again to stop now", True))
    with pytest.raises(KeyboardInterrupt), interrupts.handled():
        os.kill(os.getpid(), number)
        assert capfd.readouterr().err == "stopping after round 31; press again to stop now\n"
        assert interrupts.asked
        interrupts.check()  # it waits
        os.kill(os.getpid(), number)
    assert capfd.readouterr().err == "stopping now\n"


def test_a_signal_with_nothing_to_wait_for_ends_at_once(capfd):
    with pytest.raises(KeyboardInterrupt), Interrupts(lambda: ("no round has begun", False)).handled():
        os.kill(os.getpid(), signal.SIGINT)
    assert capfd.readouterr().err == "no round has begun\n"


@pytest.mark.parametrize(("number", "waits"), [(signal.SIGINT, True), (signal.SIGTERM, False), (signal.SIGHUP, False)])
def test_who_cannot_press_again_is_not_kept_waiting(monkeypatch, number, waits):
    monkeypatch.setattr("fedpurel_app.launch.processes._GRACE", 0.0)
    interrupts, over = Interrupts(lambda: ("stopping", True)), []
    with interrupts.handled():
        os.kill(os.getpid(), number)
        time.sleep(0.01)
        try:
            interrupts.check()
        except KeyboardInterrupt:
            over.append(True)
    assert bool(over) is not waits


def test_temporary_files_lie_where_rays_sockets_can(tmp_path):
    long = tmp_path / ("x" * 90)
    long.mkdir()
    assert short_folder([str(long), "/tmp"]) == "/tmp"
    room = 107 - len(f"/{SCRATCH}12345678{_SOCKET}")
    with pytest.raises(RunError, match=rf"may have {room} bytes .*{long} and /absent cannot be used. Set TMPDIR"):
        short_folder([str(long), "/absent"])


LIMITED = """
import resource, sys
hard = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 60), hard))
from fedpurel_app.core.errors import RunError
from fedpurel_app.launch.processes import allow_open_files
try:
    allow_open_files()
except RunError as error:
    print(error)
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


@pytest.mark.parametrize(
    ("hard", "said"), [(60, ["this process may have 60 files open at a time", "60"]), (1024, ["1024"])]
)
def test_a_limit_of_open_files_is_raised_or_named(hard, said):
    """Ray waits for ever where it cannot open its files."""
    result = subprocess.run([sys.executable, "-c", LIMITED, str(hard)], capture_output=True, text=True, check=True)
    lines = result.stdout.splitlines()
    assert len(lines) == len(said) and all(map(str.startswith, lines, said)), lines
