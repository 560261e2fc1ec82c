import subprocess
import sys
import tomllib
from pathlib import Path
from typing import get_args

import pytest

from fedpurel_app.algorithms.fedsa_lora import SHARES
from fedpurel_app.algorithms.registry import METHODS
from fedpurel_app.config import (
    RunConfig,
    known_keys,
    load_config,
    presets,
    require_same,
    run_config_table,
    to_toml,
    without_idle,
)
from fedpurel_app.config.presets import load_preset, preset_names
from fedpurel_app.core.errors import ConfigError, StateError
from fedpurel_app.data.sources.catalog import DATASETS
from fedpurel_app.models.peft.registry import FAMILIES

PYPROJECT = Path(__file__).parent.parent / "pyproject.toml"


def problems(**values):
    with pytest.raises(ConfigError) as caught:
        load_config({key.replace("_", "-"): value for key, value in values.items()})
    return caught.value.problems


def test_pyproject_has_the_printed_table():
    text = PYPROJECT.read_text("utf-8")
    assert run_config_table() in text, "print it anew: python -m fedpurel_app.config"
    assert tomllib.loads(text)["tool"]["flwr"]["app"]["config"] == RunConfig().model_dump(by_alias=True)


def test_the_module_prints_the_table():
    printed = subprocess.run(
        [sys.executable, "-m", "fedpurel_app.config"], capture_output=True, text=True, check=True
    ).stdout
    assert printed == run_config_table()


def choices(name):
    return list(get_args(RunConfig.model_fields[name].annotation))


def test_choices_are_what_the_registries_hold():
    assert choices("algorithm") == list(METHODS)
    assert choices("peft") == list(FAMILIES)
    assert choices("dataset") == [*DATASETS, "sites"]
    assert choices("shares") == list(SHARES)


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_loads(name):
    preset = load_preset(name)
    needs_path = preset.values.get("dataset") in ("features", "imagefolder", "imagenet-lt", "places-lt", "aircraft")
    assert load_config({**preset.values, **({"dataset-path": "/data"} if needs_path else {})})
    assert preset.title, "a preset opens with what it is"
    comment = "".join(line for line in preset_text(name).splitlines(True) if line.startswith("#"))
    assert f"fedpurel run{'' if name == 'shapes' else f' --preset {name}'}" in comment and "time:" in comment
    assert preset.expect or "published" in comment, "and says what to expect"


def preset_text(name):
    return (Path(presets.__file__).parent / f"{name}.toml").read_text("utf-8")


@pytest.mark.parametrize("family", ["prompt", "adapter", "lora"])
@pytest.mark.parametrize("data", sorted(DATASETS.keys() - {"shapes", "features", "imagefolder", "manifest"}))
def test_every_data_set_has_presets_of_both_kinds(data, family):
    paper, reference = (load_preset(f"{kind}/{data}-{family}").values for kind in ("paper", "reference"))
    assert paper["backbone"] == reference["backbone"] == "ViT-B-16"
    assert "schedule" not in paper and "private-weight" not in paper and "projection-scope" not in paper
    one_tensor = family == "prompt"  # where both scopes are the same thing
    assert reference["schedule"] == "interleaved" and (reference.get("projection-scope") == "tensor") != one_tensor
    assert reference["private-weight"] == (0.0 if family == "adapter" else 0.99)
    assert reference.get("align-loss") == ("kl" if family == "adapter" else None)
    assert (reference.get("partition") == "pachinko") == (data == "cifar100")


def test_unknown_preset_is_named_with_a_suggestion():
    with pytest.raises(ConfigError, match='no preset "shape".*Did you mean "shapes"'):
        load_preset("shape")


def test_all_problems_are_told_at_once():
    lines = problems(peft="promt", alph=1, alpha=-1, seed=1.5, num_sites=True, learning_rate="fast")
    assert len(lines) == 6
    text = "\n".join(lines)
    for part in ('Did you mean "prompt"', 'Did you mean "alpha"', "alpha = -1: should be greater than 0", "seed = 1.5"):
        assert part in text
    assert "num-sites = true: should be a valid integer" in text
    assert "learning-rate = \"fast\": should be 'auto' or a valid number" in text


