"""``fedpurel run --superlink`` without Flower: settings, what is shown, and what a SuperLink's absence does."""

import os
import signal
import subprocess
import sys
import threading
import time
from typing import Any, ClassVar

import pytest
from rich.console import Console

from fedpurel_app.cli import main as cli
from fedpurel_app.core.errors import ConfigError, RunError
from fedpurel_app.launch import other_superlink as remote
from fedpurel_app.launch.other_superlink import RemoteRun, superlink_address
from fedpurel_app.launch.processes import signals_deferred
from fedpurel_app.reporting.log_view import LogView
from fedpurel_app.reporting.run_folder import RunFolder
from tests.support import EndedRun, run_tiny

ENCODING = '{"text": "5 of 9 images, 1.0 min left", "event": "encoding"}'
LOG = """\
\x1b[92mINFO \x1b[0m:      Start `flwr-serverapp` process
Successfully installed fedpurel-run to /x.
\x1b[92mINFO \x1b[0m:      {{"text": "run folder: {folder}", "event": "run-folder", "path": "{folder}"}}
\x1b[92mINFO \x1b[0m:      [1/2 global  ] loss 1.000
\x1b[93mWARNING \x1b[0m:   a site was late
Traceback (most recent call last):
  File "x.py", line 1
"""


@pytest.fixture(autouse=True)
def flower_home(monkeypatch, tmp_path):
    monkeypatch.setenv("FLWR_HOME", str(tmp_path / "flwr"))
    (tmp_path / "flwr").mkdir()
    config = '[superlink]\ndefault = "local"\n[superlink.local]\naddress = ":local:"\n'
    config += '[superlink.there]\naddress = "fl.example.org:8000"\ninsecure = true\n'
    (tmp_path / "flwr" / "config.toml").write_text(config)


class FakeRun(RemoteRun):
    """Plays Flower: gives the statuses one after the other; an error is raised."""

    statuses: ClassVar[list[Any]] = [None]
    calls: ClassVar[list[tuple[str, ...]]] = []

    def _submit(self, *more):
        self.run_id = "7"

    def _stream(self, look):
        (self._logs / "flower.log").write_text(LOG.format(folder="/nowhere"))
        look()

    def _flwr(self, *arguments):
        self.calls.append(arguments)
        if arguments[0] == "stop":
            return {}
        status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        if isinstance(status, BaseException):
            raise status
        return {"runs": [{"status": status, "status-details": "why"}]}


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setattr("fedpurel_app.launch.submit.RemoteRun", FakeRun)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    monkeypatch.setattr(FakeRun, "calls", [])

    def play(*statuses):
        monkeypatch.setattr(FakeRun, "statuses", list(statuses))
        return FakeRun

    return play


