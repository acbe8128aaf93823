"""The Role of deploy/kubernetes grants what the control plane does at the API server, and nothing else."""

import itertools
from contextlib import closing
from pathlib import Path

import pytest

import controlplane.config
import controlplane.controlfile
from controlplane.actuators import Pending, Quota, WorkerRef, make, make_lease, make_scales
from controlplane.lease import LeaseLeadership
from tests.kube_api import NAMESPACE, KubeApi
from tests.processes import write_toml

pytest.importorskip("kubernetes", reason="needs the extra `kubernetes`")
yaml = pytest.importorskip("yaml", reason="needs the extra `kubernetes`")

HERE = Path(__file__).parents[1] / "deploy/kubernetes"


def objects(name: str, kind: str) -> list:
    return [o for o in yaml.safe_load_all((HERE / name).read_text()) if o["kind"] == kind]


def granted() -> set[tuple[str, str, str]]:
    """Verb, resource as kubectl writes it, and name, "" for any."""
    [role] = objects("rbac.yaml", "Role")
    return {
        (verb, full(group, resource), name)
        for rule in role["rules"]
        for verb, group, resource, name in itertools.product(
            rule["verbs"], rule["apiGroups"], rule["resources"], rule.get("resourceNames", [""])
        )
    }


def full(group: str, resource: str) -> str:
    kind, slash, subresource = resource.partition("/")
    return f"{kind}.{group}{slash}{subresource}" if group else resource


@pytest.fixture
def kube():
    api = KubeApi(granted())
    api.start()
    api.add("w")
    [lease] = objects("control.yaml", "Lease")
    api.add_lease(lease["metadata"]["name"])
    api.add_scale("deployments", "sponge-vision", 1)
    yield api
    api.stop()


@pytest.fixture
def config(kube, tmp_path) -> controlplane.config.Config:
    """As it is deployed, but for the way to the API server."""
    [deployed] = objects("control.yaml", "ConfigMap")
    server = {"namespace": NAMESPACE, "kubeconfig": kube.kubeconfig(tmp_path / "kubeconfig")}
    text = deployed["data"]["control.toml"].replace(
        "[actuator.kubernetes]", write_toml(tmp_path / "server", {"actuator.kubernetes": server}).read_text()
    )
    (tmp_path / "control.toml").write_text(text)
    return controlplane.controlfile.read(tmp_path / "control.toml", environ={})


async def test_the_role_grants_what_is_used_and_nothing_else(kube, config):
    worker, kubernetes = WorkerRef("worker-1", container_id="w"), config.actuator.kubernetes
    with closing(
        LeaseLeadership(make_lease(config.leader, kubernetes), "me", 4, lambda: "2026-01-02T03:04:05.678901Z")
    ) as leader:
        await leader.gain()
        actuator, scales = make(config.actuator), make_scales(kubernetes)
        assert await actuator.read(worker) == Quota(1000)
        with pytest.raises(Pending):
            await actuator.write(worker, Quota(1500))
        await actuator.write(worker, Quota(1500))
        for policy in config.services.values():
            scale = await scales.read(policy.scale)
            await scales.write(policy.scale, 2, scale.version)
        await leader.release()
        for each in (actuator, scales):
            await each.close()
    assert kube.seen == granted()
    assert kube.refused == []
