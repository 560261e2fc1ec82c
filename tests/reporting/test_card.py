"""The card of a model: front matter that is YAML, tables that are Markdown, and text of others that is neither."""

import json
import shutil

import pytest
import yaml

from fedpurel_app.cli import main as cli
from fedpurel_app.core.errors import StateError
from fedpurel_app.reporting.card.card import card
from fedpurel_app.reporting.card.markdown import as_markdown, escaped
from fedpurel_app.reporting.page.blocks import Code, Fold, Link, Section, Table, Text
from fedpurel_app.reporting.page.snapshot import Snapshot
from tests.support import run_tiny


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return run_tiny(tmp_path_factory.mktemp("run"))


def front_matter(text):
    _, front, rest = text.split("---\n", 2)
    return yaml.safe_load(front), rest


def changed(run, folder, **files):
    """Copy a run, with other content of some JSON files: functions from what is there to what is to be there."""
    copy = shutil.copytree(run.path, folder)
    for name, change in files.items():
        path = copy / f"{name}.json"
        path.write_text(json.dumps(change(json.loads(path.read_text()))))
    return Snapshot(copy)


def settings(**changes):
    return lambda content: {**content, "config": {**content["config"], **changes}}


def test_the_front_matter_has_the_scores_of_the_summary(run):
    facts, _ = front_matter(card(Snapshot(run.path)))
    (model,) = facts["model-index"]
    assert model["name"] == "FedPuReL, text-residual, on features, seed 0"
    assert facts["tags"][-2:] == ["fedpurel", "text-residual"] and facts["pipeline_tag"] == "image-classification"
    told = {one["name"]: one["value"] for result in model["results"] for one in result["metrics"]}
    summary = run.summary()
    assert told["All, global model"] == round(summary["global"]["all"], 2)
    assert told["Few, zero-shot"] == round(summary["zero_shot"]["few"], 2)
    assert told["ECE, personalized, at sites"] == round(summary["personalized"]["ece"], 2)


def test_the_card_is_the_same_for_the_same_folder_wherever_it_lies(run, tmp_path):
    first = card(Snapshot(run.path))
    assert card(Snapshot(shutil.copytree(run.path, tmp_path / "elsewhere"))) == first
    assert str(run.path) not in first


def test_no_place_of_the_machine_is_told(run, tmp_path):
    def fails(content):
        return {**content, "outcome": "failed", "error": "site-3 on gpu7: /secret/place/x.npz is damaged"}

    data = "/secret/place/features.npz"
    for changes in ({}, {"config": settings(**{"dataset-path": data})}):
        text = card(changed(run, tmp_path / f"run-{len(changes)}", summary=fails, **changes))
        assert "--set dataset-path=features.npz" in text and "The run failed after 6 of 6 rounds." in text
        assert not [word for word in ("/secret", str(run.path.parent), "gpu7", "site-3") if word in text]


def test_of_features_no_clip_is_named(run):
    assert "demo" not in card(Snapshot(run.path))


@pytest.mark.parametrize("column", ["test_images", "global", "personalized", "personalized_high"])
def test_a_table_without_a_column_is_one_of_an_older_version(run, tmp_path, column):
    copy = shutil.copytree(run.path, tmp_path / "run")
    rows = run.read_csv("sites.csv")
    left = [name for name in rows[0] if name != column]
    (copy / "sites.csv").write_text(
        "\n".join([",".join(left), *(",".join(row[name] for name in left) for row in rows)])
    )
    assert "This is the personalized model of" in card(Snapshot(copy), rows[0]["site"])


@pytest.mark.parametrize("value", ["x", "1e400", "nan"])
@pytest.mark.parametrize("column", ["zero_shot", "global_ece", "personalized_nll"])
def test_what_is_no_number_is_named(run, tmp_path, column, value):
    copy = shutil.copytree(run.path, tmp_path / "run")
    lines = [line.split(",") for line in (copy / "sites.csv").read_text().splitlines()]
    lines[1][lines[0].index(column)] = value
    (copy / "sites.csv").write_text("\n".join(map(",".join, lines)))
    with pytest.raises(StateError, match=f"sites.csv, row 1: .*{column}"):
        card(Snapshot(copy))


def test_it_says_what_was_left_out_and_counts_sites_and_classes(run, tmp_path):
    def notes(content):
        return {**content, "notes": ["3 files are no images: a.txt, b.txt and 1 more"]}

    text = card(changed(run, tmp_path / "run", classes=notes))
    assert "- 3 files are no images: a.txt, b.txt and 1 more.\n" in text
    sizes = [sum(one.values()) for one in run.read_json("partition.json")["train_by_class"]]
    assert f"- {sum(sizes)} training images at 5 sites ({min(sizes)} to {max(sizes)} each, median " in text
    assert "- Nothing was left out of the data.\n" in card(Snapshot(run.path))
    few = [row for row in run.read_csv("classes.csv") if row["group"] == "few"]
    line = next(one for one in text.splitlines() if one.startswith("| Few "))
    assert [cell.strip() for cell in line.split("|")][3] == str(len(few))


