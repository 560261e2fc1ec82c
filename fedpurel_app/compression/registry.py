"""What there is to choose for ``compression``: names, sources and the keys that each owns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any

from pydantic import Field

from fedpurel_app.compression.base import Codec
from fedpurel_app.compression.sketch import Sketch
from fedpurel_app.compression.top_k import TopK
from fedpurel_app.core.options import Option

LEAST_VALUES = 20_000  # numbers of an update below which there is nothing to gain
_RATIO = Option(
    "compression-ratio",
    8,
    Annotated[int, Field(ge=2, le=1000)],
    "how many times shorter a site's reply becomes, 2 to 1000",
)


@dataclass(frozen=True)
class Compression:
    """A way to shorten replies, as it is listed.

    Attributes
    ----------
    name : str
        Value of the run-config key ``compression``.
    make : callable or None
        From ratio and seed to the codec; None: replies are sent as they are.
    remembers : bool
        Whether a site keeps what it has not sent yet.
    options : tuple of Option
        The keys that it reads.
    """

    name: str
    make: Callable[[int, int], Codec] | None = None
    remembers: bool = False
    options: tuple[Option, ...] = ()

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """The keys that it reads."""
        return tuple(option.key for option in self.options)


_ALL = (
    Compression("none"),
    Compression("top-k", lambda ratio, seed: TopK(ratio), TopK.remembers, (_RATIO,)),
    Compression("sketch", Sketch, Sketch.remembers, (_RATIO,)),
)
COMPRESSIONS = {one.name: one for one in _ALL}


def make_codec(settings: Mapping[str, Any]) -> Codec | None:
    """Make the codec that a run's settings, by key, ask for; None where replies are sent as they are."""
    make = COMPRESSIONS[settings["compression"]].make
    return None if make is None else make(settings["compression-ratio"], settings["seed"])
