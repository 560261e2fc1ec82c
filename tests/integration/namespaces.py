"""Machines of a small network, as network namespaces of this one: a server, and sites with a cable to it each."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence

SERVER, SERVER_ADDRESS = "server", "192.0.2.1"  # of a range that is kept free for documentation


class UnavailableError(Exception):
    """Namespaces cannot be made here, and why."""


class Network:
    """A namespace with a bridge for the server, and one for each site, joined to the bridge by a veth pair.

    Parameters
    ----------
    sites : sequence of str
        Names of up to 12 characters.

    Raises
    ------
    UnavailableError
        Without ``ip`` or the rights for it; nothing is left behind.
    """

    def __init__(self, sites: Sequence[str]) -> None:
        self._ip = shutil.which("ip") or shutil.which("ip", path="/usr/sbin:/sbin") or ""
        if not self._ip:
            raise UnavailableError("no `ip` command: install iproute2")
        if os.geteuid() != 0:
            raise UnavailableError("network namespaces need root")
        self._made: list[str] = []
        self.addresses = {SERVER: SERVER_ADDRESS} | {site: f"192.0.2.{11 + i}" for i, site in enumerate(sites)}
        try:
            for name in self.addresses:
                self._call("netns", "add", self._namespace(name))
                self._made.append(name)
                self._in(name, "link", "set", "lo", "up")
            self._in(SERVER, "link", "add", "bridge", "type", "bridge")
            for site in sites:
                self._in(site, "link", "add", "eth0", "type", "veth",
                         "peer", "name", f"to-{site}", "netns", self._namespace(SERVER))  # fmt: skip
                self._in(SERVER, "link", "set", f"to-{site}", "master", "bridge", "up")
            for name, address in self.addresses.items():
                device = "bridge" if name == SERVER else "eth0"
                self._in(name, "address", "add", f"{address}/24", "dev", device)
                self._in(name, "link", "set", device, "up")
        except subprocess.CalledProcessError as error:
            self.remove()
            raise UnavailableError(f"`{' '.join(error.cmd)}`: {error.stderr.strip()}") from error

    def enter(self, name: str) -> list[str]:
        """Return what the command line of a process on that machine begins with."""
        return [self._ip, "netns", "exec", self._namespace(name)]

    def cut(self, site: str) -> None:
        """Pull a site's cable at the server."""
        self._in(SERVER, "link", "set", f"to-{site}", "down")

    def mend(self, site: str) -> None:
        """Put it back."""
        self._in(SERVER, "link", "set", f"to-{site}", "up")

    def remove(self) -> None:
        """Remove all namespaces, and with them their devices."""
        while self._made:
            self._call("netns", "delete", self._namespace(self._made.pop()))

    def _namespace(self, name: str) -> str:
        return f"fedpurel-{os.getpid()}-{name}"

    def _in(self, name: str, *arguments: str) -> None:
        self._call("-n", self._namespace(name), *arguments)

    def _call(self, *arguments: str) -> None:
        subprocess.run([self._ip, *arguments], check=True, capture_output=True, text=True, timeout=30)
