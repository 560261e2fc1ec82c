"""The demo's weights as text: whole again, or refused."""

import hashlib
import json

import pytest

from fedpurel_app.core import disk_memo
from fedpurel_app.core.errors import StateError
from fedpurel_app.models.demo_weights import pack, unpacked

WEIGHTS = bytes(range(256)) * 6000  # 1.5 MB: three pieces


@pytest.fixture
def packed(tmp_path, monkeypatch):
    monkeypatch.setattr(disk_memo, "_cache", tmp_path / "cache")
    return tmp_path, pack(WEIGHTS, tmp_path)


def test_pieces_come_together_once_and_are_below_a_megabyte(packed):
    folder, facts = packed
    path = unpacked(folder, facts)
    assert path.read_bytes() == WEIGHTS and facts["sha256"] == hashlib.sha256(WEIGHTS).hexdigest()
    assert facts["pieces"] == ["weights-1.json", "weights-2.json", "weights-3.json"]
    assert all((folder / name).stat().st_size < 1_000_000 for name in facts["pieces"])
    before = path.stat().st_mtime_ns
    assert unpacked(folder, facts) == path and path.stat().st_mtime_ns == before


def test_a_damaged_file_in_the_cache_is_made_again(packed):
    folder, facts = packed
    path = unpacked(folder, facts)
    path.write_bytes(WEIGHTS[:-1])
    assert unpacked(folder, facts).read_bytes() == WEIGHTS


@pytest.mark.parametrize("content", ['{"base64": "AAAA"}', '{"base64": 1}', "{}", "not JSON", '{"base64": "A"}'])
def test_damaged_pieces_are_refused(packed, content):
    folder, facts = packed
    (folder / "weights-2.json").write_text(content)
    with pytest.raises(StateError, match="damaged"):
        unpacked(folder, facts)


def test_a_cache_that_cannot_be_written_is_named(packed):
    folder, facts = packed
    (folder / "cache").write_text(json.dumps(facts))  # a file in the place of the folder
    with pytest.raises(StateError, match="cannot be written"):
        unpacked(folder, facts)
