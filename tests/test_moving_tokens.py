"""Runs whose tokens move: every door to a model goes by the blocks that its tokens were in, and runs repeat."""

import dataclasses
import json
import shutil
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from fedpurel_app.algorithms.base import Batch, Facts
from fedpurel_app.algorithms.registry import METHODS
from fedpurel_app.algorithms.relocation import RELOCATION, idleness
from fedpurel_app.cli import main as cli
from fedpurel_app.config import load_config
from fedpurel_app.core.errors import ConfigError
from fedpurel_app.core.layout import METHOD, stored
from fedpurel_app.core.phase import Phase
from fedpurel_app.core.records import ARRAYS
from fedpurel_app.data.shapes import rendered, shapes
from fedpurel_app.functional import cross_entropy
from fedpurel_app.inference.class_file import kept_classes
from fedpurel_app.inference.export import export
from fedpurel_app.inference.other_classes import OtherClasses
from fedpurel_app.inference.personalize import personalize
from fedpurel_app.inference.run_settings import run_settings
from fedpurel_app.inference.trained import load_trained
from fedpurel_app.models.backbone import load_backbone
from fedpurel_app.models.peft.base import Host
from fedpurel_app.models.peft.making import make_module
from fedpurel_app.models.peft.registry import FAMILIES
from fedpurel_app.reporting.checkpoint import Checkpoint, Which
from fedpurel_app.reporting.console import show_lines
from fedpurel_app.reporting.page.write import write_report
from fedpurel_app.reporting.plots import draw
from fedpurel_app.reporting.run_folder import RunFolder
from fedpurel_app.reporting.tokens import token_lines
from fedpurel_app.site.state import PrivateState
from tests.support import a_round, private_files, run_tiny, run_whole_and_resumed, timeless

SITES, TOKENS, BLOCKS = 2, 10, 5
SETTINGS: dict[str, Any] = {
    **{"dataset": "shapes", "dataset_path": "", "max_per_class": 4, "imbalance_factor": 4, "num_sites": SITES},
    **{"peft": "visual-prompt", "prompt_tokens": 2, "relocate_every": 1, "relocation_warmup": 0},
    **{"fraction_train": 1.0, "evaluate_every": 9},
}
FIRST = np.arange(BLOCKS).repeat(2).tolist()


@pytest.fixture(scope="module", autouse=True)
def few_images():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rendered, "SHAPES_TEST", 2)
        yield


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """Run three global rounds, a personal one after each, with moves at random; give the folder and all messages."""
    seen = []

    def spy(message, reply):
        told = message.content.config_records.get(METHOD)
        home = None if told is None else list(told["home"])
        seen.append((message.metadata.message_type, home, sorted(message.content[ARRAYS]), reply.content))

    changes = {
        "prompt_relocation": "random",
        "schedule": "interleaved",
        "global_rounds": 3,
        "seed": 2,
        "learning_rate": 3.0,
    }
    folder = run_tiny(tmp_path_factory.mktemp("moving"), **SETTINGS, **changes, grid={"spy": lambda m, r: None
                      if m.metadata.message_type.startswith("query") else spy(m, r)})  # fmt: skip
    return folder, seen


def home_of(folder):
    return Checkpoint(folder.path).read()[2]["layout/home"].tolist()


def layout_of(model, role):
    module: Any = model.branches[role]
    return module.layout


def replayed(folder):
    """Return where tokens were after each global round, by the moves that the rounds tell."""
    home, found = list(FIRST), []
    for line in folder.rounds():
        if told := line.get("relocation"):
            if told["moved"]:
                assert home[told["moved"]["token"]] == told["moved"]["from"]
                home[told["moved"]["token"]] = told["moved"]["to"]
            assert told["tokens"] == np.bincount(home, minlength=BLOCKS).tolist()
            found.append(list(home))
    return found