@pytest.mark.parametrize(
    ("values", "part"),
    [
        ({"dataset": "features", "dataset_path": "/f.npz"}, 'peft = "prompt" needs a text tower'),
        ({"dataset": "features", "peft": "adapter"}, "needs dataset-path"),
        ({"dataset_path": "/x"}, "is rendered"),
        ({"partition": "pachinko", "dataset": "features", "peft": "adapter", "dataset_path": "/f"}, "superclasses"),
        ({"dataset": "cifar100", "imbalance_factor": 1, "max_per_class": 10}, "keeps the split as it is"),
        ({"schedule": "interleaved", "global_rounds": 4, "personal_rounds": 3}, "one personal round for each"),
        ({"global_rounds": 0, "personal_rounds": 0}, "nothing to do"),
        ({"out": "runs/x"}, "must be an absolute path"),
        ({"backbone": "ViT-B-16", "pretrained": "w.safetensors"}, "must be an absolute path"),
        ({"pretrained": "laion400m_e31"}, 'has no use with backbone = "demo"'),
        ({"lora-rank": 4}, 'lora-rank = 4: it belongs to peft = "lora" and has no use with peft = "prompt"'),
        ({"views": 9}, 'has no use with augment = "none"'),
        ({"algorithm": "fedavg", "align-loss": "kl"}, 'has no use with algorithm = "fedavg"'),
        ({"template": "a photo"}, "must hold"),
        ({"trim-share": 0.3}, 'trim-share has no use with aggregation = "mean", privacy = "none"'),
        ({"clipping-norm": 2}, "clipping-norm has no use with"),
        ({"aggregation": "norm-clipping", "noise-multiplier": 2}, "noise-multiplier has no use with"),
        ({"privacy": "server-adaptive", "delta": 0.1}, "delta has no use with"),
        ({"privacy": "server-fixed", "local-epsilon": 0.5}, "local-epsilon has no use with"),
        ({"privacy": "server-fixed", "noise-multiplier": 0}, "greater than 0"),
        ({"privacy": "local", "local-epsilon": 2}, "less than or equal to 1"),
        ({"privacy": "client-fixed", "aggregation": "median"}, "its noise is measured for a mean"),
        ({"privacy": "local", "aggregation": "norm-clipping"}, "its noise would be clipped away"),
        ({"aggregation": "trimmed-mean", "num-sites": 5}, "of 2 replies"),
        ({"dataset": "imagefolder"}, "needs dataset-path"),
        ({"dataset": "places-lt", "dataset-path": "/data"}, "set imbalance-factor = 1"),
        ({"dataset": "features", "peft": "adapter", "dataset-path": "/f.npz", "augment": "views"}, "needs images"),
        ({"experiment_id": "../escape"}, "experiment-id"),
        ({"momentum": 1.0}, "less than 1"),
        ({"fraction_train": 0.0}, "greater than 0"),
        ({"alpha": float("nan")}, "finite"),
        ({"local_steps": 9, "local_epochs": 2}, "local-epochs = 2 has no use with local-steps = 9"),
        ({"local_steps": -1}, "greater than or equal to 0"),
        ({"shots": 4, "imbalance_factor": 50}, "imbalance-factor = 50.0 has no use with shots = 4"),
        ({"shots": 4, "class_order": "shuffled"}, 'class-order = "shuffled" has no use with shots = 4'),
        ({"shots": 4, "keep_empty_classes": True}, "keep-empty-classes = true has no use with shots = 4"),
        ({"dataset": "cifar100", "shots": 4, "max_per_class": 9}, "max-per-class = 9 has no use with shots = 4"),
        ({"dataset": "sites", "classes": "a, b", "shots": 4}, "shots has no use"),
    ],
)
def test_settings_that_cannot_be(values, part):
    assert part in "\n".join(problems(**values))


def test_shots_go_with_what_is_not_of_the_long_tail():
    assert load_config({"shots": 4, "imbalance-factor": 1}).shots == 4
    assert load_config({"shots": 4, "max-per-class": 20}).shots == 4  # so many shapes are rendered
    assert load_config({"shots": 4, "dataset": "places-lt", "dataset-path": "/data"}).shots == 4


def test_whole_numbers_serve_as_numbers_but_truth_values_do_not():
    assert load_config({"alpha": 1}).alpha == 1.0
    assert "valid number" in problems(alpha=True)[0]


def test_total_rounds_spell_out_as_many():
    assert load_config({"global-rounds": 7}).total_rounds == (7, 7)
    assert load_config({"global-rounds": 7, "personal-rounds": 2}).total_rounds == (7, 2)
    assert load_config({"global-rounds": 7, "schedule": "interleaved"}).total_rounds == (7, 7)


def test_resumed_settings_must_be_the_same_but_for_the_place():
    one, elsewhere = load_config({"out": "/a", "seed": 1}), load_config({"out": "/b", "seed": 1})
    require_same(one, elsewhere, Path("/a"))
    with pytest.raises(
        StateError, match=r"/a was made .*\n  seed: the run has 1, now asked for 2\nGive these as the run has them"
    ):
        require_same(one, load_config({"out": "/b", "seed": 2}), Path("/a"))


def test_values_survive_toml():
    values: dict[str, bool | int | float | str] = {"a": True, "b": 3, "c": 5e-4, "d": 'quo"te \\ back', "e": ""}
    text = "\n".join(f"{key} = {to_toml(value)}" for key, value in values.items())
    assert tomllib.loads(text) == values


def test_keys_are_kebab_case():
    assert "max-failed-rounds" in known_keys() and not any("_" in key for key in known_keys())


def test_a_method_that_is_no_text_is_refused_as_any_other_wrong_value():
    for key in ("algorithm", "peft"):
        assert without_idle({key: ["a"]}) == {key: ["a"]}
        assert problems(**{key: ["a"]})[0].startswith(f"{key} = ['a']: should be")
