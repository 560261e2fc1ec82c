"""Where the weights of a CLIP come from: this package, a local file, or the hub; none of it is executed."""

from __future__ import annotations

import importlib.util
import json
import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fedpurel_app.core.errors import ConfigError, StateError
from fedpurel_app.core.files import names_weights
from fedpurel_app.models.demo_weights import unpacked
from fedpurel_app.models.hub import CLIP_TRANSFORM, PREFIX, Published, repository, tagged, usual_transform
from fedpurel_app.models.tokenizers import ClipTokenizer, Tokenizer, WordTokenizer


@dataclass(frozen=True)
class Checkpoint:
    """A CLIP on disk.

    Attributes
    ----------
    path : Path
        ``.safetensors``, or a file of tensors written by ``torch.save``.
    architecture : mapping
        open_clip's model config: ``embed_dim``, ``vision_cfg``, ``text_cfg``, ``quick_gelu``.
    preprocessing : mapping
        ``mean``, ``std``, ``interpolation`` and ``resize_mode`` of the image transform.
    tokenizer : Tokenizer
        Of CLIP's own text tower.
    name : str
        By which open_clip finds the tokenizer of a tower of another kind.
    """

    path: Path
    architecture: Mapping[str, Any]
    preprocessing: Mapping[str, Any]
    tokenizer: Tokenizer
    name: str = ""

    def load(self, *prefixes: str, other_than: str = "") -> dict[str, Tensor]:
        """Read tensors whose names start with one of some prefixes, or do not start with another, as fp32.

        Raises
        ------
        StateError
            When the file is not one of tensors.
        """

        def wanted(name: str) -> bool:
            return name.startswith(prefixes) if prefixes else not name.startswith(other_than)

        return {name: value.float() for name, value in read_tensors(self.path, wanted).items()}


def read_tensors(path: Path, wanted: Any) -> dict[str, Tensor]:
    """Read the tensors of a file whose names are wanted, without running any code from it.

    Parameters
    ----------
    path : Path
    wanted : callable
        From a tensor's name to whether it is read.

    Returns
    -------
    dict of str to Tensor

    Raises
    ------
    StateError
        When the file is damaged, or holds more than tensors.
    """
    if path.suffix == ".safetensors":
        with _opened(path) as file:
            return {name: file.get_tensor(name) for name in file.keys() if wanted(name)}  # noqa: SIM118
    return {name: value for name, value in _unpickled(path).items() if wanted(name)}


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Read names and shapes of all tensors of a file, and none of their values.

    Raises
    ------
    StateError
        As :func:`read_tensors`.
    """
    if path.suffix == ".safetensors":
        with _opened(path) as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    return {name: tuple(value.shape) for name, value in _unpickled(path).items()}


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise StateError(f"{path} is not a readable .safetensors file ({error}).") from error


def _unpickled(path: Path) -> dict[str, Tensor]:
    """Map the tensors of a file that torch.save wrote."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, OSError) as error:
        raise StateError(
            f"{path} is not a file of tensors that can be read without running code from it. A TorchScript archive, "
            "as OpenAI published its models, is such a one: bring the .safetensors file of the same model."
        ) from error
    state = state.get("state_dict", state) if isinstance(state, Mapping) else {}
    return {str(name).removeprefix("module."): value for name, value in state.items() if isinstance(value, Tensor)}


def find_checkpoint(name: str, pretrained: str) -> Checkpoint:
    """Find the weights that ``backbone`` and ``pretrained`` of the run config name.

    Parameters
    ----------
    name : str
        "demo", the name of an open_clip model, or "hf-hub:OWNER/NAME", a model of the hub in open_clip's form.
    pretrained : str
        Path of a checkpoint, or one of open_clip's tags, which is downloaded once. Of no use with "demo"; of "hf-hub:"
        only a path is of use, in the place of the repository's own weights.

    Raises
    ------
    ConfigError
        When there is no such model, tag or file, or the hub cannot be reached and the weights are not here.
    StateError
        When the weights of the demo CLIP are not installed.
    """
    if name == "demo":
        return _demo()
    path = _file(pretrained) if names_weights(pretrained) else None
    if name.startswith(PREFIX):
        found = repository(name, weights=path is None)
    elif path is None:
        found = tagged(name, pretrained, _architecture(name))
    else:
        found = Published(path, _architecture(name), usual_transform(name))
    return Checkpoint(path or found.path, found.architecture, found.transform, ClipTokenizer(), name)


def _file(pretrained: str) -> Path:
    path = Path(pretrained).expanduser()
    if not path.is_file():
        raise ConfigError(f'pretrained = "{pretrained}": no such file.')
    return path


def model_names() -> list[str]:
    """List the names of open_clip's models, without importing it."""
    return sorted(path.stem for path in _configs().glob("*.json"))


def model_architectures() -> dict[str, dict[str, Any]]:
    """Return the configs of open_clip's models by name, without importing it."""
    return {path.stem: json.loads(path.read_text("utf-8")) for path in sorted(_configs().glob("*.json"))}


def _configs() -> Path:
    spec = importlib.util.find_spec("open_clip")
    if spec is None or spec.origin is None:
        raise ConfigError("open_clip is not installed: pip install open_clip_torch.")
    return Path(spec.origin).parent / "model_configs"


def _architecture(name: str) -> dict[str, Any]:
    path = _configs() / f"{name}.json"
    if name not in model_names():
        import difflib

        near = difflib.get_close_matches(name, model_names(), 3, 0.4)
        raise ConfigError(
            f'backbone = "{name}": not a model of open_clip'
            + (f"; did you mean {' or '.join(near)}?" if near else ".")
            + ' Examples: "ViT-B-16", "ViT-B-32", "ViT-L-14"; "demo" comes with this package; "hf-hub:OWNER/NAME" is a '
            "model of the hub in open_clip's form."
        )
    architecture: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return architecture


def _demo() -> Checkpoint:
    try:
        folder = Path(str(resources.files("fedpurel_demo")))
        settings = json.loads((folder / "clip.json").read_text("utf-8"))
        weights = unpacked(folder, settings["weights"])
    except (ModuleNotFoundError, FileNotFoundError) as error:
        raise StateError(
            "The weights of the demo CLIP are not installed. Install the package where this process runs: "
            "pip install -e . in the project, or its wheel."
        ) from error
    return Checkpoint(weights, settings["architecture"], CLIP_TRANSFORM, WordTokenizer(settings["vocabulary"]))
