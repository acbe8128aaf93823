"""The loop with a fake owner of quotas and a clock that tests move."""

import asyncio
from dataclasses import dataclass, field, replace

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from controlplane import planner
from controlplane.actuators.fake import FakeActuator, FakeScales
from controlplane.allocation import Allocation, Quota
from controlplane.config import Actuator, Config, Explore, Governor, ServicePolicy
from controlplane.config import Planner as Settings
from controlplane.knapsack import SolverStatus
from controlplane.latency import KAPPA, UNKNOWN_WORK_S
from controlplane.loop import ControlLoop
from controlplane.metrics import FleetCollector, Metrics
from controlplane.planner import Assignment, Bound, Plan, Planner, Reasons
from controlplane.prior import Priors
from controlplane.profiled import Times
from controlplane.profilefile import Profile
from controlplane.scaling import Scaling
from controlplane.session import Session
from controlplane.state import Fleet, Host
from controlplane.store import Store
from protos import control_pb2 as pb
from tests.decided import SlowStore


@dataclass
class Plane:
    """A control plane without its edge."""

    actuator: FakeActuator
    config: Config = field(
        default_factory=lambda: Config(
            governor=Governor(shrink_hold_s=2.0), services={"vision": ServicePolicy(min_millicores=500)}
        )
    )
    now: float = 0.0
    decide: Planner = planner.plan
    path: str = ""
    hosts: list[Host] = field(default_factory=lambda: [Host(4000, 1 << 33)])
    priors: Priors = field(default_factory=lambda: Priors({}))
    scales: FakeScales | None = None
    store: Store | None = None  # else one at `path`
    gather_s: float = 0.0

    def __post_init__(self) -> None:
        self.registry = CollectorRegistry()
        self.fleet = Fleet(self.hosts, 0.001)
        self.fleet.policies.update(self.config.services)
        self.registry.register(FleetCollector(self.fleet))
        self.store = self.store or Store(self.path)
        metrics = Metrics(self.registry)
        scales, replicas = self.scales, self.config.replicas
        self.loop = ControlLoop(
            self.config,
            self.fleet,
            self.actuator,
            self.store,
            metrics,
            lambda: self.now,
            self.decide,
            self.priors,
            None if scales is None else Scaling(scales, replicas, metrics, lambda: self.now),
            self.gather_s,
        )

    def metric(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, labels)


@dataclass
class FakeWorker:
    """Obeys at once, and reports what it is told to."""

    plane: Plane
    session: Session
    allocation: pb.Allocation
    version: pb.Version = field(default_factory=pb.Version)
    usage: pb.Usage = field(default_factory=pb.Usage)

    @classmethod
    async def attach(cls, plane: Plane, millicores: int = 1100, **hello) -> "FakeWorker":
        allocation = pb.Allocation(cpu_millicores=millicores, instances=1, threads=1, max_batch=1)
        about = {
            "worker_id": "w",
            "service": "vision",
            "model_digest": "d",
            "max_instances": 4,
            "max_threads": 1,
            "max_batch": 1,
            "slo_ms": 1000,
            "allocation": allocation,
        }
        session = await plane.loop.attach(pb.Hello(**about | hello))
        return cls(plane, session, allocation)

    def obey(self) -> None:
        while not self.session.outbox.empty():
            directive = self.session.outbox.get_nowait()
            if directive is None:
                return
            self.version, self.allocation = directive.version, directive.allocation

    async def acknowledge_all(self) -> None:
        """Obey until the stream ends."""
        while (directive := await self.session.outbox.get()) is not None:
            self.plane.loop.record(
                self.session,
                pb.Sample(window_s=0.1, allocation=directive.allocation, acknowledged=directive.version),
            )

    async def second(
        self, rate: int, wall_ms: float = 100.0, *, obey: bool = True, executed: int = 20
    ) -> None:
        """One second of `rate` requests with a budget of about a second, and the loop's tick after it.

        At most `executed` of them have been.
        """
        self.plane.now += 1.0
        if obey:
            self.obey()
        run = pb.Execution(rows=1, threads=1, wall_ms=wall_ms, cpu_ms=wall_ms, busy=1)
        self.plane.loop.record(
            self.session,
            pb.Sample(
                window_s=1.0,
                headers=rate,
                arrivals=rate,
                arrived_rows=rate,
                executions=[run] * min(rate, executed),
                usage=self.usage,
                budget_at_arrival=pb.Histogram(upper_bound_ms=[800, 1200], count=[0, rate, 0]),
                allocation=self.allocation,
                acknowledged=self.version,
            ),
        )
        await self.plane.loop.tick()
        await settle()


async def settle() -> None:
    """Let tasks that have something to do run until none has."""
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.fixture
def plane() -> Plane:
    return Plane(FakeActuator({"w": Quota(1100)}))


