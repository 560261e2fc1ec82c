"""The page of a run: what it says, that it escapes everything, and that it bears what a folder lacks."""

import itertools
import json
import re
import shlex
from html.parser import HTMLParser
from importlib import resources

import pytest

from fedpurel_app.cli.main import main
from fedpurel_app.cli.parser import make_parser
from fedpurel_app.config import stored_config
from fedpurel_app.config.presets import load_preset, preset_names
from fedpurel_app.core.errors import ConfigError, StateError
from fedpurel_app.launch.choose import assignments, begun
from fedpurel_app.reporting.page.again import command
from fedpurel_app.reporting.page.run_page import run_page
from fedpurel_app.reporting.page.snapshot import Snapshot
from fedpurel_app.reporting.page.write import write_report
from tests.reporting.runs import make_run, scores, site_row, write, write_rounds
from tests.reporting.sweeps import cell, write_plan, write_run
from tests.reporting.sweeps import scores as one_score
from tests.support import a_round, run_tiny

VOID = {"meta", "link", "br", "hr", "img", "input"}
EVIL = "<script>alert(1)</script>\"'&\u202e\u0663"


class Reader(HTMLParser):
    """Reads a page: its elements with what they lie in, its text, and whether all that is opened is closed."""

    def __init__(self, text):
        super().__init__()
        self.source, self.tags, self.text = text, [], []
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text.append(data)

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]

    @property
    def words(self):
        return " ".join(" ".join(self.text).split())


def read(folder):
    return Reader(write_report(folder).read_text("utf-8"))


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The page of a completed run, for tests that only look."""
    return read(
        make_run(tmp_path_factory.mktemp("page") / "run", sites=("site-0", "site-1"), settings={"out": "/secret/out"})
    )


def test_the_outcome_stands_to_zero_shot_and_says_where_the_tail_is(page):
    """77.25 - 74.5 = 2.75, which prints as 2.8; Few of the global model, 58, is 2 below zero-shot's 60."""
    words = page.words
    assert "FedPuReL fine-tuned CLIP (demo) by prompt on shapes (IF 100, dirichlet alpha 1) at 2 sites in 4 r" in words
    assert "the global model is right on 74.5 % of the server's balanced test set, 4.5 points above zero-shot" in words
    assert "personalized models on 77.2 % of their own test parts, 2.8 points above the global model there" in words
    assert "the global model has 58.0 %, 2.0 points below zero-shot (60.0 %)" in words
    assert "the personalized models have 61.0 %, 1.0 points above zero-shot there (60.0 %)" in words


def test_a_page_is_one_file_without_scripts_that_asks_for_nothing(page):
    text = page.source
    assert not page.all("script") and len(text.encode()) < 1_500_000
    for tag, attrs in page.tags:
        assert not [key for key in attrs if key.startswith("on")], tag
        for key in ("src", "href", "xlink:href"):
            assert re.match(r"(#|data:)", attrs.get(key, "#")), (tag, attrs)
    assert "url(http" not in text and "@import" not in text and "refresh" not in str(page.all("meta"))


def test_ids_are_unique_and_all_that_refers_to_one_finds_it(page):
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    for _, attrs in page.tags:
        wanted = attrs.get("aria-labelledby", "").split()
        wanted += [attrs["href"][1:]] if attrs.get("href", "").startswith("#") else []
        wanted += re.findall(r"url\(#([^)]+)\)", " ".join(value or "" for value in attrs.values()))
        assert set(wanted) <= set(ids), attrs


def test_a_page_can_be_read_without_seeing_it(page):
    headings = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert headings[0] == 1 and headings.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(headings))
    assert page.all("html") == [{"lang": "en"}] and page.all("a")[0]["href"] == "#main"
    assert all(len(page.all(tag)) == 1 for tag in ("main", "nav", "header", "footer"))
    assert len(page.all("caption")) == len(page.all("table")) > 10
    assert {attrs.get("scope") for attrs in page.all("th")} == {"col", "row"}
    pictures = page.all("svg")
    assert len(pictures) >= 4 and all(one["role"] == "img" for one in pictures)
    assert len(page.all("desc")) == len(pictures) and len(page.all("figure")) == len(pictures)


