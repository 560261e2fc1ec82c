"""The memory of facts."""

import os

import pytest

from fedpurel_app.core import disk_memo as facts


@pytest.fixture
def own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDPUREL_HOME", str(tmp_path))
    monkeypatch.setattr(facts, "_cache", None)
    return tmp_path


def test_a_fact_is_found_out_once_and_looks_the_same_ever_after(own_home):
    calls = []

    def find():
        calls.append(1)
        return {"a": (1, 2)}

    assert facts.remembered("k", find) == facts.remembered("k", find) == {"a": [1, 2]}
    assert len(calls) == 1
    assert facts.remembered("other", find) == {"a": [1, 2]} and len(calls) == 2
    folder = own_home / "cache" / "facts"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}


def test_a_damaged_memory_is_made_anew(own_home):
    facts.remembered("k", lambda: 1)
    (path,) = (own_home / "cache" / "facts").iterdir()
    for damage in ("[]", "{}", "{"):
        path.write_text(damage)
        assert facts.remembered("k", lambda: 2) == 2
    path.unlink()
    assert facts.remembered("k", lambda: 2) == 2 == facts.remembered("k", lambda: 3)


def test_a_memory_that_cannot_be_written_costs_nothing_else(own_home):
    (own_home / "cache").mkdir(parents=True)
    (own_home / "cache" / "facts").write_text("in the way")
    assert facts.remembered("k", lambda: 1) == 1


def test_a_digest_follows_the_file(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"one")
    first = facts.sha256_of(path)
    assert facts.sha256_of(path) == first
    path.write_bytes(b"two")
    os.utime(path, ns=(1, 1))
    assert facts.sha256_of(path) != first
