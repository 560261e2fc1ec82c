"""The file of a sweep: what may stand in it, and what is said of what may not."""

import pytest

from fedpurel_app.core.errors import ConfigError
from fedpurel_app.sweeps.file import load_sweep
from fedpurel_app.sweeps.plan import make_plan
from fedpurel_app.sweeps.seeds import read_seeds
from tests.sweeps.writing import METHODS, write_sweep


@pytest.mark.parametrize(
    ("given", "seeds"),
    [("3", [3]), (7, [7]), ("200-203", [200, 201, 202, 203]), ("0-1, 9", [0, 1, 9]), ([4, 2], [4, 2])],
)
def test_seeds_are_written_as_ranges_or_lists(given, seeds):
    assert read_seeds(given) == seeds


def test_paths_in_it_are_relative_to_it(tmp_path):
    file = load_sweep(write_sweep(tmp_path))
    assert file.settings["dataset-path"] == str(tmp_path / "features.npz")


def test_a_list_of_algorithms_stands_for_methods_of_their_titles(tmp_path):
    path = tmp_path / "sweep.toml"
    path.write_text('seeds = 1\nmethods = ["fedavg", "ditto"]\n')
    file = load_sweep(path)
    assert {name: method.values for name, method in file.methods.items()} == {
        "FedAvg": {"algorithm": "fedavg"},
        "Ditto": {"algorithm": "ditto"},
    }


def test_a_setting_on_the_command_line_counts_more_than_all_of_the_file(tmp_path):
    file = load_sweep(write_sweep(tmp_path, "[methods]\nA = { batch-size = 4 }"), {"batch-size": 2})
    assert file.settings["batch-size"] == 2 and "batch-size" not in file.methods["A"].values


def test_a_setting_on_the_command_line_counts_more_than_a_grid_and_what_was_tuned(tmp_path):
    more = (
        METHODS
        + "[grid]\nalpha = [0.1, 1.0]\n[tune]\nseeds = 9\nsettings = { alpha = 2.0 }\n[tune.grid]\nalpha = [3.0]\n"
    )
    tuned = '[[tuned]]\nmethod = "FedAvg"\nat = {}\nvalues = { alpha = 4.0 }\nscore = 1.0\n'
    file = load_sweep(write_sweep(tmp_path, more + tuned), {"alpha": 5.0})
    assert file.tune is not None
    assert file.grid == {"alpha": [5.0]} and file.tune.grid == {"alpha": [5.0]}
    assert "alpha" not in file.tune.settings and "alpha" not in file.tuned[0].values
    assert {cell.config.alpha for cell in make_plan(file).cells} == {5.0}


def test_the_seed_is_not_set_on_the_command_line(tmp_path):
    with pytest.raises(ConfigError, match="--set seed"):
        load_sweep(write_sweep(tmp_path), {"seed": 5})


def test_paths_in_grids_and_presets_are_relative_to_it_too(tmp_path, monkeypatch):
    (tmp_path / "own.toml").write_text("num-sites = 7\n")
    more = METHODS + '[grid]\ndataset-path = ["a.npz"]\n[data]\nx = { preset = "own.toml" }\n[tune]\nseeds = 9\n'
    path = write_sweep(tmp_path, more + 'settings = { dataset-path = "b.npz" }\n[tune.grid]\nalpha = [1.0]\n')
    path.write_text('preset = "own.toml"\n' + path.read_text())
    file = load_sweep(path)
    assert file.grid == {"dataset-path": [str(tmp_path / "a.npz")]}
    assert file.tune is not None and file.tune.settings == {"dataset-path": str(tmp_path / "b.npz")}
    assert file.preset == file.data["x"].preset == str(tmp_path / "own.toml")


