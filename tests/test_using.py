"""What a run left behind, in use: predictions, and files for other programs."""

import json
import shutil
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import normalize

from fedpurel_app.cli import main as cli
from fedpurel_app.client_app import app as client_app
from fedpurel_app.core.errors import ConfigError
from fedpurel_app.data.shapes import rendered
from fedpurel_app.inference.other_classes import read_names
from fedpurel_app.inference.trained import load_trained
from fedpurel_app.models.backbone import load_backbone
from fedpurel_app.models.peft.registry import FAMILIES
from fedpurel_app.server_app import app as server_app
from fedpurel_app.site.sealing import make_key_file
from tests.support import CLASS_NAMES, own_sites, run_app, run_tiny, tiny_features, write_images

CPU = torch.device("cpu")
SITES = ("site-0", "site-1", "site-2")
OPTIONS: dict[str, dict[str, Any]] = {
    "lora": {"lora_tower": "both", "lora_blocks": "0-2", "lora_projections": "q,v,out", "lora_alpha": 32.0},
    "visual-prompt": {"prompt_tokens": 2},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return a finished run of a family on shapes, made when first asked for."""
    made = {}

    def make(family):
        if family not in made:
            settings: dict[str, Any] = {"dataset": "shapes", "dataset_path": "", "max_per_class": 4}
            settings |= {"num_sites": 3, "global_rounds": 2, "personal_rounds": 2, "evaluate_every": 1}
            settings |= {"imbalance_factor": 4, "peft": family, "full_first_round": True, **OPTIONS.get(family, {})}
            made[family] = run_tiny(tmp_path_factory.mktemp(family), **settings)
        return made[family]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rendered, "SHAPES_TEST", 2)
        yield make


@pytest.fixture(scope="module")
def features_run(tmp_path_factory):
    return run_tiny(tmp_path_factory.mktemp("features"))


@pytest.fixture(scope="module")
def images(run, tmp_path_factory):
    """Write the test set of the shapes as files, in the order of its rows."""
    folder = tmp_path_factory.mktemp("images")
    split = rendered.load_shapes("", 0).test
    paths = [folder / f"{row:03d}.png" for row in range(len(split.labels))]
    for path, image in zip(paths, split.images(np.arange(len(paths))), strict=True):
        image.save(path)
    return paths, split.labels


def call(capsys, *arguments):
    code = cli.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


# --- predict ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["prompt", "visual-prompt"])
@pytest.mark.slow
def test_predictions_have_the_accuracy_that_the_run_reports(run, images, capsys, family):
    """Of the global model on the server's test set, and of every personalized one on its site's part."""
    folder, (paths, labels) = run(family), images
    names = load_trained(folder.path).class_names

    def correct(rows, *site):
        code, out, _ = call(capsys, "predict", "--run", folder.path, *site, "--json", *(paths[row] for row in rows))
        assert code == 0
        found = [one["classes"][0]["class"] for one in json.loads(out)["predictions"]]
        return 100 * np.mean([name == names[labels[row]] for name, row in zip(found, rows, strict=True)])

    assert correct(range(len(paths))) == pytest.approx(folder.summary()["global"]["all"])
    parts = folder.read_json("partition.json")["test"]
    scores = {row["site"]: row for row in folder.read_csv("sites.csv")}
    assert set(scores) == set(SITES)
    for site, rows in zip(SITES, parts, strict=True):
        assert correct(rows, "--site", site) == pytest.approx(float(scores[site]["personalized"]), abs=0.01)


def test_probabilities_are_printed_the_most_probable_first(run, images, capsys):
    paths, _ = images
    code, out, _ = call(capsys, "predict", "--run", run("prompt").path, "--top", 3, *paths[:2])
    lines = out.splitlines()
    assert code == 0 and len(lines) == 8 and [lines[0], lines[4]] == [str(path) for path in paths[:2]]
    values = [float(line.split("%")[0]) for line in lines[1:4]]
    assert values == sorted(values, reverse=True) and 0 < values[0] <= 100
    code, out, _ = call(capsys, "predict", "--run", run("prompt").path, "--top", 9999, "--json", paths[0])
    (one,) = json.loads(out)["predictions"]
    assert sum(entry["probability"] for entry in one["classes"]) == pytest.approx(1, abs=1e-5)
    assert len(one["classes"]) == 48


def test_a_private_branch_elsewhere_is_found_by_its_state_dir(run, images, capsys, tmp_path):
    folder, (paths, _) = run("prompt"), images
    arguments = ("predict", "--run", folder.path, "--site", "site-1", "--json", paths[0])
    _, expected, _ = call(capsys, *arguments)
    (tmp_path / "state").symlink_to(folder.path / "private")
    assert call(capsys, *arguments, "--state-dir", tmp_path / "state")[1] == expected
    code, _, err = call(capsys, *arguments, "--state-dir", tmp_path / "absent")
    assert code == 2 and "The private branch of round" in err and "absent" in err
    assert "--state-dir DIR" in err and "node" not in err and "fallback" not in err
    for option in ("--state-dir", "--key-file"):
        code, _, err = call(capsys, "predict", "--run", folder.path, option, tmp_path, paths[0])
        assert code == 2 and option in err and "name the site, --site NAME" in err


def test_an_encrypted_branch_is_read_with_its_key(features_run, capsys, tmp_path):
    keys = [tmp_path / name for name in ("right", "wrong")]
    for path in keys:
        make_key_file(path)
    folder = run_tiny(tmp_path / "sealed", grid={"node": {"key-file": str(keys[0])}})
    site = sorted(folder.read_checkpoint()[1]["private_rounds"])[0]
    exported(capsys, folder, tmp_path / "sealed-out", "--site", site, "--key-file", keys[0])
    exported(capsys, features_run, tmp_path / "out", "--site", site)
    found, expected = (load_file(tmp_path / one / "private/parameters.safetensors") for one in ("sealed-out", "out"))
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    for given, part in {
        (): "and none was given. Give the site's own: --key-file FILE",
        ("--key-file", keys[1]): f"which is not that of {keys[1]}",
        ("--key-file", tmp_path / "absent"): f"--key-file {tmp_path / 'absent'}: cannot be read",
    }.items():
        code, _, err = call(capsys, "export", "--run", folder.path, "--site", site, *given, "--out", tmp_path / "no")
        assert code == 2 and part in err and "node" not in err and "keygen" not in err, err


def test_a_damaged_branch_is_no_talk_of_nodes(features_run, capsys, tmp_path):
    site, stamp = sorted(features_run.read_checkpoint()[1]["private_rounds"].items())[0]
    copy = shutil.copytree(features_run.path / "private", tmp_path / "state")
    (damaged,) = copy.glob(f"*/{site}/private-{stamp:06d}.safetensors")
    damaged.write_bytes(damaged.read_bytes()[:-1])
    arguments = ("--site", site, "--state-dir", copy, "--out", tmp_path / "no")
    code, _, err = call(capsys, "export", "--run", features_run.path, *arguments)
    assert code == 2 and f"is damaged, in {damaged.parent}" in err and "--node-config" not in err


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["fedavg", "fedpurel"])
def test_parts_that_a_site_keeps_to_itself_are_put_to_those_it_shares(tmp_path, images, capsys, algorithm, monkeypatch):
    """The personalized model has the accuracy that the run reports: that of the site's own global branch, if alone."""
    monkeypatch.setattr(rendered, "SHAPES_TEST", 2)
    settings = {"dataset": "shapes", "dataset_path": "", "max_per_class": 4, "imbalance_factor": 4, "num_sites": 3}
    settings |= {"peft": "lora", "shares": "lora-a", "global_rounds": 2, "fraction_train": 1.0, "evaluate_every": 1}
    folder = run_tiny(tmp_path, **settings, algorithm=algorithm)
    paths, labels = images
    code, _, err = call(capsys, "predict", "--run", folder.path, paths[0])
    assert code == 2 and "no place has the whole of it" in err and "--site NAME, of site-0, site-1, site-2" in err
    scores = {row["site"]: row for row in folder.read_csv("sites.csv")}
    column = "global" if algorithm == "fedavg" else "personalized"
    for site, rows in zip(SITES, folder.read_json("partition.json")["test"], strict=True):
        arguments = ("--run", folder.path, "--site", site, "--json", *(paths[row] for row in rows))
        code, out, err = call(capsys, "predict", *arguments)
        assert code == 0, err
        found = [one["classes"][0]["class"] for one in json.loads(out)["predictions"]]
        names = load_trained(folder.path, site).class_names
        correct = 100 * np.mean([name == names[labels[row]] for name, row in zip(found, rows, strict=True)])
        assert correct == pytest.approx(float(scores[site][column]), abs=0.01)
    private = max((folder.path / "private").glob("*/site-1/private-*.safetensors"))
    kept = {name: value for name, value in load_file(private).items() if name.startswith("kept/")}
    code, _, err = call(capsys, "export", "--run", folder.path, "--site", "site-1", "--out", tmp_path / "out")
    assert code == 0, err
    whole = tmp_path / "out" / ("" if algorithm == "fedavg" else "global")
    parameters, facts = load_file(whole / "parameters.safetensors"), json.loads((whole / "export.json").read_text())
    assert kept and all(torch.equal(parameters[name.removeprefix("kept/")], value) for name, value in kept.items())
    assert ("summed" in facts["logits"]) == (algorithm == "fedpurel")
    assert facts["site"] == "site-1" and (whole / "parameters.safetensors").stat().st_mode & 0o077 == 0


def test_a_run_over_sites_is_used_without_their_data(tmp_path, images, capsys):
    nodes = own_sites(tmp_path)
    config = {"dataset": "sites", "classes": ", ".join(CLASS_NAMES), "global-rounds": 1, "personal-rounds": 1}
    config |= {"fraction-train": 1.0, "out": str(tmp_path / "run")}
    run_app(server_app, client_app, len(nodes), config, nodes=nodes)
    north = ("--site", "north", "--state-dir", tmp_path / "north-state")
    settings = json.loads((tmp_path / "run" / "config.json").read_text())
    settings["config"]["dataset-path"] = str(tmp_path / "test set of the server, elsewhere")
    (tmp_path / "run" / "config.json").write_text(json.dumps(settings))
    for site in ((), north):
        code, out, err = call(capsys, "predict", "--run", tmp_path / "run", *site, "--json", images[0][0])
        assert code == 0, err
        assert {one["class"] for one in json.loads(out)["predictions"][0]["classes"]} == set(CLASS_NAMES)
        code, _, err = call(capsys, "export", "--run", tmp_path / "run", *site, "--out", tmp_path / f"out{len(site)}")
        assert code == 0, err
    code, _, err = call(capsys, "predict", "--run", tmp_path / "run", *north[:2], images[0][0])
    assert code == 2 and f"is not in {tmp_path / 'run' / 'private'}" in err and "--state-dir DIR" in err


def test_weights_elsewhere_are_named(features_run, tmp_path, monkeypatch):
    path = tmp_path / "clip.safetensors"
    run = tmp_path / "run"
    shutil.copytree(features_run.path, run)
    settings = json.loads((run / "config.json").read_text())
    settings["config"] |= {"dataset": "shapes", "dataset-path": "", "backbone": "ViT-B-16", "pretrained": "/gone.pt"}
    (run / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ConfigError, match=r"/gone\.pt, which is not here: name your copy, --pretrained FILE"):
        load_trained(run)
    with pytest.raises(ConfigError, match="--pretrained .*: no such file of weights"):
        load_trained(run, pretrained=path)
    path.touch()
    asked = []

    def find(name, pretrained):
        asked.append((name, pretrained))
        raise InterruptedError

    (run / "classes.csv").unlink()  # those of another data set
    (run / "classes.json").unlink()
    monkeypatch.setattr("fedpurel_app.models.backbone.find_checkpoint", find)
    with pytest.raises(InterruptedError):
        cli.main(["export", "--run", str(run), "--pretrained", str(path), "--out", str(tmp_path / "out")])
    assert asked == [("ViT-B-16", str(path))]


def test_what_cannot_be_predicted_is_said(run, features_run, images, capsys, tmp_path):
    folder, (paths, _) = run("prompt"), images
    (tmp_path / "text.png").write_text("no image")
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "config.json").write_bytes((folder.path / "config.json").read_bytes())
    for arguments, parts in {
        (folder.path, "--site", "site-9", paths[0]): ['has no site "site-9"', "site-0, site-1, site-2"],
        (folder.path, tmp_path / "text.png"): ["text.png is not an image of a form that Pillow reads"],
        (folder.path, tmp_path / "absent.png"): ["absent.png cannot be read as an image (No such file"],
        (features_run.path, paths[0]): ["precomputed features", "fedpurel export"],
        (empty, paths[0]): ["has no checkpoint yet"],
        (tmp_path, paths[0]): ["is not a run folder"],
    }.items():
        code, out, err = call(capsys, "predict", "--run", *arguments)
        assert code == 2 and not out and all(part in err for part in parts), err


