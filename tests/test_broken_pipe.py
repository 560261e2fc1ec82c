"""Whoever reads the output stops reading: ``fedpurel COMMAND | head -1``."""

import os
import subprocess
import sys

import pytest

from tests.support import run_tiny


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return run_tiny(tmp_path_factory.mktemp("run"))


def unread(*arguments, both=False):
    """Call the command with nobody at the other end of its output; gives exit code and what it said of errors."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        result = subprocess.run(
            [sys.executable, "-m", "fedpurel_app.cli.main", *map(str, arguments)],
            stdout=writer,
            stderr=writer if both else subprocess.PIPE,
            timeout=100,
        )
    finally:
        os.close(writer)
    return result.returncode, (result.stderr or b"").decode()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["run", "--list-keys"],
        ["run", "--list-presets"],
        ["show", "{run}"],
        ["watch", "{run}"],
        ["compare", "{run}", "--out", "{out}/table"],
        ["keygen", "{out}/key"],
        pytest.param(  # imports torch
            ["doctor", "--set", "dataset=features", "--set", "peft=adapter", "--set", "dataset-path={data}"],
            marks=pytest.mark.slow,
        ),
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
@pytest.mark.slow
def test_a_command_that_nobody_reads_ends_well_and_without_a_word(tmp_path, run, arguments):
    names = {"run": run.path, "out": tmp_path, "data": run.path.parent / "features.npz"}
    assert unread(*[argument.format(**names) for argument in arguments]) == (0, "")


@pytest.mark.slow
def test_errors_keep_their_exit_code_when_nobody_reads_them(tmp_path):
    assert unread("show", tmp_path)[0] == 2 and unread("show", tmp_path, both=True)[0] == 2
