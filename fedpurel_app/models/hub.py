"""Published weights: open_clip's tags and repositories of the hub, whose files are downloaded once; no code is run.

open_clip knows where they lie and takes seconds to import, so what it found is remembered on disk.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from fedpurel_app.core.disk_memo import remembered
from fedpurel_app.core.errors import ConfigError
from fedpurel_app.core.names import listed

PREFIX = "hf-hub:"
# Of OpenAI's CLIP and of most that came after it.
CLIP_TRANSFORM = {
    "mean": (0.48145466, 0.4578275, 0.40821073),
    "std": (0.26862954, 0.26130258, 0.27577711),
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}
CONFIG = "open_clip_config.json"
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
# Others would reach transformers' loader, which has some that run a repository's code.
_TOKENIZER_OPTIONS = {"clean", "strip_sep_token", "language"}


class Published(NamedTuple):
    """Weights that somebody published.

    Attributes
    ----------
    path : Path
    architecture : mapping
        open_clip's model config.
    transform : mapping
        ``mean``, ``std``, ``interpolation`` and ``resize_mode`` of the images.
    """

    path: Path
    architecture: Mapping[str, Any]
    transform: Mapping[str, Any]


def tagged(name: str, tag: str, architecture: Mapping[str, Any]) -> Published:
    """Find the weights of one of open_clip's models and tags.

    Raises
    ------
    ConfigError
        When there is no such tag, or the weights are not here and the hub cannot be reached.
    """
    key = f"weights|{_version()}|{name}|{tag}|{os.environ.get('HF_HOME', '')}"
    found = remembered(key, lambda: _download(name, tag, architecture))
    if not Path(found["path"]).is_file():  # the hub's own cache was emptied
        found = _download(name, tag, architecture)
    return Published(Path(found["path"]), {**architecture, "quick_gelu": found["quick_gelu"]}, found["preprocessing"])


def usual_transform(name: str) -> Mapping[str, Any]:
    """Return the image transform that all published weights of one of open_clip's models want, else CLIP's own.

    A file does not say what images it wants. Where open_clip's tags of its model agree, that is known.
    """
    found = remembered(f"transform|{_version()}|{name}", lambda: _agreed_transform(name))
    return {key: tuple(value) if isinstance(value, list) else value for key, value in found.items()}


def repository(name: str, weights: bool = True) -> Published:
    """Find a model of the hub in open_clip's form, which comes with a config of its own.

    Parameters
    ----------
    name : str
        "hf-hub:OWNER/NAME".
    weights : bool
        False where they come from elsewhere; the path is then that of the config.

    Raises
    ------
    ConfigError
        When its files are not here and the hub cannot be reached; or it holds no model of open_clip's form, or one
        whose tokenizer wants options beyond open_clip's own.
    """
    where = require_repository(name.removeprefix(PREFIX), f'backbone = "{name}"')
    config_path = fetch(where, f'backbone = "{name}"', CONFIG)
    try:
        config = json.loads(config_path.read_text("utf-8"))
        architecture, images = config["model_cfg"], config.get("preprocess_cfg") or {}
        parts = (architecture["vision_cfg"], architecture["text_cfg"], images)
        if not all(isinstance(part, dict) for part in parts) or not isinstance(architecture["embed_dim"], int):
            raise TypeError
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f'backbone = "{name}": {CONFIG} of huggingface.co/{where} is not of open_clip\'s form.'
        ) from error
    options = set(architecture["text_cfg"].get("tokenizer_kwargs") or {})
    if strange := sorted(options - _TOKENIZER_OPTIONS):
        raise ConfigError(
            f'backbone = "{name}": its config gives the tokenizer the options {listed(strange)}, of which some run '
            f"code; those of open_clip alone are taken: {', '.join(sorted(_TOKENIZER_OPTIONS))}."
        )
    transform = {key: images.get(key, value) for key, value in CLIP_TRANSFORM.items()}
    return Published(fetch(where, f'backbone = "{name}"') if weights else config_path, architecture, transform)


def require_repository(name: str, wanted_by: str) -> str:
    """Return the name of a repository; raises ConfigError for what cannot be one, as a path."""
    if not _REPOSITORY.fullmatch(name):
        raise ConfigError(f'{wanted_by}: "{name}" is no repository of the hub; those have the form OWNER/NAME.')
    return name


def fetch(repository: str, wanted_by: str, *names: str) -> Path:
    """Return the path of the first of some files that a repository of the hub has, downloaded once.

    Parameters
    ----------
    repository : str
    wanted_by : str
        What an error begins with.
    *names : str
        None: the weights, by open_clip's names for them.

    Returns
    -------
    Path
        In the hub's cache; its folder has the name of the repository's commit.

    Raises
    ------
    ConfigError
        When it is not on this machine and could not be downloaded.
    """
    cache = "|".join(os.environ.get(key, "") for key in ("HF_HOME", "HF_HUB_CACHE"))
    key = f"hub|{_version()}|{repository}|{names}|{cache}"
    found = remembered(key, lambda: _download_one(repository, names, wanted_by))
    return Path(found if _is_current(Path(found)) else _download_one(repository, names, wanted_by))


def _is_current(path: Path) -> bool:
    """Tell whether a file is there, and of the commit that its repository's cache has as its newest."""
    newest = path.parent.parent.parent / "refs" / "main"
    return path.is_file() and (not newest.is_file() or newest.read_text("utf-8").strip() == path.parent.name)