def test_a_page_says_what_each_site_has_and_did(page):
    words = page.words
    assert "gains +2.5 points on the global one, 95 % interval [−1.0, +6.0]" in words
    assert "30 training and 40 test images" in words
    assert "Training images of 2 of 3 classes; most of polar bear (20), newt (10)." in words
    assert "Took part in 4 of 4 rounds, last in 1, 2, 3, 4." in words and "Took part in 0 of 4 rounds." in words
    assert "4 replies were dropped" in words and "Dropped in round 4: CUDA out of memory" in words
    assert "3 of 6 cells are empty: 2 sites, 3 classes, 60 training images." in words


def test_time_and_traffic_are_told_by_part(page):
    """6 s of 8 are 75 %; four rounds of 512 bytes, each with one usable reply."""
    words = page.words
    assert "training, of the busiest process of the sites 6 s 75 %" in words
    assert "global rounds 4 2.0 KiB 1.0 KiB 512 B" in words


def test_a_page_names_neither_the_machine_nor_its_folders(page):
    assert "Abacus 3000" in page.source and "secret" not in page.source and "/tmp" not in page.source


def test_all_that_files_say_is_escaped(tmp_path):
    run = make_run(tmp_path / "run", sites=(EVIL, "b"), settings={"dataset": EVIL, "template": EVIL})
    write(run / "classes.json", {"class_names": [EVIL, "b", "c"]})
    rows = (run / "classes.csv").read_text().replace('"cat"', '"' + EVIL.replace('"', '""') + '"')
    (run / "classes.csv").write_text(rows)
    summary = json.loads((run / "summary.json").read_text())
    write(run / "summary.json", {**summary, "outcome": "failed", "error": f"{EVIL}\n{EVIL}"})
    page = read(run)
    assert not page.all("script") and "\u202e" not in page.words
    assert page.words.count("<script>alert(1)</script>") > 8
    assert len(page.all("h3")) == 2


def test_a_name_that_looks_like_a_colour_stays_a_name(tmp_path):
    page = read(make_run(tmp_path / "run", sites=("#000000", 'id="x"')))
    assert "#000000" in page.words and 'id="x"' in page.words and "currentColor" not in page.words


@pytest.mark.parametrize("missing", ["sites.csv", "classes.csv", "calibration.csv", "partition.json", "all"])
def test_what_a_folder_lacks_is_said(tmp_path, missing):
    run = make_run(tmp_path / "run")
    names = (
        "sites.csv",
        "classes.csv",
        "calibration.csv",
        "partition.json",
        "state.json",
        "classes.json",
        "rounds.jsonl",
    )
    for name in names if missing == "all" else [missing]:
        (run / name).unlink()
    words = read(run).words
    said = {
        "sites.csv": "No scores by site",
        "classes.csv": "No class has been scored yet",
        "calibration.csv": "The folder has no calibration.csv",
        "partition.json": "partition.json has no class counts by site. The server of this run cannot know it",
        "all": "No round is over yet",
    }
    assert said[missing] in words


def test_the_reliability_diagram_has_its_numbers_below_it(page):
    """Of 40 images that it is 90 % sure of the global model has 36 right: 90 %."""
    assert '<title id="calibration-title">Accuracy by confidence, in %<' in page.source
    assert "global model all 86.7 93.3 40 90.0 90.0" in page.words


def test_a_partition_of_an_older_version_is_named_as_the_reason(tmp_path):
    run = make_run(tmp_path / "run")
    write(run / "partition.json", {"sha256": "0", "train_counts": [1, 2, 3]})
    assert "a version that did not count classes by site" in read(run).words


def test_without_private_branches_no_personalized_model_is_claimed(tmp_path):
    run = make_run(tmp_path / "run", ("a",), {"algorithm": "fedavg"})
    (run / "sites.csv").write_text((run / "sites.csv").read_text().replace(",2.5,1,", ",2.5,0,"))
    summary = json.loads((run / "summary.json").read_text())
    reasons = {"personalized": "this algorithm has no private part"}
    write(run / "summary.json", {**summary, "personalized": None, "reasons": reasons})
    words = read(run).words
    assert "No personalized, at sites: this algorithm has no private part." in words
    assert "at 1 site in" in words and "personalized models on" not in words and "no branch" in words


