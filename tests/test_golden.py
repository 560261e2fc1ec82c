"""Small runs of everything end in the very bits that were recorded, whatever was moved or renamed in between."""

import json

import pytest

from tests.golden import CASES, STORE, digests, machine, play

RECORD = json.loads(STORE.read_text())
SAME_MACHINE = RECORD["machine"] == machine()


INSIDE = ("lora", "visual-prompt")  # the image tower: these cases take longer than all others together


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (case.get("peft") in INSIDE or name == "fedpurel, prompt"))
        for name, case in CASES.items()
    ],
)
def test_a_small_run_ends_in_the_bits_that_were_recorded(tmp_path, name):
    """Where the machine or a version is another one, bits differ: then sizes must agree, to what rounding does."""
    found, recorded = digests(play(name, tmp_path)), RECORD["runs"][name]
    assert found.pop("sums") == pytest.approx(recorded["sums"], rel=1e-3)
    if SAME_MACHINE:
        assert found == {key: value for key, value in recorded.items() if key != "sums"}


def test_every_case_is_recorded():
    assert list(RECORD["runs"]) == list(CASES)
