"""What all methods have in common: they are listed as they are, and no key of theirs is accepted without effect."""

import contextlib
import re
from pathlib import Path
from typing import Literal, get_origin

import pytest
from pydantic import TypeAdapter, ValidationError
from safetensors.numpy import load_file

import fedpurel_app
from fedpurel_app.algorithms.method import Method
from fedpurel_app.algorithms.registry import METHODS
from fedpurel_app.config import RunConfig, load_config
from fedpurel_app.core.errors import ConfigError
from fedpurel_app.core.phase import Phase
from fedpurel_app.data.shapes import rendered
from fedpurel_app.models.peft.registry import FAMILIES
from tests.support import private_files, run_tiny

ROOT = Path(fedpurel_app.__file__).parent
DEFAULTS = RunConfig().model_dump(by_alias=True)
OF_ALL = {"schedule": "interleaved", "personal-rounds": 1, "private-learning-rate": 0.5, "private-init": "independent"}


def other_value(option):
    """Another value than the default that is allowed."""
    is_choice = get_origin(option.kind) is Literal
    tries = [*getattr(option.kind, "__args__", ())] if is_choice else [True, False, 0.2, 3.0, 1, 2, "x"]
    for value in tries:
        if value != option.default and type(value) is type(option.default):
            with contextlib.suppress(ValidationError):
                return TypeAdapter(option.kind).validate_python(value, strict=True)
    raise AssertionError(f"no other value of {option.key} is at hand: add one to the tries")


OTHER = OF_ALL | {option.key: other_value(option) for method in METHODS.values() for option in method.options}
OTHER["cluster-distance"] = "gaussian"  # which keeps other numbers; the other two may find the same clusters
SMALL_IMAGES = {"dataset": "shapes", "dataset_path": "", "max_per_class": 6, "imbalance_factor": 3, "num_sites": 2}
FEATURES = [name for name, family in FAMILIES.items() if family.needs == "features"]


def fits(method, family, **settings):
    return not METHODS[method].unfit({**DEFAULTS, "algorithm": method, "peft": family, **settings})


def runs_on_features(method, family):
    return family in FEATURES and fits(method, family, dataset="features")


def family_of(method):
    """A family that goes with a method, one that runs on features where there is one."""
    return next(family for family in [*FEATURES, *FAMILIES] if fits(method, family))


def has_effect(method, family, key):
    return not {option.key: option for option in METHODS[method].options}[key].idle(
        {**DEFAULTS, "algorithm": method, "peft": family}
    )


def outcome(folder):
    """All that a run has to show: what is shared, what is kept, what was scored."""
    lines = [{key: line.get(key) for key in ("global", "sites", "phase")} for line in folder.rounds()]
    return (folder.path / "checkpoint.safetensors").read_bytes(), private_files(folder), lines


@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_listed_as_it_is(name):
    method, algorithm = METHODS[name], METHODS[name].load()
    assert method.personal_rounds == algorithm.has_personal_rounds == (Phase.PERSONAL in algorithm.visits)
    assert method.personalizes == (algorithm.personalized is not None)
    assert method.paper and len({option.key for option in method.options}) == len(method.options)


@pytest.mark.parametrize("name", sorted(set(METHODS) - {"fedpurel"}))
def test_a_method_of_the_field_is_a_file_of_at_most_ninety_lines(name):
    path = ROOT / "algorithms" / f"{name.replace('-', '_')}.py"
    assert len(path.read_text("utf-8").splitlines()) <= 90 and "References\n----------" in path.read_text("utf-8")


def test_nothing_but_the_method_knows_which_method_it_is():
    """No fork on the value of a key that a registry holds."""
    names = "|".join([*METHODS, *FAMILIES])
    fork = re.compile(rf"""(?:algorithm|peft)(?:"\])? *(?:==|!=|in|not in) *\(?["'](?:{names})["']""")
    found = [str(path) for path in ROOT.rglob("*.py") if fork.search(path.read_text("utf-8"))]
    assert not found
    assert fork.search('if config.algorithm == "ditto":') and fork.search("if settings[\"peft\"] in ('lora', 'prompt')")


PAIRS = [(method, family) for method in METHODS for family in FAMILIES if fits(method, family)]


@pytest.mark.parametrize(("method", "family"), PAIRS)
def test_keys_of_others_are_refused_with_the_methods_that_own_them(method, family):
    for key, value in OTHER.items():
        owners = [name for name, one in METHODS.items() if key in one.keys]
        settings = {"algorithm": method, "peft": family, key: value}
        if method in owners:
            continue
        with pytest.raises(ConfigError) as caught:
            load_config(settings)
        (problem,) = caught.value.problems
        assert problem.startswith(f"{key} = ") and all(f'"{name}"' in problem for name in [*owners, method])


