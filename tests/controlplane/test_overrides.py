"""What was set by call: over the configuration, until set again, and by the next process too."""

import asyncio
import sqlite3
from contextlib import closing
from typing import Any, cast

import pytest
from msgspec.structs import replace
from prometheus_client import CollectorRegistry

from controlplane.actuators.fake import FakeActuator
from controlplane.config import Config, Leader, ServicePolicy
from controlplane.loop import ControlLoop
from controlplane.metrics import Metrics
from controlplane.overrides import Overrides, PolicyError
from controlplane.server import AdminServer
from controlplane.state import Fleet, Host
from controlplane.store import Store
from protos import control_pb2 as pb

CONFIGURED = {"vision": ServicePolicy(weight=2.0, max_millicores=4000)}


class Life:
    """One process: a fleet as the configuration says, and what its store holds."""

    def __init__(self, store: Store, configured: dict[str, ServicePolicy] = CONFIGURED, paused: bool = False):
        self.registry = CollectorRegistry()
        self.fleet = Fleet([Host(8000, 0)], 0.001)
        self.fleet.policies.update(configured)
        self.fleet.paused = paused
        self.overrides = Overrides(configured, self.fleet, store, Metrics(self.registry))
        self.overrides.recall()

    async def set(self, service: str, asked: dict[str, object], *, reset: bool = False) -> ServicePolicy:
        """Set a policy, and return when it is in the store."""
        after = self.overrides.set_policy(service, asked, reset=reset)
        await self.overrides.kept()
        return after

    def counted(self, name: str) -> float:
        return self.registry.get_sample_value(f"sponge_control_{name}_total")


async def test_what_was_set_counts_in_the_next_life_and_the_rest_is_as_configured(tmp_path):
    path = str(tmp_path / "sponge.db")
    with closing(Store(path)) as store:
        first = Life(store)
        assert (await first.set("vision", {"weight": 5.0})).max_millicores == 4000
        await first.set("files", {"max_millicores": 900, "min_millicores": 300, "reserve": 0.5})
    with closing(Store(path)) as store:
        second = Life(store, {"vision": ServicePolicy(weight=1.0, max_millicores=6000)})
        assert second.fleet.policy("vision") == ServicePolicy(weight=5.0, max_millicores=6000)
        assert second.fleet.policy("files") == ServicePolicy(
            min_millicores=300, max_millicores=900, reserve=0.5
        )
        await second.set("vision", {"min_millicores": 700})
    with closing(Store(path)) as store:
        policy = Life(store).fleet.policy("vision")
        assert (policy.weight, policy.min_millicores) == (5.0, 700)


async def test_a_reset_returns_to_the_configuration_for_good(tmp_path):
    path = str(tmp_path / "sponge.db")
    with closing(Store(path)) as store:
        life = Life(store)
        await life.set("vision", {"weight": 5.0, "min_millicores": 700})
        assert await life.set("vision", {"min_millicores": 600}, reset=True) == ServicePolicy(
            weight=2.0, min_millicores=600, max_millicores=4000
        )
        await life.set("vision", {}, reset=True)
        await life.set("files", {"weight": 3.0})
        await life.set("files", {}, reset=True)
        assert life.fleet.policies == CONFIGURED
    with closing(Store(path)) as store:
        assert Life(store).fleet.policies == CONFIGURED


@pytest.mark.parametrize("configured", [False, True])
async def test_a_pause_and_its_end_outlive_the_process_whatever_is_configured(tmp_path, configured):
    path = str(tmp_path / "sponge.db")
    for paused in (not configured, configured):
        with closing(Store(path)) as store:
            life = Life(store, paused=configured)
            life.overrides.pause(paused)
            await life.overrides.kept()
        with closing(Store(path)) as store:
            assert Life(store, paused=configured).fleet.paused is paused


def test_where_nobody_paused_or_resumed_the_configuration_counts():
    with closing(Store("")) as store:
        assert Life(store, paused=True).fleet.paused
        assert not Life(store).fleet.paused


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"weight": 0.0}, "weight"),
        ({"min_millicores": 50}, "min_millicores"),
        ({"min_millicores": 4001}, "min_millicores: expected at most max_millicores = 4000"),
        ({"max_millicores": 999}, "max_millicores: expected at least 1000 with whole_cores"),
    ],
)
async def test_a_policy_that_cannot_be_changes_nothing(asked, words):
    with closing(Store("")) as store:
        life = Life(store, {"vision": replace(CONFIGURED["vision"], whole_cores=True)})
        await life.set("vision", {"weight": 5.0})
        with pytest.raises(PolicyError, match=words):
            life.overrides.set_policy("vision", asked)
        assert life.fleet.policy("vision").weight == 5.0
        assert store.policies() == {"vision": {"weight": 5.0}}