def test_the_spread_over_sites_names_no_site(run):
    text = card(Snapshot(run.path))
    gains = [float(row["gain"]) for row in run.read_csv("sites.csv")]
    line = next(one for one in text.splitlines() if one.startswith("| gain of personalized"))
    assert line.split("|")[-3].strip() == f"{min(gains):.1f}" and line.split("|")[-2].strip() == f"{max(gains):.1f}"
    assert not [row["site"] for row in run.read_csv("sites.csv") if row["site"] in text]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "Differential privacy: none"),
        ({}, "Aggregation: mean, which bounds no update."),
        ({"privacy": "server-fixed", "clipping-norm": 0.5, "noise-multiplier": 2.0},
         "global rounds: server-fixed, clipping norm 0.5, noise multiplier 2."),
        ({"privacy": "local", "local-epsilon": 0.25}, "local, clipping norm 1, epsilon 0.25 of every reply."),
        ({"aggregation": "norm-clipping", "clipping-norm": 3.0}, "bounds an update's norm by 3."),
        ({"share-class-counts": False}, "asked of the sites: no, totals alone"),
        ({"dataset": "sites", "classes": "a, b"}, "stands in its own log"),
    ],
)  # fmt: skip
def test_settings_of_privacy_are_named(run, tmp_path, changes, said):
    assert escaped(said) in card(changed(run, tmp_path / "run", config=settings(**changes)))


def test_what_the_model_is_worse_in_is_a_limit(run, tmp_path):
    def with_few(low):
        def change(content):
            content["zero_shot"] |= {"few": 50.0, "ece": 2.0}
            content["global"] |= {"few": 40.0 if low else 60.0, "ece": 3.0 if low else 1.0}
            return content

        return change

    worse, better = (card(changed(run, tmp_path / name, summary=with_few(name == "a"))) for name in ("a", "b"))
    assert "On rare classes it is worse than the CLIP that it was made of: 40.0 instead of 50.0 %." in worse
    assert "Its confidences are further" in worse
    assert "On rare classes" not in better and "Its confidences are further" not in better


def test_names_of_others_are_shown_and_not_obeyed(run, tmp_path):
    evil = ["<script>alert(1)</script>", "a|b", "[x](http://evil)", "`rm`", "**bold**", "x\ny\x1b[31m", "https://e.vil"]

    def notes(content):
        return {**content, "notes": evil}

    def reasons(content):
        return {**content, "reasons": {"global": "| x | <b>"}}

    text = card(changed(run, tmp_path / "run", classes=notes, summary=reasons,
                        config=settings(dataset='x"\n---\nlicense: "mit')))  # fmt: skip
    facts, rest = front_matter(text)
    assert "license" not in facts and facts["model-index"][0]["results"][0]["dataset"]["name"] == 'x" --- license: "mit'
    for raw in ("<script>", "a|b", "[x](", "**bold**", "\x1b", "<b>", "https://e"):
        assert raw not in rest, raw
    assert "\\<script\\>alert(1)\\</script\\>" in rest and "a\\|b" in rest


def test_blocks_become_markdown():
    whole = Table("Scores", ("model", "All"), ((Link("a_b", "#x"), "1.5"), ("c", "-2")))
    found = as_markdown([Section("x", "1. *Head*", (whole, Fold("more", (Text("- text"),)), Code("a ```` b")))])
    assert found == (
        "## 1\\. \\*Head\\*\n\nScores:\n\n| model | All |\n| --- | ---: |\n| a\\_b | 1.5 |\n| c | -2 |\n\n"
        "\\- text\n\n`````bash\na ```` b\n`````"
    )


def test_the_command_prints_it_and_export_writes_it(run, tmp_path, capsys):
    assert cli.main(["card", str(run.path)]) == 0
    printed = capsys.readouterr().out
    assert printed == card(Snapshot(run.path)) and "\n## Limits\n" in printed
    assert cli.main(["export", "--run", str(run.path), "--out", str(tmp_path / "whole")]) == 0
    assert (tmp_path / "whole" / "MODEL_CARD.md").read_text() == printed
    site = sorted(run.read_checkpoint()[1]["private_rounds"])[0]
    assert cli.main(["export", "--run", str(run.path), "--site", site, "--out", str(tmp_path / "own")]) == 0
    own = (tmp_path / "own" / "MODEL_CARD.md").read_text()
    row = next(row for row in run.read_csv("sites.csv") if row["site"] == site)
    assert (
        f"This is the personalized model of {site}: {row['personalized']} % of its own {row['test_images']} test" in own
    )
    assert cli.main(["card", str(tmp_path)]) == 2


def test_a_run_that_is_not_complete_says_so(run, tmp_path):
    copy = shutil.copytree(run.path, tmp_path / "run")
    (copy / "summary.json").unlink()
    assert "The run was cut off after 6 of 6 rounds" in card(Snapshot(copy))
    for name in ("rounds.jsonl", "sites.csv", "classes.csv", "partition.json"):
        (copy / name).unlink()
    assert "nothing has been scored yet" in card(Snapshot(copy))
