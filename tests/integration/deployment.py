"""A federation of real processes on loopback: SuperLink with TLS, keys and database, SuperNodes, SuperExecs.

Everything runs in process isolation, as in containers: the link and every node have a SuperExec of their own, which
starts the app's processes.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import ssl
import subprocess
import sysconfig
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil

from fedpurel_app.config.text import to_toml
from tests.integration.certificates import make_authority, make_certificate, make_key
from tests.integration.recording import Recorder

PROJECT = Path(__file__).parent.parent.parent
CONNECTION = "loopback"
HOST = "127.0.0.1"


class Federation:
    """Starts, kills, restarts and stops the processes of one federation.

    Parameters
    ----------
    folder : Path
        For certificates, keys, the database, logs, and every process's own home.
    nodes : mapping of str to mapping
        Node config of every site.
    host : str
        Address that the SuperLink listens on.
    recorded : bool
        Put a recorder between every site and the SuperLink.
    """

    def __init__(
        self, folder: Path, nodes: Mapping[str, Mapping[str, Any]], host: str = HOST, recorded: bool = True
    ) -> None:
        self.folder, self.nodes, self.host, self.recorded = folder, nodes, host, recorded
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self.recorders: dict[str, Recorder] = {}
        self.ports = dict(zip(("link", *nodes), free_ports(len(nodes) + 1), strict=True))
        (folder / "logs").mkdir(parents=True)
        self.secret = folder / "secret.bin"
        self.secret.write_bytes(secrets.token_bytes(32))
        self.authority = make_authority(folder, "ca")
        self.certificate = make_certificate(folder, "ca", "link", host)
        self.keys = {name: make_key(folder, name) for name in nodes}

    # --- as a whole -------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the link, make the sites' keys known to it, and start the sites."""
        self.start_link()
        self.spawn("link-exec", "flower-superexec", "--runtime-api-address", self._address("link"),
                   "--root-certificates", self.authority, "--superexec-auth-secret-file", self.secret)  # fmt: skip
        home = self.folder / "flwr-user"
        home.mkdir()
        (home / "config.toml").write_text(
            f'[superlink]\ndefault = "{CONNECTION}"\n[superlink.{CONNECTION}]\n'
            f'address = "{self._address("link")}"\nroot-certificates = "{self.authority}"\n'
        )
        with ThreadPoolExecutor() as pool:
            list(pool.map(self._register, self.nodes))
        for name in self.nodes:
            if self.recorded:
                self.recorders[name] = Recorder(self.ports["link"], self.authority, *self.certificate)
            self.start_node(name)

    def register(self, name: str, node: Mapping[str, Any]) -> None:
        """Make another node's key known to the link under a name; :meth:`start_node` starts it."""
        self.nodes = {**self.nodes, name: node}
        (self.ports[name],) = free_ports(1)
        self.keys[name] = make_key(self.folder, name)
        self._register(name)

    def stop(self) -> None:
        """Stop every process that was started, and all that those started."""
        for name in self._running:
            self._signal(name, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            for process in self._running.values():
                process.wait(10)
        for name in list(self._running):
            self.kill(name)
        for recorder in self.recorders.values():
            recorder.stop()

    # --- parts ------------------------------------------------------------------------------------------------------

    def start_link(self) -> None:
        """Start the SuperLink, again on the same database."""
        certificate, key = self.certificate
        self.spawn("link", "flower-superlink", "--isolation", "process", "--host", self.host,
                   "--port", self.ports["link"], "--ssl-ca-certfile", self.authority, "--ssl-certfile", certificate,
                   "--ssl-keyfile", key, "--enable-supernode-auth", "--superexec-auth-secret-file", self.secret,
                   "--database", self.folder / "state.db")  # fmt: skip
        self.until(self.link_answers, "the SuperLink to answer", 120)

    def link_answers(self) -> bool:
        """Whether the SuperLink is there, over TLS."""
        context = ssl.create_default_context(cafile=str(self.authority))
        direct = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        )
        with contextlib.suppress(urllib.error.URLError, OSError):
            return direct.open(f"https://{self._address('link')}/health", timeout=5).status == 200
        return False

    def start_node(self, name: str) -> None:
        """Start a site's SuperNode, behind its recorder if there is one, and its SuperExec."""
        link = f"{HOST}:{self.recorders[name].port}" if name in self.recorders else self._address("link")
        config = " ".join(f"{key}={to_toml(value)}" for key, value in self.nodes[name].items())
        self.spawn(name, "flower-supernode", "--isolation", "process", "--host", HOST, "--port", self.ports[name],
                   "--superlink", link, "--root-certificates", self.authority,
                   "--auth-supernode-private-key", self.keys[name], "--superexec-auth-secret-file", self.secret,
                   "--node-config", config)  # fmt: skip
        self.spawn(f"{name}-exec", "flower-superexec", "--insecure", "--runtime-api-address", self._address(name),
                   "--superexec-auth-secret-file", self.secret)  # fmt: skip

    def restart_node(self, name: str) -> None:
        """Start a site again, after what is left of it is gone."""
        self.kill(*(one for one in (name, f"{name}-exec") if one in self._running))
        self.start_node(name)

    def spawn(self, name: str, *command: object) -> subprocess.Popen[bytes]:
        """Start a process in a group of its own, with a home of its own; its log is ``logs/NAME.log``."""
        executable = Path(sysconfig.get_path("scripts")) / str(command[0])
        with (self.folder / "logs" / f"{name}.log").open("ab") as log:
            self._running[name] = subprocess.Popen(
                [*self._enter(name), str(executable), *map(str, command[1:])],
                cwd=self.folder,
                env=self._environment(name),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return self._running[name]

    def kill(self, *names: str) -> None:
        """Kill -9 processes and all that they started."""
        for name in names:
            self._signal(name, signal.SIGKILL)
            self._running.pop(name).wait(30)

    def alive(self, name: str) -> bool:
        """Whether a process is there."""
        return name in self._running and self._running[name].poll() is None

    def exit_code(self, name: str) -> int | None:
        """How a process ended; None while it goes on."""
        return self._running[name].poll()

    def log(self, name: str) -> str:
        """What a process has printed."""
        return (self.folder / "logs" / f"{name}.log").read_text("utf-8", "replace")

    def app_processes(self, name: str) -> list[psutil.Process]:
        """Return the app's processes that the SuperExec of the link or of a site has started."""
        with contextlib.suppress(psutil.Error):
            children = psutil.Process(self._running[f"{name}-exec"].pid).children(recursive=True)
            return [child for child in children if child.status() != psutil.STATUS_ZOMBIE]
        return []

    def is_at_work(self, name: str, folder: Path) -> bool:
        """Whether a site works for the round that is on in a run folder."""
        # The kernel tells when it booted in whole seconds: a process may seem up to a second older than it is. Those of
        # the round before are older than that, for what they import.
        began = (folder / "rounds.jsonl").stat().st_mtime - 1.0
        return any(one.create_time() > began for one in self.app_processes(name))

    # --- runs -------------------------------------------------------------------------------------------------------

    def submit(self, settings: Mapping[str, Any]) -> str:
        """Submit a run of the app; gives its number."""
        text = " ".join(f"{key}={to_toml(value)}" for key, value in settings.items())
        return str(self.flwr("run", str(PROJECT), CONNECTION, "--run-config", text)["run-id"])

    def status(self, run: str) -> str:
        """Return Flower's word for how a run is going."""
        return str(self.flwr("list", CONNECTION, "--run-id", run)["runs"][0]["status"])

    def finish(self, run: str, seconds: float) -> str:
        """Wait for a run to end; gives Flower's word for how it did."""
        status = ""

        def over() -> bool:
            nonlocal status
            status = self.status(run)
            return status.startswith("finished")

        self.until(over, f"run {run} to end", seconds, every=3.0)
        return status

    def flwr(self, *arguments: str) -> dict[str, Any]:
        """Run a ``flwr`` command that answers in JSON."""
        return dict(json.loads(self._command(*arguments, "--format", "json")))

    def app_log(self, run: str) -> str:
        """Return what the ServerApp of a run has logged."""
        return self._command("log", run, CONNECTION, "--show")

    def _command(self, *arguments: str) -> str:
        flwr = Path(sysconfig.get_path("scripts")) / "flwr"
        command = [*self._enter("user"), str(flwr), *arguments]
        result = subprocess.run(
            command, cwd=self.folder, env=self._environment("user"), capture_output=True, text=True, timeout=300
        )
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    def until(self, condition: Callable[[], object], what: str, seconds: float, every: float = 0.2) -> None:
        """Wait; on failure show the ends of all logs."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                ends = "".join(f"\n--- {one.name}\n{one.read_text('utf-8', 'replace')[-1500:]}"
                               for one in sorted((self.folder / "logs").iterdir()))  # fmt: skip
                raise TimeoutError(f"waited {seconds:g} s for {what}{ends}")
            time.sleep(every)

    # --- details ----------------------------------------------------------------------------------------------------

    def _register(self, name: str) -> None:
        self.flwr("supernode", "register", f"{self.keys[name]}.pub", CONNECTION, "--name", name)

    def _enter(self, name: str) -> list[str]:
        """Return what a process's command line begins with, to run elsewhere; it must replace itself by the rest."""
        return []

    def _address(self, name: str) -> str:
        return f"{self.host if name == 'link' else HOST}:{self.ports[name]}"

    def _environment(self, name: str) -> dict[str, str]:
        scripts = sysconfig.get_path("scripts")  # a SuperExec starts Flower's commands by name
        return os.environ | {
            "PATH": os.pathsep.join([scripts, os.environ.get("PATH", "")]),
            "PYTHONPATH": os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH")])),
            "FLWR_HOME": str(self.folder / f"flwr-{name}"),
            "FEDPUREL_HOME": str(self.folder / f"home-{name}"),
            "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.3",
            "OMP_NUM_THREADS": "1",  # decides the last bits
            "NO_PROXY": f"{HOST},{self.host}",
            "no_proxy": f"{HOST},{self.host}",
        }

    def _signal(self, name: str, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._running[name].pid, number)


def free_ports(count: int) -> Sequence[int]:
    """Find ports that nobody listens on."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind((HOST, 0))
        return [probe.getsockname()[1] for probe in probes]
