"""``fedpurel export``: what a run trained, as files that need nothing of this package to be used."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save
from torch import Tensor

from fedpurel_app import __version__
from fedpurel_app.core.errors import ConfigError, StateError
from fedpurel_app.core.files import write_atomically
from fedpurel_app.inference.onnx_file import as_onnx
from fedpurel_app.inference.trained import TrainedModel
from fedpurel_app.models.backbone import Backbone
from fedpurel_app.models.peft.base import PeftModule, parameters_of
from fedpurel_app.models.peft.heads import WithHead
from fedpurel_app.models.peft.lora import Lora
from fedpurel_app.models.peft.pair import Composite
from fedpurel_app.models.peft.scaled import ZeroShot
from fedpurel_app.reporting.card.card import card
from fedpurel_app.reporting.page.snapshot import Snapshot

Form = Literal["safetensors", "onnx"]
SCHEMA, CARD = 1, "MODEL_CARD.md"
_FUSED = {"q": 0, "k": 1, "v": 2}  # their order in open_clip's one matrix
_USE = {
    "plain": "f: image features of the frozen backbone, shape (B, D)",
    "adapter": "f = softmax(tanh(x @ weight1.T + bias1) @ weight2.T + bias2) * x, with the tensors of "
    "parameters.safetensors and x the image features of the frozen backbone, shape (B, D), not normalised",
    "visual-prompt": "f: image features of the frozen backbone, shape (B, D), with the tokens of "
    "parameters.safetensors behind the class token; row i goes in before block i, in the place of the row before",
    "moved tokens": "f: image features of the frozen backbone, shape (B, D), with the tokens of parameters.safetensors "
    "behind the class token: before block i those whose number in layout.home is i, by their order in the file, in the "
    "place of what the block before made of its own, even where there are none",
    "lora": "f: open_clip.create_model('local-dir:THIS_FOLDER').encode_image(...), shape (B, D)",
}


def export(model: TrainedModel, out: Path, form: Form = "safetensors") -> list[Path]:
    """Write a model's files into a new folder.

    Parameters
    ----------
    model : TrainedModel
        Several branches, as most sites have them, go into ``global/``, ``zero-shot/`` and ``private/``.
    out : Path
        Absent, or empty.
    form : {"safetensors", "onnx"}

    Returns
    -------
    list of Path
        What was written. As ONNX: ``model.onnx``, from images to logits, see :func:`.onnx_file.as_onnx`, with
        ``export.json``. Else ``parameters.safetensors``, the trained tensors; ``classifier.safetensors`` with
        ``text_features`` (C, D), ``logit_scale`` and ``weights`` = their product, so that ``normalise(f) @ weights.T``
        are the logits, plus ``bias`` where the method has one, and the backbone's own ``logit_bias``, the same for all
        classes; ``export.json`` with class names and how to get f, of tokens that moved also their blocks; for LoRA
        also ``open_clip_model.safetensors`` and ``open_clip_config.json``, the backbone with the updates merged. Beside
        either, ``MODEL_CARD.md``, see :func:`fedpurel_app.reporting.card.card.card`.

    Raises
    ------
    StateError
        When the folder is not empty, or cannot be written; or the model works on patches, and is no linear classifier.
    ConfigError
        When a branch has no text features that its logits are made of.
    """
    if any(branch.takes == "patches" for branch in model.branches.values()):
        raise StateError(
            f'algorithm = "{model.experiment.config.algorithm}" compares every patch of an image with the classes: it '
            "has no classifier of image features that could be written. Classify images with fedpurel predict."
        )
    try:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise StateError(f"{out} is not an empty folder, and nothing is overwritten: choose another one.")
        written: list[Path] = []
        # All are made before the first is written: one that cannot be leaves nothing behind.
        contents = _contents(model, form)
        for role, files in contents.items():
            folder = out / role
            folder.mkdir(parents=True, exist_ok=True, mode=0o700 if model.site else 0o755)
            for name, content in files.items():
                # A private branch stays its owner's: whoever exports it decides who may read it.
                write_atomically(folder / name, content, mode=0o600 if model.site else 0o644)
                written.append(folder / name)
        return written
    except OSError as error:
        raise StateError(f"{out} cannot be written ({error.strerror}). Choose another folder.") from error


def export_each(models: Sequence[TrainedModel], out: Path, form: Form = "safetensors") -> list[Path]:
    """Write the models of several preferences, each as :func:`export` does into ``preference-P`` of a new folder.

    One model alone goes into the folder itself.

    Raises
    ------
    StateError
        As :func:`export`.
    ConfigError
        When two preferences are one.
    """
    if len(models) == 1:
        return export(models[0], out, form)
    names = ["preference-" + "-".join(f"{share:g}" for share in model.preference) for model in models]
    if len(set(names)) < len(names):
        raise ConfigError("--preference: one of them is asked for twice.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise StateError(f"{out} is not an empty folder, and nothing is overwritten: choose another one.")
    return [path for name, model in zip(names, models, strict=True) for path in export(model, out / name, form)]


def _contents(model: TrainedModel, form: Form) -> dict[str, dict[str, bytes]]:
    """Return name and content of all files, by folder."""
    told = {CARD: card(Snapshot(model.run), model.site).encode()}
    if form == "onnx":
        content, facts = as_onnx(model)
        return {"": {"model.onnx": content, "export.json": _json({**_facts(model), **facts}), **told}}
    files: dict[str, dict[str, bytes]] = {role: _files(model, branch) for role, branch in model.branches.items()}
    return {"": told, **files} if len(files) > 1 else {"": {**next(iter(files.values())), **told}}


def _json(facts: Mapping[str, Any]) -> bytes:
    return (json.dumps(facts, indent=1, ensure_ascii=False) + "\n").encode()


def _facts(model: TrainedModel) -> dict[str, Any]:
    """Return what ``export.json`` says of a model, whatever its form."""
    host, config = model.experiment.kit.host, model.experiment.config
    settings = config.model_dump(by_alias=True)
    return {
        "schema": SCHEMA,
        "fedpurel": __version__,
        "experiment": model.experiment_id,
        "round": model.round,
        "site": model.site or None,
        **({"preference": model.preference} if model.preference else {}),
        "algorithm": config.algorithm,
        "peft": config.peft,
        "options": {name: settings[name] for name in model.experiment.kit.family.keys},
        "backbone": None if host.backbone is None else config.backbone,
        "class_names": list(host.class_names),
    }


def _files(model: TrainedModel, branch: PeftModule) -> dict[str, bytes]:
    """Return name and content of a branch's files."""
    host, config = model.experiment.kit.host, model.experiment.config
    with torch.no_grad():
        text = branch.class_features().cpu().contiguous()
    classifier = {
        "text_features": text,
        "logit_scale": torch.tensor(branch.logit_scale),
        "weights": text * branch.logit_scale,
    }
    if model.bias is not None:
        classifier["bias"] = model.bias.cpu().contiguous()
    logit_bias = 0.0 if host.backbone is None else host.backbone.logit_bias
    if logit_bias:
        classifier["logit_bias"] = torch.tensor(logit_bias)
    files = {
        "parameters.safetensors": save(_parameters(branch)),
        "classifier.safetensors": save(classifier),
    }
    seen_through = branch.shared if isinstance(branch, Composite) else branch
    image_side = _image_side(seen_through, config.peft)
    if isinstance(seen_through, Lora) and host.backbone is not None:
        files |= _merged_clip(host.backbone, seen_through.deltas())
    facts = {
        **_facts(model),
        "logit_scale": branch.logit_scale,
        "logits": "normalise(f) @ weights.T"
        + (f", summed over the folders {' and '.join(model.branches)}" if len(model.branches) > 1 else "")
        + (" + bias" if model.bias is not None else ""),
        "image_features": _USE[image_side],
    }
    if layout := getattr(seen_through, "layout", {}):
        facts["layout"] = layout
    if logit_bias:
        facts["logit_bias"] = logit_bias
        facts["probabilities"] = "of each class by itself, as this backbone was trained: sigmoid(logits + logit_bias)"
    return {**files, "export.json": _json(facts)}


