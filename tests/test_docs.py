"""What README and docs show can be typed: commands parse, settings hold, Python runs, and nothing pipes by accident."""

import csv
import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord
from PIL import Image

from fedpurel_app.cli.main import main
from fedpurel_app.cli.parser import make_parser
from fedpurel_app.config import known_keys, load_config
from fedpurel_app.config.presets import DEFAULT_PRESET, load_preset, merged
from fedpurel_app.launch.choose import assignments
from tests.strategies.test_plain_clients import SITES, START, array_dict, plain_client
from tests.support import LocalGrid
from tools.docs_home import home

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)


def blocks(language, pages=PAGES):
    return [
        pytest.param(page, content, id=f"{page.stem}-{number}")
        for page in pages
        for number, (kind, content) in enumerate(BLOCK.findall(page.read_text("utf-8")))
        if kind == language
    ]


def commands_of(block):
    """Return the words of each command of a block; what stands behind ``&&`` is one of its own."""
    lines = block.replace("\\\n", " ").splitlines()
    for line in lines:
        command: list[str] = []
        for word in [*shlex.split(line, comments=True), "&&"]:
            if word in ("&&", "done", "do", "done;") or word.endswith(";"):
                yield command + ([word[:-1]] if word.endswith(";") and word != "done;" else [])
                command = []
            else:
                command.append(word)


@pytest.mark.parametrize(("page", "block"), blocks("bash"))
def test_commands_parse_and_their_settings_exist(page, block):
    for words in commands_of(block):
        while words and "=" in words[0] and not words[0].startswith("-"):
            words = words[1:]  # variables of the environment
        assert "|" not in words, f"a pipe: {words}"
        if not words or words[0] != "fedpurel" or "..." in words:
            continue
        arguments = [word.replace("RUN...", "RUN") for word in words[1:]]
        options = make_parser().parse_args(arguments)
        for pair in getattr(options, "set", []):
            assert pair.partition("=")[0] in known_keys(), pair
        preset = getattr(options, "preset", None)
        is_whole = not any("$" in word for word in words)  # of a loop
        if options.command == "run" and is_whole and not options.resume and not (preset or "").endswith(".toml"):
            assert load_config(merged(load_preset(preset or DEFAULT_PRESET), assignments(options.set)))


@pytest.mark.parametrize(("page", "block"), blocks("toml"))
def test_toml_is_toml(page, block):
    assert tomllib.loads(block)


@pytest.mark.parametrize(("page", "block"), blocks("python"))
def test_python_compiles(page, block):
    compile(block, str(page), "exec")


@pytest.mark.parametrize("page", ["README.md", "docs/ways.md"])
def test_the_strategy_of_a_page_runs_all_its_rounds(page):
    """Over sites that know nothing of this package; each trains by adding its number."""
    (block,) = (
        content for kind, content in BLOCK.findall((ROOT / page).read_text("utf-8")) if "strategy.start(" in content
    )
    grid = LocalGrid(plain_client(), SITES, {})
    names: dict[str, Any] = {"grid": grid, "initial_arrays": ArrayRecord(array_dict(START))}
    exec(compile(block, page, "exec"), names)
    assert names["strategy"].report.round == 100
    assert (names["robust"].inner.__class__.__name__ == "FedMedian") if "robust" in names else page == "README.md"


def test_the_step_of_a_page_trains():
    (block,) = (content for _, content in BLOCK.findall((ROOT / "docs/ways.md").read_text("utf-8"))
                if "in batches:" in content)  # fmt: skip
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 3)
    before = model.weight.detach().clone()
    names: dict[str, Any] = {
        "model": model,
        "batches": [(torch.randn(6, 4), torch.arange(6) % 3)] * 2,
        "zero_shot": lambda inputs: torch.zeros(len(inputs), 3),
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
        "metrics": {},
    }
    exec(compile(block, "docs/ways.md", "exec"), names)
    assert 0 <= names["metrics"]["conflict"] <= 1 and not torch.equal(model.weight, before)


