"""compose.yaml: who may use what of the host."""

from pathlib import Path
from typing import Any

import pytest

import controlplane.controlfile
import socketproxy.config

yaml = pytest.importorskip("yaml", reason="needs the extra `kubernetes`")

ROOT = Path(__file__).parents[1]
SERVICES: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
CONFIG = socketproxy.config.read(ROOT / "deploy/proxy.toml", environ={})


def test_the_proxy_alone_holds_the_docker_socket_and_has_no_network() -> None:
    holders = [name for name, service in SERVICES.items() if "docker.sock" in str(service)]
    assert holders == ["engine"]
    engine = SERVICES["engine"]
    assert engine["network_mode"] == "none"
    assert "ports" not in engine
    assert f"/var/run/docker.sock:{CONFIG.engine}" in engine["volumes"]


def test_the_control_plane_asks_the_proxy_and_both_mean_the_same_containers() -> None:
    assert SERVICES["control"]["environment"]["DOCKER_HOST"] == f"unix://{CONFIG.listen}"
    directory = str(Path(CONFIG.listen).parent)
    mounts = {name for name, service in SERVICES.items() if f"engine:{directory}" in str(service)}
    assert mounts == {"engine", "control"}
    control = controlplane.controlfile.read(ROOT / "deploy/control.toml", environ={})
    actuator = control.actuator
    assert any(policy.whole_cores for policy in control.services.values()) == CONFIG.whole_cores
    assert (actuator.docker_label, actuator.resize_memory) == (CONFIG.label, CONFIG.resize_memory)
    assert actuator.docker_timeout_s > CONFIG.engine_timeout_s


@pytest.mark.parametrize("name", ["engine", "control", "vision", "magika"])
def test_what_serves_has_no_privileges(name: str) -> None:
    service = SERVICES[name]
    assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
    assert service["security_opt"] == ["no-new-privileges:true"]


def test_the_control_plane_stops_before_its_workers_which_so_get_their_quotas_back() -> None:
    workers = {name for name, service in SERVICES.items() if "sponge.worker" in service.get("labels", {})}
    assert workers == {"vision", "magika"}
    assert workers | {"engine"} == set(SERVICES["control"]["depends_on"])