def test_a_site_without_a_branch_says_who_has_one(tmp_path, capsys):
    folder = run_tiny(tmp_path, personal_rounds=1)
    trained = sorted(folder.read_checkpoint()[1]["private_rounds"])
    (other, *_) = {f"site-{number}" for number in range(5)} - set(trained)
    code, _, err = call(capsys, "export", "--run", folder.path, "--site", other, "--out", tmp_path / "out")
    assert code == 2 and f"{other} trained no private branch" in err and ", ".join(trained) in err


def test_other_classes_than_in_the_run_are_refused(tmp_path, capsys):
    folder = run_tiny(tmp_path)
    with np.load(tmp_path / "features.npz") as file:
        arrays = dict(file)
    arrays["class_names"] = arrays["class_names"][::-1]
    np.savez(tmp_path / "features.npz", **arrays)
    (folder.path / "classes.json").unlink()  # as of a run that is older than this file
    code, _, err = call(capsys, "export", "--run", folder.path, "--out", tmp_path / "out")
    assert code == 2 and "now has other classes than in the run (their order)" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("family", ["adapter", "text-residual"])
def test_a_model_is_used_where_its_data_are_not(tmp_path, images, capsys, family):
    """Of images in folders with the demo CLIP, and of precomputed features: only the run folder is left."""
    data = tmp_path / "data"
    if family == "adapter":
        for part in ("train", "test"):
            write_images(data / part, {"red_circle": range(10), "blue star": range(10)})
        settings = {"dataset": "imagefolder", "dataset_path": str(data), "imbalance_factor": 1, "peft": family}
    else:
        settings = {"peft": family, "dataset_path": str(tiny_features(tmp_path / "data.npz", width=8))}
    folder = run_tiny(tmp_path, num_sites=2, global_rounds=1, fraction_train=1.0, **settings)

    def use(out):
        exported(capsys, folder, tmp_path / out)
        if family == "adapter":
            assert call(capsys, "predict", "--run", folder.path, "--json", images[0][0])[0] == 0
        return {path.relative_to(tmp_path / out): path.read_bytes() for path in (tmp_path / out).rglob("*.*")}

    before = use("before")
    shutil.rmtree(data) if family == "adapter" else (tmp_path / "data.npz").unlink()
    assert use("after") == before


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("classes.json", "{}"),
        ("classes.json", '{"schema": 1, "data_set": "x", "class_names": [], "template": "a {}"}'),
        ("classes.json", '{"schema": 1, "data_set": "x", "class_names": ["a", 1], "template": "a {}"}'),
        ("classes.json", '{"schema": 1, "data_set": "x", "class_names": ["a", "b"], "template": "a"}'),
        ("text-features.safetensors", ""),
        ("text-features.safetensors", None),
    ],
)
def test_damaged_classes_of_a_run_are_named(features_run, tmp_path, capsys, name, content):
    run = shutil.copytree(features_run.path, tmp_path / "run")
    (run / name).unlink() if content is None else (run / name).write_text(content)
    code, _, err = call(capsys, "export", "--run", run, "--out", tmp_path / "out")
    assert code == 2 and str(run / name) in err and "Traceback" not in err


