"""The best model: which round the validation parts choose, its file, and who can take it."""

import csv
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedpurel_app.cli import main as cli
from fedpurel_app.client_app import app as client_app
from fedpurel_app.config import load_config
from fedpurel_app.core.errors import ConfigError, StateError
from fedpurel_app.core.files import write_atomically
from fedpurel_app.core.tensor_file import read
from fedpurel_app.inference.trained import load_trained
from fedpurel_app.reporting import checkpoint, run_files
from fedpurel_app.reporting.compare import compare
from fedpurel_app.reporting.console import summary_lines
from fedpurel_app.reporting.run_folder import RunFolder
from fedpurel_app.reporting.selection import Selection, chosen
from fedpurel_app.reporting.summary import summarize_run
from fedpurel_app.server_app import app as server_app
from tests.support import a_round, own_sites, run_app, run_tiny, tiny_config, tiny_features
from tests.test_own_sites import settings as own_settings

SETTINGS: dict[str, Any] = {"validation-share": 0.2}


def settings(**changes):
    return load_config(SETTINGS | {key.replace("_", "-"): value for key, value in changes.items()}).model_dump(
        by_alias=True
    )


def scores(value, **more):
    columns = dict.fromkeys(("all", "many", "medium", "few", "balancedness"), value)
    return {**columns, "pooled": value, **more}


def line(number, phase, gm, pm=None, **more):
    """Return a round whose test scores fall while the validation scores are as given."""
    validation = {"global": scores(gm), "personalized": scores(gm if pm is None else pm)}
    test = {"global": scores(90.0 - number), "personalized": scores(80.0 - number)}
    return a_round(number, phase=phase, validation=validation, sites=test, **{"global": scores(99.0 - number)}, **more)


TWO_PHASES = [
    line(1, "global", 60),
    line(2, "global", 70),
    line(3, "global", 70),
    line(4, "personal", 75, 71),
    line(5, "personal", 50, 72),
    line(6, "personal", 50, 65),
]


# --- which round ----------------------------------------------------------------------------------------------------


def test_each_model_is_chosen_in_the_phase_that_trains_it_and_the_first_of_equals():
    assert Selection(settings(), TWO_PHASES).best == {
        "global": {"round": 2, "value": 70},
        "personalized": {"round": 5, "value": 72},
    }


def test_an_interleaved_schedule_scores_both_after_its_personal_rounds():
    best = Selection(settings(schedule="interleaved"), TWO_PHASES[3:]).best
    assert (best["global"]["round"], best["personalized"]["round"]) == (4, 5)


def test_what_a_run_does_not_train_is_chosen_where_it_is_scored():
    assert Selection(settings(global_rounds=0, personal_rounds=3), TWO_PHASES[3:]).best["global"]["round"] == 4
    only_global = [line(1, "global", 60, 66), line(2, "global", 70, 64)]
    best = Selection(settings(algorithm="fedpgp", peft="text-residual"), only_global).best
    assert (best["global"]["round"], best["personalized"]["round"]) == (2, 1)
    assert Selection(settings(personal_rounds=0), only_global).best["personalized"]["round"] == 1
    assert set(Selection(settings(algorithm="fedavg"), only_global).best) == {"global"}
    assert Selection(settings(algorithm="zero-shot"), [line(1, "evaluation", 60)]).best["global"]["round"] == 1


@pytest.mark.parametrize(
    ("by", "column"), [("all", "pooled"), ("few", "few"), ("balancedness", "balancedness"), ("macro-f1", "macro_f1")]
)
def test_the_stated_metric_decides(by, column):
    rounds = [line(1, "global", 60), line(2, "global", 50), line(3, "global", 55)]
    rounds[1]["validation"]["global"][column] = 61.0
    assert Selection(settings(select_by=by), rounds).best["global"] == {"round": 2, "value": 61.0}


def test_without_a_validation_part_nothing_is_chosen_whatever_the_test_scores_are():
    selection = Selection(load_config({}).model_dump(by_alias=True), TWO_PHASES)
    assert selection.best == {} and not selection.is_on