def _parameters(branch: PeftModule) -> dict[str, Tensor]:
    """Return what was trained; what images are seen through under a head by the names that its recipe has."""
    found = {name: value.cpu().contiguous() for name, value in parameters_of(branch).items()}
    return {name.removeprefix("shared.") if isinstance(branch, WithHead) else name: one for name, one in found.items()}


def _image_side(branch: PeftModule, peft: str) -> str:
    """Tell how a branch changes image features."""
    if isinstance(branch, ZeroShot):
        return "plain"
    if getattr(branch, "layout", {}):
        return "moved tokens"
    if isinstance(branch, Lora):
        return "lora" if branch.takes == "pixels" else "plain"
    return peft if peft in _USE else "plain"


def _merged_clip(backbone: Backbone, deltas: Mapping[str, Tensor]) -> dict[str, bytes]:
    """Return weights and config of an open_clip model folder: the backbone plus updates of its projections.

    open_clip keeps q, k and v in one matrix, to which no adapter of peft's can be attached for each by itself: so the
    updates are merged, and the folder is a whole model.
    """
    checkpoint = backbone.checkpoint
    weights = {name: value.clone() for name, value in checkpoint.load("").items()}  # may be mapped from the file
    nested = "text." if "text.positional_embedding" in weights else ""
    towers = {"vision": "visual.", "text": nested}
    for name, delta in deltas.items():
        tower, _, block, _, part = name.split(".")
        stem = f"{towers[tower]}transformer.resblocks.{block}.attn."
        fused = part in _FUSED
        target = weights[stem + ("in_proj_weight" if fused else "out_proj.weight")]
        rows = slice(_FUSED[part] * len(delta), (_FUSED[part] + 1) * len(delta)) if fused else slice(None)
        target[rows] += delta.cpu()
    config = {
        "model_cfg": dict(checkpoint.architecture),
        "preprocess_cfg": dict(checkpoint.preprocessing),
    }
    return {
        "open_clip_model.safetensors": save(weights),
        "open_clip_config.json": _json(config),
    }
