"""What leaves a site, as bytes: replies in Flower's own serialisation, and a search for what must not be in them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, Message, MetricRecord
from flwr.app.message import remove_content_from_message
from flwr.app.message.arraychunk import ArrayChunk
from flwr.common.serde import message_to_proto
from flwr.proto.message_pb2 import PushObjectRequest
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_body,
    get_object_type_from_object_content,
)
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image
from safetensors.numpy import load_file

from fedpurel_app.data.sources.subsets import hold_out

WINDOW = 64  # bytes of a secret in a row that count as found
_WORD = 8
_VARIED = 12  # different bytes in a window; runs of zeros or of one colour are everywhere


def sent(message: Message) -> list[bytes]:
    """Return what a SuperNode sends for a reply: the message without content, then every object of its content."""
    if not message.has_content():
        return [message_to_proto(message).SerializeToString()]
    objects = [one.deflate() for one in get_all_nested_objects(message).values()]
    return [message_to_proto(remove_content_from_message(message)).SerializeToString(), *objects]


def requests(stream: bytes) -> Iterator[tuple[str, bytes]]:
    """Split what a client sent over one HTTP/1.1 connection into paths and bodies."""
    start = 0
    while (end := stream.find(b"\r\n\r\n", start)) >= 0:
        first, *lines = stream[start:end].decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        start = end + 4 + int(headers.get("content-length", 0))
        yield first.split()[1], stream[end + 4 : start]


def objects(stream: bytes) -> Iterator[bytes]:
    """Return the objects that a SuperNode pushed over one connection."""
    for path, body in requests(stream):
        if path == "/v1/fleet/push-object":
            yield PushObjectRequest.FromString(body).object_content


def facts(content: bytes) -> Mapping[str, Any]:
    """Return names and values of a metric or config record, of its bytes as an object; of any other nothing."""
    kinds: dict[str, type[MetricRecord] | type[ConfigRecord]] = {
        "MetricRecord": MetricRecord,
        "ConfigRecord": ConfigRecord,
    }
    kind = kinds.get(get_object_type_from_object_content(content))
    return {} if kind is None else dict(kind.inflate(content))


def array_bytes(content: bytes) -> bytes:
    """Return the bytes of a piece of an array, of its bytes as an object; of any other nothing."""
    if get_object_type_from_object_content(content) != "ArrayChunk":
        return b""
    return get_object_body(content, ArrayChunk)


def found(haystack: bytes, secrets: Mapping[str, bytes]) -> list[str]:
    """Name the secrets of which any varied window of 64 bytes is in a haystack; shorter ones count as a whole."""
    here = np.unique(_words(haystack))
    return [name for name, secret in secrets.items() if _is_in(secret, haystack, here)]


def _words(data: bytes) -> np.ndarray:
    """Read an 8-byte word at every offset."""
    if len(data) < _WORD:
        return np.zeros(0, np.uint64)
    return np.ascontiguousarray(sliding_window_view(np.frombuffer(data, np.uint8), _WORD)).view(np.uint64).ravel()


def _is_in(secret: bytes, haystack: bytes, here: np.ndarray) -> bool:
    if len(secret) < WINDOW:
        return secret in haystack
    known = np.isin(_words(secret), here)
    ends = WINDOW - _WORD + 1
    whole = np.logical_and.reduce([known[start : len(known) - ends + start + 1] for start in range(0, ends, _WORD)])
    windows = (secret[start : start + WINDOW] for start in np.flatnonzero(whole))
    return any(len(set(window)) >= _VARIED and window in haystack for window in windows)


def secrets_of(data: Path, state: Path, class_names: tuple[str, ...]) -> dict[str, bytes]:
    """List what must never leave a site: its private tensors, features, images, paths and numbers by class.

    Parameters
    ----------
    data : Path
        Its folder of images, one folder for each class.
    state : Path
        Its state folder.
    class_names : tuple of str
        Of the federation, in order.
    """
    secrets = {f"path {folder.name}": str(folder).encode() for folder in (data, state)}
    public = state / ".cache" / "demo"  # the backbone's weights, which every copy of the package has
    for path in (path for path in state.rglob("*.safetensors") if path.parent != public):
        for name, value in load_file(path).items():
            secrets |= _in_all_types(f"{path.name} {name}", value)
    for path in (state / ".cache").glob("*.npy"):
        secrets |= _in_all_types(f"cache {path.name}", np.load(path))
    for path in sorted(data.rglob("*.png")):
        name, pixels = str(path.relative_to(data)), np.asarray(Image.open(path))
        secrets |= {f"file {name}": path.read_bytes(), f"pixels {name}": pixels.tobytes()}
        secrets[f"planes {name}"] = pixels.transpose(2, 0, 1).tobytes()
    labels = np.array([
        label for label, name in enumerate(class_names) for _ in (data / name.replace(" ", "_")).glob("*.png")
    ])  # fmt: skip
    for part, rows in (("all", np.arange(len(labels))), *zip(("train", "test"), _split(labels), strict=True)):
        counts = np.bincount(labels[rows], minlength=len(class_names)).tolist()
        for kind, numbers in (("classes", counts), ("its own classes", [count for count in counts if count])):
            packed = MetricRecord({"": numbers}).deflate()
            secrets[f"counts {part} {kind}"] = packed[packed.index(b"\xb2\x01") :]
            secrets[f"text {part} {kind}"] = str(numbers).encode()
            secrets[f"dense text {part} {kind}"] = str(numbers).replace(" ", "").encode()
    return secrets


def _split(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    # How many of each class there are depends on neither names nor seed.
    return hold_out(labels, [str(row) for row in range(len(labels))], 0)


def _in_all_types(name: str, value: np.ndarray) -> dict[str, bytes]:
    """Return an array as it lies there, and cast: a leak need not keep the type."""
    kinds = {value.dtype, *(map(np.dtype, ("f2", "f4", "f8")) if value.dtype.kind == "f" else ())}
    return {f"{name} as {kind}": value.astype(kind).tobytes() for kind in kinds}
