"""The scripts under tools/ and benchmarks/ run: nothing else in the suite calls them."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SMALL = ["global-rounds=1", "personal-rounds=1", "max-per-class=8"]
SCRIPTS = {
    "tools/choose_demo_domain.py": "--only 'blurry, dark' --epochs 1 --train-per-class 2 --validation-per-class 2",
    "tools/train_demo_clip.py": "--steps 1 --batch 8 --out {out}",
    "benchmarks/step.py": "--backbone ViT-B-32 --classes 2 --batch 2 --rounds 1 --families adapter --json {out}",
    "benchmarks/validation.py": "--seeds 100 --out {out} --set " + " --set ".join(SMALL),
    "benchmarks/scale.py": "--sites 4 --classes 3 --ranks 2 --rounds 2 --json {out} --plot {out}.png",
}
IMPORTED = {"benchmarks/plain.py"}


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_runs(script: str, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / script), *shlex.split(SCRIPTS[script].format(out=tmp_path / "out"))]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip()


def test_every_script_is_tried() -> None:
    found = {str(path.relative_to(ROOT)) for folder in ("tools", "benchmarks") for path in (ROOT / folder).glob("*.py")}
    assert found == SCRIPTS.keys() | IMPORTED