# --- export -------------------------------------------------------------------------------------------------------


def pixels():
    return torch.randint(256, (6, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def exported(capsys, folder, out, *site):
    code, printed, err = call(capsys, "export", "--run", folder.path, *site, "--out", out)
    assert code == 0, err
    assert set(printed.splitlines()) == {str(path) for path in out.rglob("*.*")}
    return load_file((out / "global" if site else out) / "classifier.safetensors")


def image_features(family, folder):
    """Follow export.json by hand, with nothing of this package but the frozen backbone."""
    backbone = load_backbone("demo", CPU)
    frozen, parameters = backbone.encode_pixels(pixels()), load_file(folder / "parameters.safetensors")
    if family == "adapter":
        hidden = torch.tanh(frozen @ parameters["weight1"].T + parameters["bias1"])
        return torch.softmax(hidden @ parameters["weight2"].T + parameters["bias2"], -1) * frozen
    if family == "visual-prompt":
        return backbone.encode_pixels(pixels(), lambda x: backbone.image(x, parameters["tokens"]))
    if family == "lora":
        with torch.no_grad():
            return open_clip.create_model(f"local-dir:{folder}").eval().encode_image(backbone.normalise(pixels()))
    return frozen


INSIDE = ("lora", "visual-prompt")  # the image tower: their runs take as long as those of all others


@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=[pytest.mark.slow] * (name in INSIDE)) for name in FAMILIES]
)
def test_the_files_give_the_logits_of_the_global_and_of_the_personalized_model(run, capsys, tmp_path, family):
    for site in ("", "site-1"):
        out = tmp_path / (site or "whole")
        exported(capsys, run(family), out, *(["--site", site] if site else []))
        model = load_trained(run(family).path, site)
        takes = model.branches["global"].takes
        expected = model.logits(pixels() if takes == "pixels" else load_backbone("demo", CPU).encode_pixels(pixels()))
        found = torch.zeros(())
        for folder in [out / "global", out / "private"] if site else [out]:
            weights = load_file(folder / "classifier.safetensors")["weights"]
            found = found + normalize(image_features(family, folder), dim=-1) @ weights.T
            facts = json.loads((folder / "export.json").read_text())
            assert facts["peft"] == family and facts["site"] == (site or None) and facts["round"] == 4
            assert facts["class_names"] == list(model.class_names) and len(weights) == len(facts["class_names"])
        assert float((found - expected).abs().max()) <= 2e-6 * float(expected.abs().max())
        zero_shot = model.experiment.kit.host.zero_shot_logits(load_backbone("demo", CPU).encode_pixels(pixels()))
        assert float((found - zero_shot).abs().max()) > 0.01, "nothing was trained"


