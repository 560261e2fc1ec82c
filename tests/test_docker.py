"""What can be known of the containers without an engine: syntax, command lines, networks, owners, secrets."""

import ipaddress
import json
import os
import re
import shutil
import stat
import subprocess
import tempfile
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from flwr.common.config import parse_config_args
from flwr.common.constant import HEARTBEAT_DEFAULT_INTERVAL, HEARTBEAT_PATIENCE
from flwr.supercore.cli.flower_superexec import _parse_args as superexec
from flwr.superlink.cli.flower_superlink import _parse_args_run_superlink as superlink
from flwr.supernode.cli.flower_supernode import _parse_args_run_supernode as supernode

PROJECT = Path(__file__).parent.parent
DOCKER = PROJECT / "docker"
STACKS = {
    "plain": ["compose.yml"],
    "tls": ["compose.yml", "compose.tls.yml"],
    "gpu": ["compose.yml", "compose.gpu.yml"],
}
PARSERS = {"flower-superlink": superlink, "flower-supernode": supernode, "flower-superexec": superexec}
SITES = ("a", "b", "c")


def stack(name):
    """Merge the files of a stack as compose does, with every variable at its default."""
    merged: dict[str, Any] = {}
    for file in STACKS[name]:
        text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", (DOCKER / file).read_text())
        merge(merged, json.loads(json.dumps(yaml.safe_load(text))))  # what YAML's aliases share is each one's own
    return merged


def merge(old, new):
    for key, value in new.items():
        if isinstance(value, dict) and isinstance(old.get(key), dict):
            merge(old[key], value)
        elif isinstance(value, list) and isinstance(old.get(key), list) and key != "command":
            old[key] = old[key] + [item for item in value if item not in old[key]]
        else:
            old[key] = value


def commands(name):
    return {service: content["command"] for service, content in stack(name)["services"].items()}


def parsed(command):
    parser = PARSERS[command[0]]()
    flags = [word for word in command[1:] if word.startswith("--")]
    known = {flag: action for action in parser._actions for flag in action.option_strings}
    for flag in flags:
        assert flag in known, f"{command[0]} {flag}: not a flag, or an abbreviation of one"
        assert "eprecated" not in (known[flag].help or "") and known[flag].help != "==SUPPRESS==", flag
    return parser.parse_args(command[1:])


@pytest.mark.parametrize("name", STACKS)
def test_every_command_line_is_accepted_by_the_installed_flower(name):
    for service, command in commands(name).items():
        assert isinstance(command, list) and all(isinstance(word, str) for word in command), service
        if command[0] in PARSERS:
            parsed(command)
        else:
            assert service == "gate" and command[:2] == ["sh", "-c"], service


def test_a_command_line_of_an_older_flower_is_noticed():
    with pytest.raises(AssertionError, match="--clientappio-api-address"):
        parsed(["flower-supernode", "--insecure", "--clientappio-api-address", "0.0.0.0:9094"])


@pytest.mark.parametrize("name", STACKS)
def test_processes_find_each_other(name):
    """Each address names a service on a common network that listens there, for more than its own container."""
    services = stack(name)["services"]
    listening = {service: parsed(command) for service, command in commands(name).items() if "--port" in command}
    for options in listening.values():
        assert options.host == "0.0.0.0" and options.isolation == "process"
    addresses: dict[str, list[str]] = {}
    for service, command in commands(name).items():
        for flag in ("--superlink", "--runtime-api-address"):
            if flag in command:
                addresses.setdefault(service, []).append(command[command.index(flag) + 1])
    assert len(addresses) == 7
    for service, found in addresses.items():
        for address in found:
            host, port = address.split(":")
            assert set(services[service]["networks"]) & set(services[host]["networks"]), (service, host)
            assert int(port) == (8443 if host == "gate" else listening[host].port)


@pytest.mark.parametrize("name", STACKS)
def test_data_and_private_state_are_at_their_own_site_alone(name):
    content = stack(name)
    mounts = {service: found.get("volumes", []) for service, found in content["services"].items()}
    for site in SITES:
        assert mounts[f"superexec-{site}"] == [f"./data/hospital-{site}:/data:ro", f"state-{site}:/state"]
        assert not mounts[f"supernode-{site}"]
        command = content["services"][f"supernode-{site}"]["command"]
        node = parse_config_args([command[command.index("--node-config") + 1]])
        assert node == {"site": f"hospital-{site}", "data": "/data", "state-dir": "/state/private"}
        on_site_network = [name for name, found in content["services"].items() if f"site-{site}" in found["networks"]]
        assert sorted(on_site_network) == [f"superexec-{site}", f"supernode-{site}"]
    named = [mount.split(":")[0] for found in mounts.values() for mount in found if not mount.startswith(".")]
    assert len(named) == len(set(named)) and set(named) == set(content["volumes"])
    assert {network for found in content["services"].values() for network in found["networks"]} == set(
        content["networks"]
    )


