"""`sponge explain` against the admin service of a control plane over loopback, whose workers are the test's."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest

from controlplane.actuators.fake import FakeActuator
from controlplane.allocation import Quota
from controlplane.config import Actuator, Config, ServicePolicy
from controlplane.server import AdminServer
from controlplane.state import Host
from protos import control_pb2 as pb
from protos import control_pb2_grpc
from sponge import explain
from sponge.__main__ import main
from tests.controlplane.test_loop import FakeWorker, Plane, settle

STALE_S = 3.0


@asynccontextmanager
async def answering(plane: Plane) -> AsyncIterator[str]:
    """Serve the admin service of `plane`; its address."""
    server = grpc.aio.server()
    control_pb2_grpc.add_AdminServicer_to_server(AdminServer(plane.loop, STALE_S, lambda: plane.now), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)
        plane.store.close()


async def asked(address: str, *arguments: str) -> int:
    """The exit code of `sponge explain`."""
    return await asyncio.to_thread(main, ["explain", "--control", address, *arguments])


async def explained(address: str, service: str = "vision") -> pb.Explanation:
    """The only one there is."""
    async with grpc.aio.insecure_channel(address) as channel:
        admin = control_pb2_grpc.AdminStub(channel)
        response = await admin.Explain(pb.ExplainRequest(service=service))
    [explanation] = response.explanations
    return explanation


@pytest.fixture
def plane() -> Plane:
    return Plane(FakeActuator({"w": Quota(1100)}))


async def test_numbers_and_words_of_a_busy_worker(plane, capsys):
    worker = await FakeWorker.attach(plane)
    async with answering(plane) as address:
        for _ in range(6):
            await worker.second(25)
        found = await explained(address)
        assert found.state == "planned"
        assert found.seen.arrival_rate == pytest.approx(25, abs=1)
        assert found.seen.rate_error > 0
        assert sum(budget.share for budget in found.seen.budgets) == pytest.approx(1)
        assert (found.seen.host_millicores, found.seen.others_millicores) == (4000, 0)
        assert found.seen.latency_known
        assert found.choice.bound == "throughput"
        assert found.choice.service_time.mean_ms >= 100
        assert found.choice.service_time.measured_share == 1
        smaller, larger = found.choice.smaller, found.choice.larger
        chosen = found.choice.allocation
        assert smaller.allocation.cpu_millicores < chosen.cpu_millicores < larger.allocation.cpu_millicores
        assert smaller.misses.throughput > 0
        assert smaller.cost_millicores > 0
        assert larger.cost_millicores > 0
        assert found.standing.target == chosen

        assert await asked(address, "vision") == 0
        printed = capsys.readouterr().out
        assert f"Bound by throughput: less would not keep up with {found.seen.arrival_rate:.1f} ±" in printed
        assert "planned for; measured" in printed
        assert f"Why not less: {smaller.allocation.cpu_millicores / 1000:.2f} cores would miss" in printed
        assert f"at a load of {smaller.utilisation:.0%}" in printed
        assert f"Why not more: {larger.allocation.cpu_millicores / 1000:.2f} cores would save" in printed


async def test_a_drift_is_told_with_the_time_that_it_is_in(plane, capsys):
    worker = await FakeWorker.attach(plane)
    async with answering(plane) as address:
        for _ in range(6):
            await worker.second(5)
        for _ in range(12):
            await worker.second(20)
        assert (await explained(address)).seen.drift == 1.0
        await worker.second(20, wall_ms=200.0)
        found = await explained(address)
        assert found.seen.drift == pytest.approx(2.0)
        assert found.choice.service_time.mean_ms >= 200
        assert await asked(address, "vision") == 0
    assert "; of late they take 2.00 × what is believed of the model" in capsys.readouterr().out


async def test_the_host_is_named_where_there_are_several(capsys):
    actuator = FakeActuator({"w": Quota(1100), "v": Quota(1100)})
    actuator.hosts = {"w": "near", "v": "elsewhere"}
    plane = Plane(actuator, hosts=[Host(2000, 0, "near"), Host(8000, 0, "far")])
    worker = await FakeWorker.attach(plane)
    actuator.unreachable = "engine unreachable"
    lost = await FakeWorker.attach(plane, worker_id="v")
    async with answering(plane) as address:
        for each in (worker, lost):
            await each.second(2)
            plane.now -= 1.0
        capsys.readouterr()
        assert await asked(address, "vision") == 0
    printed = capsys.readouterr().out
    assert "vision, worker w on near: " in printed
    assert "vision, worker v: not planned" in printed
    assert "It is not known on which host it runs" in printed
    assert "host       2.00 cores" in printed


async def test_json_is_all_that_the_control_plane_says(plane, capsys):
    worker = await FakeWorker.attach(plane)
    async with answering(plane) as address:
        await worker.second(2)
        capsys.readouterr()  # the control plane's own log
        assert await asked(address, "vision", "--worker", "w", "--json") == 0
        found = await explained(address)
    [printed] = json.loads(capsys.readouterr().out)["explanations"]
    assert printed["choice"]["bound"] == found.choice.bound
    assert printed["seen"]["waiting"] == 0
    assert printed["choice"]["allocation"]["cpu_millicores"] == found.choice.allocation.cpu_millicores


async def test_every_worker_of_a_service_is_explained_or_one(capsys):
    plane = Plane(FakeActuator({"w": Quota(1100), "v": Quota(1100)}))
    first, second = await FakeWorker.attach(plane), await FakeWorker.attach(plane, worker_id="v")
    async with answering(plane) as address:
        for _ in range(4):
            await first.second(60)
            await second.second(10)
        assert await asked(address, "vision") == 0
        printed = capsys.readouterr().out
        assert printed.index("vision, worker v:") < printed.index("vision, worker w:")
        assert await asked(address, "vision", "--worker", "v") == 0
        assert "worker w" not in capsys.readouterr().out


async def test_what_is_not_known_is_named_with_what_is(plane, capsys):
    await FakeWorker.attach(plane, service="files")
    capsys.readouterr()  # the control plane's own log
    async with answering(plane) as address:
        assert await asked(address, "nobody") == 2
        said = capsys.readouterr()
        assert (
            said.err == "sponge: service: 'nobody' is neither configured nor attached; known: files, vision\n"
        )
        assert said.out == ""
        assert await asked(address, "files", "--worker", "x") == 2
        error = "sponge: worker_id: 'x' is no attached worker of the service; known: w\n"
        assert capsys.readouterr().err == error
        assert await asked(address, "vision", "--worker", "x") == 2
        assert capsys.readouterr().err.endswith("none is known\n")


async def test_nothing_is_planned_for_a_service_without_workers(plane, capsys):
    async with answering(plane) as address:
        assert await asked(address, "vision") == 0
    assert capsys.readouterr().out == "No worker of vision is attached: nothing is planned for it.\n"


async def test_a_worker_that_is_not_planned_says_why(plane, capsys):
    async with answering(plane) as address:
        worker = await FakeWorker.attach(plane)
        assert (await explained(address)).state == "unheard"
        assert await asked(address, "vision") == 0
        assert "has not reported yet" in capsys.readouterr().out

        await worker.second(2)
        assert (await explained(address)).state == "planned"
        plane.now += STALE_S + 1
        await plane.loop.tick()
        assert (await explained(address)).state == "stale"
        assert await asked(address, "vision") == 0
        assert "It has been silent for 4 s" in capsys.readouterr().out

        # Its successor is not what the newest plan was made for, though the id is the same.
        await worker.second(2)
        successor = await FakeWorker.attach(plane, starting=True)
        starting = pb.Sample(window_s=1.0, starting=True, allocation=successor.allocation)
        plane.loop.record(successor.session, starting)
        assert (await explained(address)).state == "starting"
        plane.loop.record(successor.session, pb.Sample(window_s=1.0, allocation=successor.allocation))
        found = await explained(address)
        assert found.state == "unplanned"
        assert not found.HasField("choice")


async def test_a_plan_that_is_not_in_force_says_why(plane, capsys):
    worker = await FakeWorker.attach(plane)
    async with answering(plane) as address:
        for _ in range(6):
            await worker.second(25)
        plane.fleet.paused = True
        for _ in range(12):
            await worker.second(2)
        found = await explained(address)
        assert found.standing.paused
        assert found.choice.allocation.cpu_millicores < found.standing.target.cpu_millicores
        assert await asked(address, "vision") == 0
        printed = capsys.readouterr().out
        assert "The control plane is paused" in printed
        assert f"The worker has {found.standing.target.cpu_millicores / 1000:.2f} cores" in printed

        # The first smaller plan of a governor that has seen none for as long as it holds.
        plane.fleet.paused = False
        plane.loop.detach(worker.session)
        worker = await FakeWorker.attach(plane, millicores=3100)
        await worker.second(2)
        assert (await explained(address)).standing.hold == "held"
        assert await asked(address, "vision") == 0
        assert "The shrink is held" in capsys.readouterr().out


async def test_a_quota_that_cannot_be_written_is_told_until_it_can(plane, capsys):
    worker = await FakeWorker.attach(plane)
    async with answering(plane) as address:
        plane.actuator.failure = "engine: connection refused"
        for _ in range(10):
            await worker.second(2)
        assert (await explained(address)).standing.failure == "engine: connection refused"
        assert await asked(address, "vision") == 0
        assert (
            "could not be written, and that is tried again: engine: connection refused"
            in capsys.readouterr().out
        )
        plane.actuator.failure = ""
        for _ in range(12):
            await worker.second(2)
        await settle()
        assert (await explained(address)).standing.failure == ""


async def test_ceilings_are_told_with_what_more_would_save(capsys):
    config = Config(services={"vision": ServicePolicy(max_millicores=1100)})
    plane = Plane(FakeActuator({"w": Quota(1100)}), config)
    worker = await FakeWorker.attach(plane)
    async with answering(plane) as address:
        for _ in range(4):
            await worker.second(25)
        found = await explained(address)
        assert found.choice.bound == "ceiling"
        assert found.choice.larger.misses.throughput < 0
        assert await asked(address, "vision") == 0
    printed = capsys.readouterr().out
    assert "were it not for max_millicores = 1100" in printed
    assert "max_millicores = 1100 does not allow it" in printed


async def test_a_ceiling_of_memory_is_told_and_what_it_keeps_small(capsys):
    policy = ServicePolicy(max_memory_mib=300, memory_mib_per_row=64.0)
    config = Config(actuator=Actuator(resize_memory=True), services={"vision": policy})
    plane = Plane(FakeActuator({"w": Quota(1100)}), config)
    worker = await FakeWorker.attach(plane)
    worker.usage = pb.Usage(memory_bytes=128 << 20)
    async with answering(plane) as address:
        for _ in range(4):
            await worker.second(25)
        found = await explained(address)
        assert found.seen.max_memory_bytes == 300 << 20
        assert (found.choice.bound, found.choice.allocation.instances) == ("ceiling", 1)
        assert await asked(address, "vision") == 0
    printed = capsys.readouterr().out
    assert "it has too little, and 4 instances of 1 thread within 300 MiB can use no more" in printed
    assert "batches of up to 1 within 300 MiB; weight 1" in printed


async def test_whole_cores_are_told_as_they_are_planned(capsys):
    actuator = Actuator(whole_cores_cpus="2-3")
    policy = ServicePolicy(whole_cores=True, max_millicores=3700)
    plane = Plane(FakeActuator({"w": Quota(1100)}), Config(actuator=actuator, services={"vision": policy}))
    worker = await FakeWorker.attach(plane)
    async with answering(plane) as address:
        for _ in range(8):
            await worker.second(1)
        found = await explained(address)
        assert (found.seen.min_millicores, found.seen.max_millicores) == (1000, 2000)
        assert await asked(address, "vision") == 0
    assert "1.00 to 2.00 cores" in capsys.readouterr().out


async def test_a_reserve_can_be_set_and_is_told(capsys):
    plane = Plane(FakeActuator({"w": Quota(1100)}))
    worker = await FakeWorker.attach(plane)
    async with answering(plane) as address, grpc.aio.insecure_channel(address) as channel:
        admin = control_pb2_grpc.AdminStub(channel)
        policy = await admin.SetServicePolicy(pb.SetServicePolicyRequest(service="vision", reserve=0.25))
        assert (policy.reserve, policy.weight) == (0.25, 1.0)
        with pytest.raises(grpc.aio.AioRpcError, match="reserve") as refused:
            await admin.SetServicePolicy(pb.SetServicePolicyRequest(service="vision", reserve=-0.1))
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        for _ in range(4):
            await worker.second(5)
        assert (await explained(address)).seen.reserve == 0.25
        assert await asked(address, "vision") == 0
    assert "; with a reserve of 25%" in capsys.readouterr().out


def test_a_control_plane_that_does_not_answer(capsys):
    assert explain.run("127.0.0.1:1", "vision") == 2
    said = capsys.readouterr()
    assert said.err.startswith("sponge: control plane at 127.0.0.1:1: UNAVAILABLE: ")
    assert said.out == ""


@pytest.mark.parametrize(
    ("bound", "words"),
    [
        ("floor", "0.50 cores is the least that is allowed, and enough"),
        ("throughput", "less would not keep up with 12.0 ± 0.5 requests/s"),
        ("queue", "with less, more of the 7 waiting would miss their deadlines"),
        ("budget", "less would be too slow for the budgets that requests arrive with"),
        ("ceiling", "it has too little, and 2 instances of 1 thread can use no more"),
        (
            "host",
            "it would have more if the host did: 4.00 cores, of which 1.10 cores are planned for others",
        ),
    ],
)
def test_every_bound_has_its_words(bound, words):
    seen = pb.Seen(
        arrival_rate=12,
        rate_error=0.5,
        waiting=7,
        min_millicores=500,
        max_millicores=64_000,
        max_instances=2,
        max_threads=1,
        host_millicores=4000,
        others_millicores=1100,
    )
    found = pb.Explanation(
        service="s", worker_id="w", state="planned", seen=seen, choice=pb.Choice(bound=bound)
    )
    assert f"Bound by {bound}: {words}." in list(explain.lines(found))


def test_a_reserve_is_a_part_of_what_is_kept_up_with():
    seen = pb.Seen(arrival_rate=12, rate_error=0.5, reserve=0.25)
    found = pb.Explanation(state="planned", seen=seen, choice=pb.Choice(bound="throughput"))
    words = "less would not keep up with 12.0 ± 0.5 requests/s and a reserve of 25%"
    assert f"Bound by throughput: {words}." in list(explain.lines(found))


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ("throughput", "they exceed what it can serve, at a load of 130%"),
        ("queue", "they wait already, and it would be late for them"),
        ("budget", "executions of 120.0 ms instead of 90.0 ms"),
    ],
)
def test_every_part_of_what_less_would_miss_has_its_words(part, words):
    smaller = pb.Neighbour(
        utilisation=1.3,
        service_time=pb.ServiceTime(upper_ms=120),
        misses=pb.Misses(**{part: 2.0}),
        cost_millicores=900,
    )
    choice = pb.Choice(smaller=smaller, service_time=pb.ServiceTime(upper_ms=90), misses=pb.Misses())
    found = pb.Explanation(state="planned", choice=choice)
    [line] = [line for line in explain.lines(found) if line.startswith("Why not less")]
    assert "would miss 2.00 a second more" in line
    assert words in line


@pytest.mark.parametrize(
    ("change", "cost", "words"),
    [
        (0, 131, "in all it costs 131 millicores more (CPU -200, misses +330, batch limit +1)."),
        (
            20,
            12,
            "in all it costs 12 millicores more (CPU -100, misses +92, change of shape +20): "
            "it is not worth the change of shape, which counts for 20.",
        ),
        (20, 72, "in all it costs 72 millicores more (CPU -600, misses +652, change of shape +20)."),
    ],
)
def test_costs_are_told_by_their_parts_and_a_change_where_it_decides(change, cost, words):
    cpu, batch = {131: (-200, 1), 12: (-100, 0), 72: (-600, 0)}[cost]
    parts = pb.CostParts(cpu=cpu, batch=batch, change=change, misses=cost - cpu - batch - change)
    smaller = pb.Neighbour(misses=pb.Misses(budget=0.07), cost_millicores=cost, parts=parts)
    choice = pb.Choice(smaller=smaller, misses=pb.Misses())
    [line] = [
        line
        for line in explain.lines(pb.Explanation(state="planned", choice=choice))
        if line.startswith("Why not less")
    ]
    assert line.endswith(words)


def test_service_times_say_what_they_rest_on():
    def basis(**time: float) -> str:
        known = time.pop("known", 1.0) > 0
        seen = pb.Seen(latency_known=known, curve_error=0.07)
        choice = pb.Choice(service_time=pb.ServiceTime(rows=2, threads=1, **time))
        printed = explain.lines(pb.Explanation(state="planned", seen=seen, choice=choice))
        [line] = [line for line in printed if line.startswith("  execution")]
        assert "2 rows on 1 thread" in line
        return line.rpartition("; ")[2]

    assert basis(known=0.0) == "assumed, as nothing has run yet"
    assert basis(measured_share=1.0) == "measured"
    assert basis(measured_share=0.25).startswith("25% measured, else by the curve, which is off by 7%")
    assert basis().startswith("by the curve, which is off by 7%")


async def test_memory_is_told_where_it_is_limited(capsys):
    settings = Actuator(resize_memory=True)
    config = Config(actuator=settings, services={"vision": ServicePolicy(min_millicores=500)})
    plane = Plane(FakeActuator({"w": Quota(1100, 1 << 28)}), config)
    worker = await FakeWorker.attach(plane)
    worker.usage = pb.Usage(memory_bytes=1 << 29)
    async with answering(plane) as address:
        await worker.second(2)
        limit = worker.session.worker.allocation.memory_bytes
        assert await asked(address, "vision") == 0
    assert capsys.readouterr().out.count(f"batches of up to 1, {limit >> 20} MiB of memory\n") == 1