@pytest.mark.slow
def test_merged_lora_is_loaded_by_name_and_file_and_in_both_towers(run, capsys, tmp_path):
    """As any other model: open_clip.create_model(name, pretrained=file), with weights that are all there."""
    classifier = exported(capsys, run("lora"), tmp_path / "out")
    config = json.loads((tmp_path / "out" / "open_clip_config.json").read_text())
    (tmp_path / "demo-with-lora.json").write_text(json.dumps(config["model_cfg"]))
    open_clip.add_model_config(tmp_path / "demo-with-lora.json")
    weights = str(tmp_path / "out" / "open_clip_model.safetensors")
    clip = open_clip.create_model("demo-with-lora", pretrained=weights).eval()
    model = load_trained(run("lora").path)
    backbone, prompts = load_backbone("demo", CPU), model.experiment.kit.host.prompts
    tokenizer = backbone.tokenizer
    rows = [[tokenizer.start, *ids, tokenizer.end] for ids in tokenizer.encode_all(prompts)]
    tokens = torch.tensor([row + [0] * (24 - len(row)) for row in rows])
    with torch.no_grad():
        text = clip.encode_text(tokens, normalize=True)
        logits = clip.logit_scale.exp() * clip.encode_image(backbone.normalise(pixels()), normalize=True) @ text.T
    assert torch.allclose(text, classifier["text_features"], atol=1e-5)
    expected = model.logits(pixels())
    assert float((logits - expected).abs().max()) <= 2e-6 * float(expected.abs().max())