def nll(model, rows=None):
    """Return the mean negative log-likelihood of the server's test images, or some of them [nats]."""
    source = model.experiment.federation.source
    split = rendered.load_shapes("", 0).test
    rows = np.arange(len(split.labels)) if rows is None else np.array(rows)
    backbone = load_backbone("demo", torch.device("cpu"))
    shown = torch.stack([backbone.preprocess(image) for image in split.images(rows)])
    assert len(source.class_names) == 48
    return float(cross_entropy(model.logits(shown), torch.from_numpy(split.labels[rows])))


# --- idleness ---------------------------------------------------------------------------------------------------------


class Tokens(torch.nn.Module):
    """A module whose parameter is called as those that move."""

    def __init__(self, values):
        super().__init__()
        self.tokens = torch.nn.Parameter(torch.tensor(values))


@pytest.mark.parametrize(("token", "expected"), [((1.0, 0.0), -1.0), ((3.0, 0.0), 3.0)])
def test_by_hand_a_token_short_of_its_place_stays_and_one_beyond_is_idle(token, expected):
    """L = |p - a|^2 / 2 with a = (2, 0); as a second token, one at its place, which has no slope."""
    module: Any = Tokens([token, (2.0, 0.0)])
    place = torch.tensor([2.0, 0.0])
    slope = module.tokens.detach() - place
    batch: Any = Batch(torch.zeros(1), torch.zeros(1), torch.zeros(1), torch.zeros(1), module, [module.tokens], [],
                       Facts(), {}, 0.1, torch.Generator(), _of_task=[slope])  # fmt: skip
    found = idleness(batch)
    assert found.tolist() == [expected, 0.0]
    loss = [float((factor * module.tokens.detach() - place).square().sum() / 2) for factor in (1.0, 1 - 1e-3)]
    assert (loss[0] - loss[1]) / 1e-3 == pytest.approx(expected, rel=1e-2)
    with pytest.raises(ValueError, match="no tokens"):
        idleness(dataclasses.replace(batch, module=torch.nn.Linear(2, 2, bias=False)))


