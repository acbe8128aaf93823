"""The manifests of deploy/kubernetes: what they name is there, and what they promise of pods is kept."""

import copy
from pathlib import Path
from typing import Any

import pytest

import controlplane.config
import controlplane.controlfile
import dataplane.config
from controlplane.config import ActuatorKind

yaml = pytest.importorskip("yaml", reason="needs the extra `kubernetes`")
kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="needs the extra `dev`")

HERE = Path(__file__).parents[1] / "deploy/kubernetes"
MANIFESTS: dict[str, list[Any]] = {
    path.name: list(yaml.safe_load_all(path.read_text())) for path in sorted(HERE.iterdir())
}
OBJECTS = [document for documents in MANIFESTS.values() for document in documents]
# What runs pods; each has one container.
WORKLOADS = {o["metadata"]["name"]: o for o in OBJECTS if o["kind"] in ("Deployment", "StatefulSet")}
VERSIONS = ("1.35", "1.36", "1.37")  # from the oldest that is taken on


def of(kind: str) -> list[Any]:
    return [document for document in OBJECTS if document["kind"] == kind]


def pod(workload: Any) -> Any:
    return workload["spec"]["template"]["spec"]


def container(workload: Any) -> Any:
    [only] = pod(workload)["containers"]
    return only


def test_every_object_has_what_an_api_server_requires_and_no_namespace():
    assert list(MANIFESTS) == ["control.yaml", "monitor.yaml", "rbac.yaml", "worker.yaml"]
    for document in OBJECTS:
        assert document["metadata"]["name"]
        assert "namespace" not in document["metadata"]
    named = [(document["kind"], document["metadata"]["name"]) for document in OBJECTS]
    assert len(set(named)) == len(named)


@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_fits_the_published_schema(version):
    checked = [
        document for document in OBJECTS if document["kind"] != "ServiceMonitor"
    ]  # not of Kubernetes itself
    for document in checked:
        kubernetes_validate.validate(document, version, strict=True)
    wrong = copy.deepcopy(WORKLOADS["sponge-vision"])
    container(wrong)["livenessProbes"] = {}
    with pytest.raises(kubernetes_validate.ValidationError, match="livenessProbes"):
        kubernetes_validate.validate(wrong, version, strict=True)


def test_the_role_is_bound_to_the_account_that_the_control_plane_runs_as():
    [account], [role], [binding] = of("ServiceAccount"), of("Role"), of("RoleBinding")
    assert binding["roleRef"] == {
        "apiGroup": "rbac.authorization.k8s.io",
        "kind": "Role",
        "name": role["metadata"]["name"],
    }
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": account["metadata"]["name"]}]
    assert pod(WORKLOADS["sponge-control"])["serviceAccountName"] == account["metadata"]["name"]
    assert pod(WORKLOADS["sponge-vision"])["automountServiceAccountToken"] is False


@pytest.mark.parametrize("name", WORKLOADS)
def test_selectors_match_labels_and_volumes_and_ports_exist(name):
    workload = WORKLOADS[name]
    labels = workload["spec"]["template"]["metadata"]["labels"]
    assert workload["spec"]["selector"]["matchLabels"].items() <= labels.items()
    ports = {port["name"]: port["containerPort"] for port in container(workload)["ports"]}
    [service] = [s for s in of("Service") if s["spec"]["selector"].items() <= labels.items()]
    assert service["metadata"]["name"] == name
    for port in service["spec"]["ports"]:
        assert port["port"] == ports[port["targetPort"]]
    for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
        probe = container(workload)[kind]
        [how] = probe.keys() & {"grpc", "tcpSocket"}
        assert probe[how]["port"] == ports["grpc"]
    mounted = {mount["name"] for mount in container(workload)["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod(workload)["volumes"]}
    configured = {v["configMap"]["name"] for v in pod(workload)["volumes"] if "configMap" in v}
    assert configured <= {config["metadata"]["name"] for config in of("ConfigMap")}
    assert container(workload)["securityContext"]["readOnlyRootFilesystem"] is True


def test_control_planes_are_two_that_are_well_also_when_they_stand_by():
    control = WORKLOADS["sponge-control"]
    assert (control["kind"], control["spec"]["replicas"]) == ("StatefulSet", 2)
    [service] = [s for s in of("Service") if s["metadata"]["name"] == control["spec"]["serviceName"]]
    assert service["spec"]["clusterIP"] == "None"
    for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert "tcpSocket" in container(control)[kind]
    assert (
        "grpc" in container(WORKLOADS["sponge-vision"])["readinessProbe"]
    )  # only the warm ones are resolved


def test_replicas_are_the_control_planes_to_set():
    assert "replicas" not in WORKLOADS["sponge-vision"]["spec"]


def test_a_worker_is_guaranteed_resized_without_a_restart_and_known_by_its_pods_name():
    worker = container(WORKLOADS["sponge-vision"])
    assert worker["resources"]["requests"] == worker["resources"]["limits"]
    assert worker["resources"]["limits"].keys() == {"cpu", "memory"}
    assert worker["resizePolicy"] == [
        {"resourceName": resource, "restartPolicy": "NotRequired"} for resource in ("cpu", "memory")
    ]
    environment = {variable["name"]: variable for variable in worker["env"]}
    assert environment["SPONGE_POD_NAME"]["valueFrom"] == {"fieldRef": {"fieldPath": "metadata.name"}}
    control = WORKLOADS["sponge-control"]["spec"]
    [service] = [s for s in of("Service") if s["metadata"]["name"] == control["serviceName"]]
    [port] = [port["port"] for port in service["spec"]["ports"] if port["name"] == "grpc"]
    assert environment["SPONGE_CONTROL_ADDRESS"]["value"].split(",") == [
        f"sponge-control-{ordinal}.{control['serviceName']}:{port}" for ordinal in range(control["replicas"])
    ]
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
    control = controlplane.controlfile.read(tmp_path / "control.toml", environ={})
    assert control.actuator.kind is ActuatorKind.KUBERNETES
    [(name, policy)] = control.services.items()
    assert (name, policy.scale) == ("vision", "deployment/sponge-vision")
    assert policy.max_replicas > 1
    kubernetes, vision = control.actuator.kubernetes, WORKLOADS["sponge-vision"]
    assert container(vision)["name"] == kubernetes.container
    labels = vision["spec"]["template"]["metadata"]["labels"]
    assert dict(pair.split("=") for pair in kubernetes.label_selector.split(",")).items() <= labels.items()
    [lease] = of("Lease")
    assert control.leader.lease == lease["metadata"]["name"]
    worker = dataplane.config.read(tmp_path / "worker.toml", environ={})
    assert worker.service.name == name
    ports = {port["name"]: port["containerPort"] for port in container(vision)["ports"]}
    for listen, name in ((worker.server.listen, "grpc"), (worker.server.metrics_listen, "metrics")):
        assert int(listen.rpartition(":")[2]) == ports[name]
    ports = {p["name"]: p["containerPort"] for p in container(WORKLOADS["sponge-control"])["ports"]}
    for listen, name in ((control.server.listen, "grpc"), (control.server.metrics_listen, "metrics")):
        assert int(listen.rpartition(":")[2]) == ports[name]
