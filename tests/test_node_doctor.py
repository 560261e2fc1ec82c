"""``fedpurel doctor --node-config``: what would keep a node from its first run is said before it."""

from typing import get_args

import pytest

from fedpurel_app.cli import main as cli
from fedpurel_app.cli import node_doctor
from fedpurel_app.config import NodeConfig
from fedpurel_app.site.sealing import make_key_file
from tests.support import write_images


@pytest.fixture
def data(tmp_path):
    write_images(tmp_path / "data", {"cat": range(10), "dog": range(20, 25)})
    return tmp_path / "data"


def examine(capsys, *options, **node):
    text = " ".join(f'{key.replace("_", "-")}="{value}"' for key, value in node.items())
    code = cli.main(["doctor", "--node-config", text, *options])
    return code, capsys.readouterr().out


def test_a_node_that_is_ready(capsys, tmp_path, data):
    make_key_file(tmp_path / "key")
    code, out = examine(
        capsys, site="a", data=data, state_dir=tmp_path / "state", key_file=tmp_path / "key", scores="totals"
    )
    assert code == 0
    assert "12 training images of 2 classes, 4 of the rarest" in out and "3 test images of 2 classes" in out
    assert "to be made" in out and "0 of 1000 experiments" in out and "branches are encrypted" in out
    assert "scores: totals" in out and not (tmp_path / "state").exists()


def test_with_a_run_s_settings_it_says_whether_they_are_served(capsys, tmp_path, data):
    run = ["--set", "dataset=sites", "--set", "classes=cat, dog"]
    node = {"site": "a", "data": data, "state_dir": tmp_path / "state", "require_privacy": "local"}
    code, out = examine(capsys, *run, **node)
    assert code == 1 and "refused:" in out and "this site takes part with local only" in out
    code, out = examine(capsys, *run, "--set", "privacy=local", **node)
    assert code == 0 and "these settings are served" in out
    code, out = examine(capsys, "--set", "dataset=sites", "--set", "classes=cat, horse", **node)
    assert code == 1 and "classes that the federation does not know: dog" in out


@pytest.mark.parametrize(
    ("node", "words"),
    [
        ({"data": "absent"}, "no such folder"),
        ({"state_dir": "file"}, "is a file"),
        ({"key_file": "absent"}, "key-file"),
        ({"pretrained": "absent.safetensors"}, "no such file"),
        ({"max_steps": "many"}, "max-steps = 'many' in the node config"),
        ({"scores": "some"}, "scores = 'some' in the node config"),
        ({"state-dri": "x"}, 'Did you mean "state-dir"'),
        ({"max_private_bytes": 1}, None),
    ],
)
def test_what_is_wrong_is_said_and_the_exit_code_is_1(capsys, tmp_path, data, node, words):
    (tmp_path / "file").write_text("x")
    paths = {key: tmp_path / value for key, value in node.items() if key in ("data", "state_dir", "key_file")}
    paths |= {key: tmp_path / value for key, value in node.items() if key == "pretrained"}
    given = {"site": "a", "data": data, "state_dir": tmp_path / "state", **node, **paths}
    text = " ".join(
        f"{key.replace('_', '-')}={value if isinstance(value, int) else chr(34) + str(value) + chr(34)}"
        for key, value in given.items()
    )
    code = cli.main(["doctor", "--node-config", text])
    out = capsys.readouterr().out
    assert code == (0 if words is None else 1) and (words is None or words in out), out


def test_a_state_folder_of_somebody_else_is_named(as_plain_user):
    (as_plain_user / "closed").mkdir(mode=0o500)
    found = {
        parent: list(
            node_doctor._state(NodeConfig.model_validate({"state-dir": str(as_plain_user / parent / "state")}))
        )
        for parent in ("", "closed")
    }
    assert not any(finding.lacking for finding in found[""])
    assert [finding.lacking for finding in found["closed"]] == [True]
    assert "cannot be written" in found["closed"][0].text


@pytest.mark.parametrize("scores", get_args(NodeConfig.model_fields["scores"].annotation))
def test_whatever_scores_may_leave_is_said(capsys, tmp_path, data, scores):
    code, out = examine(capsys, site="a", data=data, state_dir=tmp_path / "state", scores=scores)
    assert code == 0 and "leaves    scores: " in out
    assert ("confidences and losses: of zero-shot and the global model" in out) == (scores != "none")


def test_a_damaged_image_is_named(capsys, tmp_path, data):
    (data / "cat" / "z.png").write_bytes(b"")
    code, out = examine(capsys, site="a", data=data, state_dir=tmp_path / "state")
    assert code == 1 and "z.png" in out


def test_text_that_flower_cannot_read_is_said_so(capsys):
    code = cli.main(["doctor", "--node-config", "site=hospital a"])
    assert code == 1 and "cannot be read" in capsys.readouterr().out


def test_a_part_of_a_data_set_needs_the_run_s_settings(capsys, tmp_path):
    code = cli.main(["doctor", "--node-config", "partition-id=0 num-partitions=2"])
    assert code == 0 and "name the run's settings" in capsys.readouterr().out


def test_of_a_table_a_node_has_the_rows_of_its_name(capsys, tmp_path, data):
    """Ten cats are of site a, five dogs of site b; a fifth of them is held out."""
    rows = [f"{path.relative_to(data)},{path.parent.name},{'a' if path.parent.name == 'cat' else 'b'}"
            for path in sorted(data.rglob("*.png"))]  # fmt: skip
    (tmp_path / "t.csv").write_text("\n".join(["path,dx,centre", *rows]))
    node = {"site": "a", "data": tmp_path / "t.csv", "image_root": data, "label_column": "dx", "site_column": "centre"}
    for run in ([], ["--set", "dataset=sites", "--set", "classes=cat, dog"]):
        code, out = examine(capsys, *run, state_dir=tmp_path / "state", **node)
        assert code == 0 and "8 training images of 1 classes" in out and "2 test images of 1 classes" in out
    code, out = examine(capsys, state_dir=tmp_path / "state", **{**node, "site": "c"})
    assert code == 1 and 'no row of site "c" in column "centre", but of a, b' in out
