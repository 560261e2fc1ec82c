"""A server that asks a real site for whatever it likes, through the real ClientApp, and keeps every reply."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ConfigRecord, Message, RecordDict

from fedpurel_app.client_app import app as client_app
from fedpurel_app.core.layout import METHOD
from fedpurel_app.core.records import (
    ARRAYS,
    BRIEF,
    CONFIG,
    FEATURE_SECONDS,
    METRICS,
    PERSONALIZE,
    SECONDS,
    Instruction,
    to_array_record,
)
from fedpurel_app.site.private_store import PrivateStore
from fedpurel_app.site.run_fence import Attempt
from tests.support import LocalGrid

EXPERIMENT = "e"
TIMES = {SECONDS, FEATURE_SECONDS}


class Server:
    """What a server can do to one site.

    Parameters
    ----------
    config : mapping
        Settings of the run, which are the server's to choose.
    node : mapping
        The site's own ``--node-config``.
    """

    def __init__(self, config: Mapping[str, Any], node: Mapping[str, Any]) -> None:
        self.config, self.node = dict(config), dict(node)
        self.instruction = Instruction("personal", 1, EXPERIMENT, attempt=1, token="t")

    def ask(self, kind: str, arrays: Mapping[str, np.ndarray], changes: Mapping[str, Any] | None = None, **how: Any):
        """Send one message.

        Parameters
        ----------
        kind : str
            Message type.
        arrays : mapping of str to ndarray
        changes : mapping, optional
            Other settings of the run, for this message.
        **how
            Other fields of the instruction; ``extra`` adds to the message's config, ``brief`` is a second ArrayRecord,
            ``layout`` what the message says of how the arrays are laid out.
        """
        extra, brief, layout = how.pop("extra", {}), how.pop("brief", None), how.pop("layout", None)
        config = {**replace(self.instruction, **how).to_config(), **extra}
        grid = LocalGrid(client_app, 1, {**self.config, **(changes or {})}, nodes=[self.node])
        (node,) = grid.contexts
        content = RecordDict({ARRAYS: to_array_record(arrays), CONFIG: ConfigRecord(config)})
        if brief is not None:
            content[BRIEF] = to_array_record(brief)
        if layout is not None:
            content[METHOD] = ConfigRecord(layout)
        (reply,) = grid.send_and_receive([Message(content, node, kind)])
        return reply

    def personalize(self, arrays: Mapping[str, np.ndarray], number: int, before: int, **how: Any) -> Message:
        """Have the private branch trained."""
        return self.ask(PERSONALIZE, arrays, round=number, private_round=before, **how)

    def evaluate(self, arrays: Mapping[str, np.ndarray], number: int, before: int = 0, **how: Any) -> Message:
        """Have the models scored."""
        return self.ask("evaluate", arrays, round=number, private_round=before, **how)

    def train(self, arrays: Mapping[str, np.ndarray], number: int, before: int = 0, **how: Any) -> Message:
        """Have the shared parameters trained."""
        return self.ask("train", arrays, round=number, private_round=before, phase="global", **how)

    def store(self) -> PrivateStore:
        """Open the site's own store, as whoever has its disk."""
        return PrivateStore(Path(self.node["state-dir"]), EXPERIMENT, self.node["site"], Attempt(1, "t"))


def told(reply: Message) -> dict[str, Any]:
    """Return everything that a reply tells, times aside: names, values, and the text of an error."""
    if reply.has_error():
        return {"error": reply.error.reason}
    found: dict[str, Any] = {}
    for record, content in reply.content.items():
        for name, value in content.items():
            if name not in TIMES:
                found[f"{record}/{name}"] = value.numpy().tobytes() if isinstance(value, Array) else value
    return found


def metrics(reply: Message) -> dict[str, Any]:
    """Return a reply's metrics, times aside."""
    return {name: value for name, value in reply.content[METRICS].items() if name not in TIMES}