async def test_quota_and_instances_follow_the_demand_up_and_down(plane):
    worker = await FakeWorker.attach(plane)
    history = []
    for rate in [2] * 6 + [25] * 6 + [2] * 60:
        await worker.second(rate)
        history.append((plane.actuator.quotas["w"].cpu_millicores, worker.allocation.instances))
    calm, busy, after = history[5], history[11], history[-1]
    assert calm[0] < 1100
    assert busy[0] >= 2500
    assert busy[1] >= 3
    assert after[1] == calm[1]
    assert abs(after[0] - calm[0]) <= 100  # a step: the estimates have seen more by then
    await plane.loop.decisions.kept()
    actions = [decision.action for decision in plane.store.last(100)]
    assert actions[0] == "shrink"
    assert "grow" in actions
    assert actions[-1] == "shrink"
    assert plane.metric("sponge_control_decisions_total", service="vision", action="grow") >= 1
    assert plane.metric("sponge_control_quota_cores", service="vision", worker="w") == after[0] / 1000


def constantly(wanted: Allocation) -> Planner:
    """A planner that gives the same to each service, whatever there is."""

    def plan(services, _host_millicores, _host_memory, _settings, /):
        assignment = Assignment(wanted, Reasons(0.0, 0.5, Bound.FLOOR, None))
        return Plan(tuple(assignment for _ in services), False, SolverStatus.OPTIMAL, 0.0)

    return plan


async def test_another_planner_decides_and_all_else_stays_as_it_is():
    told = []
    decide = constantly(Allocation(3100, 3, 1, 1))

    def always(services, host_millicores, *rest):
        told.append(([service.name for service in services], host_millicores))
        return decide(services, host_millicores, *rest)

    plane = Plane(FakeActuator({"w": Quota(1100)}), decide=always)
    worker = await FakeWorker.attach(plane)
    for _ in range(3):
        await worker.second(2)
    assert told[-1] == (["vision"], 4000)
    assert plane.actuator.quotas["w"].cpu_millicores == 3100
    assert worker.allocation.instances == 3


@pytest.mark.parametrize(("spared", "actions"), [(1.5, []), (2.5, ["reshape"])])
async def test_what_is_urgent_is_measured_by_the_demand_that_is_planned_for(spared, actions):
    def instead(services, _host_millicores, _host_memory, _settings, /):
        reasons = Reasons(0.0, 0.5, Bound.FLOOR, None, spared)
        assignments = tuple(Assignment(Allocation(2100, 2, 1, 1), reasons) for _ in services)
        return Plan(assignments, False, SolverStatus.OPTIMAL, 0.0)

    config = Config(services={"vision": ServicePolicy(reserve=1.0)})
    plane = Plane(FakeActuator({"w": Quota(3100)}), config, decide=instead)
    worker = await FakeWorker.attach(plane, 3100)
    # One in twenty of these and their reserve are two a second.
    await worker.second(20)
    await plane.loop.decisions.kept()
    assert [decision.action for decision in plane.store.last(10)] == actions


async def test_the_quota_does_not_fall_before_the_worker_acknowledges(plane):
    worker = await FakeWorker.attach(plane)
    for _ in range(6):
        await worker.second(2, obey=False)
    assert not worker.session.outbox.empty()
    assert plane.actuator.quotas["w"] == Quota(1100)
    await worker.second(2)
    assert plane.actuator.quotas["w"].cpu_millicores < 1100


@pytest.fixture
def patient(plane) -> Plane:
    """A control plane that plans once a minute, and whose workers have all come."""
    seldom = msgspec.structs.replace(plane.config.planner, interval_s=60.0)
    return Plane(plane.actuator, msgspec.structs.replace(plane.config, planner=seldom))


async def test_distress_is_planned_for_without_waiting_for_the_interval(patient):
    worker = await FakeWorker.attach(patient)
    for _ in range(12):
        await worker.second(2)
    small = worker.allocation.cpu_millicores
    running = asyncio.create_task(patient.loop.run())
    waiting = [pb.Waiting(remaining_ms=450, rows=1)] * 9
    patient.loop.record(
        worker.session,
        pb.Sample(
            window_s=0.05,
            distress=True,
            waiting=waiting,
            allocation=worker.allocation,
            acknowledged=worker.version,
        ),
    )
    directive = await asyncio.wait_for(worker.session.outbox.get(), 30.0)
    running.cancel()
    assert directive.allocation.cpu_millicores > small
    assert directive.allocation.instances > 1
    await patient.loop.decisions.kept()
    [decision] = patient.store.last(1)
    assert "waiting would miss" in decision.reason
    assert (decision.queue_depth, decision.inputs.waiting_rows, decision.inputs.bound) == (9, 9, "queue")
    assert decision.inputs.first_due_ms == 450


async def test_a_new_worker_is_planned_for_without_waiting_for_the_interval(patient):
    worker = await FakeWorker.attach(patient)
    running = asyncio.create_task(patient.loop.run())

    async def planned(number: int) -> None:
        while (made := patient.loop.round_of(worker.session.worker)) is None or len(made.workers) < number:  # noqa: ASYNC110
            await asyncio.sleep(0.001)

    await planned(0)  # the first round is over; it has told nothing yet
    patient.loop.record(worker.session, pb.Sample(window_s=0.2, allocation=worker.allocation))
    await asyncio.wait_for(planned(1), 30.0)
    running.cancel()


