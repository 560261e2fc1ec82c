"""examples/bring_your_own_model: a Flower app of its own on the strategy and the mathematics."""

import ast
import logging
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.support import flwr_run, run_app

EXAMPLE = Path(__file__).parent.parent / "examples" / "bring_your_own_model"
SITES = 10


@pytest.fixture
def run(monkeypatch, caplog):
    """Run the example in this process; gives its table."""
    monkeypatch.syspath_prepend(EXAMPLE)
    from blobs.client_app import app as client
    from blobs.server_app import app as server

    config = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]

    def start(spy=None, **changes):
        caplog.clear()
        with caplog.at_level(logging.INFO, "flwr"):
            run_app(server, client, SITES, config | changes, spy=spy)
        return table("\n".join(record.getMessage() for record in caplog.records))

    return start


def table(text):
    """Read accuracies by model and group from what the server prints at the end."""
    rows = re.findall(r"(teacher|global model|personalized, at sites) +([\d. ]+)$", text, re.MULTILINE)
    groups = ("all", "many", "medium", "few")
    return {model: dict(zip(groups, map(float, numbers.split()), strict=True)) for model, numbers in rows}


def documented():
    """Read the README's table, by model and whether gradients were purified."""
    rows = re.findall(r"^\| ([a-z].*?) \| ([\d.| ]+) \|$", (EXAMPLE / "README.md").read_text(), re.MULTILINE)
    return {name: [float(number) for number in numbers.split(" | ")] for name, numbers in rows}


@pytest.mark.slow
def test_the_numbers_are_those_of_the_readme_and_show_the_effect(run):
    told, sent = documented(), []
    pure = run(spy=lambda message, reply: sent.append((message.metadata.message_type, reply.content)))
    plain = run(purify=False)
    for model in ("global model", "personalized, at sites"):
        assert list(pure[model].values()) == pytest.approx(told[model], abs=0.3)
        assert list(plain[model].values()) == pytest.approx(told[f"{model}, `purify=false`"], abs=0.3)
    assert list(pure["teacher"].values()) == pytest.approx(told["teacher"], abs=0.3)
    assert pure["global model"]["few"] > plain["global model"]["few"] + 5
    assert pure["personalized, at sites"]["all"] > pure["global model"]["all"] + 1
    private = [content for kind, content in sent if kind == "train.personalize"]
    assert len(private) == 10 * 4 and not any(content.array_records for content in private)


def test_it_uses_the_strategy_and_the_mathematics_and_nothing_else():
    modules: set[Any] = set()
    for path in (EXAMPLE / "blobs").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom | ast.Import):
                modules |= {node.module} if isinstance(node, ast.ImportFrom) else {name.name for name in node.names}
    ours = {name for name in modules if name.startswith("fedpurel")}
    assert ours == {"fedpurel_app.strategies", "fedpurel_app.functional"}


@pytest.mark.slow
def test_it_runs_under_flower_with_the_numbers_of_the_readme(tmp_path):
    federation = f"num-supernodes={SITES} client-resources-num-cpus=1"
    found = table(flwr_run(EXAMPLE, tmp_path, "", federation, 39478))
    for model in ("teacher", "global model", "personalized, at sites"):
        assert list(found[model].values()) == pytest.approx(documented()[model], abs=0.3)
