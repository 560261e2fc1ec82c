"""Two commands at one run folder: the first has it, the second says so and touches nothing."""

import os
import subprocess
import sys
import threading
import time

import pytest

from fedpurel_app.cli import main as cli
from fedpurel_app.core.errors import StateError
from fedpurel_app.reporting.claim import Claim
from fedpurel_app.reporting.run_folder import RunFolder
from tests.support import run_tiny

HOLD = """
import sys
from pathlib import Path
from fedpurel_app.reporting.run_folder import RunFolder
folder = RunFolder(Path(sys.argv[1]))
kept = folder.claim() if sys.argv[2] == "command" else folder.lock()
print("held", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def hold():
    """Have another process claim a folder."""
    started = []

    def start(path, what):
        path.mkdir(parents=True, exist_ok=True)
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(path), what], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        assert process.stdout and process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def content(path):
    return {str(file): file.read_bytes() for file in path.rglob("*") if file.is_file() and file.suffix != ".lock"}


def call(capsys, *arguments):
    code = cli.main(["run", *map(str, arguments)])
    return code, capsys.readouterr().err


@pytest.mark.parametrize("what", ["command", pytest.param("run", marks=pytest.mark.slow)])
def test_the_second_at_a_folder_names_the_first_and_touches_nothing(monkeypatch, capsys, tmp_path, hold, what):
    monkeypatch.setattr("fedpurel_app.reporting.run_folder._KILLED", 0.3)
    folder = run_tiny(tmp_path)
    folder.write_json("launch.json", {"cpus-per-site": 1, "gpus-per-site": 0.0})
    for path, option in ((tmp_path / "new", "--out"), (folder.path, "--resume")):
        process = hold(path, what)
        before = content(path)
        code, err = call(capsys, option, path)
        assert code == 2 and f"a run is going on in {path} (process {process.pid}, since 20" in err, err
        assert f"stop it first: kill {process.pid}" in err
        assert {name: text for name, text in content(path).items() if "command.holder" not in name} == {
            name: text for name, text in before.items() if "command.holder" not in name
        }


def test_a_folder_is_free_when_its_holder_was_killed(tmp_path, hold):
    process = hold(tmp_path, "command")
    process.kill()
    process.wait()
    assert Claim(tmp_path, "command").holder() is None
    RunFolder(tmp_path).claim().release()
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]


def test_a_server_works_where_the_command_that_started_it_has_the_folder(tmp_path):
    with RunFolder(tmp_path / "run").claim():
        server = subprocess.run(
            [sys.executable, "-c", HOLD, str(tmp_path / "run"), "run"], input="\n", text=True, capture_output=True
        )
        assert server.stdout == "held\n", server.stderr
        assert run_tiny(tmp_path).summary()["outcome"] == "completed"


def test_a_server_that_somebody_else_started_does_not(tmp_path, hold):
    process = hold(tmp_path / "run", "command")
    with pytest.raises(StateError, match=rf"a run is going on in .* \(process {process.pid}, since"):
        run_tiny(tmp_path)
    assert not (tmp_path / "run" / "config.json").exists() and not (tmp_path / "run" / "summary.json").exists()


def test_a_command_waits_for_the_server_of_one_that_was_killed(tmp_path, hold):
    process = hold(tmp_path, "run")
    before = time.monotonic()
    killer = threading.Timer(0.5, process.kill)
    killer.start()
    with RunFolder(tmp_path).claim():
        assert time.monotonic() - before >= 0.5
    killer.join()


def test_who_holds_a_folder_is_read_from_foreign_files_with_care(tmp_path, hold):
    process = hold(tmp_path, "run")
    note = tmp_path / "run.holder.json"
    for text in ("", "[" * 100_000, "null", '{"pid": [1]}', '{"pid": 1, "host": 2}', "\x00"):
        note.write_text(text)
        assert str(Claim(tmp_path, "run").holder()) == "another process"
    note.write_text('{"pid": 7, "host": "a\\u001b[31mb", "since": "\\u202e"}')
    assert str(Claim(tmp_path, "run").holder()) == "process 7 on a?[31mb, since ?"
    process.kill()


def test_looking_at_a_folder_writes_nothing(tmp_path):
    assert Claim(tmp_path, "run").holder() is None and list(tmp_path.iterdir()) == []
    with Claim(tmp_path, "run") as claim:
        claim.acquire()
        holder = Claim(tmp_path, "run").holder()
        assert holder is not None and holder.pid == os.getpid()
