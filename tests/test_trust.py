"""Whole runs with trust in replies, the probes that it rests on, what it is refused with, and where it is shown."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from fedpurel_app.algorithms.registry import METHODS
from fedpurel_app.config import RunConfig, load_config
from fedpurel_app.core.errors import ConfigError, DataError
from fedpurel_app.core.files import home
from fedpurel_app.core.records import ARRAYS, to_array_record, to_arrays
from fedpurel_app.data.shapes import rendered
from fedpurel_app.experiment import Experiment
from fedpurel_app.models.peft.registry import FAMILIES
from fedpurel_app.reporting.checkpoint import Checkpoint
from fedpurel_app.reporting.console import show_lines
from fedpurel_app.reporting.page.write import write_report
from fedpurel_app.reporting.run_folder import RunFolder
from fedpurel_app.reporting.trust import factors_by_site, trust_lines
from fedpurel_app.server.probes import MOST_FILES, PAIRS, PICTURES, behaviour, midpoints, probes_of
from tests.support import run_tiny, run_whole_and_resumed, timeless, tiny_config

ON = {"algorithm": "fedavg", "trust": "predictions", "fraction_train": 1.0}
DEFAULTS = RunConfig().model_dump(by_alias=True)


def forging(forge, node=7919, rounds=range(1, 99)):
    """Make a spy that has the first site, or all with node = None, send what ``forge`` makes of sent and trained."""

    def spy(message, reply):
        asked = message.metadata.message_type == "train" and message.content["config"]["round"] in rounds
        if asked and node in (None, message.metadata.dst_node_id):
            before, after = to_arrays(message.content[ARRAYS]), to_arrays(reply.content[ARRAYS])
            reply.content[ARRAYS] = to_array_record({name: forge(before[name], after[name]) for name in before})

    return {"spy": spy}


def scaled(factor):
    def forge(before, after):
        with np.errstate(over="ignore"):
            return np.clip(before + np.float32(factor) * (after - before), -3e38, 3e38).astype(np.float32)

    return forge


def same_model(one, other):
    left, right = (Checkpoint(folder.path).read()[0] for folder in (one, other))
    return all(np.array_equal(value, right[name]) for name, value in left.items())


# --- runs ---------------------------------------------------------------------------------------------------------


def test_with_room_for_all_it_is_the_run_without_and_no_byte_more_travels(tmp_path):
    plain = run_tiny(tmp_path / "a", algorithm="fedavg", fraction_train=1.0)
    found = run_tiny(tmp_path / "b", **ON, trust_tolerance=1e6)
    assert same_model(plain, found)
    for before, after in zip(plain.rounds()[1:], found.rounds()[1:], strict=True):
        assert after["trust"] == dict.fromkeys(after["usable"], 1.0) and "trust" not in before
        assert [before[key] for key in ("bytes_up", "bytes_down")] == [after[key] for key in ("bytes_up", "bytes_down")]
    tight = run_tiny(tmp_path / "c", **ON, trust_tolerance=1.0)
    assert not same_model(plain, tight) and min(tight.rounds()[1]["trust"].values()) < 1


@pytest.mark.parametrize("factor", [-100, 1e6, -1e30, 1e38])
def test_a_liar_cannot_spoil_the_model(tmp_path, factor):
    """Before training it is 56 %; honest sites reach 59 to 60 in six rounds."""
    folder = run_tiny(tmp_path, **ON, global_rounds=6, grid=forging(scaled(factor)))
    trust = [line["trust"] for line in folder.rounds()[1:]]
    assert all(one["site-0"] < 1e-3 for one in trust) and not any(
        line["kept_old_model"] for line in folder.rounds()[1:]
    )
    assert folder.rounds()[-1]["global"]["all"] > 54


def test_the_same_liar_spoils_the_mean(tmp_path):
    folder = run_tiny(tmp_path, **ON | {"trust": "none"}, global_rounds=6, grid=forging(scaled(-100)))
    assert folder.rounds()[-1]["global"]["all"] < 40


def test_what_the_screening_refuses_has_no_factor_and_costs_the_others_nothing(tmp_path):
    bad = forging(lambda before, after: after * np.float32("nan"), rounds=[2])
    folder = run_tiny(tmp_path, **ON, grid=bad)
    first, second, _ = folder.rounds()[1:]
    assert set(first["trust"]) - set(second["trust"]) == {"site-0"} and len(second["dropped"]) == 1


@pytest.mark.parametrize("trust", ["none", "predictions"])
def test_a_round_of_absurd_replies_alone_ends_as_without_trust_and_the_run_goes_on(tmp_path, trust):
    """Cosine logits of features that overflow are all 0: every reply predicts as every other."""
    bad = forging(lambda before, after: np.full_like(after, 3e38), node=None, rounds=[2])
    folder = run_tiny(tmp_path, **ON | {"trust": trust}, grid=bad)
    assert not any(line["kept_old_model"] for line in folder.rounds()[1:])
    assert (
        np.isfinite(Checkpoint(folder.path).read()[0]["residual"]).all() and folder.summary()["outcome"] == "completed"
    )


@pytest.mark.parametrize("algorithm", ["fedpurel", "scaffold"])
@pytest.mark.parametrize("schedule", ["two-phase", "interleaved"])
def test_a_resumed_run_goes_on_bit_for_bit(tmp_path, algorithm, schedule):
    """SCAFFOLD's own part is chained with it, and keeps its control variate."""
    more = {"algorithm": algorithm, "trust": "predictions", "trust_tolerance": 1.0, "fraction_train": 0.8}
    more |= {"schedule": schedule} if algorithm == "fedpurel" else {}
    number = (
        3 if schedule == "interleaved" and algorithm == "fedpurel" else 2
    )  # 1 and 3 are global where they take turns
    whole, resumed = run_whole_and_resumed(tmp_path, "train", number, **more)
    assert timeless(whole) == timeless(resumed) and same_model(whole, resumed)
    assert min(min(line["trust"].values()) for line in whole.rounds() if "trust" in line) < 1
    state = Checkpoint(whole.path).read()[2]
    assert ("0/c/residual" in state) == (algorithm == "scaffold")


