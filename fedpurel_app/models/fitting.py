"""Whether a file of weights is of the architecture that was named, by names and shapes of its tensors alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fedpurel_app.core.names import listed

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]

# What open_clip takes where a model config is silent.
_VISION = {"layers": 12, "width": 768, "mlp_ratio": 4.0, "patch_size": 16, "image_size": 224}
_TEXT = {"layers": 12, "width": 512, "mlp_ratio": 4.0, "context_length": 77, "vocab_size": 49408}


def misfits(
    shapes: Shapes, architecture: Mapping[str, Any], *, with_image_tower: bool = True, with_text_tower: bool = True
) -> list[str]:
    """List what a file of weights has otherwise than its architecture.

    Parameters
    ----------
    shapes : mapping of str to tuple of int
        Shapes of the tensors in the file, by open_clip's names.
    architecture : mapping
        open_clip's model config.
    with_image_tower, with_text_tower : bool
        Look at this tower, too: it is of CLIP's own form.

    Returns
    -------
    list of str
        One line for each problem; empty when towers built from the file are those that were named.
    """
    problems = []
    width = int(architecture["embed_dim"])
    if with_text_tower:
        text = {**_TEXT, **architecture["text_cfg"]}
        nested = "text." if "text.positional_embedding" in shapes else ""
        problems += _compare(shapes, _text_tower(text, nested, width), "text tower")
        problems += _depth(shapes, f"{nested}transformer.resblocks.", int(text["layers"]), "text tower")
    if with_image_tower:
        vision = {**_VISION, **architecture["vision_cfg"]}
        problems += _compare(shapes, _image_tower(vision, width), "image tower")
        problems += _depth(shapes, "visual.transformer.resblocks.", int(vision["layers"]), "image tower")
    wanted = ["logit_scale", *(["logit_bias"] if architecture.get("init_logit_bias") is not None else [])]
    return problems + [f"{name} is missing" for name in wanted if name not in shapes]


def differences(shapes: Shapes, expected: Shapes, tower: str) -> list[str]:
    """List what the tensors of a tower have otherwise than expected: shapes, names that lack, names that are too many.

    Parameters
    ----------
    shapes, expected : mapping of str to tuple of int
        Shapes of the tensors in the file and of the tower that was named, by name.
    tower : str
        What it is called in the lines.
    """
    problems = _compare(shapes, ((name, shape, "") for name, shape in expected.items()), tower)
    if unknown := sorted(set(shapes) - set(expected)):
        problems.append(f"the {tower} has no {listed(unknown)}")
    return problems


def _compare(shapes: Shapes, expected: Iterator[tuple[str, Shape, str]], tower: str) -> list[str]:
    """Compare the shapes of a tower's tensors; each kind of difference is told once."""
    problems, missing = [], []
    for name, shape, meaning in expected:
        if name not in shapes:
            missing.append(name)
        elif tuple(shapes[name]) != shape:
            told = f" ({meaning})" if meaning else ""
            problems.append(f"{name} is of shape {list(shapes[name])}, not {list(shape)}{told}")
    if missing:
        problems.append(f"the {tower} lacks {listed(missing)}")
    return problems


def _depth(shapes: Shapes, prefix: str, layers: int, tower: str) -> list[str]:
    blocks = {name[len(prefix) :].split(".")[0] for name in shapes if name.startswith(prefix)}
    if blocks == {str(number) for number in range(layers)}:
        return []
    return [f"the {tower} has {len(blocks)} blocks, not {layers}"]


def _text_tower(config: Mapping[str, Any], prefix: str, embed: int) -> Iterator[tuple[str, Shape, str]]:
    width, hidden = int(config["width"]), int(int(config["width"]) * config["mlp_ratio"])
    yield f"{prefix}token_embedding.weight", (int(config["vocab_size"]), width), "vocabulary, width"
    yield f"{prefix}positional_embedding", (int(config["context_length"]), width), "context length, width"
    yield f"{prefix}text_projection", (width, embed), "width, embed_dim"
    yield f"{prefix}ln_final.weight", (width,), "width"
    yield from _first_block(f"{prefix}transformer.resblocks.0.", width, hidden)


def _image_tower(config: Mapping[str, Any], embed: int) -> Iterator[tuple[str, Shape, str]]:
    width, hidden = int(config["width"]), int(int(config["width"]) * config["mlp_ratio"])
    (high, wide), (down, across) = _pair(config["image_size"]), _pair(config["patch_size"])
    tokens = (high // down) * (wide // across) + 1
    yield "visual.conv1.weight", (width, 3, down, across), f"width {width}, patches of {down} pixels"
    yield "visual.class_embedding", (width,), "width"
    meaning = f"one position for each patch of {high} pixels in patches of {down}, and one for the class token"
    yield "visual.positional_embedding", (tokens, width), meaning
    yield "visual.proj", (width, embed), "width, embed_dim"
    yield "visual.ln_post.weight", (width,), "width"
    yield from _first_block("visual.transformer.resblocks.0.", width, hidden)


def _first_block(prefix: str, width: int, hidden: int) -> Iterator[tuple[str, Shape, str]]:
    """Yield the shapes of the first block; building the tower finds a later one that is otherwise."""
    yield f"{prefix}attn.in_proj_weight", (3 * width, width), "of q, k and v"
    yield f"{prefix}attn.out_proj.weight", (width, width), "width"
    yield f"{prefix}mlp.c_fc.weight", (hidden, width), "width of the perceptron"
    yield f"{prefix}mlp.c_proj.weight", (width, hidden), "width of the perceptron"


def _pair(size: Any) -> tuple[int, int]:
    return (int(size[0]), int(size[1])) if isinstance(size, list | tuple) else (int(size), int(size))
