"""The objects in docker/kubernetes, without a cluster: by Kubernetes' schemas, and by what Flower and this app read."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import kubernetes_validate
import pytest
import yaml
from flwr.common.config import parse_config_args
from flwr.supercore.cli.flower_superexec import _parse_args as superexec_arguments
from flwr.supercore.constant import ExecutorType, TaskType
from flwr.supercore.superexec.executor import factory
from flwr.supercore.superexec.executor.config import load_executor_config
from flwr.supercore.superexec.executor.kubernetes_executor import KubernetesExecutor
from flwr.supercore.superexec.executor.types import ExecutionSpec
from flwr.supernode.cli.flower_supernode import _parse_args_run_supernode as supernode_arguments

from fedpurel_app.config import load_node_config

SITE = Path(__file__).parents[2] / "docker" / "kubernetes" / "site.yaml"
VERSION = "1.31"
BROUGHT = {"certificates", "data"}  # the Secret and the volume that a site makes itself: docs/kubernetes.md


@pytest.fixture(scope="module")
def objects():
    return list(yaml.safe_load_all(SITE.read_text()))


def of_kind(objects, kind):
    return {one["metadata"]["name"]: one for one in objects if one["kind"] == kind}


def pods(objects):
    found = of_kind(objects, "Deployment") | of_kind(objects, "Job")
    return {name: one["spec"]["template"] for name, one in found.items()}


@pytest.fixture
def config(objects, tmp_path):
    """The executor's configuration, as Flower reads it."""
    path = tmp_path / "executor.yaml"
    path.write_text(of_kind(objects, "ConfigMap")["executor"]["data"]["executor.yaml"])
    return load_executor_config(str(path), ExecutorType.KUBERNETES)


@pytest.fixture
def launched(config):
    """The Pod and the Secret that Flower makes for a message."""
    made: dict[str, Any] = {}
    client = SimpleNamespace(
        create_namespaced_secret=lambda namespace, body: made.update(secret=(namespace, body)),
        create_namespaced_pod=lambda namespace, body: made.update(pod=(namespace, body)),
    )
    executor = KubernetesExecutor(client=client, config=factory._kubernetes_executor_config_from_mapping(config))
    spec = ExecutionSpec(TaskType.CLIENT_APP, "supernode:9094", "token", True, None, False, None, False, 1)
    assert executor.launch(spec).status == "accepted"
    return made


def test_every_object_is_valid_and_in_the_site_s_namespace(objects):
    assert len(objects) == 12
    for one in objects:
        kubernetes_validate.validate(one, VERSION, strict=True)
        meta = one["metadata"]
        assert meta.get("namespace", meta["name"]) == "hospital-a"


def test_the_schemas_refuse_what_is_wrong(objects):
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate({**objects[0], "metdata": {}}, VERSION, strict=True)


def test_names_refer_to_what_is_there(objects, config):
    claims = of_kind(objects, "PersistentVolumeClaim").keys() | BROUGHT
    maps, accounts = of_kind(objects, "ConfigMap"), of_kind(objects, "ServiceAccount")
    binding = of_kind(objects, "RoleBinding")["superexec"]
    assert binding["roleRef"]["name"] in of_kind(objects, "Role") and binding["subjects"][0]["name"] in accounts
    volumes = [one for pod in pods(objects).values() for one in pod["spec"]["volumes"]] + config["volumes"]
    for volume in volumes:
        assert volume.get("persistentVolumeClaim", {"claimName": "data"})["claimName"] in claims
        assert volume.get("secret", {"secretName": "certificates"})["secretName"] in BROUGHT
        assert volume.get("configMap", {"name": "executor"})["name"] in maps
    assert pods(objects)["superexec"]["spec"]["serviceAccountName"] in accounts
    for service in of_kind(objects, "Service").values():
        assert any(service["spec"]["selector"].items() <= pod.get("metadata", {}).get("labels", {}).items()
                   for pod in pods(objects).values())  # fmt: skip


def test_flower_takes_every_key_of_the_executor(config):
    known = {"namespace", "image", *factory._KUBERNETES_CONFIG_FIELD_MAP}
    assert set(config) <= known
    assert config["namespace"] == "hospital-a"


def test_the_pod_of_a_message_is_valid_has_the_data_and_reaches_the_supernode_alone(objects, launched):
    namespace, pod = launched["pod"]
    kubernetes_validate.validate(pod, VERSION, strict=True)
    kubernetes_validate.validate(launched["secret"][1], VERSION, strict=True)
    (container,) = pod["spec"]["containers"]
    assert namespace == "hospital-a" and container["command"] == ["flwr-clientapp"]
    mounts = {one["mountPath"]: one for one in container["volumeMounts"]}
    assert mounts["/data"]["readOnly"] and "/state" in mounts
    assert pod["spec"]["securityContext"]["runAsNonRoot"] and pod["spec"]["automountServiceAccountToken"] is False
    labels = pod["metadata"]["labels"]
    policies = of_kind(objects, "NetworkPolicy")
    own = policies["taskexecutor"]["spec"]
    assert own["podSelector"]["matchLabels"].items() <= labels.items() and own["policyTypes"] == ["Ingress", "Egress"]
    (way, _) = own["egress"]
    assert way["to"] == [{"podSelector": {"matchLabels": {"app": "supernode"}}}]
    (into,) = policies["supernode"]["spec"]["ingress"]
    assert labels["app"] in into["from"][0]["podSelector"]["matchExpressions"][0]["values"]


def test_the_role_allows_what_flower_calls_without_warm_pods(objects, config):
    """Pods and Secrets are made, listed and deleted; nothing is read, changed or run in."""
    (rule,) = of_kind(objects, "Role")["superexec"]["rules"]
    assert set(rule["resources"]) == {"pods", "secrets"} and set(rule["verbs"]) == {"create", "delete", "list"}
    assert not any(key.startswith("warm-") for key in config), "these are also patched, and run in"


def test_arguments_are_flower_s_and_the_node_s_settings_are_this_app_s(objects, monkeypatch):
    (node,) = pods(objects)["supernode"]["spec"]["containers"]
    command, *arguments = node["args"]
    assert command == "flower-supernode"
    parsed = supernode_arguments().parse_args(arguments)
    told = load_node_config(parse_config_args([parsed.node_config]))
    assert (told.site, told.data, told.state_dir, told.key_file) == (
        "hospital-a", "/data", "/state/private", "/state/site.key",
    )  # fmt: skip
    (executor,) = pods(objects)["superexec"]["spec"]["containers"]
    monkeypatch.setattr(sys, "argv", executor["args"])
    options = superexec_arguments().parse_args(executor["args"][1:])
    assert options.executor is ExecutorType.KUBERNETES
    mounted = {one["mountPath"] for one in executor["volumeMounts"]}
    assert str(Path(options.executor_config).parent) in mounted
    assert f"supernode:{of_kind(objects, 'Service')['supernode']['spec']['ports'][0]['port']}" == (
        options.runtime_api_address
    )