def test_scaffolds_control_variate_is_bounded_with_the_replies(tmp_path):
    lie = forging(scaled(-100))
    kept = {}
    for trust in ("none", "predictions"):
        more = ON | {"algorithm": "scaffold", "trust": trust}
        folder = run_tiny(tmp_path / trust, **more, learning_rate=0.01, grid=lie)
        state = Checkpoint(folder.path).read()[2]
        kept[trust] = max(float(np.abs(value).max()) for name, value in state.items() if "c/" in name)
    assert kept["predictions"] < kept["none"] / 10


# --- probes -------------------------------------------------------------------------------------------------------


def kit_of(folder, **changes):
    return Experiment(load_config(tiny_config(folder, **changes)), home() / "cache").kit


def shapes_kit(**settings):
    return Experiment(load_config({"trust": "predictions", **settings}), home() / "cache").kit


def test_probes_lie_half_way_between_two_classes_and_follow_the_seed(tmp_path):
    host = kit_of(tmp_path).host
    probes = midpoints(host, 7)
    assert probes.shape == (PAIRS, host.zero_shot_text.shape[1])
    assert torch.allclose(probes.norm(dim=1), torch.ones(PAIRS))
    cosines = (probes @ host.zero_shot_text.T).sort(dim=1).values
    assert (cosines.diff(dim=1).min(1).values < 1e-5).all(), "as near to one class as to another"
    assert torch.equal(probes, midpoints(host, 7)) and not torch.equal(probes, midpoints(host, 8))