def test_precomputed_features_are_exported_too(features_run, capsys, tmp_path):
    classifier = exported(capsys, features_run, tmp_path / "out")
    features = torch.randn(5, 8)
    expected = load_trained(features_run.path).logits(features)
    assert torch.allclose(normalize(features, dim=-1) @ classifier["weights"].T, expected, atol=1e-5)
    assert json.loads((tmp_path / "out" / "export.json").read_text())["backbone"] is None


def test_nothing_is_overwritten(features_run, capsys, tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    for out in (tmp_path, tmp_path / "mine.txt"):
        code, _, err = call(capsys, "export", "--run", features_run.path, "--out", out)
        assert code == 2 and "is not an empty folder" in err
    code, _, err = call(capsys, "export", "--run", features_run.path, "--out", "/proc/fedpurel")
    assert code == 2 and "cannot be written" in err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_private_branch_is_exported_for_its_owner_alone(features_run, capsys, tmp_path):
    site = sorted(features_run.read_checkpoint()[1]["private_rounds"])[0]
    exported(capsys, features_run, tmp_path / "out", "--site", site)
    for path in (tmp_path / "out").rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path


# --- ONNX ---------------------------------------------------------------------------------------------------------


def run_onnx(path, name, values):
    """Run a file by ONNX Runtime, with nothing of this package or of torch."""
    session = pytest.importorskip("onnxruntime").InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert [one.name for one in session.get_inputs()] == [name]
    (found,) = session.run(["logits"], {name: values})
    return found


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the exporter's own packages
@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=[pytest.mark.slow] * (name != "adapter")) for name in FAMILIES]
)
def test_an_onnx_file_gives_the_logits_from_images_of_any_number(run, capsys, tmp_path, family):
    folder = run(family)
    for site in ("", "site-1"):
        out = tmp_path / (site or "whole")
        arguments = ("export", "--run", folder.path, "--out", out, "--format", "onnx")
        code, printed, err = call(capsys, *arguments, *(["--site", site] if site else []))
        assert code == 0, err
        assert set(printed.splitlines()) == {str(path) for path in out.rglob("*.*")}
        model, backbone = load_trained(folder.path, site), load_backbone("demo", CPU)
        for count in (1, 6):
            shown = pixels()[:count]
            expected = model.logits(backbone.seen(shown, model.branches["global"].takes))
            found = run_onnx(out / "model.onnx", "images", shown.numpy())
            assert found.shape == (count, 48)
            assert float(np.abs(found - expected.detach().numpy()).max()) <= 1e-4
        facts = json.loads((out / "export.json").read_text())
        assert facts["class_names"] == list(model.class_names) and facts["site"] == (site or None)
        assert facts["input"]["shape"] == ["B", 3, 32, 32] and facts["opset"] == 18
        assert {path.stat().st_mode & 0o777 for path in out.iterdir()} == {0o600 if site else 0o644}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_onnx_file_of_a_run_on_features_takes_features_and_names_its_classes(features_run, capsys, tmp_path):
    onnx = pytest.importorskip("onnx")
    for out in ("a", "b"):
        code, _, err = call(capsys, "export", "--run", features_run.path, "--out", tmp_path / out, "--format", "onnx")
        assert code == 0, err
    features = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    found = run_onnx(tmp_path / "a" / "model.onnx", "features", features.numpy())
    model = load_trained(features_run.path)
    assert float(np.abs(found - model.logits(features).numpy()).max()) <= 1e-4
    content = (tmp_path / "a" / "model.onnx").read_bytes()
    assert content == (tmp_path / "b" / "model.onnx").read_bytes()
    (names,) = (one.value for one in onnx.load_from_string(content).metadata_props if one.key == "class_names")
    assert json.loads(names) == list(model.class_names)
    assert b".py" not in content and str(features_run.path).encode() not in content  # no lines of this machine's files
    assert onnx.load_from_string(content).opset_import[0].version == 18