def call(capsys, *arguments):
    code = cli.main(["run", "--superlink", "there", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


# --- settings ---------------------------------------------------------------------------------------------------------


def test_the_address_is_looked_up_in_flowers_own_configuration():
    assert superlink_address("there") == "fl.example.org:8000"


@pytest.mark.parametrize(
    ("name", "part"), [("nowhere", "is not in"), ("local", "has no address"), ("default", "is not in")]
)
def test_a_connection_without_a_superlink_of_its_own_is_refused(name, part):
    """``:local:`` would make Flower start one."""
    with pytest.raises(ConfigError, match=part) as caught:
        superlink_address(name)
    assert "There: there." in str(caught.value) and "root-certificates" in str(caught.value)


def test_a_broken_configuration_of_flower_is_named(tmp_path):
    (tmp_path / "flwr" / "config.toml").write_text("[superlink")
    with pytest.raises(ConfigError, match=r"config.toml is not a readable TOML file"):
        superlink_address("there")


def test_options_of_a_simulation_and_relative_paths_are_refused_all_at_once(capsys):
    arguments = ["--cpus-per-site", 1, "--gpus-per-site", 0, "--out", "here", "--set", "dataset-path=data"]
    code, _, err = call(capsys, *arguments, "--set", "pretrained=clip.pt")
    assert code == 2 and "5 problems" in err
    assert all(f"{name}" in err for name in ("--cpus-per-site", "--gpus-per-site", "--out here", "--set dataset-path"))


def submitted(monkeypatch, fake, capsys, *arguments):
    caught = {}
    before = RemoteRun.__init__

    def catch(self, settings, connection):
        caught.update(settings)
        before(self, settings, connection)

    monkeypatch.setattr(fake("finished:completed"), "__init__", catch)
    assert call(capsys, *arguments)[0] == 0
    return caught


def test_there_are_as_many_sites_as_nodes_unless_a_number_is_asked_for(monkeypatch, fake, capsys, tmp_path):
    assert submitted(monkeypatch, fake, capsys)["num-sites"] == 0
    assert submitted(monkeypatch, fake, capsys, "--set", "num-sites=3")["num-sites"] == 3
    (tmp_path / "mine.toml").write_text("num-sites = 4\n")
    assert submitted(monkeypatch, fake, capsys, "--preset", tmp_path / "mine.toml")["num-sites"] == 4


def test_paths_are_the_servers_and_not_looked_at_here(monkeypatch, fake, capsys):
    settings = submitted(monkeypatch, fake, capsys, "--out", "/proc/there")
    assert settings["out"] == "/proc/there" and settings["resume-from"] == ""
    assert submitted(monkeypatch, fake, capsys)["out"] == "", "the server chooses"
    settings = submitted(
        monkeypatch, fake, capsys, "--resume", "/absent", "--set", "dataset=features", "--set", "peft=adapter",
        "--set", "dataset-path=/absent.npz",
    )  # fmt: skip
    assert settings["resume-from"] == "/absent" and settings["dataset-path"] == "/absent.npz"


# --- following --------------------------------------------------------------------------------------------------------


def test_outcomes_are_exit_codes(fake, capsys):
    fake("running", "finished:completed")
    code, out, _ = call(capsys)
    assert code == 0 and "[1/2 global" in out and "a site was late" in out
    assert "Traceback" not in out and "flwr-serverapp" not in out and "\x1b" not in out
    for status in ("finished:failed", "finished:stopped"):
        fake(status)
        code, _, err = call(capsys, "--set", "seed=3")
        assert code == 1 and f"error: the run {status.split(':')[1]}: why" in err
        assert "flwr log 7 there --show" in err
        assert "fedpurel run --superlink there --resume /nowhere --set 'seed=3'" in err


def test_a_superlink_that_is_away_for_a_while_is_waited_for(fake, capsys):
    fake(RunError("away"), RunError("away"), "running", "finished:completed")
    code, out, _ = call(capsys)
    assert code == 0 and out.count("[1/2 global") == 1, "a log that begins anew is not shown twice"


def test_a_superlink_that_stays_away_is_given_up(monkeypatch, fake, capsys):
    monkeypatch.setattr(remote, "_PATIENCE", -1.0)
    fake(RunError("away"))
    code, _, err = call(capsys)
    assert code == 1 and "away" in err and "Run 7 may go on" in err


def interrupt(monkeypatch):
    def stream(self, look):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)

    monkeypatch.setattr(FakeRun, "_stream", stream)


def test_ctrl_c_stops_the_run(monkeypatch, fake, capsys):
    fake("running", "running", "finished:stopped")
    interrupt(monkeypatch)
    code, _, err = call(capsys)
    assert code == 130 and "stopped" in err and ("stop", "7", "there") in FakeRun.calls


def test_ctrl_c_on_a_run_that_was_quicker_reports_it(monkeypatch, fake, capsys):
    fake("finished:completed")
    interrupt(monkeypatch)
    assert call(capsys)[0] == 0 and ("stop", "7", "there") not in FakeRun.calls


def test_a_run_that_could_not_be_stopped_is_named(monkeypatch, fake, capsys):
    fake(RunError("away"))
    interrupt(monkeypatch)
    code, _, err = call(capsys)
    assert code == 1 and "stop it with: flwr stop 7 there" in err


@pytest.mark.parametrize("more, advice", [((), "run it again"), (("--resume", "/there"), "It was not resumed")])
def test_a_run_that_never_began_is_not_told_to_start_anew_when_it_was_to_be_resumed(
    monkeypatch, fake, capsys, more, advice
):
    run = fake("finished:failed")
    monkeypatch.setattr(run, "_stream", lambda self, look: (self._logs / "flower.log").write_text(""))
    code, _, err = call(capsys, *more)
    assert code == 1 and advice in err and ("run it again" in err) == (not more)


def test_a_deferred_signal_comes_after_what_must_not_be_cut():
    done = False
    with pytest.raises(KeyboardInterrupt), signals_deferred():
        os.kill(os.getpid(), signal.SIGINT)
        done = True
    assert done and signal.getsignal(signal.SIGINT) is signal.default_int_handler


# --- the folder -------------------------------------------------------------------------------------------------------


def test_rounds_come_from_the_folder_where_the_run_goes_on_in_it(tmp_path, capsys):
    folder = run_tiny(tmp_path / "tiny")
    log = tmp_path / "log"
    log.write_text(f"{LOG.format(folder=folder.path)}INFO :      {ENCODING}\n")
    lock = folder.lock()
    with LogView(Console()) as view:
        view.update(log)
    lock.release()
    out = capsys.readouterr().out
    assert view.folder is not None and "[6/6 personal]" in out and "[1/2 global" not in out
    assert "a site was late" in out and "5 of 9 images" in out, "neither is in the folder"


def test_a_folder_of_the_same_name_on_another_machine_is_not_taken_for_it(tmp_path, capsys):
    folder = run_tiny(tmp_path / "tiny")
    (tmp_path / "log").write_text(LOG.format(folder=folder.path))
    with LogView(Console()) as view:
        view.update(tmp_path / "log")
    out = capsys.readouterr().out
    assert view.folder is None and view.path == str(folder.path)
    assert "[1/2 global" in out and "personal]" not in out


SERVER = """
import sys
from pathlib import Path
from fedpurel_app.reporting.run_folder import RunFolder
kept = RunFolder(Path(sys.argv[1])).lock()
print("held", flush=True)
sys.stdin.readline()
"""


@pytest.mark.slow
def test_an_outcome_is_written_where_the_server_could_not(tmp_path, fake, capsys, monkeypatch):
    folder = run_tiny(tmp_path / "tiny")
    folder.forget_outcome()
    command = [sys.executable, "-c", SERVER, str(folder.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None and server.stdout.readline() == "held\n"
        # Flower tells that a run has ended a moment before the server's process has.
        killer = threading.Timer(1.0, server.kill)

        def stream(self, look):
            (self._logs / "flower.log").write_text(LOG.format(folder=folder.path))
            look()
            killer.start()

        monkeypatch.setattr(FakeRun, "_stream", stream)
        fake("finished:stopped")
        code, _, _ = call(capsys)
        assert not RunFolder(folder.path).is_running, "a resume that is typed at once would be refused"
    assert code == 1 and EndedRun(folder.path).summary()["outcome"] == "stopped"
