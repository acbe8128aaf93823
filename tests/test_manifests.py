"""The manifests of deploy/kubernetes: what they name is there, and what they promise of pods is kept."""

from pathlib import Path
from typing import Any

import pytest

import controlplane.config
import dataplane.config
from controlplane.config import ActuatorKind

yaml = pytest.importorskip("yaml", reason="needs the extra `kubernetes`")

HERE = Path(__file__).parents[1] / "deploy/kubernetes"
MANIFESTS: dict[str, list[Any]] = {
    path.name: list(yaml.safe_load_all(path.read_text())) for path in sorted(HERE.iterdir())
}
OBJECTS = [document for documents in MANIFESTS.values() for document in documents]
DEPLOYMENTS = {o["metadata"]["name"]: o for o in OBJECTS if o["kind"] == "Deployment"}
API_VERSIONS = {
    "ConfigMap": "v1",
    "Deployment": "apps/v1",
    "Role": "rbac.authorization.k8s.io/v1",
    "RoleBinding": "rbac.authorization.k8s.io/v1",
    "Service": "v1",
    "ServiceAccount": "v1",
    "ServiceMonitor": "monitoring.coreos.com/v1",
}


def of(kind: str) -> list[Any]:
    return [document for document in OBJECTS if document["kind"] == kind]


def pod(deployment: Any) -> Any:
    return deployment["spec"]["template"]["spec"]


def container(deployment: Any) -> Any:
    [only] = pod(deployment)["containers"]
    return only


def test_every_object_has_what_an_api_server_requires_and_no_namespace():
    assert list(MANIFESTS) == ["control.yaml", "monitor.yaml", "rbac.yaml", "worker.yaml"]
    for document in OBJECTS:
        assert document["apiVersion"] == API_VERSIONS[document["kind"]]
        assert document["metadata"]["name"]
        assert "namespace" not in document["metadata"]
    named = [(document["kind"], document["metadata"]["name"]) for document in OBJECTS]
    assert len(set(named)) == len(named)


def test_the_role_is_bound_to_the_account_that_the_control_plane_runs_as():
    [account], [role], [binding] = of("ServiceAccount"), of("Role"), of("RoleBinding")
    assert binding["roleRef"] == {
        "apiGroup": "rbac.authorization.k8s.io",
        "kind": "Role",
        "name": role["metadata"]["name"],
    }
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": account["metadata"]["name"]}]
    assert pod(DEPLOYMENTS["sponge-control"])["serviceAccountName"] == account["metadata"]["name"]
    assert pod(DEPLOYMENTS["sponge-vision"])["automountServiceAccountToken"] is False


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_selectors_match_labels_and_volumes_and_ports_exist(name):
    deployment = DEPLOYMENTS[name]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"].items() <= labels.items()
    ports = {port["name"]: port["containerPort"] for port in container(deployment)["ports"]}
    [service] = [s for s in of("Service") if s["spec"]["selector"].items() <= labels.items()]
    assert service["metadata"]["name"] == name
    for port in service["spec"]["ports"]:
        assert port["port"] == ports[port["targetPort"]]
    for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
        probe = container(deployment)[kind]
        [how] = probe.keys() & {"grpc", "tcpSocket"}
        assert probe[how]["port"] == ports["grpc"]
    mounted = {mount["name"] for mount in container(deployment)["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod(deployment)["volumes"]}
    configured = {v["configMap"]["name"] for v in pod(deployment)["volumes"] if "configMap" in v}
    assert configured <= {config["metadata"]["name"] for config in of("ConfigMap")}
    assert container(deployment)["securityContext"]["readOnlyRootFilesystem"] is True


def test_the_control_plane_is_one_and_its_probes_ask_for_health():
    spec = DEPLOYMENTS["sponge-control"]["spec"]
    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})
    for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert "grpc" in container(DEPLOYMENTS["sponge-control"])[kind]


def test_a_worker_is_guaranteed_resized_without_a_restart_and_known_by_its_pods_name():
    worker = container(DEPLOYMENTS["sponge-vision"])
    assert worker["resources"]["requests"] == worker["resources"]["limits"]
    assert worker["resources"]["limits"].keys() == {"cpu", "memory"}
    assert worker["resizePolicy"] == [
        {"resourceName": resource, "restartPolicy": "NotRequired"} for resource in ("cpu", "memory")
    ]
    environment = {variable["name"]: variable for variable in worker["env"]}
    assert environment["SPONGE_POD_NAME"]["valueFrom"] == {"fieldRef": {"fieldPath": "metadata.name"}}
    host, _, port = environment["SPONGE_CONTROL_ADDRESS"]["value"].partition(":")
    [control] = [service for service in of("Service") if service["metadata"]["name"] == host]
    assert int(port) in {port["port"] for port in control["spec"]["ports"]}
    [headless] = [service for service in of("Service") if service["metadata"]["name"] == "sponge-vision"]
    assert headless["spec"]["clusterIP"] == "None"


def test_both_planes_are_scraped():
    [monitor] = of("ServiceMonitor")
    for service in of("Service"):
        assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
        ports = {port["name"] for port in service["spec"]["ports"]}
        assert {endpoint["port"] for endpoint in monitor["spec"]["endpoints"]} <= ports


def test_the_configuration_is_what_the_planes_read_and_fits_the_pods(tmp_path):
    for config in of("ConfigMap"):
        for name, text in config["data"].items():
            (tmp_path / name).write_text(text)
    control = controlplane.config.read(tmp_path / "control.toml", environ={})
    assert control.actuator.kind is ActuatorKind.KUBERNETES
    kubernetes, vision = control.actuator.kubernetes, DEPLOYMENTS["sponge-vision"]
    assert container(vision)["name"] == kubernetes.container
    labels = vision["spec"]["template"]["metadata"]["labels"]
    assert dict(pair.split("=") for pair in kubernetes.label_selector.split(",")).items() <= labels.items()
    worker = dataplane.config.read(tmp_path / "worker.toml", environ={})
    ports = {port["name"]: port["containerPort"] for port in container(vision)["ports"]}
    for listen, name in ((worker.server.listen, "grpc"), (worker.server.metrics_listen, "metrics")):
        assert int(listen.rpartition(":")[2]) == ports[name]
    ports = {p["name"]: p["containerPort"] for p in container(DEPLOYMENTS["sponge-control"])["ports"]}
    for listen, name in ((control.server.listen, "grpc"), (control.server.metrics_listen, "metrics")):
        assert int(listen.rpartition(":")[2]) == ports[name]