async def test_nobody_is_planned_for_while_workers_of_a_predecessor_may_still_come(plane):
    gathering = Plane(plane.actuator, gather_s=60.0)
    running = asyncio.create_task(gathering.loop.run())
    worker = await FakeWorker.attach(gathering)
    gathering.loop.record(
        worker.session, pb.Sample(window_s=0.2, distress=True, allocation=worker.allocation)
    )
    await asyncio.sleep(0.1)
    assert gathering.loop.round_of(worker.session.worker) is None
    running.cancel()


async def test_an_owner_that_fails_is_logged_once_counted_and_tried_again(plane, capsys):
    worker = await FakeWorker.attach(plane)
    plane.actuator.failure = "engine: connection refused"
    for _ in range(20):
        await worker.second(2)
    failures = plane.metric("sponge_control_actuation_failures_total", actuator="fake")
    assert 2 <= failures <= 20
    assert capsys.readouterr().out.count("connection refused") == 1
    assert plane.actuator.quotas["w"] == Quota(1100)
    plane.actuator.failure = ""
    for _ in range(12):
        await worker.second(2)
    assert plane.actuator.quotas["w"].cpu_millicores < 1100


async def test_growth_waits_for_an_owner_that_takes_its_time(plane):
    worker = await FakeWorker.attach(plane)
    for _ in range(6):
        await worker.second(2)
    before = plane.actuator.quotas["w"].cpu_millicores
    plane.actuator.slow = True
    for _ in range(4):
        await worker.second(25)
    worker.obey()
    assert plane.actuator.quotas["w"].cpu_millicores == before
    assert worker.allocation.cpu_millicores <= before
    assert plane.metric("sponge_control_actuation_failures_total", actuator="fake") is None
    plane.actuator.slow = False
    for _ in range(4):
        await worker.second(25)
    assert plane.actuator.quotas["w"].cpu_millicores >= worker.allocation.cpu_millicores > before


async def test_growth_that_is_refused_for_good_keeps_no_smaller_plan_away(plane):
    worker = await FakeWorker.attach(plane)
    for _ in range(6):
        await worker.second(2)
    small = plane.actuator.quotas["w"].cpu_millicores
    plane.actuator.most_millicores = 1500
    for _ in range(6):
        await worker.second(25)
    assert plane.actuator.quotas["w"].cpu_millicores <= small
    for _ in range(40):
        await worker.second(6)
    assert 1500 >= plane.actuator.quotas["w"].cpu_millicores > small
    assert worker.allocation.cpu_millicores == plane.actuator.quotas["w"].cpu_millicores


async def test_absurd_samples_are_counted_and_nothing_else_happens(plane):
    worker = await FakeWorker.attach(plane)
    plane.loop.record(worker.session, pb.Sample(window_s=float("nan")))
    assert plane.metric("sponge_control_samples_refused_total", service="vision") == 1
    await worker.second(2)
    assert worker.session.worker.service == "vision"


async def test_while_paused_nothing_changes(plane):
    worker = await FakeWorker.attach(plane)
    plane.fleet.paused = True
    for rate in [25] * 10:
        await worker.second(rate)
    assert plane.actuator.writes == []
    plane.fleet.paused = False
    await worker.second(25)
    assert plane.actuator.quotas["w"].cpu_millicores > 1100


async def test_a_starting_worker_keeps_at_least_what_it_started_with(plane):
    worker = await FakeWorker.attach(plane, starting=True)
    plane.loop.record(worker.session, pb.Sample(window_s=1.0, starting=True, allocation=worker.allocation))
    for _ in range(10):
        plane.now += 1.0
        await plane.loop.tick()
    assert plane.actuator.writes == []
    assert plane.actuator.quotas["w"] == Quota(1100)


async def test_a_starting_worker_is_given_what_its_threads_can_use():
    plane = Plane(FakeActuator({"w": Quota(500)}))
    worker = await FakeWorker.attach(plane, millicores=500, starting=True)
    await settle()
    assert plane.actuator.quotas["w"] == Quota(1100)
    await worker.second(0)
    assert plane.actuator.quotas["w"] == Quota(500)


async def test_what_a_worker_claims_to_start_with_ends_at_what_its_threads_can_use():
    plane = Plane(FakeActuator({"w": Quota(500)}))
    await FakeWorker.attach(plane, millicores=10_000_000, starting=True)
    await settle()
    assert plane.actuator.quotas["w"] == Quota(1100)


async def test_a_worker_without_a_quota_gets_no_more_than_it_may_have():
    plane = Plane(FakeActuator({"w": Quota(None)}))
    worker = await FakeWorker.attach(plane, millicores=10_000_000)
    await worker.second(2)
    assert plane.actuator.quotas["w"].cpu_millicores <= 4000


@pytest.mark.parametrize("holds_quota", [True, False])
async def test_whatever_a_worker_claims_to_have_others_get_their_floors(holds_quota):
    plane = Plane(FakeActuator({"w": Quota(2000), "v": Quota(1100)}, holds_quota=holds_quota))
    await FakeWorker.attach(plane, millicores=10_000_000, starting=True)  # and never warm
    worker = await FakeWorker.attach(plane, worker_id="v")
    for _ in range(10):
        await worker.second(60)
    assert worker.session.worker.allocation.cpu_millicores >= 500