def test_of_many_sites_those_that_gain_least_and_most_have_sections(tmp_path):
    names = tuple(f"site-{number:03d}" for number in range(200))
    run = make_run(tmp_path / "run", sites=names)
    rows = [site_row(name, float(number)) for number, name in enumerate(names)]
    head = (run / "sites.csv").read_text().splitlines()[0]
    (run / "sites.csv").write_text("\n".join([head, *rows]) + "\n")
    page = read(run)
    assert "60 of 200 sites have a section below: those that gain least and most." in page.words
    sections = [attrs["id"] for attrs in page.all("h3")]
    assert sections == [f"site-{number}" for number in (*range(30), *range(170, 200))]
    assert (run / "report.html").stat().st_size < 1_500_000


def test_pictures_of_long_runs_keep_the_evaluated_rounds_and_thin_out_the_others(tmp_path):
    """Of 100 evaluated rounds every 2nd (1 + 100 // 100) and the last; of 901 others every 10th (1 + 901 // 100)."""
    run = make_run(tmp_path / "run")
    lines = [a_round(0, total_rounds=1000)]
    lines += [
        a_round(number, **({"global": scores(1.0, 1.0)} if number % 10 == 0 else {})) for number in range(1, 1001)
    ]
    write_rounds(run, lines)
    whole = Snapshot(run)
    kept = whole.sparse(100).rounds()
    evaluated = [line["round"] for line in kept if line.get("global")]
    assert evaluated == sorted({*range(10, 1001, 20), 1000}) and len(kept) == len(evaluated) + 91
    assert [line["round"] for line in kept] == sorted(line["round"] for line in kept)
    assert len(whole.sparse(1001).rounds()) == len(whole.rounds()) == 1001


# --- runs that are not complete ----------------------------------------------------------------------------------


def begun_run(folder, rounds, **summary):
    """Write the folder of a run with some rounds, and an outcome where one is given."""
    run = make_run(folder)
    lines = (run / "rounds.jsonl").read_text().splitlines()[: rounds + 1]
    (run / "rounds.jsonl").write_text("".join(f"{line}\n" for line in lines))
    (run / "summary.json").unlink()
    if summary:
        write(run / "summary.json", summary)
    return run


def test_a_failed_run_has_its_error_and_the_command_that_goes_on(tmp_path):
    run = begun_run(tmp_path / "my run", 2, outcome="failed", error="disk full\nsecond line")
    words = read(run).words
    assert "The run failed after 2 of 4 rounds: disk full." in words and "second line" in words
    assert f"Continue it: fedpurel run --resume '{run}'" in words


def test_a_run_that_was_cut_off_is_scored_by_its_rounds(tmp_path):
    words = read(begun_run(tmp_path / "run", 2)).words
    assert "The run was cut off after 2 of 4 rounds." in words and "the global model is right on 74.5 %" in words
    assert "cut off" in run_page(Snapshot(tmp_path / "run")).state


def test_a_run_that_goes_on_loads_itself_anew_where_it_is_served(tmp_path):
    run = begun_run(tmp_path / "run", 2)
    with Snapshot(run).lock():
        page = run_page(Snapshot(run), 10)
        assert (page.state, page.refresh) == ("running", 10)
        assert page.lead[0] == "The run goes on: 2 of 4 rounds are over, about 2 s are left."
        assert f"fedpurel watch {run}" in read(run).words
        assert run_page(Snapshot(run)).refresh == 0
    assert run_page(Snapshot(run), 10).refresh == 0


def test_nothing_is_said_to_go_on_where_no_round_was_finished(tmp_path):
    run = begun_run(tmp_path / "run", 0, outcome="stopped", error="interrupted by the user")
    (run / "state.json").unlink()
    words = read(run).words
    assert "interrupted by the user. No round was finished: start it anew." in words and "--resume" not in words