@pytest.mark.parametrize("name", ["fedavg", "fedpurel", "fedavg-kl", "fedprox"])
def test_idleness_is_that_of_the_task_loss_whatever_a_step_makes_of_it(name):
    """(L(p) - L((1 - e) p)) / e -> I, for each token by itself; the step's own gradient is as without it."""
    demo = load_backbone("demo", torch.device("cpu"))
    host = Host(demo.encode_prompts(("a red circle.", "a blue star.")), demo.logit_scale, ("a", "b"), demo)
    options = {"prompt-tokens": 1, "prompt-depth": "deep", "prompt-relocation": "bandit"}
    module: Any = make_module(FAMILIES["visual-prompt"], host, "global", options, torch.Generator().manual_seed(0))
    shown = torch.randint(256, (6, 3, 32, 32), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    labels = torch.tensor([0, 1, 0, 1, 1, 0])
    with torch.no_grad():
        module.tokens *= 0.1  # a block's norm takes the length out of longer ones

    def batch():
        start = [module.tokens.detach() + 0.1]
        return Batch(shown, labels, module.logits(shown), host.zero_shot_logits(demo.encode_pixels(shown)), module,
                     [module.tokens], start, Facts(), METHODS[name].defaults(), 0.1, torch.Generator())  # fmt: skip

    plain = METHODS[name].load()
    gradients, metrics = RELOCATION["bandit"](plain).visits[Phase.GLOBAL].rule(batch())
    expected, others = plain.visits[Phase.GLOBAL].rule(batch())
    assert torch.equal(gradients[0], expected[0]) and metrics.keys() == {*others, "idleness"}
    assert RELOCATION["random"](plain) is RELOCATION["none"](plain) is plain
    with torch.no_grad():
        tokens, found = module.tokens.clone(), []
        for number in range(BLOCKS):
            losses = []
            for factor in (1 + 2e-2, 1 - 2e-2):
                module.tokens.copy_(tokens)
                module.tokens[number] *= factor
                losses.append(float(cross_entropy(module.logits(shown), labels)))
            found.append((losses[0] - losses[1]) / 4e-2)
    assert metrics["idleness"].tolist() == pytest.approx(found, rel=0.02, abs=1e-4)
    assert float(metrics["idleness"].abs().max()) > 0.01


# --- doors ------------------------------------------------------------------------------------------------------------


def test_the_rounds_tell_where_tokens_are_and_messages_say_the_same(recorded):
    folder, seen = recorded
    homes = replayed(folder)
    assert len(homes) == 3 and homes[-1] == home_of(folder) and homes[0] != FIRST != homes[1] != homes[0]
    assert homes[-1] == homes[1], "after the last round, nobody could train a token that fades"
    before = [FIRST, *homes]
    said = {kind: [home for message, home, *_ in seen if message == kind][::SITES] for kind, *_ in seen}
    assert said["train"] == before[:3] and said["train.personalize"] == homes and said["evaluate"][-1] == homes[-1]
    assert all(names == ["tokens"] for _, _, names, _ in seen), "where tokens are is no array that is averaged"
    told = [content["metrics"] for kind, *_, content in seen if kind != "evaluate"]
    assert not [one for one in told if "idleness" in one], "a move at random asks for none"


def test_scores_are_of_the_models_that_are_loaded_and_of_no_other_layout(recorded):
    folder, _ = recorded
    last = folder.rounds()[-1]
    whole = load_trained(folder.path)
    assert layout_of(whole, "global") == {"home": home_of(folder)}
    assert last["global"]["nll"] == pytest.approx(nll(whole), abs=1e-4)
    parts, table = (
        folder.read_json("partition.json")["test"],
        {row["site"]: row for row in folder.read_csv("sites.csv")},
    )
    for number, rows in enumerate(parts):
        own, row = load_trained(folder.path, f"site-{number}"), table[f"site-{number}"]
        assert layout_of(own, "private") == {"home": replayed(folder)[0]} != layout_of(own, "global")
        assert float(row["global_nll"]) == pytest.approx(nll(whole, rows), abs=2e-3)
        assert float(row["personalized_nll"]) == pytest.approx(nll(own, rows), abs=2e-3)
    other = forgotten(folder)
    assert abs(nll(other) - nll(whole)) > 0.01, "the layout matters to these numbers"


def forgotten(folder):
    """Load the global model as if its tokens had never moved."""
    model = load_trained(folder.path)
    kit = model.experiment.kit
    module = kit.shared_module(folder.read_checkpoint()[0])
    return type(model)(model.experiment, {"global": module}, model.experiment_id, model.round)


def test_the_best_model_has_the_layout_of_its_own_round(recorded, tmp_path):
    folder, _ = recorded
    copy = RunFolder(tmp_path / "copy")
    shutil.copytree(folder.path, copy.path)
    arrays, state = folder.read_checkpoint()
    best = {"best": {"global": {"round": 98, "value": 1.0}}}
    for number, home in ((98, [0] * TOKENS), (99, [4] * TOKENS)):
        copy.write_checkpoint(arrays, {**state, **best, "round": number}, stored({"home": np.array(home)}))
    both: tuple[tuple[Which, list[int]], ...] = (("best", [0] * TOKENS), ("last", [4] * TOKENS))
    for which, home in both:
        assert layout_of(load_trained(copy.path, checkpoint=which), "global") == {"home": home}
        assert copy.read_model(which).layout["home"].tolist() == home
    assert copy.read_best()[0].keys() == copy.read_checkpoint()[0].keys() == {"tokens"}


@pytest.mark.parametrize("site", ["", "site-1"])
def test_export_says_how_to_place_the_tokens(recorded, tmp_path, site):
    """By the files alone, and the frozen backbone."""
    folder, _ = recorded
    model = load_trained(folder.path, site)
    export(model, tmp_path / "out")
    backbone, found = load_backbone("demo", torch.device("cpu")), torch.zeros(())
    shown = torch.randint(256, (3, 3, 32, 32), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    for part in [tmp_path / "out" / name for name in ("global", "private")] if site else [tmp_path / "out"]:
        facts = json.loads((part / "export.json").read_text())
        assert "layout.home" in facts["image_features"] and len(facts["layout"]["home"]) == TOKENS
        tokens = load_file(part / "parameters.safetensors")["tokens"]
        rows = [tokens[[home == block for home in facts["layout"]["home"]]] for block in range(BLOCKS)]
        images = backbone.encode_pixels(shown, partial(backbone.image, prompts=rows))
        weights = load_file(part / "classifier.safetensors")["weights"]
        found = found + torch.nn.functional.normalize(images, dim=-1) @ weights.T
    assert torch.allclose(found, model.logits(shown), atol=1e-4)
    if not site:
        assert not torch.allclose(found, forgotten(folder).logits(shown), atol=1e-2)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the exporter's own packages
def test_an_onnx_file_has_the_tokens_in_their_blocks(recorded, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    folder, _ = recorded
    copy = tmp_path / "copy"
    shutil.copytree(folder.path, copy)
    arrays, state = folder.read_checkpoint()  # a block without any, too
    RunFolder(copy).write_checkpoint(arrays, state, stored({"home": np.array([0, 0, 0, 1, 1, 3, 3, 4, 4, 1])}))
    model = load_trained(copy)
    export(model, tmp_path / "out", "onnx")
    shown = torch.randint(256, (3, 3, 32, 32), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    session = onnxruntime.InferenceSession(str(tmp_path / "out" / "model.onnx"), providers=["CPUExecutionProvider"])
    (found,) = session.run(["logits"], {"images": shown.numpy()})
    assert float(np.abs(found - model.logits(shown).detach().numpy()).max()) <= 1e-4


def test_other_classes_are_told_apart_with_the_tokens_where_they_are(recorded, tmp_path):
    """Even where there are as many classes as tokens: where these are is nothing that is remembered of classes."""
    folder, _ = recorded
    source, config = kept_classes(folder), run_settings(folder, None)
    assert source is not None
    other = OtherClasses(source, ("cat", "dog"))
    stored_there = PrivateState(memory={"home": np.zeros(48, np.int64)})
    assert other.fitted({}, stored_there, config, tmp_path)[1].memory.keys() == {"home"}
    with pytest.raises(ConfigError, match="remembers images"):
        other.fitted({}, PrivateState(memory={"keys": np.zeros(48, np.float32)}), config, tmp_path)
    names = load_trained(folder.path).class_names[:3]
    shown = torch.randint(256, (3, 3, 32, 32), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    for site in ("", "site-0"):
        before, after = load_trained(folder.path, site), load_trained(folder.path, site, classes=names)
        assert torch.allclose(after.logits(shown), before.logits(shown)[:, :3], atol=1e-4)


def test_a_new_site_begins_with_the_tokens_where_they_are(recorded, tmp_path):
    folder, _ = recorded
    for label in (0, 1):
        place = tmp_path / "data" / shapes.CLASS_NAMES[label].replace(" ", "_")
        place.mkdir(parents=True)
        for index, picture in enumerate(shapes.images("train", label, 0, 6)):
            Image.fromarray(picture).save(place / f"{index}.png")
    made = personalize(folder.path, tmp_path / "data", tmp_path / "out", changes={"personal-rounds": 1})
    model = load_trained(made.path, "new-site")
    assert layout_of(model, "private") == layout_of(model, "global") == {"home": home_of(folder)}
    whole = load_trained(folder.path)
    shown = torch.randint(256, (3, 3, 32, 32), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    found = load_trained(made.path).logits(shown)
    assert torch.equal(found, whole.logits(shown))


def test_the_page_pictures_and_the_outcome_tell_where_tokens_are(recorded, tmp_path, capsys):
    folder, _ = recorded
    counts = np.bincount(home_of(folder), minlength=BLOCKS).tolist()
    line = f"tokens by block, from the input: {' '.join(map(str, counts))} (at first 2 each); 2 moves"
    assert line in show_lines(folder)
    assert cli.main(["show", str(folder.path)]) == 0 and line in capsys.readouterr().out
    page = tmp_path / "page.html"
    write_report(folder.path, page)
    text = page.read_text()
    assert "Where tokens are" in text and f"T{line[1:]}." in text and 'id="tokens' in text
    copy = RunFolder(tmp_path / "copy")
    shutil.copytree(folder.path, copy.path)
    assert {path.name for path in draw(copy)} >= {"tokens.png", "tokens.svg", "tokens.csv"}
    rows = copy.read_csv("plots/tokens.csv")
    assert [int(rows[-1][f"block_{block}"]) for block in range(BLOCKS)] == counts
    assert [int(row["round"]) for row in rows] == [1, 3, 5]


def test_a_line_counts_moves_and_verdicts():
    """And bears rounds that tell of another number of blocks."""
    moved = {"token": 0, "from": 0, "to": 1}
    rounds = [
        a_round(1, relocation={"tokens": [1, 3], "moved": moved, "last_move_helped": None}),
        a_round(2, relocation={"tokens": [1, 3], "moved": None, "last_move_helped": True}),
        a_round(3, relocation={"tokens": [4], "moved": None, "last_move_helped": False}),
        a_round(4),
    ]
    assert token_lines(rounds) == [
        "tokens by block, from the input: 1 3 (at first 2 each); 1 move; of 1 that could be judged, 1 helped"
    ]
    assert token_lines(rounds[3:]) == []


# --- runs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "schedule", "message"),
    [
        ("bandit", "two-phase", "train"),
        pytest.param("bandit", "two-phase", "train.personalize", marks=pytest.mark.slow),
        pytest.param("random", "interleaved", "train.personalize", marks=pytest.mark.slow),
        pytest.param("bandit", "interleaved", "train", marks=pytest.mark.slow),
    ],
)
def test_a_resumed_run_is_the_same_run(tmp_path, kind, schedule, message):
    two = schedule == "two-phase"
    cut = (4 if message == "train.personalize" else 3) if two else (6 if message == "train.personalize" else 5)
    changes = {"prompt_relocation": kind, "schedule": schedule, "global_rounds": 3, "local_steps": 1}
    changes |= {"personal_rounds": 1} if two else {}
    whole, cut_run = run_whole_and_resumed(tmp_path, message, cut, **SETTINGS, **changes)
    (arrays, _, part), (again, _, other) = (Checkpoint(one.path).read() for one in (whole, cut_run))
    assert arrays["tokens"].tobytes() == again["tokens"].tobytes() and part.keys() == other.keys()
    assert all(np.array_equal(other[name], value) for name, value in part.items())
    assert timeless(whole) == timeless(cut_run) and private_files(whole) == private_files(cut_run)
    assert home_of(whole) != FIRST


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["fedloge", "ditto", "fedavg-kl", "prograd"])
def test_tokens_move_under_other_methods(tmp_path, algorithm):
    """A composed module's tokens are found, a private one's stay."""
    rounds = {"global_rounds": 3, "personal_rounds": 1 if algorithm == "ditto" else -1, "evaluate_every": 1, "seed": 2}
    folder = run_tiny(tmp_path, **{**SETTINGS, **rounds}, algorithm=algorithm, prompt_relocation="bandit")
    assert folder.summary()["outcome"] == "completed" and len(replayed(folder)) == 3
    (name,) = (one for one in folder.read_checkpoint()[0] if one.endswith("tokens"))
    assert folder.read_checkpoint()[0][name].shape == (TOKENS, 128)
    assert all(line["relocation"]["most_idle"] is not None for line in folder.rounds()[1:4])
    if METHODS[algorithm].personalizes:
        export(load_trained(folder.path, "site-0"), tmp_path / "out")
        facts = json.loads(next((tmp_path / "out").rglob("export.json")).read_text())
        assert facts["layout"]["home"] == home_of(folder)


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["copsl", "coaction"])
def test_a_model_with_a_knob_is_loaded_with_its_tokens_where_they_were(tmp_path, algorithm):
    rounds = {"global_rounds": 4, "personal_rounds": 1, "evaluate_every": 9, "relocate_every": 1}
    folder = run_tiny(tmp_path, **{**SETTINGS, **rounds}, algorithm=algorithm, prompt_relocation="random")
    home = home_of(folder)
    assert home != FIRST
    site = next(iter(folder.read_checkpoint()[1]["private_rounds"]))
    assert layout_of(load_trained(folder.path, site), "private") == {"home": home}


def test_where_no_token_moves_the_run_is_that_of_deep_prompts(tmp_path):
    """All through the warm-up: the same bits, under another form."""
    rounds = {"global_rounds": 2, "personal_rounds": 0, "local_steps": 1}
    plain = {key: value for key, value in SETTINGS.items() if not key.startswith("reloc")}
    still = run_tiny(tmp_path / "a", **plain, **rounds)
    held = run_tiny(tmp_path / "b", **{**SETTINGS, **rounds, "prompt_relocation": "bandit", "relocation_warmup": 9})
    (deep, _), (moving, _) = (folder.read_checkpoint() for folder in (still, held))
    assert deep["tokens"].shape == (BLOCKS, 2, 128) and deep["tokens"].tobytes() == moving["tokens"].tobytes()
    assert still.rounds()[-1]["global"] == held.rounds()[-1]["global"] and not still.rounds()[-1].get("relocation")
    assert held.rounds()[-1]["relocation"]["tokens"] == [2] * BLOCKS
    assert home_of(held) == FIRST and "layout/home" not in Checkpoint(still.path).read()[2]


def test_bytes_of_moving_tokens(tmp_path):
    """Every message says the block of each token, every reply of a global round tells the idleness of each."""
    rounds = {"global_rounds": 1, "personal_rounds": 0, "local_steps": 1}
    plain = {key: value for key, value in SETTINGS.items() if not key.startswith("reloc")}
    still = run_tiny(tmp_path / "a", **plain, **rounds).rounds()[1]
    moving = run_tiny(tmp_path / "b", **SETTINGS, **rounds, prompt_relocation="bandit").rounds()[1]
    name, numbers = len("home"), 8 * TOKENS
    messages = 2 * SITES  # of training and of evaluation
    assert 0 < moving["bytes_down"] - still["bytes_down"] <= messages * (numbers + name + 80)
    assert SITES * numbers < moving["bytes_up"] - still["bytes_up"] <= SITES * (numbers + 40)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"privacy": "server-fixed"}, 'does not go with privacy = "server-fixed"'),
        ({"privacy": "local"}, 'does not go with privacy = "local"'),
        ({"aggregation": "median"}, 'aggregation = "median": the server moves tokens by what single sites tell'),
        ({"aggregation": "norm-clipping"}, 'aggregation = "norm-clipping"'),
        ({"algorithm": "scaffold"}, 'prompt-relocation = "bandit" moves them to other blocks'),
        ({"algorithm": "moon"}, 'set prompt-relocation = "none"'),
        ({"algorithm": "zero-shot"}, "trains no tokens that could move"),
        ({"prompt-depth": "shallow"}, 'it has no use with prompt-depth = "shallow"'),
        ({"peft": "prompt"}, 'it belongs to peft = "visual-prompt"'),
        ({"relocate-every": 0}, "relocate-every"),
        ({"relocation-warmup": -1}, "relocation-warmup"),
        ({"prompt-relocation": "none", "relocate-every": 5}, 'no use with prompt-relocation = "none"'),
        ({"prompt-relocation": "none", "relocation-warmup": 5}, 'no use with prompt-relocation = "none"'),
        ({"prompt-relocation": "ppo"}, "'bandit' or 'random'"),
    ],
)
def test_what_tokens_cannot_move_with_is_refused(settings, why):
    with pytest.raises(ConfigError, match="(?s)" + why):
        load_config({"peft": "visual-prompt", "prompt-relocation": "bandit", **settings})
