"""A Flower Grid inside the test process, and small experiments for it."""

from __future__ import annotations

import copy
import uuid
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.task_identity import TaskIdentity

SHARED = Path(__file__).parent.parent.parent / "shared" / "data"


class LocalGrid(Grid):
    """Delivers messages to a ClientApp by calling it, through Flower's own serialisation of contents.

    Parameters
    ----------
    client_app : ClientApp
    num_nodes : int
    run_config : mapping
    shuffle : int
        Added to node ids: another value gives the nodes other ids in another order, as every Flower run does.
    spy : callable, optional
        Called with every message and reply; may return another reply.
    """

    def __init__(
        self,
        client_app: ClientApp,
        num_nodes: int,
        run_config: Mapping[str, Any],
        shuffle: int = 0,
        spy: Callable[[Message, Message], Message | None] | None = None,
    ) -> None:
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
        self.app, self.spy = client_app, spy
        self.contexts = {
            (7919 * (site + 1) * (shuffle + 1)) % 1_000_003: Context(
                run_id=1,
                node_id=0,
                node_config={"partition-id": site, "num-partitions": num_nodes, "simulation": True},
                state=RecordDict(),
                run_config=dict(run_config),
            )
            for site in range(num_nodes)
        }

    def get_node_ids(self) -> Iterable[int]:
        return list(self.contexts)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        replies = []
        for message in messages:
            message.metadata.__dict__["_message_id"] = str(uuid.uuid4())
            received = copy.copy(message)  # sites must not share records with each other or with the server
            received.__dict__["_content"] = copy.deepcopy(message.content)
            try:
                reply = self.app(received, self.contexts[message.metadata.dst_node_id])
            except Exception as error:
                reply = Message(Error(code=2, reason=f"{type(error).__name__}: {error}"), reply_to=message)
            if self.spy is not None:
                reply = self.spy(message, reply) or reply
            replies.append(reply)
        return replies

    def set_run(self, run: Any) -> None: ...

    @property
    def run(self) -> Any:
        return None

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        raise TypeError("use Message(...)")

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        raise TypeError("use send_and_receive")

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        raise TypeError("use send_and_receive")


def run_app(
    server_app: ServerApp, client_app: ClientApp, num_nodes: int, run_config: Mapping[str, Any], **grid: Any
) -> LocalGrid:
    """Run a ServerApp against a ClientApp in this process."""
    local = LocalGrid(client_app, num_nodes, run_config, **grid)
    context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config=dict(run_config))
    server_app(grid=local, context=context)
    return local
