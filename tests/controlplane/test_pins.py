"""CPUs of containers' own, with an engine that is a dictionary."""

from collections.abc import Mapping
from typing import Any

import pytest
from docker.errors import NotFound

from controlplane.actuators import ActuationError
from controlplane.actuators.pins import Pins

Json = dict[str, Any]


class Client:
    """Containers by id; those in `gone` are listed still, and have ended when they are inspected."""

    def __init__(self, **containers: Json) -> None:
        self.held = {name: {"CpuQuota": 0, "CpusetCpus": ""} | held for name, held in containers.items()}
        self.gone: set[str] = set()

    def containers(self) -> list[Json]:
        return [{"Id": name, "Labels": {"ours": "yes"}} for name in self.held]

    def inspect_container(self, container_id: str) -> Json:
        if container_id in self.gone:
            raise NotFound(f"No such container: {container_id}")
        return {"HostConfig": dict(self.held[container_id])}

    def update_container(self, container_id: str, cpuset_cpus: str, cpu_quota: int, **_: int) -> None:
        self.held[container_id] = {"CpuQuota": cpu_quota, "CpusetCpus": cpuset_cpus}


def ours(labels: Mapping[str, str]) -> bool:
    return "ours" in labels


def test_cpus_of_others_are_not_given():
    client = Client(a={"CpusetCpus": "3"}, b={})
    pins = Pins("0-3", ours)
    pins.write(client, "b", 2000, 20_000)
    assert client.held["b"]["CpusetCpus"] == "1-2"
    with pytest.raises(ActuationError, match="whole cores: expected 4 CPUs, 3 of 0-3 are free"):
        pins.write(client, "b", 4000, 20_000)


def test_another_that_ends_meanwhile_has_none_and_is_no_error():
    client = Client(a={"CpusetCpus": "3"}, b={})
    client.gone.add("a")
    pins = Pins("0-3", ours)
    pins.write(client, "b", 4000, 20_000)
    assert client.held["b"]["CpusetCpus"] == "0-3"
    assert pins.read(client, "b", client.held["b"]) == 4000
