"""Run folders that others wrote: whatever their files hold, a command ends well or with one clear error."""

import json
import random
import shutil
from typing import Any

import pytest

from fedpurel_app.cli import main as cli
from fedpurel_app.core.errors import FedPurelError, StateError
from fedpurel_app.core.tensor_file import dump, read
from fedpurel_app.launch import own_superlink as conductor
from fedpurel_app.reporting.run_files import read_object, read_rounds, read_table
from fedpurel_app.reporting.run_folder import RunFolder
from tests.support import run_tiny

JSON = ("config.json", "state.json", "summary.json", "partition.json", "launch.json", "classes.json", "rounds.jsonl")
TABLES = ("sites.csv", "classes.csv")
STRANGE: tuple[Any, ...] = (
    None,
    True,
    -1,
    10**9,
    10**400,
    1.5,
    1e300,
    "",
    "\x1b[31mred\x1b[0m\u202e",
    "=cmd|'/C calc'!A0",
    "$\\frac{$",
    "x" * 200_000,
    [],
    [[[]]],
    {},
    {"a": {"b": None}},
)
DEEP = b"[" * 50_000


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = run_tiny(tmp_path_factory.mktemp("whole"), global_rounds=2)
    folder.write_json("launch.json", {"cpus-per-site": 1, "gpus-per-site": 0.0})
    return folder


@pytest.fixture
def copy(whole, tmp_path):
    shutil.copytree(whole.path, tmp_path / "run")
    return RunFolder(tmp_path / "run")


@pytest.fixture(autouse=True)
def no_flower(monkeypatch):
    monkeypatch.setattr(conductor.Conductor, "run", lambda self, watch: "finished:completed")


def commands(folder, out):
    run = str(folder.path)
    yield ["show", run]
    yield ["compare", run, "--out", str(out / "table")]
    yield ["plot", run]
    for picture in ("balancedness", "sweep", "convergence"):
        yield ["plot", run, "--across", picture, "--out", str(out / picture)]
    yield ["predict", "--run", run, str(out / "image.png")]
    yield ["export", "--run", run, "--site", "site-1", "--out", str(out / "export")]
    yield ["run", "--resume", run]


def places(value, path=()):
    """Return the path of every value in a JSON text."""
    yield path
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in pairs:
        yield from places(part, (*path, key))


def changed(value, path, new, drop):
    """Return a JSON value with another one at a place, or without that place."""
    if not path:
        return new
    key, *rest = path
    copied = dict(value) if isinstance(value, dict) else list(value)
    if drop and not rest:
        del copied[key]
    else:
        copied[key] = changed(value[key], rest, new, drop)
    return copied


def mutate_json(draw, content):
    lines = content.splitlines()
    at = draw.randrange(len(lines)) if content.count("\n{") else None  # of rounds.jsonl, one line
    value = json.loads(content if at is None else lines[at])
    # Half the time near the top, where every key counts.
    paths = [path for path in places(value) if path and (draw.random() < 0.5 or len(path) <= 2)]
    value = changed(value, draw.choice(paths), draw.choice(STRANGE), draw.random() < 0.3)
    text = json.dumps(value)
    if at is None:
        return text.encode()
    lines[at] = text
    return ("\n".join(lines) + "\n").encode()


def mutate_bytes(draw, content):
    at = draw.randrange(len(content))
    piece = draw.choice([b"\xff\xfe", b"\x00", DEEP, b"NaN", b"\n", b'"' + b"y" * 140_000, b""])
    return content[:at] + piece + content[at + draw.choice([0, 1, len(content)]) :]


def mutate(draw, folder):
    """Change one file of a folder; gives its name."""
    name = draw.choice([*JSON, *JSON, *TABLES, "checkpoint.safetensors"])
    path = folder.path / name
    if name == "checkpoint.safetensors":
        arrays, facts = read(path)
        facts |= {"round": draw.choice(STRANGE[:8])} if draw.random() < 0.5 else {}
        if draw.random() < 0.5:
            facts.pop("round", None)
        path.write_bytes(dump(arrays, facts))
    elif name in TABLES and draw.random() < 0.7:
        lines = [line.split(",") for line in path.read_text().splitlines()]
        row = draw.choice(lines)
        row[draw.randrange(len(row))] = draw.choice(["", "x", "-", "=1+1", "1e999", "\x1b[2J", "$\\x{", "y" * 140_000])
        path.write_text("\n".join(",".join(line) for line in lines[: draw.choice([1, 2, 99])]) + "\n")
    elif name in JSON and draw.random() < 0.8:
        path.write_bytes(mutate_json(draw, path.read_text()))
    else:
        path.write_bytes(mutate_bytes(draw, path.read_bytes()))
    return name


