"""What of a site's log leaves it: nothing unless it says so, and never what tells of a private part."""

import pytest
from flwr.app import ConfigRecord, RecordDict

from fedpurel_app.core.shared_log import SHARED_LOG, take_lines, with_lines
from tests.attacks.conftest import feature_site, initial
from tests.attacks.server import Server

SHARES = pytest.mark.parametrize("share", ["none", "warnings", "all"])


def site(tmp_path, share, **config):
    settings, node = feature_site(tmp_path / "site")
    return Server({**settings, **config}, {**node, "share-log": share})


def lines(reply):
    assert not reply.has_error(), reply.error.reason
    return take_lines(reply.content)


@SHARES
def test_a_global_round_shares_what_the_site_says(tmp_path, share):
    one = site(tmp_path, share)
    told = lines(one.train(initial(one), 1))
    assert told == (["INFO: north is asked: train"] if share == "all" else [])


@SHARES
def test_personal_rounds_and_evaluations_share_nothing(tmp_path, share):
    one = site(tmp_path, share)
    arrays = initial(one)
    for reply in (one.personalize(arrays, 2, 0), one.evaluate(arrays, 2, 2)):
        assert not reply.has_error(), reply.error.reason
        assert SHARED_LOG not in reply.content


@SHARES
def test_a_method_that_keeps_a_part_in_global_rounds_shares_nothing_of_them(tmp_path, share):
    one = site(tmp_path, share, algorithm="moon")
    reply = one.train(initial(one), 1)
    assert not reply.has_error(), reply.error.reason
    assert SHARED_LOG not in reply.content


@pytest.mark.parametrize(("share", "is_told"), [("none", False), ("warnings", True), ("all", True)])
def test_the_text_of_an_error_leaves_where_the_log_does(tmp_path, share, is_told):
    one = site(tmp_path, share)
    arrays = initial(one)
    one.node["data"] = str(tmp_path / "nowhere.npz")
    for kind, may_tell in (("train", True), ("train.personalize", False), ("evaluate", False)):
        reason = one.ask(kind, arrays, round=1, phase="global").error.reason
        assert ("nowhere.npz" in reason) == (is_told and may_tell), (kind, reason)
        assert "at the site; its own log says more" in reason or (is_told and may_tell)


@SHARES
@pytest.mark.parametrize("algorithm", ["fedpurel", "scaffold"])
@pytest.mark.parametrize("named", [1, 7])
def test_a_global_round_tells_nothing_of_the_branch_that_a_server_names(tmp_path, share, algorithm, named):
    one = site(tmp_path, share)
    one.node["private-fallback"] = "fresh"
    arrays = initial(one)
    assert not one.personalize(arrays, 1, 0).has_error()
    (branch,) = (tmp_path / "site" / "state").rglob("private-*.safetensors")
    branch.write_bytes(b"damaged")
    reply = one.train(arrays, 2, named, changes={"algorithm": algorithm})
    said = reply.error.reason if reply.has_error() else " ".join(lines(reply))
    assert "branch" not in said and "damaged" not in said and str(tmp_path) not in said, said


def test_what_a_site_sends_as_its_log_is_cut_and_cleaned():
    content = with_lines(RecordDict(), [f"line {number}" for number in range(30)])
    assert take_lines(content) == [f"line {number}" for number in range(10, 30)] and SHARED_LOG not in content
    content[SHARED_LOG] = ConfigRecord({"lines": ["\x1b[31mred\n", "", "x" * 1000, *["y"] * 100]})
    found = take_lines(content)
    assert len(found) == 19 and found[0] == "?[31mred" and len(found[1]) == 300


@pytest.mark.parametrize("record", [{}, {"lines": "text"}, {"lines": [1, 2]}, {"lines": 3.0}])
def test_what_is_no_log_is_dropped(record):
    content = RecordDict({SHARED_LOG: ConfigRecord(record)})
    assert take_lines(content) == [] and SHARED_LOG not in content
