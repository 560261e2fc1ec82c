"""Who takes part: Flower's random node ids to stable site names, and seeded cohorts over the names."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from fedpurel_app.core.names import listed
from fedpurel_app.core.records import CONFIG, DESCRIBE, Description, Instruction, Refusal
from fedpurel_app.core.seeding import derive_seed
from fedpurel_app.core.shared_log import take_lines
from fedpurel_app.strategies.identity import Identities
from fedpurel_app.strategies.screening import BadReplyError, check_size, last_line

_UNREGISTERED = "No query function registered"


class Roster:
    """All sites ever met, by name, with the node that each is reached at.

    Attributes
    ----------
    descriptions : dict of str to Description or None
        By site name; None for a client that cannot describe itself.
    refusals : dict of int to Refusal
        By node that will not serve this run: its answer.
    heard : list of (str, list of str)
        Sites, and what of their logs they shared, since :meth:`take_heard` was last called.
    """

    def __init__(self) -> None:
        self.descriptions: dict[str, Description | None] = {}
        self._nodes_of: dict[str, list[int]] = {}  # in the order in which they introduced themselves
        self._name_of: dict[int, str] = {}
        self._failures: dict[int, tuple[int, int]] = {}  # how often a node did not say who it is, and when it last did
        self._refreshes = 0
        self.connected: set[int] = set()
        self.refusals: dict[int, Refusal] = {}
        self._identities = Identities()
        self.heard: list[tuple[str, list[str]]] = []

    def hear(self, site: str, content: RecordDict) -> None:
        """Take what a site shares of its log out of a reply."""
        if lines := take_lines(content):
            self.heard.append((site, lines))

    def take_heard(self) -> list[tuple[str, list[str]]]:
        """Return what sites shared since the last call."""
        heard, self.heard = self.heard, []
        return heard

    def refresh(
        self, grid: Grid, timeout: float, patient: bool = True, instruction: Instruction | None = None
    ) -> list[str]:
        """Ask every node not yet known who it is.

        Parameters
        ----------
        grid : Grid
        timeout : float
            Seconds to wait for the answers.
        patient : bool
            Ask a node that failed to answer again only after 1, 2, 4, ... further calls, so that one broken node does
            not hold up every round; False: ask it now.
        instruction : Instruction, optional
            Tells the sites which run this is.

        Returns
        -------
        list of str
            A line for everything that a user should know.
        """
        self.connected = set(grid.get_node_ids())
        self.refusals = {node: answer for node, answer in self.refusals.items() if node in self.connected}
        self._refreshes += 1
        unknown = sorted(node for node in self.connected - set(self._name_of) if not patient or self._is_due(node))
        if not unknown:
            return []
        self._identities.look(grid)
        config = ConfigRecord() if instruction is None else instruction.to_config()
        messages = [Message(RecordDict({CONFIG: config}), node, DESCRIBE) for node in unknown]
        notes, silent = [], set(unknown)
        plain: list[str] = []
        for reply in grid.send_and_receive(messages, timeout=timeout):
            node = reply.metadata.src_node_id
            if node in silent:  # else an error that Flower sends in the place of a node that left
                silent.discard(node)
                notes += self._introduce(node, reply, plain)
        if plain:
            notes.append(
                f"{listed(sorted(plain))}: no {DESCRIBE}. They take part under their node ids, which no restart keeps: "
                "cohorts repeat only with the same nodes, and their numbers of examples are taken as they come"
            )
        for node in sorted(silent):
            notes += self._leave_out(node, "no answer")
        return notes

    def _is_due(self, node: int) -> bool:
        failures, last = self._failures.get(node, (0, 0))
        return not failures or self._refreshes >= last + 2 ** (failures - 1)

    def _leave_out(self, node: int, reason: str) -> list[str]:
        """Note that a node did not say who it is; worth a line the first time."""
        failures, _ = self._failures.get(node, (0, 0))
        self._failures[node] = (failures + 1, self._refreshes)
        return [] if failures else [f"node {node} is left out for now: {reason}"]

    def _introduce(self, node: int, reply: Message, plain: list[str]) -> list[str]:
        if reply.has_error():
            if _UNREGISTERED in (reply.error.reason or ""):
                plain.append(name := f"node-{node}")
                self._admit(node, name, None)
                return []
            return self._leave_out(node, last_line(reply.error.reason))
        try:
            answer = _read(reply)
        except BadReplyError as error:
            return self._leave_out(node, str(error))
        if isinstance(answer, Refusal):
            self.refusals[node] = answer
            return self._leave_out(node, answer.reason)
        if answer.num_examples <= 0:
            return self._leave_out(node, f"{answer.site} has no training images")
        old = self.node(answer.site)
        try:
            notes = self._identities.claim(answer.site, node, old)
        except BadReplyError as error:
            return self._leave_out(node, str(error))
        self._admit(node, answer.site, answer)
        self.hear(answer.site, reply.content)
        return notes

    def _admit(self, node: int, name: str, description: Description | None) -> None:
        self._name_of[node] = name
        self.refusals.pop(node, None)
        self._nodes_of.setdefault(name, []).append(node)
        self.descriptions[name] = description

    def dismiss(self, name: str, description: Description | None) -> None:
        """Let a connected site go that is not what it was; it is asked again like one that failed to answer.

        Parameters
        ----------
        name : str
        description : Description or None
            What it was.
        """
        for node in self._nodes_of.pop(name, []):
            self._name_of.pop(node, None)
            self._leave_out(node, "")
        self.descriptions[name] = description

    @property
    def names(self) -> list[str]:
        """All site names, sorted."""
        return sorted(self.descriptions)

    @property
    def present(self) -> list[str]:
        """Names of the sites that are connected now, sorted."""
        return [name for name in self.names if self.node(name) is not None]

    def node(self, name: str) -> int | None:
        """Return the node at which a site is reached now, of several the newest; None when it is not connected."""
        return next((node for node in reversed(self._nodes_of.get(name, [])) if node in self.connected), None)

    def site(self, node: int) -> str | None:
        """Return the site that a node speaks for; None for a stranger or a node that was replaced."""
        name = self._name_of.get(node)
        return name if name is not None and self.node(name) in (node, None) else None

    def draw(self, seed: int, draw: int, fraction: float) -> list[str]:
        """Draw a cohort over all sites ever met, connected or not, so that absence changes no other draw.

        Parameters
        ----------
        seed : int
        draw : int
            Number of the draw.
        fraction : float
            Share of the sites, rounded down; at least one site.

        Returns
        -------
        list of str
            Sorted names.
        """
        names = self.names
        size = max(1, math.floor(fraction * len(names) + 1e-9))
        chosen = np.random.default_rng(derive_seed(seed, "cohort", draw)).permutation(len(names))[:size]
        return sorted(names[index] for index in chosen)

    def state(self) -> dict[str, Any]:
        """Return what a resumed run needs, as JSON: descriptions by site."""
        return {name: None if one is None else vars(one) for name, one in self.descriptions.items()}

    def keys(self) -> dict[str, dict[str, str]]:
        """Return the keys that sites' names belong to, as JSON."""
        return self._identities.state()

    def restore(self, state: Mapping[str, Any], keys: Mapping[str, Any] | None = None) -> None:
        """Take up a saved roster; its sites count as absent until they connect.

        Those known by a node id alone are met anew: a restart gives most of them another one, and then no cohort could
        do without them.

        Parameters
        ----------
        state : mapping
            As :meth:`state` returned it.
        keys : mapping, optional
            As :meth:`keys` returned it.
        """
        self.descriptions = {name: Description(**one) for name, one in state.items() if one is not None}
        self._identities.restore(keys or {})


def _read(reply: Message) -> Description | Refusal:
    """Read what a node answered to the question who it is; raises BadReplyError, whatever it sent."""
    try:
        check_size(reply.content)
        record = reply.content.config_records[CONFIG]
        return Refusal.from_config(record) or Description.from_config(record)
    except BadReplyError:
        raise
    except (KeyError, ValueError) as error:
        raise BadReplyError(
            str(error) if isinstance(error, ValueError) else "it described itself with nothing"
        ) from error
    except Exception as error:  # whatever a site sent, the run goes on
        raise BadReplyError(f"its description cannot be read ({type(error).__name__})") from error