@pytest.mark.parametrize("name", ["config.json", "summary.json", "rounds.jsonl", "sites.csv", "partition.json"])
def test_a_damaged_file_is_one_clear_error(tmp_path, capsys, name):
    run = make_run(tmp_path / "run")
    (run / name).write_text("{\n" if name != "sites.csv" else "site,gain,has_private_branch\na,x,1\n")
    with pytest.raises(StateError, match=name):
        write_report(run)
    assert not (run / "report.html").exists()
    assert main(["report", str(run)]) == 2 and name in capsys.readouterr().err


def test_what_is_neither_a_run_nor_a_sweep_is_refused(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 2
    assert "neither a run nor a sweep" in capsys.readouterr().err
    run = make_run(tmp_path / "run")
    assert main(["report", str(run), "--out", str(tmp_path / "absent" / "x.html")]) == 2
    assert "choose another --out FILE" in capsys.readouterr().err
    assert main(["report", str(run), "--port", "4000"]) == 2 and "--follow" in capsys.readouterr().err
    assert main(["report", str(run), "--out", str(tmp_path / "x.html")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'x.html'}\n" and not (run / "report.html").exists()


# --- the command to do it again ------------------------------------------------------------------------------------


def settled(line):
    """Return the settings that a command gives."""
    options = make_parser().parse_args(shlex.split(line)[1:])
    return begun(options.preset, assignments(options.set), None)[0].model_dump(by_alias=True), options


@pytest.mark.parametrize("preset", preset_names())
def test_the_command_names_the_preset_and_what_was_changed(tmp_path, preset):
    changes = [
        'template=it\'s a {} "$HOME"',
        "seed=7",
        *(["dataset-path=/my data/x"] if "dataset" in load_preset(preset).values else []),
    ]
    wanted = begun(preset, assignments(changes), None)[0].model_dump(by_alias=True)
    given, options = settled(command(Snapshot(make_run(tmp_path / "run", settings=wanted))))
    assert options.preset == preset and sorted(options.set) == sorted(changes)
    assert given | {"out": ""} == wanted | {"out": ""}


def test_what_the_preset_has_for_another_method_gives_way(tmp_path):
    changes = {"algorithm": "ditto", "ditto-weight": 0.25, "template": "0.5 {}", "momentum": 0, "console": "flower"}
    wanted = begun("shapes", changes, None)[0].model_dump(by_alias=True)
    given, options = settled(command(Snapshot(make_run(tmp_path / "run", settings=wanted))))
    assert given | {"out": ""} == wanted | {"out": ""}
    assert options.preset == "shapes" and len(options.set) == len(changes)


def test_the_command_has_threads_and_the_sites_that_answered(tmp_path):
    run = make_run(tmp_path / "run", settings={"num-sites": 0})
    write(run / "launch.json", {"cpus-per-site": 2, "gpus-per-site": 0.5})
    given, options = settled(command(Snapshot(run)).replace("--cpus-per-site 2", "--cpus-per-site 1"))
    assert given["num-sites"] == 2 and options.gpus_per_site == 0.5
    assert "--cpus-per-site 2" in command(Snapshot(run))
    (run / "state.json").unlink()
    with pytest.raises(ConfigError, match="number of sites is not known"):
        command(Snapshot(run))


def test_sites_with_their_own_data_are_at_a_superlink(tmp_path):
    run = make_run(tmp_path / "run", settings={"dataset": "sites", "classes": "cat, polar bear, newt", "num-sites": 0})
    words = shlex.split(command(Snapshot(run)))
    assert words[-2:] == ["--superlink", "CONNECTION"] and "classes=cat, polar bear, newt" in words


def test_settings_of_another_version_have_no_command_and_say_so(tmp_path):
    words = read(make_run(tmp_path / "run", settings={"new-key": 1})).words
    assert 'No command is known: unknown key "new-key"' in words


def test_the_command_makes_the_run_again_bit_for_bit(tmp_path):
    one = run_tiny(tmp_path, global_rounds=1, personal_rounds=1, seed=3)
    words = shlex.split(command(Snapshot(one.path)))[1:]
    assert main([*words, "--in-process", "--out", str(tmp_path / "again")]) == 0
    again = Snapshot(tmp_path / "again")
    configs = [stored_config(run.content["config"]).model_dump(by_alias=True) for run in (Snapshot(one.path), again)]
    assert configs[0] | {"out": ""} == configs[1] | {"out": ""}
    assert again.partition == Snapshot(one.path).partition
    assert (one.path / "sites.csv").read_bytes() == (again.path / "sites.csv").read_bytes()


# --- sweeps ------------------------------------------------------------------------------------------------------


def a_sweep(folder):
    """Two methods, three seeds, of which one run is missing; one run has a page."""
    settings = {"A <b>": "fedavg", "B": "fedpurel"}
    for number, (method, algorithm) in enumerate(settings.items()):
        for seed in (0, 1, 2):
            if (method, seed) != ("B", 2):
                models = {"global": one_score(60.0 + 3 * number + seed), "global_at_sites": one_score(50.0)}
                write_run(folder / "runs" / f"r{number}-{seed}", {"algorithm": algorithm, "seed": seed}, models)
    cells = [cell(method, seed, f"r{number}-{seed}") for number, method in enumerate(settings) for seed in (0, 1, 2)]
    (folder / "runs" / "r1-0" / "report.html").write_text("")
    return write_plan(folder, list(settings), cells, title="Trial <i>")


def test_a_sweep_has_tables_pictures_missing_cells_and_ways_to_its_runs(tmp_path):
    """B's global model has 63 and 64, A's at these seeds 60 and 61: +3.0 on both."""
    sweep = a_sweep(tmp_path / "sweep")
    page = read(sweep)
    assert "Trial <i>" in page.words and "A <b>" in page.words
    assert "5 of 6 runs are completed: 2 methods, compared seed by seed with A <b>." in page.words
    assert "63.5 ± 0.7" in page.words and "61.0 ± 1.0" in page.words and "+3.0 [" in page.words
    assert (
        "Missing, not run yet: B, seed 2" in page.words and "r1-2 B 2 demo, prompt, alpha 1 not run yet" in page.words
    )
    assert [one["href"] for one in page.all("a") if one["href"].endswith("html")] == ["runs/r1-0/report.html"]
    assert len(page.all("svg")) == 1 and "Run what is missing: fedpurel sweep by-hand.toml" in page.words
    assert f"fedpurel table {sweep}" in page.words


def test_ways_to_runs_are_relative_to_where_the_page_lies(tmp_path):
    page = Reader(write_report(a_sweep(tmp_path / "my sweep"), tmp_path / "x.html").read_text("utf-8"))
    assert "my%20sweep/runs/r1-0/report.html" in [one["href"] for one in page.all("a")]


def test_a_sweep_without_a_completed_run_is_refused(tmp_path):
    plan = write_plan(tmp_path / "sweep", ["A"], [cell("A", 0)])
    with pytest.raises(StateError, match="no completed run"):
        write_report(plan)


# --- colours -----------------------------------------------------------------------------------------------------


def luminance(colour):
    """Relative luminance of WCAG 2."""
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one, other):
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_text_stands_out_by_4_5_and_lines_of_pictures_by_3_in_every_scheme():
    style = (resources.files("fedpurel_app.reporting.page") / "templates" / "style.css").read_text("utf-8")
    schemes = [
        dict(re.findall(r"(--\w+): (#\w{6});", part)) for part in re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    ]
    assert len(schemes) == 3  # light, dark, print
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    for scheme in schemes:
        for paper in ("--paper", "--panel"):
            assert all(contrast(scheme[one], scheme[paper]) >= 4.5 for one in ("--ink", "--muted", "--link"))
        of_pictures = ("--blue", "--orange", "--zero")  # which are letters in pictures of sweeps, too
        assert all(contrast(scheme[one], scheme["--paper"]) >= 4.5 for one in of_pictures)
        assert contrast(scheme["--sky"], scheme["--paper"]) >= 3


def test_every_colour_of_a_picture_follows_the_scheme(page):
    """But those of the map that tells rounds apart, of which this run has no picture, and of the heat map, an image."""
    found = {one for _, attrs in page.tags for one in re.findall(r"#[0-9a-f]{6}", attrs.get("style") or "")}
    assert not found and any("var(--blue)" in (attrs.get("style") or "") for _, attrs in page.tags)
