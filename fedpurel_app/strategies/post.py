"""Messages to sites: who asks, on behalf of which attempt, and which private state each is to go on from."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict

from fedpurel_app.core.layout import METHOD, Layout, as_lists
from fedpurel_app.core.records import ARRAYS, BRIEF, CONFIG, Arrays, Instruction, to_array_record
from fedpurel_app.strategies.replies import size_of
from fedpurel_app.strategies.roster import Roster
from fedpurel_app.strategies.round_report import RoundReport


class Post:
    """Writes one message for each site.

    Parameters
    ----------
    roster : Roster
    experiment_id : str
    simulation_dir : str
        Folder for private branches that simulated sites use.
    layout : callable
        Returns how the shared parameters are laid out, now; nothing where that never changes.

    Attributes
    ----------
    attempt : int
        1, and one more with every resumption.
    private_rounds : dict of str to int
        By site, the round that wrote its newest private state.
    """

    def __init__(
        self, roster: Roster, experiment_id: str, simulation_dir: str, layout: Callable[[], Layout] = dict
    ) -> None:
        self.roster, self.experiment_id, self._simulation_dir = roster, experiment_id, simulation_dir
        self._layout = layout
        self.attempt, self._token, self._secret = 1, secrets.token_hex(8), secrets.token_hex(16)
        self.private_rounds: dict[str, int] = {}

    def instruction(self, phase: str, number: int) -> Instruction:
        """Return what all sites are told of a round."""
        return Instruction(
            phase,
            number,
            self.experiment_id,
            simulation_dir=self._simulation_dir,
            attempt=self.attempt,
            token=self._token,
            secret=self._secret,
        )

    def laid_out(self, message: Message) -> Message:
        """Say in a message how the shared parameters are laid out, where that changes."""
        if layout := self._layout():
            message.content = RecordDict({**message.content, METHOD: ConfigRecord({**as_lists(layout)})})
        return message

    def address(
        self,
        sites: list[str],
        arrays: ArrayRecord,
        config: ConfigRecord,
        report: RoundReport,
        message_type: str,
        briefs: Mapping[str, Arrays] | None = None,
    ) -> list[Message]:
        """Make one message for each site; it names the private state that the server knows of.

        The user's own settings and Flower's ``server-round`` are in it, as in those of an inner strategy; and what
        ``briefs`` has for the site, if that is anything.
        """
        messages, common = [], self.instruction(report.phase.value, report.round)
        for site in sites:
            node = self.roster.node(site)
            if node is None:
                continue
            own = Instruction(**{**vars(common), "private_round": self.private_rounds.get(site, 0)})
            content = ConfigRecord({**config, "server-round": own.round, **own.to_config()})
            records: dict[str, Any] = {ARRAYS: arrays, CONFIG: content}
            if brief := (briefs or {}).get(site):
                records[BRIEF] = to_array_record(brief)
            messages.append(self.laid_out(Message(RecordDict(records), node, message_type)))
        report.bytes_down += sum(size_of(message) for message in messages)
        return messages

    def with_private_round(self, message: Message) -> Message:
        """Name the private state that the server knows of in an inner strategy's message, the same for all sites."""
        node = message.metadata.dst_node_id
        stamp = self.private_rounds.get(self.roster.site(node) or "", 0)
        records = {
            name: ConfigRecord({**record, "private-round": stamp}) if isinstance(record, ConfigRecord) else record
            for name, record in message.content.items()
        }
        return Message(RecordDict(records), node, message.metadata.message_type)

    def state(self) -> dict[str, Any]:
        """Return what a resumed run needs, as JSON."""
        return {
            "private_rounds": dict(sorted(self.private_rounds.items())),
            "experiment_id": self.experiment_id,
            "attempt": self.attempt,
            "secret": self._secret,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up a saved state as the next attempt."""
        self.private_rounds = {str(site): int(stamp) for site, stamp in state["private_rounds"].items()}
        self.experiment_id = str(state["experiment_id"])
        self.attempt = int(state.get("attempt", 1)) + 1
        self._secret = str(state.get("secret", ""))  # none was sent before there was one