@pytest.mark.parametrize(
    ("seed", "folders"), [(1, 1), *(pytest.param(seed, 4, marks=pytest.mark.slow) for seed in range(8))]
)
def test_no_folder_makes_a_traceback_or_reaches_the_terminal_raw(whole, tmp_path, capsys, seed, folders):
    draw = random.Random(seed)
    outcomes = set()
    for number in range(folders):
        folder = RunFolder(tmp_path / str(number))
        shutil.copytree(whole.path, folder.path)
        name = mutate(draw, folder)
        for arguments in commands(folder, tmp_path):
            shutil.rmtree(tmp_path / "export", ignore_errors=True)
            code = cli.main(arguments)  # anything but an error of ours is raised here
            captured = capsys.readouterr()
            said = captured.out + captured.err
            assert code in (0, 1, 2), (name, arguments)
            assert "Traceback" not in said
            assert not {"\x1b", "\u202e", "\x00"} & set(said), (name, arguments, said)
            assert all(len(line) < 5000 for line in said.splitlines()), (name, arguments)
            outcomes.add(code)
    assert 2 in outcomes, "some of them were noticed"


@pytest.mark.parametrize(
    ("name", "change", "parts"),
    [
        ("config.json", lambda text: text.replace('"seed": 0', '"seed": "zero"'), ["config.seed", "valid integer"]),
        ("config.json", lambda text: text.replace('"alpha": 1.0,', ""), ["config.alpha", "Field required"]),
        (
            "state.json",
            lambda text: text.replace('"partitions": 5', '"partitions": -5', 1),
            ["roster.site-0.partitions"],
        ),
        ("summary.json", lambda text: text.replace("completed", "perfect"), ["outcome", "'completed', 'failed'"]),
        ("summary.json", lambda text: DEEP.decode(), ["recursion limit"]),
        ("summary.json", lambda text: text.replace("56.25", "1" * 5000, 1), ["number out of range"]),
        ("summary.json", lambda text: text.replace("56.25", "1e999", 1), ["zero_shot.all"]),
        ("summary.json", lambda text: text.replace("56.25", "NaN", 1), ["zero_shot.all"]),
    ],
)
def test_an_object_that_no_run_writes_is_refused_by_file_and_place(copy, name, change, parts):
    path = copy.path / name
    text = change(path.read_text())
    assert text != path.read_text()
    path.write_text(text)
    with pytest.raises(StateError) as caught:
        read_object(path)
    assert all(part in str(caught.value) for part in [str(path), *parts]), caught.value


def test_a_round_that_no_run_writes_is_refused_by_its_line(copy):
    path = copy.path / "rounds.jsonl"
    lines = path.read_text().splitlines()
    for text, part in (
        (lines[2].replace('"usable"', '"useful"'), "lacks usable"),
        (lines[2].replace('"global", "cohort"', '"start", "cohort"'), "phase that does not fit"),
        ('{"round": 2', "Invalid JSON"),
        ("null", "object"),
    ):
        path.write_text("\n".join([*lines[:2], text, *lines[3:], ""]))
        with pytest.raises(StateError, match=rf"rounds.jsonl, line 3: .*{part}"):
            read_rounds(path)
    path.write_bytes(path.read_bytes().replace(b"null", b'"\xff"'))
    with pytest.raises(StateError, match=r"rounds.jsonl, line 3"):
        read_rounds(path)


@pytest.mark.slow
def test_numbers_that_were_none_are_read_everywhere(copy, tmp_path, capsys):
    """NaN is written as null: each number in turn, and then all that may be."""
    path = copy.path / "rounds.jsonl"

    def without(value, key=""):
        if isinstance(value, dict):
            return {name: without(part, name) for name, part in value.items()}
        return None if isinstance(value, float) else value

    lines = [without(json.loads(line)) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    summary = without(json.loads((copy.path / "summary.json").read_text()))
    del summary["balancedness_is"]
    (copy.path / "summary.json").write_text(json.dumps(summary))
    assert cli.main(["show", str(copy.path)]) == 0 and "completed, 4 rounds" in capsys.readouterr().out
    assert cli.main(["compare", str(copy.path), "--out", str(tmp_path / "t")]) == 0
    assert cli.main(["watch", str(copy.path)]) == 0
    for arguments in commands(copy, tmp_path):
        assert cli.main(arguments) in (0, 1, 2)


def test_a_table_with_other_columns_or_endless_cells_is_refused(copy):
    path = copy.path / "sites.csv"
    text = path.read_text()
    for changed_text, part in (
        ("site\na\n", "row 1: .*gain: Field required"),
        (text.replace("site-0", "y" * 140_000), "field larger than"),
        (text.replace(",0.0000,0", ",much,0", 1), "row 1: .*gain"),
    ):
        assert changed_text != text
        path.write_text(changed_text)
        with pytest.raises(StateError, match=rf"sites.csv.*{part}"):
            read_table(path)


def test_a_checkpoint_whose_facts_name_no_round_is_none(copy):
    for name in ("checkpoint.safetensors", "checkpoint.previous.safetensors"):
        arrays, _ = read(copy.path / name)
        (copy.path / name).write_bytes(dump(arrays, {"schema": 1}))
    with pytest.raises(FedPurelError, match="no readable checkpoint"):
        copy.read_checkpoint()
