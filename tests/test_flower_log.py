import pytest

from fedpurel_app.launch.flower_log import cause

CRASH = """\
\x1b[92mINFO \x1b[0m:      [start] before training
Traceback (most recent call last):
  File "an_earlier_one.py", line 1, in warm_up
    raise KeyError("x")
KeyError: 'x'
\x1b[91mERROR \x1b[0m:     An exception occurred !! Simulation Runtime crashed.
\x1b[91mERROR \x1b[0m:     Traceback (most recent call last):
  File "ray_actor.py", line 136, in pool_size_from_resources
    raise ValueError(
    ^^^^^^^^^^^^^^^^^
ValueError: ActorPool is empty. Stopping Simulation.\x1b[31m

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
  File "run_simulation.py", line 319, in _main_loop
RuntimeError: Simulation Runtime crashed.
\x1b[91mERROR \x1b[0m:     Exit Code: 700

An unhandled exception occurred when running the simulation.
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (CRASH, "ValueError: ActorPool is empty. Stopping Simulation."),
        ("INFO :      all is well\n", ""),
        ("ERROR :     the disk is full\nERROR :     Exit Code: 700\n", "the disk is full"),
        ("(raylet pid=3) ERROR :     OSError: AF_UNIX path length\n", "OSError: AF_UNIX path length"),
        ("Traceback (most recent call last):\n  File cut off", ""),
        ("ERROR :     a\x07b" + "x" * 1000 + "\n", "a?b" + "x" * 496 + "…"),
    ],
)
def test_the_first_exception_of_the_last_chain_is_the_cause(tmp_path, text, expected):
    (tmp_path / "log").write_text(text)
    assert cause(tmp_path / "log") == expected


def test_no_log_and_bytes_that_are_no_text(tmp_path):
    assert cause(tmp_path / "absent") == ""
    (tmp_path / "log").write_bytes(b"\xff\xfeERROR\nERROR :     it broke\xff\n")
    assert cause(tmp_path / "log") == "it broke\N{REPLACEMENT CHARACTER}"