def test_own_embeddings_are_written_and_train(tmp_path):
    """The page from its first block to its last."""
    page = ROOT / "docs" / "own-embeddings.md"
    write, read, _ = (content for kind, content in BLOCK.findall(page.read_text("utf-8")) if kind == "python")
    check = (
        "import fedpurel_app, os, subprocess, sys\n"
        "settings = {'dataset-path': os.path.abspath('features.npz'), 'num-sites': 10}\n"
        "settings |= {'global-rounds': 3, 'personal-rounds': 1}\n"
        "run = fedpurel_app.run(settings, preset='embeddings', out='run')\n"
        "assert run.summary['outcome'] == 'completed'\n"
        "subprocess.run([sys.executable, '-m', 'fedpurel_app.cli.main', 'export', '--run', 'run', '--out', 'model'],"
        " check=True)\n"
        "image_features = images['test']\n"
    )
    accuracy = "print((predicted == labels['test']).mean(), run.summary['global']['all'])\n"
    done = subprocess.run(
        [sys.executable, "-c", write + check + read + accuracy], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    by_hand, told = map(float, done.stdout.splitlines()[-1].split())
    assert by_hand > 0.5 and told > 50


@pytest.mark.slow
def test_the_recipe_for_features_writes_what_a_run_reads(tmp_path, monkeypatch, capsys):
    """With weights drawn at random in the place of OpenAI's."""
    page = ROOT / "docs" / "own-embeddings.md"
    *_, recipe = (content for kind, content in BLOCK.findall(page.read_text("utf-8")) if kind == "python")
    assert 'pretrained="openai"' in recipe
    for name in ("sea_horse", "ant"):
        (tmp_path / "caltech" / name).mkdir(parents=True)
        for index in range(4):
            Image.new("RGB", (40, 30), (60 * index, 0, 0)).save(tmp_path / "caltech" / name / f"{index}.jpg")
    monkeypatch.chdir(tmp_path)
    exec(compile(recipe.replace('pretrained="openai"', "pretrained=None"), str(page), "exec"), {})
    assert main(["data", "check", "features.npz", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert "sea_horse" in str(told) and np.load("features.npz")["train_features"].shape == (4, 512)


def rows_of(page):
    """Return a page's table rows, by the name in the first cell, without marks; of equal names the first."""
    lines = [line.strip("|").split("|") for line in page.read_text("utf-8").splitlines() if line.startswith("| ")]
    return {cells[0].strip(): [cell.strip().replace("*", "") for cell in cells[1:]] for cells in reversed(lines)}


def test_the_demo_s_tables_are_those_that_were_measured():
    with (ROOT / "docs" / "leaderboard" / "readme.csv").open(encoding="utf-8") as file:
        measured = {(row["method"], row["model"], row["score"]): row for row in csv.DictReader(file)}

    def cell(method, model, score):
        row = measured[method, model, score]
        mean, sd = float(row["mean"]), float(row["sd"])
        return f"{mean:.1f}" if method == "zero-shot" else f"{mean:.1f} ± {sd:.1f}"

    scores = ("all", "many", "medium", "few", "balancedness", "ece")
    page, readme = rows_of(ROOT / "docs" / "leaderboard.md"), rows_of(ROOT / "README.md")
    names = {"zero-shot": "zero-shot CLIP", "FedAvg": "FedAvg", "ProGrad": "FedPuReL, plain KL (ProGrad)",
             "FedPuReL": "FedPuReL"}  # fmt: skip
    for method, name in names.items():
        own = [cell(method, "personalized", score) for score in ("all", "few")]
        if method != "FedAvg" and method != "ProGrad":
            assert readme[name][3] == own[0]
        assert page[method][:6] == [cell(method, "global", score) for score in scores], method
        assert page[method][6:] == own, method
        assert readme[name][:3] == [cell(method, "global", score) for score in ("all", "few", "balancedness")], method


def test_the_line_after_the_first_run_expects_what_was_measured():
    """Rounded means over the seeds of README's table."""
    with (ROOT / "docs" / "leaderboard" / "readme.csv").open(encoding="utf-8") as file:
        means = {(row["method"], row["model"], row["score"]): round(float(row["mean"])) for row in csv.DictReader(file)}
    told = (ROOT / "fedpurel_app" / "config" / "presets" / "shapes.toml").read_text("utf-8")
    ours, few = means["FedPuReL", "global", "all"], means["FedPuReL", "global", "few"]
    assert (
        f"# expect: global model about {ours} % (zero-shot {means['zero-shot', 'global', 'all']}), Few about {few} "
        f"(FedAvg {means['FedAvg', 'global', 'few']}); personalized about {means['FedPuReL', 'personalized', 'all']}\n"
    ) in told


def test_what_the_picture_of_the_tail_is_said_to_show_is_what_it_shows():
    """Its last point is the mean of the rarest classes."""
    with (ROOT / "docs" / "images" / "tail.csv").open(encoding="utf-8") as file:
        ends = {row["method"]: round(-float(row["change_mean"])) for row in csv.DictReader(file)}  # the last row counts
    for page in ("README.md", "docs/method.md"):
        text = " ".join((ROOT / page).read_text("utf-8").split())
        assert re.search(rf"{ends['fedavg']} points below", text), page
        assert re.search(rf"(ends|and FedPuReL) {ends['fedpurel']}\b", text), page


def test_the_home_page_is_the_readme_with_links_that_lead_on():
    text = "[a](docs/a.md#b), [b](LICENSE), [c](https://c.org), ![d](docs/images/d.png), [e](CONTRIBUTING.md#x)"
    assert home(text) == "[a](a.md#b), b, [c](https://c.org), ![d](images/d.png), e"


def test_the_first_screen_is_one():
    lines = (ROOT / "README.md").read_text("utf-8").splitlines()
    assert len(lines) <= 120
    assert lines.index("## Run it") < 30 and any("tail.png" in line for line in lines[:15])
