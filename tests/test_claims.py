"""The page of the paper's claims: what is compared, and what the numbers are said to show."""

import pytest
from pydantic import ValidationError

from fedpurel_app.reporting.leaderboard.paired import Comparison
from tools.write_claims import PAGE, Line, compared, judged, lines_of, overview, page, read, section, verdict

CLAIM = """
[places]
demo = { sweep = "mine", at = { alpha = "0.1" } }
other = { sweep = "mine", at = { alpha = "5" } }
[[claims]]
claim = "Ours is better"
reading = "It is."
tests = [{ on = ["demo"], scores = ["few"], first = "ours", second = "theirs", expected = "higher" }]
"""
HEAD = "alpha,method,model,scored,seed,few\n"


def written(folder, ours, more=""):
    lines = [f"0.1,{name},global,global,{seed},{50 + seed + shift}" for name, shift in (("ours", ours), ("theirs", 0.0))
             for seed in range(8)]  # fmt: skip
    lines += [f"5,ours,global,global,{seed},{60 + seed}" for seed in range(3)]
    (folder / "mine-seeds.csv").write_text(HEAD + "\n".join([*lines, more]))
    (folder / "claims.toml").write_text(CLAIM)
    return read(folder / "claims.toml")


def test_the_page_is_printed_from_the_scores():
    assert PAGE.read_text("utf-8") == page(), "print it anew: python tools/write_claims.py"


def test_every_comparison_has_ten_seeds():
    content = read()
    for claim in content.claims:
        for line in lines_of(claim):
            assert compared(line, content.places).pairs >= 10, line


@pytest.mark.parametrize(("ours", "expected"), [(2.0, "seen"), (-2.0, "contrary"), (0.0, "not seen")])
def test_the_verdict_follows_from_the_scores(tmp_path, ours, expected):
    """Eight differences of one sign: p = 2 / 2^8; rows of the other alpha play no part."""
    content = written(tmp_path, ours)
    found = judged(content.claims[0], content.places, tmp_path)
    text = section(content.claims[0], found)
    counts = " | ".join(str(int(name == expected)) for name in ("seen", "not seen", "contrary"))
    assert f"| it | {counts} |" in overview({"it": [said for _, _, said in found]})
    assert f"| 8 | {ours:+.2f}".replace("-", "−") in text and f"**{expected}** |" in text
    assert "ours > theirs" in text and "It is." in text and ("| 0.008 |" in text) == (ours != 0)


def test_two_places_are_compared_by_the_seeds_that_both_have(tmp_path):
    content = written(tmp_path, 0.0)
    test = content.claims[0].tests[0].model_copy(update={"second": "ours", "second_on": "other"})
    found = compared(Line(test, "demo", "few"), content.places, tmp_path)
    assert (found.pairs, found.difference) == (3, -10.0)


def test_an_interval_beside_zero_needs_a_low_p_too():
    one = Comparison(5, difference=1.0, low=0.5, high=1.5, p=0.0625, p_holm=0.0625, wins=5)
    assert verdict(one, "higher") == "not seen"


def test_two_rows_of_a_seed_or_none_are_an_error(tmp_path):
    content = written(tmp_path, 1.0, "0.1,ours,global,global,3,51.0")
    with pytest.raises(ValueError, match="9 rows of .* 8 seeds"):
        judged(content.claims[0], content.places, tmp_path)
    other = content.claims[0].tests[0].model_copy(update={"model": "personalized"})
    with pytest.raises(ValueError, match="0 rows"):
        compared(Line(other, "demo", "few"), content.places, tmp_path)


def test_an_unknown_key_is_refused(tmp_path):
    (tmp_path / "claims.toml").write_text(CLAIM + "verdict = 'seen'\n")
    with pytest.raises(ValidationError):
        read(tmp_path / "claims.toml")