@pytest.mark.parametrize("name", STACKS)
def test_only_what_must_be_reached_is_published_and_nothing_is_root(name):
    services = stack(name)["services"]
    ports = {service: found["ports"] for service, found in services.items() if "ports" in found}
    expected = {"superlink": ["127.0.0.1:8000:8000"]}  # the control API has no login
    assert ports == (expected | {"gate": ["8443:8443"]} if name == "tls" else expected)
    for service, found in services.items():
        assert found["cap_drop"] == ["ALL"] and "no-new-privileges:true" in found["security_opt"], service
        assert not {"user", "privileged", "network_mode", "pid", "cap_add", "environment"} & set(found), service
        gpu = name == "gpu" and service.startswith("superexec-")
        assert re.fullmatch(r"fedpurel:\d+\.\d+\.\d+" + ("-gpu" if gpu else ""), found["image"])
        assert found.get("build", {}).get("args") == ({"TORCH": "gpu"} if gpu else None), service


def test_with_tls_nothing_is_in_the_clear_between_machines():
    services = stack("tls")["services"]
    for service, command in commands("tls").items():
        if service.startswith("superexec-") and service != "superexec-server":
            assert "--insecure" in command and len(services[service]["networks"]) == 1  # of one site
        else:
            assert "--insecure" not in command, service
        if command[0] in PARSERS:
            assert "--superexec-auth-secret-file" in command, service
    assert "--enable-supernode-auth" in commands("tls")["superlink"]
    for site in SITES:
        assert "--auth-supernode-private-key" in commands("tls")[f"supernode-{site}"]


def test_secrets_are_declared_given_to_who_uses_them_and_made_by_the_generator(tmp_path):
    content, folder = stack("tls"), made(tmp_path / "certs", "--site", "hospital-a")
    for service, found in content["services"].items():
        text = " ".join(found["command"]) + ((DOCKER / "gate.conf").read_text() if service == "gate" else "")
        used = {word.rstrip(";") for word in re.findall(r"/run/secrets/(\S+)", text)}
        assert used == set(found.get("secrets", [])), service
    for name, found in content["secrets"].items():
        path = found["file"].replace("hospital-b", "hospital-a").replace("hospital-c", "hospital-a")
        assert (folder / Path(path).relative_to("certs")).is_file(), name
        assert set(found) == {"file"}
    assert content["services"]["gate"]["volumes"] == ["./gate.conf:/run/configs/gate.conf:ro"]
    assert (DOCKER / "gate.conf").is_file() and "-c /run/configs/gate.conf" in " ".join(commands("tls")["gate"])


# --- a node's start and end -------------------------------------------------------------------------------------------