async def test_a_worker_without_a_quota_is_given_the_one_it_says_it_has():
    plane = Plane(FakeActuator({"w": Quota(None)}))
    worker = await FakeWorker.attach(plane, millicores=2000)
    assert plane.actuator.quotas["w"] == Quota(None)  # until it says that nothing older runs
    await worker.second(2)
    assert plane.actuator.quotas["w"] == Quota(2000)


async def test_a_successor_in_the_same_container_waits_for_writes_that_are_under_way(plane):
    first = await FakeWorker.attach(plane, container_id="c")
    plane.actuator.hold()
    for _ in range(6):
        await first.second(2)
    plane.loop.detach(first.session)
    attaching = asyncio.create_task(FakeWorker.attach(plane, container_id="c"))
    await settle()
    assert not attaching.done()
    plane.actuator.release()
    second = await attaching
    assert second.session.worker.resize.in_force == plane.actuator.quotas["w"]
    assert plane.actuator.quotas["w"] != Quota(1100)


async def test_an_orderly_goodbye_puts_back_what_was_found(plane):
    worker = await FakeWorker.attach(plane)
    for rate in [2] * 10:
        await worker.second(rate)
    assert plane.actuator.quotas["w"].cpu_millicores < 1100

    obeying = asyncio.create_task(worker.acknowledge_all())
    await plane.loop.goodbye()
    await obeying
    assert plane.actuator.quotas["w"] == Quota(1100)


async def test_a_worker_that_says_less_than_it_should_costs_no_other(plane):
    worker = await FakeWorker.attach(plane)
    await worker.second(2)
    plane.loop.detach(worker.session)
    await plane.loop.tick()
    assert plane.fleet.workers == {}


async def test_two_workers_of_one_group_are_both_written():
    plane = Plane(FakeActuator({"w": Quota(1100), "v": Quota(1100)}))
    first = await FakeWorker.attach(plane, cgroup_path="/shared")
    second = await FakeWorker.attach(plane, cgroup_path="/shared", worker_id="v")
    for _ in range(12):
        await first.second(2)
        await second.second(2)
    assert {worker for worker, _ in plane.actuator.writes} == {"v", "w"}
    assert not first.session.worker.resize.pending
    assert not second.session.worker.resize.pending


async def test_a_stream_that_has_a_successor_acts_no_more(plane):
    old = await FakeWorker.attach(plane)
    for _ in range(6):
        await old.second(2, obey=False)
    old.obey()
    new = await FakeWorker.attach(plane)
    # The acknowledgement that was buffered on the old stream would let the quota fall.
    await old.second(2)
    assert plane.actuator.quotas["w"] == Quota(1100)
    assert old.session.closed
    assert plane.fleet.workers["w"] is new.session.worker


async def test_what_was_found_first_is_put_back_also_after_the_stream_broke(plane):
    worker = await FakeWorker.attach(plane)
    for _ in range(10):
        await worker.second(2)
    small = plane.actuator.quotas["w"].cpu_millicores
    assert small < 1100
    plane.loop.detach(worker.session)
    worker = await FakeWorker.attach(plane, millicores=small, applied=worker.version)
    obeying = asyncio.create_task(worker.acknowledge_all())
    await plane.loop.goodbye()
    await obeying
    assert plane.actuator.quotas["w"] == Quota(1100)


async def test_a_goodbye_tries_again_what_failed(plane):
    worker = await FakeWorker.attach(plane)
    for _ in range(10):
        await worker.second(2)
    plane.actuator.failure = "busy"
    obeying = asyncio.create_task(worker.acknowledge_all())
    leaving = asyncio.create_task(plane.loop.goodbye())
    await settle()
    plane.actuator.failure = ""
    plane.now += 1.0
    await leaving
    await obeying
    assert plane.actuator.quotas["w"] == Quota(1100)


async def test_a_worker_that_does_not_acknowledge_can_still_be_told_to_shrink(plane):
    worker = await FakeWorker.attach(plane)
    for _ in range(6):
        await worker.second(25)  # the last directive is never obeyed
    for _ in range(20):
        await worker.second(2, obey=False)
    assert worker.session.worker.resize.overdue
    assert plane.metric("sponge_control_overdue", service="vision", worker="w") == 1
    assert worker.session.worker.resize.target.cpu_millicores <= 1100
    held = plane.actuator.quotas["w"]
    assert held.cpu_millicores > 1100  # something may still be running under it
    await worker.second(2)
    assert plane.actuator.quotas["w"].cpu_millicores <= 1100


async def test_a_worker_that_fails_with_its_allocation_is_told_again_of_the_same_plan():
    wanted = Allocation(3100, 3, 1, 1)
    plane = Plane(FakeActuator({"w": Quota(1100)}), decide=constantly(wanted))
    worker = await FakeWorker.attach(plane)
    await worker.second(2)
    first = worker.session.outbox.get_nowait()
    for _ in range(2):
        assert worker.session.outbox.empty()
        await worker.second(2, obey=False)
    again = worker.session.outbox.get_nowait()
    assert (again.version, again.allocation) == (first.version, first.allocation)
    assert worker.session.worker.resize.overdue
    for _ in range(2):
        await worker.second(2, obey=False)
    await worker.second(2)
    assert worker.allocation.instances == wanted.instances
    assert not worker.session.worker.resize.pending


