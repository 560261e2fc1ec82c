"""From a sweep's file to its runs."""

import json

import pytest

from fedpurel_app.core.errors import ConfigError
from fedpurel_app.sweeps.file import load_sweep
from fedpurel_app.sweeps.plan import make_plan
from tests.sweeps.writing import METHODS, write_sweep


def plan_of(folder, *arguments, **changes):
    return make_plan(load_sweep(write_sweep(folder, *arguments, **changes)))


def test_every_method_meets_every_value_and_seed(tmp_path):
    plan = plan_of(tmp_path, METHODS + "[grid]\nalpha = [0.1, 1.0]\n")
    found = [(cell.method, cell.at["alpha"], cell.seed) for cell in plan.cells]
    assert found == [
        (method, alpha, seed) for seed in (1, 2) for alpha in (0.1, 1.0) for method in ("FedAvg", "FedPuReL")
    ]
    assert len(plan.runs) == 8 and plan.axes == {"alpha": [0.1, 1.0]}


def test_a_method_may_have_seeds_of_its_own(tmp_path):
    plan = plan_of(tmp_path, METHODS + 'Dear = { algorithm = "ditto", seeds = 2 }\n')
    assert [cell.seed for cell in plan.cells if cell.method == "Dear"] == [2]


def test_cells_whose_settings_come_to_the_same_have_one_run(tmp_path):
    plan = plan_of(tmp_path, METHODS + "[grid]\nprivate-weight = [0.5, 0.9]\n", seeds="1")
    runs = {(cell.method, cell.at["private-weight"]): cell.run for cell in plan.cells}
    assert runs["FedAvg", 0.5] == runs["FedAvg", 0.9]  # it has no private branch
    assert runs["FedPuReL", 0.5] != runs["FedPuReL", 0.9]


def test_without_personal_rounds_their_keys_make_no_other_run(tmp_path):
    more = METHODS + '"half" = { algorithm = "fedpurel", private-weight = 0.5 }\n'
    runs = {cell.method: cell.run for cell in plan_of(tmp_path, more, seeds="1", personal_rounds=0).cells}
    assert runs["FedPuReL"] == runs["half"]


def test_the_name_of_a_run_does_not_depend_on_where_it_stands(tmp_path):
    one = plan_of(tmp_path, METHODS, seeds="1").cells[1].run
    other = plan_of(tmp_path, '[methods]\n"Another name" = { algorithm = "fedpurel" }\n', seeds="1").cells[0].run
    assert one == other


def test_a_method_that_cannot_go_somewhere_is_left_out_there_with_the_reason(tmp_path):
    more = METHODS + 'PromptFolio = { algorithm = "promptfolio" }\n[grid]\npeft = ["text-residual", "adapter"]\n'
    plan = plan_of(tmp_path, more)
    assert [(one["method"], one["at"]) for one in plan.left_out] == [("PromptFolio", {"peft": "adapter"})]
    assert "text features" in plan.left_out[0]["why"]
    assert {cell.at["peft"] for cell in plan.cells if cell.method == "PromptFolio"} == {"text-residual"}


def test_a_method_that_sets_an_axis_itself_is_at_that_value_alone(tmp_path):
    more = METHODS + 'Fixed = { algorithm = "fedavg", alpha = 0.1 }\n[grid]\nalpha = [0.1, 1.0]\n'
    plan = plan_of(tmp_path, more, seeds="1")
    assert [cell.at["alpha"] for cell in plan.cells if cell.method == "Fixed"] == [0.1]
    assert plan.left_out == [{"method": "Fixed", "at": {"alpha": 1.0}, "why": "it sets alpha = 0.1 itself."}]
    with pytest.raises(ConfigError, match=r"methods\.Fixed: it sets alpha = 7"):
        plan_of(tmp_path, more.replace("alpha = 0.1 }", "alpha = 7.0 }"))


def test_a_method_that_can_go_nowhere_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match=r"methods\.Bad.*batch-size"):
        plan_of(tmp_path, METHODS + "Bad = { batch-size = 0 }\n")


def test_its_own_setting_without_a_use_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="private-weight"):
        plan_of(tmp_path, '[methods]\nFedAvg = { algorithm = "fedavg", private-weight = 0.5 }\n')


def test_data_sets_have_settings_and_presets_of_their_own(tmp_path):
    more = (
        METHODS
        + '[data]\nsmall = { max-per-class = 3 }\ndemo = { preset = "shapes", dataset = "shapes", dataset-path = "" }\n'
    )
    plan = plan_of(tmp_path, more, seeds="1")
    configs = {cell.at["data"]: cell.config for cell in plan.cells}
    assert configs["small"].max_per_class == 3 and configs["small"].dataset == "features"
    assert configs["demo"].dataset == "shapes" and list(plan.axes) == ["data"]


def test_what_tuning_found_is_used_where_it_was_found(tmp_path):
    tuned = '[[tuned]]\nmethod = "FedAvg"\nat = { peft = "adapter" }\nvalues = { learning-rate = 0.7 }\nscore = 1.0\n'
    plan = plan_of(tmp_path, METHODS + '[grid]\npeft = ["text-residual", "adapter"]\n' + tuned, seeds="1")
    rates = {(cell.method, cell.at["peft"]): cell.config.learning_rate for cell in plan.cells}
    assert rates["FedAvg", "adapter"] == 0.7
    assert {rate for key, rate in rates.items() if key != ("FedAvg", "adapter")} == {"auto"}


def test_the_plan_is_written_for_tables(tmp_path):
    plan = plan_of(tmp_path, METHODS + "[grid]\nalpha = [1.0]\n", seeds="5")
    plan.write(tmp_path, "fedpurel sweep x.toml")
    content = json.loads((tmp_path / "plan.json").read_text())
    assert content["methods"] == ["FedAvg", "FedPuReL"] and content["against"] == "FedAvg"
    assert content["cells"][0] == {"method": "FedAvg", "at": {"alpha": 1.0}, "seed": 5, "run": plan.cells[0].run}
