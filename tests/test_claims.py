"""The page of the paper's claims: what is compared, and what the numbers are said to show."""

import pytest
from pydantic import ValidationError

from fedpurel_app.reporting.leaderboard.paired import Comparison
from tools.write_claims import FOLDER, PAGE, claims, compared, page, section, verdict

CLAIM = """
[[claims]]
claim = "Ours is better"
reading = "It is."
[[claims.tests]]
on = "demo"
sweep = "mine"
score = "few"
first = { method = "ours", at = { alpha = "0.1" } }
second = { method = "theirs", at = { alpha = "0.1" } }
expected = "higher"
"""
HEAD = "alpha,method,model,scored,seed,few\n"


def written(folder, ours, more=""):
    lines = [f"0.1,{name},global,global,{seed},{value}" for name, shift in (("ours", ours), ("theirs", 0.0))
             for seed in range(8) for value in (50 + seed + shift,)]  # fmt: skip
    (folder / "mine-seeds.csv").write_text(HEAD + "\n".join([*lines, "5,ours,global,global,0,1.0", more]))
    (folder / "claims.toml").write_text(CLAIM)
    return claims(folder / "claims.toml")[0]


def test_the_page_is_printed_from_the_scores():
    assert PAGE.read_text("utf-8") == page(), "print it anew: python tools/write_claims.py"


def test_every_file_of_scores_that_claims_need_is_there_with_ten_seeds():
    for claim in claims():
        for test in claim.tests:
            assert compared(test).pairs >= 10, test
    assert FOLDER.is_dir()


@pytest.mark.parametrize(("ours", "expected"), [(2.0, "seen"), (-2.0, "contrary"), (0.0, "not seen")])
def test_the_verdict_follows_from_the_scores(tmp_path, ours, expected):
    """Eight differences of one sign: p = 2 / 2^8; the row of the other alpha plays no part."""
    text = section(written(tmp_path, ours), tmp_path)
    assert f"**{expected}** |" in text and "ours > theirs" in text and "It is." in text
    assert ("| 0.008 |" in text) == (ours != 0)


def test_an_interval_beside_zero_needs_a_low_p_too():
    one = Comparison(5, difference=1.0, low=0.5, high=1.5, p=0.0625, p_holm=0.0625, wins=5)
    assert verdict(one, "higher") == "not seen"


def test_two_rows_of_a_seed_or_none_are_an_error(tmp_path):
    claim = written(tmp_path, 1.0, "0.1,ours,global,global,3,51.0")
    with pytest.raises(ValueError, match="9 rows of .* 8 seeds"):
        section(claim, tmp_path)
    other = claim.tests[0].model_copy(update={"score": "few", "model": "personalized"})
    with pytest.raises(ValueError, match="0 rows"):
        compared(other, tmp_path)


def test_an_unknown_key_is_refused(tmp_path):
    (tmp_path / "claims.toml").write_text(CLAIM + "verdict = 'seen'\n")
    with pytest.raises(ValidationError):
        claims(tmp_path / "claims.toml")
