"""What tuning tries, and of whom it has found nothing."""

from fedpurel_app.cli.main import main
from fedpurel_app.sweeps.file import Tuned, load_sweep
from fedpurel_app.sweeps.plan import make_plan
from fedpurel_app.sweeps.tuning import candidates, not_tuned, write_down
from tests.sweeps.writing import METHODS, write_sweep

TUNE = '[tune]\nseeds = "100-101"\n[tune.grid]\nlearning-rate = [0.01, 0.1]\n'
TUNED = '[[tuned]]\nmethod = "FedAvg"\nat = {}\nvalues = { learning-rate = 0.1 }\nscore = 1.0\n'


def test_no_setting_of_a_method_lets_tuning_look_at_test_data(tmp_path):
    more = METHODS + 'Peeking = { algorithm = "fedprox", evaluate-on = "test" }\n' + TUNE
    tried = [one for one in candidates(load_sweep(write_sweep(tmp_path, more))) if one.method == "Peeking"]
    assert len(tried) == 2
    assert {cell.config.evaluate_on for one in tried for cell in one.cells} == {"validation"}


def test_a_method_is_tuned_where_it_is(tmp_path):
    more = 'Fixed = { algorithm = "fedavg", peft = "adapter" }\n[grid]\npeft = ["text-residual", "adapter"]\n'
    tried = candidates(load_sweep(write_sweep(tmp_path, METHODS + more + TUNE)))
    assert {(one.method, one.at["peft"]) for one in tried if one.method == "Fixed"} == {("Fixed", "adapter")}


def test_methods_of_which_tuning_has_found_nothing_are_named(tmp_path, capsys):
    more = 'Own = { algorithm = "prograd", learning-rate = 0.2 }\nNone = { algorithm = "zero-shot" }\n'
    path = write_sweep(tmp_path, METHODS + more + TUNE + TUNED)
    assert not_tuned(make_plan(load_sweep(path))) == ["FedPuReL"]
    assert main(["sweep", str(path), "--dry-run"]) == 0
    assert "not tuned, as others are: FedPuReL." in capsys.readouterr().err


def test_without_anything_tuned_nobody_is_named(tmp_path):
    assert not_tuned(make_plan(load_sweep(write_sweep(tmp_path, METHODS + TUNE)))) == []


def test_what_stands_where_tuning_writes_is_not_lost(tmp_path, capsys):
    path = write_sweep(tmp_path, METHODS + TUNE)
    file = load_sweep(path)
    assert file.tune is not None
    write_down(path, file.tune, [], [])
    path.write_text(path.read_text() + "[data]\nsmall = { max-per-class = 3 }\n")
    assert main(["sweep", str(path), "--tune", "--out", str(tmp_path / "out")]) == 2
    assert "[data] stands below" in capsys.readouterr().err
    assert "max-per-class = 3" in path.read_text() and not (tmp_path / "out").exists()


def test_a_link_to_the_file_stays_one(tmp_path):
    path, link = write_sweep(tmp_path, METHODS + TUNE), tmp_path / "link.toml"
    link.symlink_to(path)
    file = load_sweep(link)
    assert file.tune is not None
    write_down(link, file.tune, [Tuned(method="FedAvg", at={}, values={"learning-rate": 0.1}, score=1.0)], ["0.1 1.00"])
    assert link.is_symlink() and [one.method for one in load_sweep(path).tuned] == ["FedAvg"]
