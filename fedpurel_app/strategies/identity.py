"""Whose a site's name is: it belongs to the key that first had it, where Flower knows which key a node has."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from logging import WARNING, getLogger
from typing import Any

from flwr.serverapp import Grid

from fedpurel_app.core.names import clean
from fedpurel_app.strategies.screening import BadReplyError

logger = getLogger("flwr.fedpurel.strategy")


@dataclass(frozen=True)
class Key:
    """The key of a node that its SuperLink's operator registered.

    Attributes
    ----------
    fingerprint : str
        SHA-256 of the public key, in hexadecimal digits.
    name : str
        What the operator registered it as.
    """

    fingerprint: str
    name: str


class Identities:
    """Names of sites, and the keys that they belong to.

    Notes
    -----
    Flower gives every node a key. One that nobody registered is drawn anew whenever its SuperNode starts, so only keys
    that were registered under a name (``flwr supernode register --name``) are bound. Other nodes keep a name for as
    long as they are connected.
    """

    def __init__(self) -> None:
        self._keys: dict[int, Key] = {}  # of the nodes that are connected
        self._owners: dict[str, Key] = {}  # by site

    def look(self, grid: Grid) -> None:
        """Learn the keys of the connected nodes; a grid that knows of none leaves things as they are."""
        try:
            nodes = [(node.node_id, bytes(node.public_key), clean(node.name)) for node in grid.get_nodes()]
        except Exception as error:  # of a SuperLink that is away for a moment, or of a grid of another kind
            logger.log(WARNING, "the keys of the nodes could not be asked for: %s", clean(str(error)))
            return
        self._keys = {node: Key(hashlib.sha256(key).hexdigest(), name) for node, key, name in nodes if key and name}

    def claim(self, site: str, node: int, holder: int | None) -> list[str]:
        """Let a node speak for a site, and bind the site's name to the node's key.

        Parameters
        ----------
        site : str
        node : int
        holder : int or None
            Another node that speaks for the site and is connected.

        Returns
        -------
        list of str
            A line for what a user should know.

        Raises
        ------
        BadReplyError
            When the name belongs to another key, or to a node that is connected.
        """
        key, owner = self._keys.get(node), self._owners.get(site)
        if owner is not None and (key is None or (key.fingerprint != owner.fingerprint and key.name != owner.name)):
            has = "without a registered key" if key is None else f'registered as "{key.name}"'
            raise BadReplyError(
                f'it calls itself {site}, which is the name of the node registered as "{owner.name}"; this one is {has}'
            )
        if owner is None and holder is not None:
            raise BadReplyError(f"it calls itself {site}, as node {holder} does, which is connected")
        if key is not None:
            self._owners[site] = key
        if owner is not None and key is not None and key.fingerprint != owner.fingerprint:
            return [f'{site}: another key than before, registered under the same name "{owner.name}"']
        return (
            [] if holder is None else [f"{site}: node {node} takes the place of node {holder}, which has the same key"]
        )

    def state(self) -> dict[str, dict[str, str]]:
        """Return the owners of names, as JSON."""
        return {site: asdict(key) for site, key in sorted(self._owners.items())}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up saved owners."""
        self._owners = {str(site): Key(str(key["fingerprint"]), str(key["name"])) for site, key in state.items()}