async def test_a_worker_that_reads_nothing_is_not_sent_the_same_for_ever():
    plane = Plane(FakeActuator({"w": Quota(1100)}), decide=constantly(Allocation(3100, 3, 1, 1)))
    worker = await FakeWorker.attach(plane)
    for _ in range(9):
        await worker.second(2, obey=False)
    assert worker.session.worker.resize.overdue
    assert worker.session.outbox.qsize() == 1


async def test_what_silent_workers_hold_is_not_given_to_others():
    plane = Plane(FakeActuator({"w": Quota(3000), "v": Quota(1100)}))
    await FakeWorker.attach(plane, millicores=3000)
    plane.now += 10.0
    worker = await FakeWorker.attach(plane, worker_id="v")
    for _ in range(10):
        await worker.second(60)
    assert worker.session.worker.allocation.cpu_millicores <= 1000 + 100


async def test_a_decision_that_cannot_be_kept_is_carried_out(plane, capsys):
    worker = await FakeWorker.attach(plane)
    plane.store.close()
    for _ in range(8):
        await worker.second(2)
    await plane.loop.decisions.kept()
    assert plane.actuator.quotas["w"].cpu_millicores < 1100
    assert plane.metric("sponge_control_store_failures_total") >= 1
    assert capsys.readouterr().out.count("decision not kept") == 1


async def test_distress_does_not_wait_for_the_store_and_an_orderly_stop_does(tmp_path):
    store = SlowStore(str(tmp_path / "db"))
    store.may_read.set()
    plane = Plane(FakeActuator({"w": Quota(1100)}), store=store)
    worker = await FakeWorker.attach(plane)
    for rate in [2] * 6 + [25] * 6:
        await worker.second(rate)
    assert plane.actuator.quotas["w"].cpu_millicores >= 2500
    assert store.last(10) == []
    obeying = asyncio.create_task(worker.acknowledge_all())
    stopping = asyncio.create_task(plane.loop.goodbye())
    await settle()
    assert not stopping.done()
    store.may_add.set()
    await stopping
    await obeying
    made = plane.metric("sponge_control_decisions_total", service="vision", action="grow")
    assert made >= 1
    assert [decision.action for decision in store.last(100)].count("grow") == made


async def test_a_decision_is_kept_with_what_it_was_made_of(plane):
    worker = await FakeWorker.attach(plane)
    for rate in [2] * 6 + [25] * 6:
        await worker.second(rate)
    await plane.loop.decisions.kept()
    grown = next(decision for decision in plane.store.last(100) if decision.action == "grow")
    found = grown.inputs
    assert 0 < found.rate_error < grown.arrival_rate
    assert (found.budget_p5_ms, found.budget_p50_ms, found.budget_p95_ms) == (1000, 1000, 1000)
    assert (found.min_millicores, found.weight, found.host_millicores) == (500, 1, 4000)
    assert found.host_memory_bytes == 1 << 33
    assert (found.execution_rows, found.drift, found.measured_share) == (1, 1, 1)
    # Of what it was given: what it had would have taken twice as long.
    beside_others_ms = 100 * (1 + KAPPA * (grown.after.instances - 1))
    assert (found.execution_mean_ms, found.execution_upper_ms) == pytest.approx(
        (beside_others_ms,) * 2, rel=0.2
    )
    assert not found.HasField("first_due_ms")


async def test_a_change_of_memory_alone_is_kept_as_one():
    config = Config(
        governor=Governor(shrink_hold_s=2.0),
        actuator=Actuator(resize_memory=True),
        services={"vision": ServicePolicy(min_millicores=1100, max_millicores=1100)},
    )
    plane = Plane(FakeActuator({"w": Quota(1100, 1 << 28)}), config)
    worker = await FakeWorker.attach(plane)
    worker.usage = pb.Usage(memory_bytes=1 << 29)
    await worker.second(2)
    await plane.loop.decisions.kept()
    [decision] = plane.store.last(1)
    assert decision.before.memory_bytes == 1 << 28
    assert decision.after.memory_bytes > 1 << 28
    decision.after.memory_bytes = decision.before.memory_bytes
    assert decision.after == decision.before
    assert decision.reason.startswith("memory 256 MiB → ")
    assert worker.session.worker.last_action.startswith("grow: memory 256 MiB → ")


async def test_a_paused_plane_changes_nothing_on_attach_either():
    plane = Plane(FakeActuator({"w": Quota(500), "v": Quota(None)}))
    plane.fleet.paused = True
    await FakeWorker.attach(plane, millicores=500, starting=True)
    await FakeWorker.attach(plane, worker_id="v")
    await settle()
    assert plane.actuator.writes == []