def test_the_behaviour_is_the_global_models(tmp_path):
    kit = kit_of(tmp_path)
    module = kit.new_shared()
    arrays = {name: value + np.float32(0.1) for name, value in kit.split(module)[0].items()}
    logits = behaviour(kit)(arrays)
    changed = kit.shared_module(arrays)
    with torch.no_grad():
        assert np.allclose(logits, changed.logits(probes_of(kit)).numpy(), atol=1e-5)
    assert not np.allclose(logits, behaviour(kit)(kit.split(module)[0]))


@pytest.mark.parametrize("family", ["prompt", "visual-prompt", pytest.param("lora", marks=pytest.mark.slow)])
def test_a_family_that_takes_pixels_is_probed_with_pictures(family):
    kit = shapes_kit(algorithm="fedavg", peft=family)
    probes = probes_of(kit)
    assert len(probes) == (PAIRS if kit.takes == "features" else PICTURES)
    assert torch.equal(probes, probes_of(shapes_kit(algorithm="fedavg", peft=family)))
    logits = behaviour(kit)(kit.split(kit.new_shared())[0])
    assert logits.shape == (len(probes), 48) and np.isfinite(logits).all()


def test_patches_of_pictures_are_probes_where_a_method_works_on_patches():
    kit = shapes_kit(algorithm="fedotp")
    assert probes_of(kit).ndim == 3 and len(behaviour(kit)(kit.split(kit.new_shared())[0])) == PICTURES


@pytest.mark.parametrize("family", ["prompt", "visual-prompt"])
def test_a_folder_of_ones_own_pictures(tmp_path, family):
    (tmp_path / "inner").mkdir()
    for number in range(3):
        Image.new("RGB", (9, 9), (80 * number, 0, 0)).save(tmp_path / ("inner" if number else "") / f"{number}.png")
    (tmp_path / "notes.txt").write_text("no image")
    kit = shapes_kit(algorithm="fedavg", peft=family, **{"probe-path": str(tmp_path)})
    assert len(probes_of(kit)) == 3 < MOST_FILES
    assert len(behaviour(kit)(kit.split(kit.new_shared())[0])) == 3


def test_a_folder_without_pictures_is_an_error_before_the_run(tmp_path):
    with pytest.raises(DataError, match="no images"):
        probes_of(shapes_kit(**{"probe-path": str(tmp_path)}))
    with pytest.raises(DataError, match="cannot be read"):
        probes_of(shapes_kit(**{"probe-path": str(tmp_path / "absent")}))


@pytest.mark.slow
def test_a_run_on_images_with_a_family_in_the_image_tower(tmp_path, monkeypatch):
    monkeypatch.setattr(rendered, "SHAPES_TEST", 2)
    small = {
        "dataset": "shapes",
        "dataset_path": "",
        "peft": "visual-prompt",
        "max_per_class": 4,
        "imbalance_factor": 2,
    }
    folder = run_tiny(tmp_path, **ON, **small, num_sites=3, global_rounds=1, local_steps=1)
    assert set(folder.rounds()[1]["trust"]) == {"site-0", "site-1", "site-2"}