BAD = {
    "no seeds": ("methods = ['fedavg']", "seeds is missing"),
    "seeds of another form": ("seeds = '1..3'\nmethods = ['fedavg']", "1..3"),
    "seeds in no digits of ours": ("seeds = '²'\nmethods = ['fedavg']", "is not of the form"),
    "a seed of thousands of digits": (f"seeds = '{'9' * 5000}'\nmethods = ['fedavg']", "is not of the form"),
    "too many seeds": ("seeds = '0-999999999'\nmethods = ['fedavg']", "more than 10000 seeds"),
    "a negative seed": ("seeds = [-1]\nmethods = ['fedavg']", "seeds.0 = -1"),
    "a seed twice": ("seeds = [1, 1]\nmethods = ['fedavg']", "named twice"),
    "no methods": ("seeds = 1\n[methods]", "methods"),
    "an unknown table": ("seeds = 1\nmethod = ['fedavg']", 'Did you mean "methods"'),
    "an unknown key": ("seeds = 1\n[methods]\nA = { learning_rate = 1.0 }", 'Did you mean "learning-rate"'),
    "a key of the sweep's own": ("seeds = 1\nmethods = ['fedavg']\n[settings]\nseed = 3", "settled by the sweep"),
    "against nobody": ("seeds = 1\nagainst = 'B'\nmethods = ['fedavg']", 'against = "B"'),
    "an axis without values": ("seeds = 1\nmethods = ['fedavg']\n[grid]\nalpha = []", "grid.alpha"),
    "a list for a setting": ("seeds = 1\nmethods = ['fedavg']\n[settings]\nalpha = [1.0]", "settings.alpha"),
    "tuning on reported seeds": (
        "seeds = 1\nmethods = ['fedavg']\n[tune]\nseeds = '1-2'\n[tune.grid]\nlearning-rate = [0.1]",
        "tune.seeds: 1 is a seed of the sweep",
    ),
    "a range that ends before it begins": ("seeds = '1, 5-3'\nmethods = ['fedavg']", "5-3 ends before it begins"),
    "an algorithm twice": ("seeds = 1\nmethods = ['fedavg', 'fedavg']", '"fedavg" is named twice'),
    "a value twice": ("seeds = 1\nmethods = ['fedavg']\n[grid]\nalpha = [1, 1.0]", "grid.alpha: 1 is named twice"),
    "a name that is none": ("seeds = 1\n[methods]\n'' = { algorithm = 'fedavg' }", "at least 1 character"),
    "a name of two lines": ('seeds = 1\n[methods]\n"a\\nb" = { algorithm = "fedavg" }', "methods.a"),
    "nothing to try": ("seeds = 1\nmethods = ['fedavg']\n[tune]\nseeds = 2\n[tune.grid]", "tune.grid"),
    "tuned twice on a seed": (
        "seeds = 1\nmethods = ['fedavg']\n[tune]\nseeds = [2, 2]\n[tune.grid]\nalpha = [0.1]",
        "tune.seeds: a seed is named twice",
    ),
    "an unknown tuned key": (
        "seeds = 1\nmethods = ['fedavg']\n[[tuned]]\nmethod = 'FedAvg'\nat = {}\nvalues = { alhpa = 1.0 }\nscore = 1.0",
        'Did you mean "alpha"',
    ),
    "tuning what no global model hangs on": (
        "seeds = 1\nmethods = ['fedpurel']\n[tune]\nseeds = 9\n[tune.grid]\nprivate-weight = [0.5, 0.9]",
        "tune.grid.private-weight: it changes no global model",
    ),
    "no TOML": ("seeds = ", "not a readable TOML file"),
}


@pytest.mark.parametrize(("text", "said"), BAD.values(), ids=BAD)
def test_what_is_wrong_is_said_in_one_error(tmp_path, text, said):
    path = tmp_path / "sweep.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        load_sweep(path)
    assert said in str(error.value) and str(path) in str(error.value)


def test_all_that_is_wrong_is_said_at_once(tmp_path):
    path = write_sweep(tmp_path, METHODS + '"C" = { alhpa = 1.0 }\n[grid]\nsede = [1]\n')
    with pytest.raises(ConfigError) as error:
        load_sweep(path)
    assert "alhpa" in str(error.value) and "sede" in str(error.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match="not a readable TOML file"):
        load_sweep(tmp_path / "none.toml")