async def test_the_first_plan_after_a_restart_is_of_what_was_learned_before(tmp_path):
    """Of the model: what its clients want is seen anew."""
    planned = []

    def decide(services, *limits):
        planned.append((services[0].latency.mean(1, 1), services[0].demand.rate))
        return planner.plan(services, *limits)

    for life, work_s in enumerate((UNKNOWN_WORK_S, 0.025)):
        plane = Plane(
            FakeActuator({"w": Quota(1100)}), now=1000.0 * life, decide=decide, path=str(tmp_path / "db")
        )
        worker = await FakeWorker.attach(plane)
        assert worker.session.worker.arrival_rate == 0
        await worker.second(10, executed=0)
        assert planned[-1] == pytest.approx((work_s, 10), rel=0.05)
        for _ in range(10):
            await worker.second(20, wall_ms=25.0)
        obeying = asyncio.create_task(worker.acknowledge_all())
        await plane.loop.goodbye()
        await obeying
        plane.store.close()


async def test_the_first_plan_is_of_the_profile_and_after_a_restart_of_what_was_learned(tmp_path):
    planned = []

    def decide(services, *limits):
        planned.append(services[0].latency.mean(1, 1))
        return planner.plan(services, *limits)

    profile = Profile("d", {1: {(1, 1): Times(0.012, 0.012, 0.013, 0.014)}})
    for life, work_s in enumerate((0.012, 0.025)):
        plane = Plane(
            FakeActuator({"w": Quota(1100)}),
            now=1000.0 * life,
            decide=decide,
            path=str(tmp_path / "db"),
            priors=Priors({"vision": profile}),
        )
        worker = await FakeWorker.attach(plane)
        await worker.second(10, executed=0)
        assert planned[-1] == pytest.approx(work_s, rel=0.05)
        for _ in range(20):
            await worker.second(20, wall_ms=25.0)
        assert planned[-1] == pytest.approx(0.025, rel=0.05)  # live executions have taken over
        obeying = asyncio.create_task(worker.acknowledge_all())
        await plane.loop.goodbye()
        await obeying
        plane.store.close()


async def test_what_no_execution_was_of_is_as_profiled_after_a_restart_too(tmp_path):
    profile = Profile("d", {1: {(rows, 1): Times(*[0.012 * rows] * 4) for rows in (1, 2)}})
    for life in range(2):
        plane = Plane(
            FakeActuator({"w": Quota(1100)}),
            now=1000.0 * life,
            path=str(tmp_path / "db"),
            priors=Priors({"vision": profile}),
        )
        worker = await FakeWorker.attach(plane)
        assert plane.fleet.models["d"].trust(2, 1) == 1.0
        for _ in range(20):
            await worker.second(20, wall_ms=12.0)
        obeying = asyncio.create_task(worker.acknowledge_all())
        await plane.loop.goodbye()
        await obeying
        plane.store.close()


async def test_models_that_are_gone_are_known_by_the_store_alone_until_they_come_back(tmp_path):
    plane = Plane(FakeActuator({"w": Quota(1100)}), path=str(tmp_path / "db"))
    await FakeWorker.attach(plane, worker_id="stays", model_digest="served")
    worker = await FakeWorker.attach(plane)
    await worker.second(20, wall_ms=12.0)
    await plane.loop._memory.keep(plane.fleet.models)

    async def others(numbers: range) -> None:
        for number in numbers:
            other = await FakeWorker.attach(plane, worker_id=f"w{number}", model_digest=f"d{number}")
            plane.loop.detach(other.session)

    await others(range(1100))
    assert len(plane.fleet.models) == 1002
    learned = plane.fleet.models["d"]
    plane.loop.detach(worker.session)
    await others(range(1100, 2099))
    assert plane.fleet.models["d"] is learned
    await others(range(2099, 2101))
    assert len(plane.fleet.models) == 1001
    assert "d" not in plane.fleet.models
    assert "served" in plane.fleet.models
    await FakeWorker.attach(plane)
    assert plane.fleet.models["d"] is not learned
    assert plane.fleet.models["d"].mean(1, 1) == pytest.approx(0.012)
    plane.store.close()


@pytest.mark.parametrize("whole_cores", [False, True])
async def test_actuators_are_told_who_is_to_have_whole_cores(whole_cores):
    config = Config(services={"vision": ServicePolicy(whole_cores=whole_cores)})
    plane = Plane(FakeActuator({"w": Quota(1100)}), config)
    worker = await FakeWorker.attach(plane)
    for _ in range(4):
        await worker.second(rate=2)
        await asyncio.sleep(0)
    assert {ref.whole_cores for ref in plane.actuator.asked} == {whole_cores}
    target = worker.session.worker.resize.target
    assert target is not None
    assert (target.cpu_millicores % 1000 == 0) == whole_cores


@pytest.mark.parametrize(("whole_cores", "millicores"), [(False, 2100), (True, 2000)])
async def test_a_worker_that_starts_has_head_room_but_on_whole_cores(whole_cores, millicores):
    config = Config(services={"vision": ServicePolicy(whole_cores=whole_cores)})
    plane = Plane(FakeActuator({"w": Quota(500)}), config)
    allocation = pb.Allocation(cpu_millicores=1000, instances=2, threads=1, max_batch=1)
    await FakeWorker.attach(plane, starting=True, allocation=allocation)
    for _ in range(3):
        await asyncio.sleep(0)
    assert plane.actuator.quotas["w"] == Quota(millicores)