def test_the_summary_has_test_scores_of_the_rounds_that_were_chosen():
    found = summarize_run([a_round(0), *TWO_PHASES], settings(), "completed", None, has_private_part=True, seconds=1.0)
    assert found["best"]["global"] == {"round": 2, "validation": 70, **scores(97.0)}
    assert found["best"]["global_at_sites"] == {"round": 2, "validation": 70, **scores(88.0)}
    assert found["best"]["personalized"] == {"round": 5, "validation": 72, **scores(75.0)}
    assert found["best_on_test"]["global"]["round"] == 1, "which is another one, and says so by its name"
    text = "\n".join(summary_lines(found))
    assert "best rounds, by all on the sites' validation parts: global 2 (70.0), personalized 5 (72.0)" in text
    assert [line.split()[-1] for line in text.splitlines() if line.startswith("best ")][:3] == ["97.0", "88.0", "75.0"]


def test_what_an_older_version_chose_on_test_data_is_no_best_model():
    assert chosen({"best": {"global": {"round": 1, **scores(90.0)}}}) == {} == chosen({})


# --- its file -------------------------------------------------------------------------------------------------------

SHARE: dict[str, Any] = {"validation_share": 0.3, "evaluate_every": 1, "global_rounds": 5, "personal_rounds": 2}
SHARE |= {"learning_rate": 0.5, "experiment_id": "same", "imbalance_factor": 1.0, "algorithm": "ditto"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that was never interrupted, and the parameters of each of its rounds."""
    seen: dict[int, Any] = {}
    write = RunFolder.write_checkpoint

    def keep(self, arrays, state, part=None):
        seen[state["round"]] = {name: value.copy() for name, value in arrays.items()}
        write(self, arrays, state, part)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunFolder, "write_checkpoint", keep)
        return run_tiny(tmp_path_factory.mktemp("whole"), **SHARE), seen


def improved(folder):
    """Return the rounds in which the best global model changed."""
    found = [line["best"]["global"]["round"] for line in folder.rounds() if line.get("best")]
    return sorted(set(found))


def test_the_file_holds_the_parameters_of_the_best_round(whole):
    folder, seen = whole
    number = folder.summary()["best"]["global"]["round"]
    arrays, state = folder.read_best()
    assert state["round"] == number == improved(folder)[-1] and 1 < number < 5, "a case that tells them apart"
    assert arrays.keys() == seen[number].keys()
    assert all(np.array_equal(arrays[name], seen[number][name]) for name in arrays)
    assert any(not np.array_equal(arrays[name], seen[5][name]) for name in arrays)
    values = {line["round"]: line["validation"]["global"]["pooled"] for line in folder.rounds()[1:6]}
    assert values[number] == max(values.values())


class Killed(BaseException):
    pass


@pytest.mark.parametrize("point", ["checkpoint.safetensors", "checkpoint-best.safetensors", "state.json"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_run_killed_at_any_write_of_its_best_round_goes_on_as_if_nothing_had_happened(
    tmp_path, monkeypatch, whole, point, when
):
    expected, _ = whole
    number = improved(expected)[-1]

    def dying(path, content, mode=0o644):
        rounds = RunFolder(path.parent).rounds() if path.parent.name == "run" and path.name == point else []
        mine = bool(rounds) and rounds[-1]["round"] == number
        if mine and when == "before":
            raise Killed
        write_atomically(path, content, mode)
        if mine:
            raise Killed

    with monkeypatch.context() as patch:
        for module in (checkpoint, run_files):
            patch.setattr(module, "write_atomically", dying)
        with pytest.raises(Killed):
            run_tiny(tmp_path, **SHARE)
    resumed = run_tiny(tmp_path, **SHARE, resume_from=str(tmp_path / "run"))
    for name in ("checkpoint.safetensors", "checkpoint-best.safetensors", "validation.csv"):
        assert (resumed.path / name).read_bytes() == (expected.path / name).read_bytes(), name
    assert resumed.summary()["best"] == expected.summary()["best"]


def test_a_best_file_of_a_lost_round_gives_way_to_the_one_that_counts(tmp_path, monkeypatch, whole):
    """The round is run again after a crash, and may end otherwise: other sites may be there."""
    expected, _ = whole
    first, second = improved(expected)[-2:]

    def dying(path, content, mode=0o600):
        if path.name == "state.json" and content["round"] == second:
            raise Killed
        write(path, content, mode)

    write = run_files.write_object
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_object", dying)
        with pytest.raises(Killed):
            run_tiny(tmp_path, **SHARE)
    folder = RunFolder(tmp_path / "run")
    best = folder.path / "checkpoint-best.safetensors"
    assert read(best)[1]["round"] == second and folder.read_best()[1]["round"] == first
    checkpoint.Checkpoint(folder.path).settle()
    assert read(best)[1]["round"] == first == folder.read_best()[1]["round"]


# --- who can take it ------------------------------------------------------------------------------------------------


def test_best_and_last_model_can_be_loaded(whole):
    folder, seen = whole
    best, last = load_trained(folder.path, checkpoint="best"), load_trained(folder.path)
    number = folder.summary()["best"]["global"]["round"]
    assert (best.round, last.round) == (number, 7)
    features = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    assert not torch.equal(best.logits(features), last.logits(features))
    parameters = dict(best.branches["global"].named_parameters())
    assert all(np.array_equal(parameters[name].detach().numpy(), value) for name, value in seen[number].items())


def test_the_command_line_exports_the_best_model(whole, tmp_path, capsys):
    folder, _ = whole
    arguments = ["export", "--run", str(folder.path), "--checkpoint", "best", "--out", str(tmp_path / "out")]
    assert cli.main(arguments) == 0, capsys.readouterr().err
    assert json.loads((tmp_path / "out" / "export.json").read_text())["round"] == folder.read_best()[1]["round"]


def test_a_site_s_best_model_is_refused_for_its_branch_is_of_the_last_rounds(whole, capsys):
    folder, _ = whole
    with pytest.raises(ConfigError, match="--checkpoint best is for the global model"):
        load_trained(folder.path, "site-0", checkpoint="best")


def test_without_a_validation_part_there_is_no_best_model(tmp_path, capsys):
    folder = run_tiny(tmp_path, global_rounds=1, algorithm="fedavg")
    with pytest.raises(StateError, match="no best model: none is chosen with validation-share = 0"):
        load_trained(folder.path, checkpoint="best")
    assert cli.main(["show", str(folder.path)]) == 0
    assert "no best model: with validation-share = 0 no round is chosen" in capsys.readouterr().out


def test_compare_has_rows_of_the_best_models_where_there_are_any(whole, tmp_path):
    folder, _ = whole
    plain = run_tiny(tmp_path / "plain", global_rounds=1, algorithm="fedavg")
    text = "\n".join(compare([plain.path], tmp_path / "one"))
    assert "best" not in text and "best" not in (tmp_path / "one.csv").read_text()
    text = "\n".join(compare([plain.path, folder.path], tmp_path / "both"))
    assert all(f"  {title} " in text for title in ("best GM", "best at sites", "best PM"))
    with (tmp_path / "both.csv").open() as file:
        rows = {row["method"].partition(",")[0]: row for row in csv.DictReader(file)}
    best = folder.summary()["best"]
    for title, model in (("best GM", "global"), ("best at sites", "global_at_sites"), ("best PM", "personalized")):
        assert rows["ditto"][f"{title} few mean"] == f"{best[model]['few']:.4f}"
        assert rows["fedavg"][f"{title} few mean"] == rows["zero-shot"][f"{title} few mean"] == ""
    assert "by select-by" in text


# --- where nothing can be chosen ------------------------------------------------------------------------------------


def test_sites_that_share_no_class_counts_leave_few_unknown_and_that_is_said(tmp_path, caplog):
    nodes = own_sites(tmp_path)
    config = own_settings(tmp_path) | {"validation-share": 0.2, "select-by": "few"}
    with caplog.at_level(logging.WARNING):
        run_app(server_app, client_app, 3, config, nodes=nodes)
    folder = RunFolder(tmp_path / "run")
    summary = folder.summary()
    assert summary is not None and summary["outcome"] == "completed" and summary["best"] is None
    assert caplog.text.count('select-by = "few" cannot be computed from what the sites share') == 1
    assert "the sites do not share what select-by = few is computed from" in summary["reasons"]["best"]
    assert folder.rounds()[-1]["validation"]["global"]["all"] is not None, "totals are there"
    with pytest.raises(StateError, match="no best model"):
        folder.read_best()


def test_a_federation_without_a_class_of_five_images_says_that_it_has_no_validation_part(tmp_path, caplog):
    tiny_features(Path(tiny_config(tmp_path)["dataset-path"]), per_class=4)
    with caplog.at_level(logging.WARNING):
        folder = run_tiny(tmp_path, validation_share=0.5, imbalance_factor=1, global_rounds=1, personal_rounds=0)
    assert "no site tells of a validation part" in caplog.text
    assert folder.summary()["reasons"]["best"] == "no site told scores of a validation part"
