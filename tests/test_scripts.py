"""The scripts under tools/ and benchmarks/ run: nothing else in the suite calls them."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tools.lowest_dependencies import lower_bounds

ROOT = Path(__file__).parent.parent
SMALL = ["global-rounds=1", "personal-rounds=1", "max-per-class=8"]
SCRIPTS = {
    "tools/choose_demo_domain.py": "--only 'blurry, dark' --epochs 1 --train-per-class 2 --validation-per-class 2",
    "tools/train_demo_clip.py": "--steps 1 --batch 8 --out {out}",
    "tools/lowest_dependencies.py": "--show",
    "benchmarks/step.py": "--backbone ViT-B-32 --classes 2 --batch 2 --rounds 1 --families adapter --json {out}",
    "benchmarks/methods.py": "--backbone ViT-B-32 --classes 3 --batch 2 --steps 1 --rounds 1 --methods capt pfedmoap "
    "--json {out}",
    "benchmarks/rounds.py": "--set " + " --set ".join(SMALL),
    "benchmarks/liars.py": "--rounds 1 --seeds 0",
    "benchmarks/attention.py": "--quick",
    "benchmarks/planted.py": "--quick --rounds 1 --apart 2 --only groups",
    "benchmarks/split.py": "--quick",
    "benchmarks/scale.py": "--sites 4 --classes 3 --ranks 2 --rounds 2 --json {out} --plot {out}.png",
}
ELSEWHERE = {
    "benchmarks/plain.py",
    "benchmarks/synthetic.py",
    "benchmarks/message.py",
    "benchmarks/new_site.py",
    "benchmarks/fronts.py",
    "tools/write_cards.py",
    "tools/write_claims.py",
    "tools/docs_home.py",
}  # imported by step.py; the test below; tests/test_personalize.py, reporting/test_fronts.py,
# test_cards.py, test_claims.py, test_docs.py


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_runs(script: str, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / script), *shlex.split(SCRIPTS[script].format(out=tmp_path / "out"))]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip()


@pytest.mark.slow
def test_a_message_imports_nothing_that_it_does_not_use(tmp_path: Path) -> None:
    """Each of these libraries costs a process seconds; with cached features a message needs none of them."""
    command = [sys.executable, str(ROOT / "benchmarks/message.py"), *shlex.split("--backbone demo --rounds 1 --json")]
    subprocess.run([*command, str(tmp_path / "x.json")], check=True, capture_output=True, timeout=600)
    found = json.loads((tmp_path / "x.json").read_text())
    assert {f"{family} {kind}" for family in ("adapter", "prompt") for kind in ("train", "evaluate")} <= found.keys()
    assert {message: case["imported"] for message, case in found.items() if case["imported"]} == {}


def test_every_dependency_says_what_it_was_tested_with() -> None:
    bounds = lower_bounds((ROOT / "pyproject.toml").read_text())
    assert {"flwr", "torch", "open-clip-torch", "pytest"} <= bounds.keys()
    example = """
    [project]
    dependencies = ["one>=1.2,<2", "two[extra]>=0.5"]
    optional-dependencies = { test = ["One>=1.3", "three"], dp = ["four<4"] }
    """
    with pytest.raises(ValueError, match="three, four<4"):
        lower_bounds(example)
    bounds = lower_bounds(example.replace('"three"', '"three>=3"'), ["test"])
    assert {name: str(version) for name, version in bounds.items()} == {"one": "1.3", "two": "0.5", "three": "3"}


def test_every_script_is_tried() -> None:
    found = {str(path.relative_to(ROOT)) for folder in ("tools", "benchmarks") for path in (ROOT / folder).glob("*.py")}
    assert found == SCRIPTS.keys() | ELSEWHERE
