"""The examples of CONTRIBUTING.md are whole: they run as they stand there, and the tests are green with both added."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from fedpurel_app.algorithms.base import Batch, Facts
from fedpurel_app.core.phase import Phase
from fedpurel_app.models.peft.base import Host, parameters_of

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
BLOCKS = dict(re.findall(r"```python\n# (.*?)\n(.*?)```", TEXT, re.DOTALL))
FILES = {name: content for name, content in BLOCKS.items() if not name.startswith("one more in ")}
ENTRIES = {
    re.findall(r"of (\S+\.py)", name)[0]: content for name, content in BLOCKS.items() if name.startswith("one more in ")
}


def example(name, folder):
    """Import an example's file."""
    path = folder / Path(name).name
    path.write_text(FILES[name])
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_methods_gradient_is_that_of_its_loss(tmp_path):
    algorithm = example("fedpurel_app/algorithms/label_smoothing.py", tmp_path).ALGORITHM
    logits = nn.Parameter(torch.randn(5, 7))
    labels = torch.arange(5)
    unread: Any = None  # the module, which this rule does not read
    batch = Batch(logits, labels, 1.0 * logits, logits, unread, [logits], [logits], Facts(), {"smoothing": 0.3}, 0.1,
                  torch.Generator())  # fmt: skip
    (found,), metrics = algorithm.visits[Phase.GLOBAL].rule(batch)
    loss = functional.cross_entropy(logits, labels, label_smoothing=0.3)
    torch.testing.assert_close(found, torch.autograd.grad(loss, logits)[0])
    torch.testing.assert_close(metrics["loss"], loss.detach())


def test_the_family_starts_at_zero_shot_and_trains(tmp_path):
    text = nn.functional.normalize(torch.randn(7, 4), dim=-1)
    host = Host(text, 10.0, tuple("abcdefg"), None)
    module = example("fedpurel_app/models/peft/text_scale.py", tmp_path).build(host, "global", {}, torch.Generator())
    features = torch.randn(5, 4)
    torch.testing.assert_close(module.logits(features), host.zero_shot_logits(features))
    module.logits(features).sum().backward()
    assert set(parameters_of(module)) == {"ratio"} and module.ratio.grad.abs().sum() > 0


@pytest.mark.slow
def test_with_both_added_the_tests_that_look_at_methods_and_families_are_green(tmp_path):
    project = tmp_path / "project"
    for name in ("fedpurel_app", "fedpurel_demo", "tests", "benchmarks"):
        shutil.copytree(ROOT / name, project / name, ignore=shutil.ignore_patterns("__pycache__"))
    (project / "docs").mkdir()
    for name in ("pyproject.toml", "README.md", "CONTRIBUTING.md", "docs/choose.md"):
        shutil.copy(ROOT / name, project / name)
    for name, content in FILES.items():
        (project / name).write_text(content)
    for name, entry in ENTRIES.items():
        head, listed, rest = (project / name).read_text("utf-8").partition("_ALL = (\n")
        (project / name).write_text(head + listed + entry.rstrip() + ",\n" + rest)
    rows, heading = "".join(re.findall(r"^\| `.*\n", TEXT, re.MULTILINE)), "| `fedavg` |"
    page = project / "docs" / "choose.md"
    page.write_text(page.read_text("utf-8").replace(heading, rows + heading, 1))
    environment = os.environ | {"PYTHONPATH": str(project)}
    table = [sys.executable, "-m", "fedpurel_app.config"]
    before, after = (
        subprocess.run(table, cwd=folder, env=os.environ | {"PYTHONPATH": str(folder)}, text=True,
                       capture_output=True, check=True).stdout for folder in (ROOT, project)
    )  # fmt: skip
    assert {"smoothing"} == set(tomllib.loads(after)) - set(tomllib.loads(before))
    expected = (project / "pyproject.toml").read_text("utf-8").replace(before, after)
    subprocess.run([*table, "--write"], cwd=project, env=environment, check=True)
    assert (project / "pyproject.toml").read_text("utf-8") == expected
    tests = ["tests/algorithms", "tests/models/test_peft.py", "tests/test_matrix.py", "tests/test_config.py"]
    result = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            *tests,
            "-k",
            "smoothing or scale or pyproject or choices or listed or the_docs",
        ],
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout[-5000:]
    listed = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--collect-only", *tests[:3]], cwd=project, env=environment,
        capture_output=True, text=True,
    ).stdout  # fmt: skip
    assert "[text-scale-label-smoothing]" in listed
