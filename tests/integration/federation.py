"""Real Flower processes on this machine's loopback: a SuperLink and SuperNodes, stopped by their own ids."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from fedpurel_app.launch.processes import ProcessFamily

PROJECT = Path(__file__).parent.parent.parent
CONNECTION = "loopback"


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Federation:
    """A SuperLink and SuperNodes without TLS, each with a ``FLWR_HOME`` and a home of its own.

    Parameters
    ----------
    folder : Path
        Where everything of theirs goes; processes start in it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self._family = ProcessFamily()
        self._started: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Federation:
        command = ["flower-superlink", "--insecure", "--host", "127.0.0.1", "--port", str(self.port)]
        self.start("superlink", [*command, "--disable-runtime-dependency-installation"])
        self.wait_until_up()
        self.connect_user(CONNECTION, self.port, "insecure = true")
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop every process that was started, and all that they started."""
        for process in self._started:  # not every program keeps the mark in its environment
            process.terminate()
        self._family.stop()
        for process in self._started:
            process.wait(timeout=60)

    def home(self, name: str) -> Path:
        """Return the folder of one participant."""
        home = self.folder / name
        (home / "flwr").mkdir(parents=True, exist_ok=True)
        return home

    def connect_user(self, connection: str, port: int, security: str) -> None:
        """Add a connection to the configuration of the user's Flower."""
        with (self.home("user") / "flwr" / "config.toml").open("a") as file:
            file.write(f'[superlink.{connection}]\naddress = "127.0.0.1:{port}"\n{security}\n')

    def environment(self, name: str) -> dict[str, str]:
        """Return the environment of one participant's processes."""
        home = self.home(name)
        return os.environ | {
            "FLWR_HOME": str(home / "flwr"),
            "FEDPUREL_HOME": str(home),
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "PYTHONPATH": str(PROJECT),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }

    def add_node(self, name: str, node_config: str) -> None:
        """Start a SuperNode."""
        command = ["flower-supernode", "--insecure", "--superlink", f"127.0.0.1:{self.port}", "--host", "127.0.0.1"]
        self.start(name, [*command, "--port", str(free_port()), "--node-config", node_config])

    def start(self, name: str, command: list[str]) -> subprocess.Popen[bytes]:
        """Start a process of one participant."""
        log, environment = self.folder / f"{name}.log", self.environment(name) | self._family.mark
        with log.open("ab") as file:
            process = subprocess.Popen(
                command, cwd=self.home(name), env=environment, stdout=file, stderr=subprocess.STDOUT
            )
        self._started.append(process)
        return process

    def fedpurel(self, *arguments: str) -> subprocess.Popen[str]:
        """Start ``fedpurel`` as a user who knows this SuperLink."""
        return subprocess.Popen(
            [sys.executable, "-m", "fedpurel_app.cli.main", *arguments],
            cwd=self.home("user"),
            env={**self.environment("user"), **self._family.mark},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def flwr(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command of Flower as that user."""
        command = ["flwr", *arguments, "--format", "json"]
        environment = self.environment("user")
        return subprocess.run(command, cwd=self.home("user"), env=environment, capture_output=True, text=True)

    def is_up(self) -> bool:
        """Tell whether the SuperLink answers."""
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def wait_until_up(self) -> None:
        """Wait for the SuperLink; raises TimeoutError with its log."""
        deadline = time.monotonic() + 120
        while not self.is_up():
            if time.monotonic() > deadline:
                self.stop()
                raise TimeoutError((self.folder / "superlink.log").read_text())
            time.sleep(0.2)
