"""A run's model as one ONNX file: from images, or from features of a run on features, to the logits of all classes.

The graph is traced by :func:`torch.export.export` (the exporter by TorchScript is deprecated since PyTorch 2.9). It
holds the image tower with what was trained in it, the classes' text features and the logit scale, and for a
personalized model the sum of its branches. No text tower is left in it.
"""

from __future__ import annotations

import json
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from fedpurel_app.core.errors import ConfigError, StateError
from fedpurel_app.inference.trained import TrainedModel

OPSET = 18
_LIMIT = 2**31 - 1  # bytes of a protobuf message
_NEEDS = ("onnx", "onnxscript")
_TRACED = 2  # images: a batch of one would be taken for a constant


class _Whole(nn.Module):
    """From what goes into the file's model to what comes out."""

    def __init__(self, model: TrainedModel) -> None:
        super().__init__()
        self._model = model
        self._takes = next(iter(model.branches.values())).takes  # all of one family

    def forward(self, inputs: Tensor) -> Tensor:
        backbone = self._model.experiment.kit.backbone
        return self._model.logits(inputs if backbone is None else backbone.seen(inputs, self._takes))


def as_onnx(model: TrainedModel) -> tuple[bytes, dict[str, Any]]:
    """Write a model as ONNX.

    Parameters
    ----------
    model : TrainedModel

    Returns
    -------
    bytes
        Of the file. Its batch axis is of any length.
    dict
        What goes in and comes out, for ``export.json``: ``images``, uint8 of shape (B, 3, S, S), or ``features``,
        float32 of shape (B, D); to ``logits``, float32 of shape (B, C).

    Raises
    ------
    ConfigError
        When the packages for it are not installed, or the towers do not run in fp32.
    StateError
        When the file would be larger than the format allows.
    """
    if missing := [name for name in _NEEDS if find_spec(name) is None]:
        raise ConfigError(f'--format onnx needs {" and ".join(missing)}: pip install "fedpurel-app[onnx]"')
    backbone = model.experiment.kit.backbone
    if backbone is not None and backbone.precision != "fp32":
        raise ConfigError(
            f'the run has precision = "{backbone.precision}", which an ONNX file cannot follow to the same logits: use '
            "--format safetensors."
        )
    name, example, facts = _input(model)
    whole = _Whole(model).eval()
    with torch.no_grad():
        whole(example)  # class features are encoded here, and not in the graph
        program: Any = torch.onnx.export(
            whole,
            (example,),
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            input_names=[name],
            output_names=["logits"],
            dynamic_shapes={"inputs": {0: torch.export.Dim("batch")}},
        )
    graph = program.model
    for node in graph.graph.all_nodes():
        node.metadata_props.clear()  # lines of this machine's files
    graph.metadata_props["class_names"] = json.dumps(model.class_names, ensure_ascii=False)
    if sum(value.const_value.nbytes for value in graph.graph.initializers.values()) > _LIMIT:
        raise StateError("the image tower is larger than the 2 GB that an ONNX file holds: use --format safetensors.")
    return program.model_proto.SerializeToString(deterministic=True), {
        "opset": OPSET,
        "input": {"name": name, **facts},
        "output": {"name": "logits", "type": "float32", "shape": ["B", len(model.class_names)]},
    }


def _input(model: TrainedModel) -> tuple[str, Tensor, dict[str, Any]]:
    """Return the name of the input, an example, and what is said of it."""
    kit = model.experiment.kit
    if (backbone := kit.backbone) is None:
        width = kit.host.zero_shot_text.shape[1]
        facts: dict[str, Any] = {"type": "float32", "shape": ["B", width], "form": "image features, of any length"}
        return "features", torch.ones(_TRACED, width, device=kit.device), facts
    size = backbone.image_size
    kept = {name: value for name, value in backbone.checkpoint.preprocessing.items() if name not in ("mean", "std")}
    facts = {
        "type": "uint8",
        "shape": ["B", 3, size, size],
        "form": "RGB from 0 to 255, resized and cropped as below; mean and deviation are in the graph",
        "preprocessing": kept,
    }
    return "images", torch.zeros(_TRACED, 3, size, size, dtype=torch.uint8, device=kit.device), facts
