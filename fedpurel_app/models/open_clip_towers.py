"""Towers of other forms than CLIP's, as open_clip builds them: they give features, and nothing is put inside them.

No weights but the checkpoint's are looked for: a tower that timm or transformers could fill with others is built empty.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedpurel_app.core.errors import ConfigError
from fedpurel_app.core.names import clean
from fedpurel_app.models.causal_text import too_long
from fedpurel_app.models.fitting import differences
from fedpurel_app.models.hub import fetch, require_repository
from fedpurel_app.models.named_weights import NamedWeights

_BATCH = 64  # prompts; every one is padded to the tower's whole length
# Names of a text tower where it is not set apart as "text.", which is open_clip's older form.
_FLAT = ("transformer.", "token_embedding.", "positional_embedding", "ln_final.", "text_projection")
# What of a repository that a text_cfg names shows that it is here, the first that it has.
_COMPANIONS = {
    "hf_model_name": ("config.json",),
    "hf_tokenizer_name": ("tokenizer_config.json", "tokenizer.json", "vocab.txt", "config.json"),
}


def image_tower(weights: NamedWeights) -> Callable[[Tensor], Tensor]:
    """Build open_clip's image tower: from pixels, shape (B, 3, H, W), to features, (B, D), projected, not normalised.

    Raises
    ------
    ConfigError
        When the file is of another tower.
    """
    from open_clip.model import _build_vision_tower

    architecture = weights.architecture
    vision = {**architecture["vision_cfg"], "timm_model_pretrained": False}
    with torch.random.fork_rng(devices=[]):  # the weights that it draws are replaced
        tower = _build_vision_tower(architecture["embed_dim"], vision, bool(architecture.get("quick_gelu")))
    state = {name.removeprefix("visual."): value for name, value in weights.load("visual.").items()}
    return _features_of(_filled(tower, state, weights, "image tower").to(weights.device))


class OpenClipText:
    """Text features by open_clip's own tower and tokenizer, both loaded when first used.

    Parameters
    ----------
    weights : NamedWeights
    """

    def __init__(self, weights: NamedWeights) -> None:
        self._weights = weights
        self._config: Mapping[str, Any] = weights.architecture["text_cfg"]
        self._wanted_by = f'backbone = "{weights.name}"'

    @cached_property
    def identity(self) -> str:
        """Commits of the hub that tell what the checkpoint does not: the tower's form, and the tokenizer."""
        return "|".join(map(self._commit, _COMPANIONS))

    def load(self) -> None:
        """Load tower and tokenizer now.

        Raises
        ------
        ConfigError
            When the file is of another tower, or what a tower of transformers or a tokenizer takes from the hub is not
            here.
        """
        _ = self._tower, self._tokenizer

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Tensor:
        """Encode whole prompts, C of them, to (C, D), L2-normalised.

        Raises
        ------
        ConfigError
            When a prompt is too long for the tower.
        """
        parts = self._tokens(prompts).split(_BATCH)
        with self._weights.autocast():
            features = torch.cat([self._tower(part.to(self._weights.device)).float() for part in parts])
        return functional.normalize(features, dim=-1)

    def _tokens(self, prompts: Sequence[str]) -> Tensor:
        """Turn prompts into padded token ids, shape (C, L); tokenizers cut what is too long without a word."""
        most, padding = self._tokenizer.context_length, self._padding
        ids: Tensor = self._tokenizer(list(prompts))
        whole: Tensor = self._tokenizer(list(prompts), context_length=4 * most)
        counts, cut = (whole != padding).sum(1), (whole != padding).sum(1) > (ids != padding).sum(1)
        if cut.any():
            longest = int(counts.argmax())
            raise too_long(prompts[longest], int(counts[longest]), self._weights.name, most)
        return ids

    @property
    def _padding(self) -> int:
        inner = getattr(self._tokenizer, "tokenizer", None)
        return int(getattr(inner, "pad_token_id", None) or 0)

    @cached_property
    def _tokenizer(self) -> Any:
        from open_clip import get_tokenizer

        self._commit("hf_tokenizer_name")
        name = self._weights.checkpoint.name
        # Files that a repository lacks are asked for, too: open_clip's own call remembers those, a plain download not.
        with self._buildable("tokenizer", "hf_tokenizer_name", f"import open_clip; open_clip.get_tokenizer('{name}')"):
            return get_tokenizer(name)

    @cached_property
    def _tower(self) -> Callable[[Tensor], Tensor]:
        from open_clip.model import _build_text_tower

        architecture = self._weights.architecture
        text = {**self._config, "hf_model_pretrained": False}
        self._commit("hf_model_name")
        ask = f"import transformers; transformers.AutoConfig.from_pretrained('{text.get('hf_model_name')}')"
        with self._buildable("text tower", "hf_model_name", ask), torch.random.fork_rng(devices=[]):
            tower = _build_text_tower(architecture["embed_dim"], text, bool(architecture.get("quick_gelu")))
        nested = any(name.startswith("text.") for name in self._weights.shapes)
        weights = self._weights.load(*(("text.",) if nested else _FLAT))
        state = {name.removeprefix("text."): value for name, value in weights.items()}
        return _features_of(_filled(tower, state, self._weights, "text tower").to(self._weights.device))

    def _commit(self, key: str) -> str:
        """Return the commit of the repository that a key of the config names, from which a part of its files is here.

        An empty one where it names none.
        """
        if not (name := self._config.get(key)):
            return ""
        return fetch(require_repository(str(name), self._wanted_by), self._wanted_by, *_COMPANIONS[key]).parent.name

    @contextmanager
    def _buildable(self, part: str, key: str, ask: str) -> Iterator[None]:
        """Say what to bring where transformers cannot make a part of the files that are here."""
        try:
            yield
        except Exception as error:  # transformers raises many kinds for a file that is missing, damaged or unknown
            where = f"huggingface.co/{self._config[key]}" if self._config.get(key) else "open_clip"
            absent = ConfigError(
                f"{self._wanted_by}: the {part} of {where} cannot be made of the files on this machine "
                f'({type(error).__name__}: {clean(str(error))}). Run python -c "{ask}" on a machine that reaches the '
                "hub and bring its cache (HF_HOME, ~/.cache/huggingface), or allow the hub (unset HF_HUB_OFFLINE)."
            )
            absent.download = where
            raise absent from error


def _filled(tower: nn.Module, state: Mapping[str, Tensor], weights: NamedWeights, part: str) -> nn.Module:
    """Fill a tower with a checkpoint's tensors, all of which it must have, in the same shapes."""
    state = {name: value for name, value in state.items() if not name.endswith(".position_ids")}
    expected = {
        name: tuple(value.shape) for name, value in tower.state_dict().items() if not name.endswith(".position_ids")
    }
    weights.refuse(differences({name: tuple(value.shape) for name, value in state.items()}, expected, part))
    tower.load_state_dict(state, strict=False)  # all but what counts positions was just compared
    return tower.float().eval().requires_grad_(False)


def _features_of(tower: nn.Module) -> Callable[[Tensor], Tensor]:
    """Return a tower's features alone; those of CoCa come with all tokens."""

    def features(inputs: Tensor) -> Tensor:
        found = tower(inputs)
        pooled: Tensor = found[0] if isinstance(found, tuple) else found
        return pooled

    return features
