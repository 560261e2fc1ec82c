"""A Flower Grid inside one process: messages reach a ClientApp by a call. For one process; scale-out is Flower's."""

from __future__ import annotations

import copy
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.task_identity import TaskIdentity

Spy = Callable[[Message, Message], Message | None]


class LocalGrid(Grid):
    """Delivers messages to a ClientApp by calling it; sites share no record with each other or with the server.

    Parameters
    ----------
    client_app : ClientApp
    num_nodes : int
    run_config : mapping
    shuffle : int
        Added to node ids: another value gives the nodes other ids in another order, as every Flower run does.
    spy : callable, optional
        Called with every message and reply; may return another reply.
    nodes : sequence of mapping, optional
        Settings of the nodes; else those of a simulation.
    node : mapping, optional
        More of every node's ``--node-config``.
    """

    def __init__(
        self,
        client_app: ClientApp,
        num_nodes: int,
        run_config: Mapping[str, Any],
        shuffle: int = 0,
        spy: Spy | None = None,
        nodes: Sequence[Mapping[str, Any]] = (),
        node: Mapping[str, Any] | None = None,
    ) -> None:
        simulated = [
            {"partition-id": site, "num-partitions": num_nodes, "simulation": True} for site in range(num_nodes)
        ]
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
        self.app, self.spy = client_app, spy
        self.contexts = {
            (7919 * (site + 1) * (shuffle + 1)) % 1_000_003: Context(
                run_id=1,
                node_id=0,
                node_config={**own, **(node or {})},
                state=RecordDict(),
                run_config=dict(run_config),
            )
            for site, own in enumerate(nodes or simulated)
        }

    def get_node_ids(self) -> Iterable[int]:
        """List the ids of all nodes."""
        return list(self.contexts)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Have each node answer in turn; what one raises becomes an error reply, as under Flower."""
        replies = []
        for message in messages:
            message.metadata.__dict__["_message_id"] = str(uuid.uuid4())
            received = copy.copy(message)
            received.__dict__["_content"] = copy.deepcopy(message.content)
            try:
                reply = self.app(received, self.contexts[message.metadata.dst_node_id])
            except Exception as error:
                reply = Message(Error(code=2, reason=f"{type(error).__name__}: {error}"), reply_to=message)
            if self.spy is not None:
                reply = self.spy(message, reply) or reply
            replies.append(reply)
        return replies

    def set_run(self, run: Any) -> None:
        """Do nothing: there is one run."""

    @property
    def run(self) -> Any:
        """No description of a run."""
        return None

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        """Raise TypeError: Flower replaced it by ``Message(...)``."""
        raise TypeError("use Message(...)")

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Raise TypeError: nodes answer at once."""
        raise TypeError("use send_and_receive")

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Raise TypeError: nodes answer at once."""
        raise TypeError("use send_and_receive")


def run_app(
    server_app: ServerApp, client_app: ClientApp, num_nodes: int, run_config: Mapping[str, Any], **grid: Any
) -> LocalGrid:
    """Run a ServerApp against a ClientApp in this process; ``grid`` has options of :class:`LocalGrid`."""
    local = LocalGrid(client_app, num_nodes, run_config, **grid)
    context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config=dict(run_config))
    server_app(grid=local, context=context)
    return local