# --- refusals -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"privacy": "local"}, "every single reply"),
        ({"privacy": "server-fixed"}, "every single reply"),
        ({"privacy": "client-adaptive"}, "every single reply"),
        ({"aggregation": "median"}, "every single reply"),
        ({"aggregation": "trimmed-mean"}, "every single reply"),
        ({"aggregation": "norm-clipping"}, "every single reply"),
        ({"peft": "lora", "shares": "lora-a"}, 'set shares = "all"'),
        ({"peft": "lora", "algorithm": "fedsa-lora"}, "use another algorithm"),
        ({"peft": "lora", "algorithm": "fedper"}, "use another algorithm"),
        ({"algorithm": "zero-shot"}, "trains nothing"),
        ({"trust": "none", "trust-tolerance": 5.0}, "trust-tolerance has no use"),
        ({"trust": "none", "probe-path": "/pictures"}, "probe-path has no use"),
        ({"probe-path": "pictures"}, "absolute path"),
        ({"probe-path": "/p", "dataset": "features", "dataset-path": "/f", "peft": "adapter"}, "no tower"),
        ({"trust-tolerance": 0.5}, "greater than or equal to 1"),
        ({"trust-tolerance": float("inf")}, "finite"),
        ({"trust": "blind"}, "predictions"),
    ],
)
def test_what_it_is_refused_with_has_one_clear_error(values, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load_config({"trust": "predictions", **values})
    assert len(caught.value.problems) == 1


@pytest.mark.parametrize("name", METHODS)
def test_the_registry_knows_which_methods_keep_a_part_of_the_global_model(name):
    family = next(one for one in FAMILIES if not METHODS[name].unfit({**DEFAULTS, "algorithm": name, "peft": one}))
    kit = Experiment(load_config({"algorithm": name, "peft": family}), home() / "cache").kit
    assert METHODS[name].keeps_global != kit.algorithm.is_known(kit.new_shared(), kit.options)


# --- where it is shown --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lied_to(tmp_path_factory):
    return run_tiny(tmp_path_factory.mktemp("lied"), **ON, grid=forging(scaled(-100)))


def test_show_has_a_column_and_names_who_weighs_little(lied_to):
    lines = show_lines(lied_to)
    head = next(line for line in lines if line.startswith("site "))
    row = next(line for line in lines if line.startswith("site-0 "))
    assert head.endswith("trust") and " <0.01" in row
    assert any(line.startswith("Trust: of 1 of 5 sites") and "site-0 (<0.01)" in line for line in lines)


def test_the_page_has_a_column_a_sentence_and_a_line_for_each_site(lied_to):
    text = write_report(lied_to.path).read_text("utf-8")
    assert "<th" in text and "trust</th>" in text and "site-0 (&lt;0.01)" in text
    assert "Trust: its replies had &lt;0.01 of their weight on average" in text


def test_a_run_without_it_shows_nothing_of_it(tmp_path):
    folder = run_tiny(tmp_path, algorithm="fedavg")
    shown = "\n".join(show_lines(folder)) + write_report(folder.path).read_text("utf-8")
    assert "Trust:" not in shown and "trust</th>" not in shown and factors_by_site(folder.rounds()) == {}


def test_a_factor_that_is_no_share_is_no_line_of_a_run(lied_to, tmp_path):
    path = lied_to.path / "rounds.jsonl"
    whole = path.read_text("utf-8")
    try:
        path.write_text(whole.replace('"site-1": 1.0', '"site-1": 1.5', 1), "utf-8")
        assert path.read_text("utf-8") != whole
        with pytest.raises(Exception, match="trust"):
            RunFolder.open(lied_to.path).rounds()
    finally:
        path.write_text(whole, "utf-8")


def test_where_all_weigh_enough_that_is_said():
    assert trust_lines([{"round": 1, "trust": {"a": 1.0, "b": 0.6}}]) == [
        "Trust: the replies of each of 2 sites weighed 0.5 or more of their images on average."
    ]
    assert trust_lines([{"round": 1}]) == []


# --- under Flower -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_flowers_simulation_gives_the_bits_of_one_process(tmp_path):
    found = []
    for name, more in (("ray", []), ("one", ["--in-process"])):
        config = tiny_config(
            tmp_path, algorithm="fedavg", trust="predictions", trust_tolerance=1.0, experiment_id="same"
        )
        config.pop("personal-rounds")
        config["out"] = str(tmp_path / name)
        settings = [word for key, value in config.items() if key != "out" for word in ("--set", f"{key}={value}")]
        command = [sys.executable, "-m", "fedpurel_app.cli.main", "run", *settings, "--out", config["out"], *more]
        result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert result.returncode == 0, result.stdout + result.stderr
        found.append(RunFolder(tmp_path / name))
    assert timeless(found[0]) == timeless(found[1]) and same_model(*found)
    assert min(found[0].rounds()[1]["trust"].values()) < 1