def test_without_the_extra_an_onnx_export_says_what_to_install(features_run, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("fedpurel_app.inference.onnx_file.find_spec", lambda name: None)
    arguments = ("export", "--run", features_run.path, "--out", tmp_path / "out", "--format", "onnx")
    code, out, err = call(capsys, *arguments)
    assert code == 2 and not out and 'pip install "fedpurel-app[onnx]"' in err and err.count("\n") == 1
    assert not (tmp_path / "out").exists()


# --- other classes ------------------------------------------------------------------------------------------------


OTHERS = ("grey hexagon", "blue star", "red circle")  # the first is no class of the shapes


@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=[pytest.mark.slow] * (name in INSIDE)) for name in FAMILIES]
)
def test_a_model_tells_classes_apart_that_the_run_did_not_know(run, family):
    """Names of the run have the logits that they had, whatever stands beside them; a new one has zero-shot's text."""
    for site in ("", "site-1"):
        before = load_trained(run(family).path, site)
        after = load_trained(run(family).path, site, classes=OTHERS)
        backbone = load_backbone("demo", CPU)
        shown = backbone.seen(pixels(), before.branches["global"].takes)
        known = [before.class_names.index(name) for name in OTHERS[1:]]
        assert after.class_names == OTHERS
        assert torch.allclose(after.logits(shown)[:, 1:], before.logits(shown)[:, known], atol=2e-4)
        frozen = backbone.encode_prompts(["a photo of a grey hexagon."])[0]
        for branch in after.branches.values():
            is_frozen = torch.allclose(branch.class_features()[0], frozen, atol=1e-5)
            assert is_frozen == (family in ("adapter", "text-residual", "visual-prompt"))
        assert "1 of 3 classes are not of the run: grey hexagon" in after.note
        assert ("zero-shot CLIP's text features" in after.note) == (family == "text-residual")