def _download_one(repository: str, names: tuple[str, ...], wanted_by: str) -> str:
    from open_clip.pretrained import download_pretrained_from_hf

    for name in names or (None,):
        try:
            return str(Path(download_pretrained_from_hf(repository, filename=name)).absolute())
        except Exception as error:  # the hub's client raises many kinds; all mean that it is not to be had
            last = error
    wanted = " or ".join(names) or "open_clip_model.safetensors"
    where = f"{wanted} of huggingface.co/{repository}"
    absent = ConfigError(
        f"{wanted_by}: {where} is not on this machine and could not be downloaded. Run `hf download {repository}` on "
        "one that reaches the hub and bring its cache (HF_HOME, ~/.cache/huggingface), or allow the hub (unset "
        "HF_HUB_OFFLINE)."
    )
    absent.download = where
    raise absent from last


def _version() -> str:
    return metadata.version("open_clip_torch")


def _agreed_transform(name: str) -> dict[str, Any]:
    from open_clip import pretrained

    tags = pretrained.list_pretrained_tags_by_model(name)
    found = [_transform_of(pretrained.get_pretrained_cfg(name, tag)) for tag in tags]
    return found[0] if found and all(one == found[0] for one in found) else dict(CLIP_TRANSFORM)


def _transform_of(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: config.get(key, value) for key, value in CLIP_TRANSFORM.items()}


def _download(name: str, tag: str, architecture: Mapping[str, Any]) -> dict[str, Any]:
    """Get weights from the hub, or from its cache on this machine."""
    from open_clip import pretrained

    tags = pretrained.list_pretrained_tags_by_model(name)
    if tag not in tags:
        raise ConfigError(
            f'pretrained = "{tag}": for backbone = "{name}" give the path of a checkpoint (.safetensors or .pt)'
            + (f", or one of open_clip's tags: {', '.join(tags)}." if tags else "; open_clip has no tags for it.")
        )
    config = pretrained.get_pretrained_cfg(name, tag)
    try:
        path = Path(pretrained.download_pretrained(config))
    except Exception as error:  # the hub's client raises many kinds; all mean that the weights are not to be had
        repository = str(config.get("hf_hub", "")).rstrip("/")
        where = f"open_clip_model.safetensors of huggingface.co/{repository}" if repository else config.get("url", "")
        bring = f'Bring {where} and set pretrained = "/path/to/it"'
        if config.get("quick_gelu") and not architecture.get("quick_gelu"):
            bring += f' and backbone = "{name}-quickgelu", the activation of these weights'
        if _transform_of(config) != _agreed_transform(name):
            bring = "A file alone will not do: these weights want an image transform of their own"
        absent = ConfigError(
            f'backbone = "{name}", pretrained = "{tag}": the weights are not on this machine and could not be '
            f"downloaded. {bring}, or allow the hub (unset HF_HUB_OFFLINE)."
        )
        absent.download = where
        raise absent from error
    quick = bool(config.get("quick_gelu", architecture.get("quick_gelu", False)))
    return {"path": str(path.absolute()), "preprocessing": _transform_of(config), "quick_gelu": quick}