async def test_what_can_no_longer_be_is_left_out_counted_and_stays(tmp_path):
    path = str(tmp_path / "sponge.db")
    with closing(Store(path)) as store:
        await Life(store).set("vision", {"min_millicores": 3000})
        await Life(store).set("files", {"weight": 3.0})
        with closing(sqlite3.connect(path)) as file, file:
            file.execute("INSERT INTO policies VALUES ('damaged', 'heavy', NULL, NULL, NULL)")
        life = Life(store, {"vision": ServicePolicy(max_millicores=2000)})
        assert life.fleet.policy("vision") == ServicePolicy(max_millicores=2000)
        assert life.fleet.policy("files").weight == 3.0
        assert "damaged" not in life.fleet.policies
        assert life.counted("store_rows_refused") == 2
        assert store.policies()["vision"] == {"min_millicores": 3000}


async def test_what_cannot_be_kept_or_read_is_in_force_and_counted(tmp_path):
    path = str(tmp_path / "sponge.db")
    with closing(Store(path)) as store:
        life = Life(store)
        with closing(sqlite3.connect(path)) as file, file:
            file.execute("DROP TABLE policies")
        assert (await life.set("vision", {"weight": 5.0})).weight == 5.0
        assert life.fleet.policy("vision").weight == 5.0
        assert life.counted("store_failures") == 1
        later = Life(store)
        assert later.fleet.policies == CONFIGURED
        assert later.counted("store_failures") == 1


async def test_what_is_set_is_in_force_at_once_and_written_in_order_beside_the_loop(tmp_path):
    path = str(tmp_path / "sponge.db")
    with closing(Store(path)) as store, closing(sqlite3.connect(path, isolation_level=None)) as other:
        life = Life(store)
        other.execute("BEGIN IMMEDIATE")  # as `Store.keep` does
        for number in range(1, 4):
            life.overrides.set_policy("vision", {"weight": float(number)})
            life.overrides.pause(number % 2 == 1)
        assert (life.fleet.policy("vision").weight, life.fleet.paused) == (3.0, True)
        impatient, patient = (asyncio.ensure_future(life.overrides.kept()) for _ in range(2))
        for _ in range(20):
            await asyncio.sleep(0)
        assert not patient.done()  # nor has it failed, as it would have had the loop waited for it
        impatient.cancel()  # whose client has gone
        await asyncio.wait([impatient])
        other.execute("ROLLBACK")
        await patient
        assert (store.policies(), store.paused()) == ({"vision": {"weight": 3.0}}, True)
        assert life.counted("store_failures") == 0


@pytest.mark.parametrize(
    ("call", "request_", "found"),
    [
        ("SetServicePolicy", pb.SetServicePolicyRequest(service="vision", weight=5), ({"weight": 5.0}, None)),
        ("Pause", pb.PauseRequest(), (None, True)),
        ("Resume", pb.ResumeRequest(), (None, False)),
    ],
)
async def test_a_call_is_answered_and_a_stop_goes_on_when_what_was_set_is_written(
    tmp_path, call, request_, found
):
    path = str(tmp_path / "sponge.db")
    with closing(Store(path)) as store, closing(sqlite3.connect(path, isolation_level=None)) as other:
        config, fleet = Config(services=CONFIGURED), Fleet([Host(8000, 0)], 0.001)
        fleet.policies.update(CONFIGURED)
        loop = ControlLoop(config, fleet, FakeActuator(), store, Metrics(CollectorRegistry()))
        server = AdminServer(loop, 3.0, lambda: 0.0)
        other.execute("BEGIN IMMEDIATE")
        answer = asyncio.ensure_future(getattr(server, call)(request_, cast("Any", None)))
        await asyncio.sleep(0)  # until it is set
        stopping = asyncio.ensure_future(loop.goodbye())
        for _ in range(20):
            await asyncio.sleep(0)
        assert not answer.done()
        assert not stopping.done()
        other.execute("ROLLBACK")
        await asyncio.gather(answer, stopping)
        assert (store.policies().get("vision"), store.paused()) == found


def test_with_a_lease_what_was_set_ends_with_the_process_that_was_told(tmp_path):
    """A is paused, and succeeded by B, which nobody pauses; then A leads again, with the store that it had."""
    config = Config(services=CONFIGURED, leader=Leader(lease="sponge-control"))
    for name, pauses in (("a", True), ("b", False), ("a", False)):
        with closing(Store(str(tmp_path / name))) as store:
            fleet = Fleet([Host(8000, 0)], 0.001)
            fleet.policies.update(CONFIGURED)
            loop = ControlLoop(config, fleet, FakeActuator(), store, Metrics(CollectorRegistry()))
            loop.overrides.recall()
            assert not fleet.paused
            assert fleet.policy("vision").weight == 2.0
            if pauses:
                loop.overrides.pause(True)
                loop.overrides.set_policy("vision", {"weight": 5.0})
                assert fleet.paused
                assert fleet.policy("vision").weight == 5.0