def test_other_classes_are_named_on_the_command_line_or_in_a_file(run, images, capsys, tmp_path):
    (tmp_path / "names.txt").write_text("grey hexagon\nblue star\n\nred circle\n", "utf-8")
    (tmp_path / "marked.txt").write_text("grey hexagon\r\nblue star\r\nred circle", "utf-8-sig")  # as Windows writes it
    paths, _ = images
    answers = []
    for given in ("grey hexagon, blue star, red circle", tmp_path / "names.txt", tmp_path / "marked.txt"):
        code, out, err = call(capsys, "predict", "--run", run("prompt").path, "--classes", given, "--json", paths[0])
        assert code == 0 and "grey hexagon" in err
        (one,) = json.loads(out)["predictions"]
        assert {entry["class"] for entry in one["classes"]} == set(OTHERS)
        answers.append(out)
    assert answers[0] == answers[1] == answers[2]
    for given, said in (("cat", "this names 1"), ("", "this names 0"), ("cat, Cat", "cat = Cat")):
        code, out, err = call(capsys, "predict", "--run", run("prompt").path, "--classes", given, paths[0])
        assert code == 2 and not out and said in err and "Traceback" not in err


def test_a_line_of_a_file_of_classes_ends_where_a_text_editor_ends_it(tmp_path):
    """A name may have any other character that Unicode counts as the end of a line."""
    (tmp_path / "names.txt").write_text("a\u2028b\nc\x85d\n\n", "utf-8")
    with pytest.raises(ConfigError, match="control characters"):
        read_names(str(tmp_path / "names.txt"))
    (tmp_path / "names.txt").write_text("a\u2028b\r\ncat\n", "utf-8")
    assert read_names(str(tmp_path / "names.txt")) == ("a\u2028b", "cat")


def test_what_is_learnt_for_each_class_says_nothing_of_others(tmp_path, images, capsys, features_run):
    """Even where there are as many of them, so that all shapes fit."""
    paths, _ = images
    settings = {"dataset": "shapes", "dataset_path": "", "max_per_class": 4, "num_sites": 2, "global_rounds": 1}
    settings |= {"imbalance_factor": 4, "evaluate_every": 9, "algorithm": "fedavg"}
    own = run_tiny(tmp_path / "own", peft="prompt", class_specific_context=True, **settings)
    names = ", ".join(f"thing {number}" for number in range(48))
    code, out, err = call(capsys, "predict", "--run", own.path, "--classes", names, paths[0])
    assert code == 2 and not out and "learnt context for each of its 48 classes" in err
    balanced = run_tiny(tmp_path / "balanced", peft="adapter", balancer="logit-adjustment-post-hoc", **settings)
    code, _, err = call(capsys, "predict", "--run", balanced.path, "--classes", "cat, dog", paths[0])
    assert code == 2 and "how frequent its own classes are" in err
    code, _, err = call(capsys, "predict", "--run", features_run.path, "--classes", "cat, dog", paths[0])
    assert code == 2 and "no text tower" in err
