"""The encrypted compose stack as plain processes: the same command lines, with ports and files of this machine."""

import contextlib
import http.client
import os
import re
import shutil
import ssl
import subprocess

import pytest

from tests.integration.federation import CONNECTION, Federation, free_port
from tests.support import EndedRun, tiny_features
from tests.test_docker import DOCKER, SITES, made, stack

pytestmark = pytest.mark.slow


class Composed(Federation):
    """All services of compose.tls.yml, the gate included."""

    def __enter__(self):
        self.services = stack("tls")["services"]
        self.ports = {name: free_port() for name in self.services}
        self.port = self.ports["superlink"]
        made(self.folder / "certs", *(word for site in SITES for word in ("--site", f"hospital-{site}")))
        self.start_service("superlink")
        self.wait_until_up()
        root = f'root-certificates = "{self.folder / "certs" / "ca.crt"}"'
        self.connect_user(CONNECTION, self.port, root)
        self.connect_user("through-the-gate", self.ports["gate"], root)
        self.start_service("gate")
        for site in SITES:
            key = self.folder / "certs" / f"hospital-{site}" / "node.key.pub"
            answer = self.flwr("supernode", "register", str(key), CONNECTION, "--name", f"hospital-{site}")
            assert '"success": true' in answer.stdout, answer.stdout + answer.stderr
        for name in self.services:
            if name not in ("superlink", "gate"):
                self.start_service(name)
        return self

    def start_service(self, name):
        self.start(name, [self.here(name, word) for word in self.command(name)])

    def status_at_the_gate(self, path):
        """Ask the gate for a path; gives the HTTP status."""
        context = ssl.create_default_context(cafile=str(self.folder / "certs" / "ca.crt"))
        connection = http.client.HTTPSConnection("127.0.0.1", self.ports["gate"], timeout=60, context=context)
        connection.request("POST", path, body=b"")
        with contextlib.closing(connection):
            return connection.getresponse().status

    def command(self, name):
        """Return the command line; what a site is told is replaced by a part of one small data set."""
        command = list(self.services[name]["command"])
        if "--node-config" in command:
            site = name[-1]
            parts = f'partition-id={SITES.index(site)} num-partitions={len(SITES)} data="{self.data(name)}"'
            state = self.home(f"superexec-{site}") / "private"
            command[command.index("--node-config") + 1] = f'{parts} state-dir="{state}"'
        if "--port" in command:
            command[command.index("--port") + 1] = str(self.ports[name])
        return command

    def data(self, name):
        path = self.home(name) / "features.npz"
        return path if path.exists() else tiny_features(path)

    def here(self, name, text):
        """Put hosts, ports and files of this machine in place of those inside a container."""
        for host, port in self.ports.items():
            text = re.sub(rf"\b{host}:\d+", f"127.0.0.1:{port}", text)
        secrets = stack("tls")["secrets"]
        text = re.sub(r"/run/secrets/([\w.-]+)", lambda found: str(self.folder / secrets[found[1]]["file"]), text)
        text = text.replace("/tmp/gate-", f"{self.home(name)}/gate-")
        if "/run/configs/gate.conf" in text:
            conf = self.folder / "gate.conf"
            original = (DOCKER / "gate.conf").read_text().replace("8443", str(self.ports["gate"]))
            original = original.replace("/tmp", str(self.home(name)))
            as_root = "user root;\n" if os.geteuid() == 0 else ""  # its workers would be nobody, shut out of our folder
            conf.write_text(as_root + self.here(name, original))
            text = text.replace("/run/configs/gate.conf", str(conf)).replace("$$", "$")
        return text.replace("0.0.0.0", "127.0.0.1").replace("/state", str(self.home(name)))


@pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed")
def test_the_encrypted_stack_trains_and_its_gate_lets_sites_in_alone(tmp_path):
    with Composed(tmp_path) as federation:
        assert '"success": true' in federation.flwr("list", CONNECTION).stdout
        assert '"success": true' not in federation.flwr("list", "through-the-gate").stdout
        for path in ("control/list-runs", "runtime/acquire-task", "fleet/../control/list-runs"):
            assert federation.status_at_the_gate(f"/v1/{path}") == 403, path
        settings = {
            "dataset": "features", "dataset-path": federation.data("superexec-server"), "peft": "text-residual",
            "imbalance-factor": 3, "algorithm": "fedavg", "global-rounds": 1, "fraction-train": 1, "num-sites": 3,
        }  # fmt: skip
        pairs = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
        process = federation.fedpurel("run", "--superlink", CONNECTION, *pairs)
        try:
            output, _ = process.communicate(timeout=900)
        except subprocess.TimeoutExpired:
            pytest.fail("\n".join(path.read_text()[-3000:] for path in tmp_path.glob("*.log")))
        assert process.returncode == 0, output
        folder = EndedRun(next((federation.home("superexec-server") / "runs").iterdir()))
        assert folder.summary()["outcome"] == "completed" and not folder.rounds()[1]["dropped"]
