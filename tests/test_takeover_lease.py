"""Two control planes with one Lease, as processes: one leads, and ends when it no longer may."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.kube_api import NAMESPACE, KubeApi
from tests.planes import Control, control
from tests.processes import Process, wait_serving, write_toml

pytest.importorskip("kubernetes", reason="needs the extra `kubernetes`")

LEASE = "sponge-control"
GRANTED = {(verb, "leases.coordination.k8s.io", LEASE) for verb in ("get", "patch")}


@pytest.fixture
def kube() -> Iterator[KubeApi]:
    api = KubeApi(GRANTED)
    api.start()
    api.add_lease(LEASE)
    yield api
    api.open.set()
    api.stop()


@contextmanager
def plane(kube: KubeApi, directory: Path, *, serving: bool = True) -> Iterator[Control]:
    """A control plane that is told of the Lease."""
    directory.mkdir()
    reached = {"namespace": NAMESPACE, "kubeconfig": kube.kubeconfig(directory / "kubeconfig")}
    sections = {
        "host": {"millicores": 4000},
        "actuator": {"kind": "kubernetes", "kubernetes": reached},
        "leader": {"lease": LEASE},
    }
    with control(directory, serving=serving, **sections) as running:
        yield running


def holder(kube: KubeApi) -> str:
    return kube.leases[LEASE]["spec"].get("holderIdentity", "")


def leads(of: Control) -> float:
    return of.metrics()["sponge_control_leader"]


def test_a_leader_that_is_killed_is_succeeded(kube: KubeApi, tmp_path: Path) -> None:
    with plane(kube, tmp_path / "a") as first, plane(kube, tmp_path / "b", serving=False) as second:
        second.process.wait_for("standing by")
        assert (leads(first), leads(second)) == (1, 0)
        held_by = holder(kube)
        first.process.popen.kill()
        killed_at = time.monotonic()
        wait_serving(second.address)
        print(f"succeeded after {time.monotonic() - killed_at:.1f} s")  # for people: pytest -s
        assert leads(second) == 1
        assert holder(kube) not in ("", held_by)


def test_a_leader_that_is_told_to_stop_gives_the_lease_up(kube: KubeApi, tmp_path: Path) -> None:
    with plane(kube, tmp_path / "a") as first:
        assert holder(kube)
        assert first.process.stop() == 0
        assert holder(kube) == ""


def test_one_that_stands_by_stops_without_a_word(kube: KubeApi, tmp_path: Path) -> None:
    with plane(kube, tmp_path / "a") as first, plane(kube, tmp_path / "b", serving=False) as second:
        second.process.wait_for("standing by")
        held_by = holder(kube)
        assert second.process.stop() == 0
        assert (leads(first), holder(kube)) == (1, held_by)


def test_a_leader_that_was_stopped_for_too_long_ends_when_it_goes_on(kube: KubeApi, tmp_path: Path) -> None:
    with plane(kube, tmp_path / "b", serving=False) as second:
        wait_serving(second.address)
        with plane(kube, tmp_path / "a", serving=False) as first:
            first.process.wait_for("standing by")
            second.process.popen.send_signal(signal.SIGSTOP)
            try:
                wait_serving(first.address)
            finally:
                second.process.popen.send_signal(signal.SIGCONT)
            assert second.process.wait() == 1
            second.process.wait_for("leadership lost")
            assert leads(first) == 1


def test_a_leader_that_no_api_server_answers_ends_and_comes_back(kube: KubeApi, tmp_path: Path) -> None:
    with plane(kube, tmp_path / "a") as first:
        kube.open.clear()
        assert first.process.wait() == 1
        assert first.process.events("leadership lost")
        assert "lease not available" in {line["event"] for line in first.process.events()}
    with plane(kube, tmp_path / "again", serving=False) as again:
        again.process.wait_for("lease not available")
        assert leads(again) == 0
        kube.open.set()
        wait_serving(again.address)
        assert leads(again) == 1


def test_a_lease_beside_another_actuator_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    sections = {"actuator": {"kind": "threads"}, "leader": {"lease": LEASE}}
    config = write_toml(tmp_path / "control.toml", sections)
    process = Process.start("controlplane", "--config", config, log=tmp_path / "log")
    assert process.wait() == 2
    expected = f'{config}: leader.lease: expected actuator.kind = "kubernetes" beside it\n'
    assert process.log.read_text() == expected