async def test_what_is_planned_in_hope_is_nothing_to_hold_executions_against():
    hoped = []

    def decide(services, millicores, memory_bytes, settings, /):
        hoped.append(any(service.latency.hopeful for service in services))
        return planner.plan(services, millicores, memory_bytes, settings)

    plane = Plane(
        FakeActuator({"w": Quota(1100)}), Config(planner=Settings(explore=Explore.ALWAYS)), decide=decide
    )
    worker = await FakeWorker.attach(plane, max_threads=4)
    for _ in range(15):
        await worker.second(2)
        believed = worker.session.worker.believed
        assert believed is not None
        assert not believed.hopeful
    assert any(hoped)


async def test_of_streams_that_open_at_once_the_last_stays(plane):
    first = await FakeWorker.attach(plane)
    plane.actuator.hold()
    for _ in range(6):
        await first.second(2)  # its write is under way, for which others wait
    both = [asyncio.create_task(FakeWorker.attach(plane)) for _ in range(2)]
    await settle()
    plane.actuator.release()
    earlier, later = await asyncio.gather(*both)
    assert first.session.closed
    assert earlier.session.closed
    assert not later.session.closed
    assert plane.fleet.workers["w"] is later.session.worker


async def test_a_takeover_lifts_no_memory_limit():
    plane = Plane(FakeActuator({"w": Quota(1100, 1 << 30)}))
    worker = await FakeWorker.attach(plane, applied=pb.Version(term=3, epoch=7))
    await settle()
    assert plane.actuator.writes == []
    assert worker.session.worker.allocation.memory_bytes == 1 << 30


async def test_a_worker_that_is_given_a_quota_keeps_its_memory_limit():
    plane = Plane(FakeActuator({"w": Quota(None, 1 << 30)}))
    worker = await FakeWorker.attach(plane)
    worker.obey()
    sample = pb.Sample(window_s=0.1, allocation=worker.allocation, acknowledged=worker.version)
    plane.loop.record(worker.session, sample)
    await settle()
    assert plane.actuator.writes == [("w", Quota(1100, 1 << 30))]


async def test_the_memory_of_who_starts_or_is_silent_is_not_given_to_others():
    plane = Plane(FakeActuator({"v": Quota(1100, 1 << 30), "w": Quota(1100), "x": Quota(1100)}))
    await FakeWorker.attach(plane, worker_id="v", starting=True)
    silent = await FakeWorker.attach(plane, worker_id="w")
    usage = pb.Usage(memory_bytes=1 << 29)
    plane.loop.record(silent.session, pb.Sample(window_s=0.1, allocation=silent.allocation, usage=usage))
    plane.now += 10.0
    other = await FakeWorker.attach(plane, worker_id="x")
    await other.second(2)
    newest = plane.loop.round_of(other.session.worker)
    assert newest is not None
    assert newest.host_memory == (1 << 33) - (1 << 30) - (1 << 29)


async def test_what_the_newest_plan_expects_to_miss_is_told_of_those_it_plans_for():
    plane = Plane(FakeActuator({"w": Quota(1100), "v": Quota(1100)}), hosts=[Host(2200, 0)])
    busy = await FakeWorker.attach(plane)
    calm = await FakeWorker.attach(plane, worker_id="v", service="files", model_digest="e")

    def told(worker: str, service: str) -> float | None:
        return plane.metric("sponge_control_expected_misses_per_second", service=service, worker=worker)

    assert told("w", "vision") is None  # not planned for yet
    for _ in range(4):
        await busy.second(60)
        await calm.second(1)
    newest = plane.loop.round_of(busy.session.worker)
    assert newest is not None
    assert told("w", "vision") == newest.plan.assignments[0].reasons.expected_misses > 10
    assert told("v", "files") == newest.plan.assignments[1].reasons.expected_misses < 1
    plane.now += 10.0  # in which the busy one says nothing
    await calm.second(1)
    assert told("w", "vision") is None
    assert told("v", "files") is not None
    plane.loop.detach(calm.session)
    assert told("v", "files") is None


@dataclass
class Claimant:
    """A worker that says how much memory it uses, and has a limit of 1 GiB, beside another under load."""

    claims: pb.Usage = field(default_factory=pb.Usage)
    hello: dict[str, object] = field(default_factory=dict)
    seconds: int = 10  # that it reports for
    holds_quota: bool = True

    async def beside(self) -> tuple[Plane, FakeWorker]:
        quotas = {"w": Quota(1100, 1 << 30), "v": Quota(1100, 1 << 30)} if self.holds_quota else {}
        config = Config(actuator=Actuator(resize_memory=True))
        plane = Plane(FakeActuator(quotas, holds_quota=self.holds_quota), config)
        claimant = await FakeWorker.attach(plane, **self.hello)
        other = await FakeWorker.attach(plane, worker_id="v", service="files", max_instances=1)
        for second in range(10):
            claimant.obey()
            sample = pb.Sample(
                window_s=1.0,
                starting=claimant.session.worker.starting,
                allocation=claimant.allocation,
                acknowledged=claimant.version,
                usage=self.claims,
            )
            if second < self.seconds:
                plane.loop.record(claimant.session, sample)
            await other.second(8)
        return plane, other