@pytest.mark.parametrize("family", FAMILIES)
def test_keys_of_other_families_are_refused(family):
    for other in FAMILIES.values():
        for option in other.options if other.name != family else ():
            with pytest.raises(ConfigError, match=f'{option.key} = .*belongs to peft = "{other.name}"'):
                load_config({"peft": family, option.key: other_value(option)})


FIRST = {method: family for method, family in reversed(PAIRS) if family in FEATURES}  # one of those that run at once


def is_first(method, family, key):
    """Whether no method before reads a key with a family whose images go through towers, which takes its time.

    There are two sites then, which are in the clusters that they joined, however often these are cut.
    """
    reading = (other for other, with_family in PAIRS if with_family == family and key in METHODS[other].keys)
    return key != "cluster-every" and next(reading) == method


CASES = [
    pytest.param(method, family, key, marks=[] if FIRST.get(method) == family else pytest.mark.slow)
    for method, family in PAIRS
    for key in METHODS[method].keys
    if runs_on_features(method, family) or is_first(method, family, key)
]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """What a method with a family has to show at its defaults, found once."""
    found = {}

    def play(method, family):
        if (method, family) not in found:
            found[method, family] = small(tmp_path_factory.mktemp("plain"), method, family)
        return found[method, family]

    return play


def small(folder, method, family, **changes):
    """Run a method with a family, as small as shows an effect; images inside towers take their time."""
    common = {"peft": family, "algorithm": method, "global_rounds": 2, "fraction_train": 0.7, "experiment_id": "e"}
    common |= (
        {"learning_rate": 0.5}  # enough for predictions to change
        if runs_on_features(method, family)
        else SMALL_IMAGES | {"fraction_train": 1.0}  # of one site the average is its own
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rendered, "SHAPES_TEST", 1)
        patch.setenv("OMP_NUM_THREADS", "1")
        return outcome(run_tiny(folder, **common, **changes))


@pytest.mark.parametrize("method", METHODS)
def test_the_same_settings_show_the_same(tmp_path, plain, method):
    """Or the next test would see an effect in anything."""
    family = family_of(method)
    assert plain(method, family) == small(tmp_path, method, family)


@pytest.mark.parametrize(("method", "family", "key"), CASES)
def test_a_key_of_a_method_has_an_effect_or_is_refused(tmp_path, plain, method, family, key):
    """Its value changes what a run shares, keeps or scores; where it cannot, the settings are refused."""
    change = {key.replace("-", "_"): OTHER[key]}
    if key in {option.key for option in METHODS[method].options} and not has_effect(method, family, key):
        with pytest.raises(ConfigError, match=key):
            small(tmp_path, method, family, **change)
        return
    assert plain(method, family) != small(tmp_path, method, family, **change)


@pytest.mark.parametrize("name", METHODS)
def test_what_is_sent_is_what_the_method_names(tmp_path, name):
    """And in personal rounds nothing, but of the methods that say so, which then send nothing else."""
    family = family_of(name)
    sent: dict[str, set[str]] = {"train": set(), "train.personalize": set()}

    def spy(message, reply):
        if message.metadata.message_type in sent:
            sent[message.metadata.message_type] |= set(reply.content.get("arrays", {}))

    images = {} if runs_on_features(name, family) else SMALL_IMAGES
    folder = run_tiny(tmp_path, peft=family, algorithm=name, global_rounds=1, grid={"spy": spy}, **images)
    assert sent["train"] | sent["train.personalize"] == set(folder.read_checkpoint()[0])
    assert not sent["train"] & sent["train.personalize"]
    assert (
        bool(sent["train.personalize"])
        == METHODS[name].load().shares_in_personal_rounds
        == METHODS[name].sends_privately
    )
    assert not [key for part in sent.values() for key in part if key.startswith("own.")]
    kept = {key for file in folder.path.rglob("private-*.safetensors") for key in load_file(file)}
    assert not {key.removeprefix("kept/") for key in kept if key.startswith("kept/")} & sent["train"]
    assert any(key.startswith("kept/") for key in kept) == METHODS[name].load().keeps_parts


def test_the_docs_have_a_row_for_every_method():
    page = (ROOT.parent / "docs" / "choose.md").read_text("utf-8")
    table = page.partition("| `algorithm` |")[2].partition("\n\n")[0]
    assert set(re.findall(r"^\| `([a-z-]+)` \|", table, re.MULTILINE)) == set(METHODS)


def test_a_method_without_a_file_or_a_value_is_named(monkeypatch):
    with pytest.raises(ConfigError, match=r"needs a file fedpurel_app/algorithms/no_such\.py"):
        Method("no-such", "No such", "").load()
    monkeypatch.delattr("fedpurel_app.algorithms.fedavg.ALGORITHM")
    with pytest.raises(ConfigError, match="fedavg.py has no value ALGORITHM"):
        METHODS["fedavg"].load()