def node(folder, command):
    """Start ``start-node`` where ``sleep`` and the command write down that they were called; gives process and log."""
    log = folder / "log"
    (folder / "sleep").write_text(f"#!/bin/sh\necho pause of $1 >> {log}\n")
    (folder / "supernode").write_text(f"#!/bin/sh\n{command.replace('LOG', str(log))}\n")
    for path in (folder / "sleep", folder / "supernode"):
        path.chmod(0o755)
    environment = os.environ | {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.Popen([DOCKER / "start-node", "supernode", "up"], env=environment, stderr=subprocess.PIPE), log


def test_a_node_that_ended_is_away_for_longer_than_flower_takes_to_notice(tmp_path):
    process, log = node(tmp_path, "echo node $1 >> LOG; exit 7")
    _, said = process.communicate(timeout=60)
    first, ran, second = log.read_text().splitlines()
    assert process.returncode == 7 and ran == "node up" and b"exit code 7" in said
    assert int(first.removeprefix("pause of ")) > 3  # the ServerApp asks every 3 s
    noticed = HEARTBEAT_PATIENCE * HEARTBEAT_DEFAULT_INTERVAL
    assert int(second.removeprefix("pause of ")) >= noticed + 10


def test_a_node_that_is_stopped_may_say_goodbye_and_is_not_waited_for(tmp_path):
    process, log = node(tmp_path, "trap 'echo goodbye >> LOG; exit 0' TERM; echo up >> LOG; while :; do :; done")
    deadline = time.monotonic() + 60
    while not log.exists() or "up" not in log.read_text().split():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.terminate()
    assert process.wait(60) == 0
    assert log.read_text().splitlines()[1:] == ["up", "goodbye"]
    process.stderr.close()


def test_every_node_and_nothing_else_is_started_so():
    for name in STACKS:
        for service, found in stack(name)["services"].items():
            expected = ["start-node"] if service.startswith("supernode-") else None
            assert found.get("entrypoint") == expected, service


# --- certificates -----------------------------------------------------------------------------------------------------


def made(folder, *arguments):
    for tool in ("openssl", "ssh-keygen"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    subprocess.run([DOCKER / "make-certs", folder, *arguments], check=True, capture_output=True, text=True)
    return folder


def test_certificates_name_the_hosts_and_keys_are_their_owners_alone(tmp_path):
    folder = made(tmp_path / "certs", "--name", "fl.example.org", "--name", "10.0.0.1", "--site", "one")
    certificate = x509.load_pem_x509_certificate((folder / "server" / "server.pem").read_bytes())
    authority = x509.load_pem_x509_certificate((folder / "ca.crt").read_bytes())
    certificate.verify_directly_issued_by(authority)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["superlink", "gate", "localhost", "fl.example.org"]
    assert names.get_values_for_type(x509.IPAddress) == [ipaddress.ip_address(one) for one in ("127.0.0.1", "10.0.0.1")]
    for path in folder.rglob("*"):
        if path.is_file() and path.name != "ca.crt":
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert (folder / "one" / "node.key.pub").read_text().startswith("ecdsa-sha2-nistp384 ")
    assert len((folder / "one" / "superexec.secret").read_bytes()) == 32


def test_a_second_call_adds_a_site_and_keeps_what_is_there(tmp_path):
    folder = made(tmp_path / "certs", "--site", "one")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and "server." not in path.name}
    made(folder, "--site", "one", "--site", "two")
    kept = {path: path.read_bytes() for path in before if path.name != "ca.srl"}
    assert kept == {path: content for path, content in before.items() if path.name != "ca.srl"}
    assert (folder / "two" / "node.key").is_file()


@pytest.mark.parametrize(
    "arguments", [[], ["certs", "--site", "../x"], ["certs", "--site", "server"], ["certs", "-x", "1"]]
)
def test_bad_arguments_make_nothing(tmp_path, arguments):
    result = subprocess.run([DOCKER / "make-certs", *arguments], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 2 and "make-certs:" in result.stderr and not list(tmp_path.iterdir())


def test_without_openssl_it_says_so_and_makes_nothing(tmp_path):
    (tmp_path / "bin").mkdir()
    for tool in ("mkdir", "chmod", "head", "stat", "ssh-keygen"):
        (tmp_path / "bin" / tool).symlink_to(shutil.which(tool) or f"/usr/bin/{tool}")
    result = as_script(tmp_path / "certs", env={"PATH": str(tmp_path / "bin")})
    assert result.returncode == 2 and result.stderr == "make-certs: openssl is not installed\n"
    assert not (tmp_path / "certs").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody else")
def test_a_folder_that_the_containers_user_owns_by_now_is_not_written_by_another_in_silence():
    with tempfile.TemporaryDirectory() as name:  # one that everybody may enter, unlike pytest's own
        Path(name).chmod(0o777)
        folder = made(Path(name) / "certs", "--site", "one")
        folder.chmod(0o777)
        before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        result = as_script(folder, "--site", "one", user=65534)
        assert result.returncode == 2 and re.fullmatch(r"make-certs: \S+ belongs to user \d+: .*\n", result.stderr)
        assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def as_script(folder, *arguments, **how):
    """Run it from standard input: the checkout may be closed to another user."""
    command = [shutil.which("bash"), "-s", "--", str(folder), *arguments]
    text = (DOCKER / "make-certs").read_text()
    return subprocess.run(command, input=text, capture_output=True, text=True, cwd="/", **how)


# --- the image --------------------------------------------------------------------------------------------------------


def instructions():
    text = re.sub(r"\\\n", " ", re.sub(r"(?m)^#.*\n", "", (DOCKER / "Dockerfile").read_text()))
    return [line.split(maxsplit=1) for line in text.splitlines() if line.strip()]


def test_the_image_is_pinned_and_runs_as_nobody_special():
    found = instructions()
    of = {name: [rest for word, rest in found if word == name] for name in {word for word, _ in found}}
    images = {image.split(" AS ")[0] for image in of["FROM"]}  # one for both stages
    assert len(images) == 1 and all(re.fullmatch(r"\S+:\d+\.\d+\.\d+-\S+", image) for image in images)
    assert of["USER"] == ["10001:10001"] and [word for word, _ in found][-2:] == ["USER", "CMD"]
    assert all(isinstance(json.loads(rest), list) for rest in of["CMD"]) and "ADD" not in of
    for step in of["RUN"]:
        if "apt-get install" in step:
            assert "--no-install-recommends" in step and "rm -rf /var/lib/apt/lists" in step
        assert step.count("python -m pip ") == step.count("--no-cache-dir")
        assert "sudo" not in step and "curl" not in step
    assert "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION=1" in of["ENV"][-1]


def test_settings_of_pip_are_lent_to_the_steps_that_load_packages_and_kept_by_no_layer():
    words = [word for word, _ in instructions()]
    build, image = (instructions()[: words.index("USER")], instructions()[words.index("FROM", 1) :])
    for word, step in build[: words.index("FROM", 1)]:
        loads = word == "RUN" and re.search(r"python -m pip .*(install|wheel)", step)
        assert bool(loads) == ("--mount=type=secret,id=pip.conf" in step), step
    for word, step in image:
        assert "secret" not in step and (word != "RUN" or "pip" not in step or "--no-index" in step), step


def test_the_image_is_for_cpu_unless_asked_and_the_build_ends_where_torch_is_for_something_else():
    arguments = dict(rest.split("=", 1) for word, rest in instructions() if word == "ARG")
    assert arguments["TORCH"] == "cpu" and arguments["TORCH_INDEX"].endswith("/cpu")
    [choice] = [rest for word, rest in instructions() if word == "RUN" and rest.split(" ", 1)[1].startswith("case")]
    script = choice.split(" ", 1)[1].replace("python -m pip", "echo pip")
    said = {}
    for flavour in ("cpu", "gpu", "GPU"):
        environment = os.environ | {"TORCH": flavour, "TORCH_INDEX": "https://example.org/cpu"}
        result = subprocess.run(["sh", "-c", script], env=environment, capture_output=True, text=True)
        said[flavour] = (result.returncode, result.stdout + result.stderr)
    assert said["cpu"][0] == 0 and said["cpu"][1].endswith("--index-url https://example.org/cpu torch torchvision\n")
    assert said["gpu"] == (0, "") and said["GPU"] == (1, "TORCH is cpu or gpu, not GPU\n")


def test_the_images_own_connections_reach_the_superlink_of_each_stack():
    found = tomllib.loads((DOCKER / "flwr.toml").read_text())["superlink"]
    for connection, name in (("here", "plain"), ("secure", "tls")):
        services = stack(name)["services"]
        command = parsed(services["superlink"]["command"])
        assert found[connection]["address"] == f"superlink:{command.port}"
        assert found[connection].get("insecure", False) == ("--insecure" in services["superlink"]["command"])
        mounted = {f"/run/secrets/{secret}" for secret in services["superexec-server"].get("secrets", [])}
        assert {found[connection].get("root-certificates")} <= mounted | {None}
        assert set(services["superlink"]["networks"]) & set(services["superexec-server"]["networks"])


def test_the_image_holds_the_package_and_no_secret():
    copied = [rest.split()[:-1] for word, rest in instructions() if word == "COPY" and "--from=" not in rest]
    sources = {source for found in copied for source in found if not source.startswith("--chown=")}
    assert all((PROJECT / source).exists() for source in sources)
    allowed = {line[1:] for line in (DOCKER / "Dockerfile.dockerignore").read_text().splitlines() if line[0] == "!"}
    assert sources == allowed and not any("cert" in source or "key" in source for source in sources)
    assert "certs/" in (PROJECT / ".gitignore").read_text().splitlines()


def test_compose_itself_accepts_the_files(tmp_path):
    if (
        shutil.which("docker") is None
        or subprocess.run(["docker", "compose", "version"], capture_output=True).returncode
    ):
        pytest.skip("the docker compose client is not installed")
    certificates = made(tmp_path / "certs", *(word for site in SITES for word in ("--site", f"hospital-{site}")))
    for files in STACKS.values():
        chosen = [word for file in files for word in ("-f", DOCKER / file)]
        command = ["docker", "compose", *chosen, "config", "--quiet"]
        environment = os.environ | {"CERTS": str(certificates)}
        result = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