@pytest.mark.parametrize(
    "liar",
    [
        Claimant(pb.Usage(memory_bytes=1 << 50)),
        Claimant(pb.Usage(memory_peak_bytes=1 << 50)),
        Claimant(pb.Usage(memory_bytes=1 << 50), seconds=3),
        Claimant(pb.Usage(memory_bytes=1 << 50), {"starting": True}),
        Claimant(
            hello={
                "starting": True,
                "allocation": pb.Allocation(
                    cpu_millicores=1100, instances=1, threads=1, max_batch=1, memory_bytes=1 << 50
                ),
            },
            holds_quota=False,
        ),
    ],
    ids=["in use", "at its peak", "then silent", "while it starts", "as its own limit"],
)
async def test_whatever_memory_a_worker_claims_others_keep_their_cpu(liar):
    _, beside_honest = await replace(
        liar, claims=pb.Usage(), hello={"starting": "starting" in liar.hello}
    ).beside()
    plane, other = await liar.beside()
    assert other.allocation.cpu_millicores == beside_honest.allocation.cpu_millicores > 500
    newest = plane.loop.round_of(other.session.worker)
    assert newest is not None
    kept = sum(memory_bytes for _, memory_bytes in newest.kept.values())
    assert kept + sum(state.memory_base_bytes for state in newest.services) <= 1.25 * (1 << 33)


@pytest.mark.parametrize("ceiling", [None, 2100])
async def test_what_leaks_raises_its_own_limit_up_to_its_ceiling_or_the_hosts(ceiling):
    config = Config(
        actuator=Actuator(resize_memory=True), services={"vision": ServicePolicy(max_memory_mib=ceiling)}
    )
    plane = Plane(FakeActuator({"w": Quota(1100, 1 << 30)}), config)
    worker = await FakeWorker.attach(plane)
    for _ in range(20):
        limit = plane.actuator.quotas["w"].memory_bytes
        worker.usage = pb.Usage(memory_bytes=limit, memory_peak_bytes=limit)  # all that there is, each time
        await worker.second(8)
    most = max(quota.memory_bytes for _, quota in plane.actuator.writes)
    assert most == (2048 << 20 if ceiling else plane.actuator.quotas["w"].memory_bytes)
    assert ceiling or most >= 1 << 33


async def goodbye(plane: Plane, worker: FakeWorker) -> Quota:
    """Say it, and give what the worker has then."""
    obeying = asyncio.create_task(worker.acknowledge_all())
    await plane.loop.goodbye()
    await obeying
    return plane.actuator.quotas["w"]


async def shrunk(plane: Plane) -> None:
    """A worker in a pod was found with 1100 millicores, has been given less, and is gone."""
    worker = await FakeWorker.attach(plane, container_id="vision-0")
    for _ in range(10):
        await worker.second(2)
    assert plane.actuator.quotas["w"].cpu_millicores < 1100
    plane.loop.detach(worker.session)


async def test_another_pod_of_the_same_name_is_put_back_to_what_it_came_with(plane):
    await shrunk(plane)
    plane.actuator.quotas["w"] = Quota(4000)  # as it was rolled out with
    worker = await FakeWorker.attach(plane, millicores=4000, container_id="vision-0")
    for _ in range(10):
        await worker.second(2)
    assert plane.actuator.quotas["w"].cpu_millicores < 1100
    assert await goodbye(plane, worker) == Quota(4000)


async def test_a_container_that_restarts_is_put_back_to_what_was_found_first(plane):
    await shrunk(plane)
    small = plane.actuator.quotas["w"].cpu_millicores
    worker = await FakeWorker.attach(plane, millicores=small, container_id="vision-0", starting=True)
    assert await goodbye(plane, worker) == Quota(1100)


async def test_what_was_found_stays_where_nobody_knows_what_was_left(plane):
    worker = await FakeWorker.attach(plane, container_id="vision-0")
    plane.actuator.failure = "no answer"  # whether a write was performed is not known
    for _ in range(10):
        await worker.second(2)
    plane.loop.detach(worker.session)
    plane.actuator.failure = ""
    plane.actuator.quotas["w"] = Quota(700)
    worker = await FakeWorker.attach(plane, millicores=700, container_id="vision-0")
    assert await goodbye(plane, worker) == Quota(1100)


async def test_containers_that_are_gone_are_not_remembered_for_good(plane):
    stays = await FakeWorker.attach(plane, container_id="first")
    for number in range(1100):
        worker = await FakeWorker.attach(plane, worker_id=f"w{number}", container_id=f"c{number}")
        plane.loop.detach(worker.session)
    assert len(plane.loop._admission._owners) == 1001
    assert plane.loop._admission._owners["first"] is stays.session.owner
    assert [worker.container_id for worker in plane.actuator.forgotten] == [f"c{n}" for n in range(100)]
