"""What was decided, as those who watch see it, and while the store takes its time."""

import asyncio
import sqlite3
from contextlib import aclosing, asynccontextmanager, closing

import grpc
import pytest
from prometheus_client import CollectorRegistry

from controlplane.actuators.fake import FakeActuator
from controlplane.config import Config
from controlplane.decisions import MOST_PAST, Decisions
from controlplane.loop import ControlLoop
from controlplane.metrics import Metrics
from controlplane.server import AdminServer
from controlplane.state import Fleet, Host
from controlplane.store import Store
from protos import control_pb2 as pb
from protos import control_pb2_grpc
from tests.decided import SlowStore, decision


@pytest.mark.parametrize(("past", "first"), [(0, 4), (1, 3), (2, 2), (9, 1)])
async def test_who_watches_sees_the_newest_and_then_each_that_is_made(past, first):
    decisions = Decisions(Store(""), Metrics(CollectorRegistry()))
    for epoch in (1, 2, 3):
        decisions.add(decision(epoch))
    await decisions.kept()
    async with aclosing(decisions.watch(past)) as watched:
        seen = [(await anext(watched)).version.epoch for _ in range(first, 4)]
        following = asyncio.ensure_future(anext(watched))
        await asyncio.sleep(0)  # until it waits
        assert not following.done()
        decisions.add(decision(4))
        seen.append((await following).version.epoch)
    assert seen == list(range(first, 5))


async def test_who_watches_from_now_on_sees_nothing_of_an_earlier_process(tmp_path):
    path = str(tmp_path / "sponge.db")
    with closing(Store(path)) as store:
        store.add([(1.7e9, decision(1))])
    with closing(Store(path)) as store:
        decisions = Decisions(store, Metrics(CollectorRegistry()))
        async with aclosing(decisions.watch(0)) as watched:
            following = asyncio.ensure_future(anext(watched))
            await asyncio.sleep(0)  # until it reads
            await asyncio.get_running_loop().run_in_executor(decisions._reader, lambda: None)  # until it has
            decisions.add(decision(2))
            assert (await following).version.epoch == 2


async def test_who_has_fallen_behind_still_sees_all():
    decisions = Decisions(Store(""), Metrics(CollectorRegistry()))
    decisions.add(decision(0))
    await decisions.kept()
    async with aclosing(decisions.watch(1)) as watched:
        assert (await anext(watched)).version.epoch == 0
        for epoch in range(1, 2502):
            decisions.add(decision(epoch))
        await decisions.kept()
        assert [(await anext(watched)).version.epoch for _ in range(2501)] == list(range(1, 2502))


async def test_decisions_go_on_while_the_store_is_busy_and_are_kept_in_order():
    store, registry = SlowStore(), CollectorRegistry()
    store.may_read.set()
    wall = iter([100.0, 101.0, 102.0, 103.0])
    decisions = Decisions(store, Metrics(registry), lambda: next(wall))
    for epoch in (1, 2):
        decisions.add(decision(epoch))
        await asyncio.sleep(0)  # the first is given to the store, and stays with it
    decisions.add(decision(3))
    stopping = asyncio.ensure_future(decisions.kept())
    for _ in range(20):
        await asyncio.sleep(0)
    assert store.last(10) == []
    assert not stopping.done()  # an orderly stop loses nothing
    decisions.add(decision(4))
    store.may_add.set()
    await stopping
    found = store.last(10)
    assert [d.version.epoch for d in found] == [1, 2, 3, 4]
    assert [round(found[0].age_s - d.age_s, 3) for d in found] == [0, 1, 2, 3]  # of when it was made
    assert registry.get_sample_value("sponge_control_store_failures_total") == 0


async def test_all_that_cannot_be_kept_are_counted_and_logged_once_until_one_can(tmp_path, capsys):
    path = str(tmp_path / "sponge.db")
    registry = CollectorRegistry()
    with closing(Store(path)) as store, closing(sqlite3.connect(path, isolation_level=None)) as other:
        decisions = Decisions(store, Metrics(registry))
        other.execute("ALTER TABLE decisions RENAME TO away")
        for epochs in ((1, 2), (3,)):
            for epoch in epochs:
                decisions.add(decision(epoch))
            await decisions.kept()
        assert registry.get_sample_value("sponge_control_store_failures_total") == 3
        other.execute("ALTER TABLE away RENAME TO decisions")
        decisions.add(decision(4))
        await decisions.kept()
        assert [d.version.epoch for d in store.last(10)] == [4]
    assert registry.get_sample_value("sponge_control_store_failures_total") == 3
    assert capsys.readouterr().out.count("decision not kept") == 1


async def test_another_writer_holds_up_no_decision(tmp_path):
    path = str(tmp_path / "sponge.db")
    with closing(Store(path)) as store, closing(sqlite3.connect(path, isolation_level=None)) as other:
        decisions = Decisions(store, Metrics(CollectorRegistry()))
        other.execute("BEGIN IMMEDIATE")  # as `Store.keep` does
        decisions.add(decision(1))
        waiting = asyncio.ensure_future(decisions.kept())
        for _ in range(20):
            await asyncio.sleep(0)
        assert not waiting.done()  # nor has it failed, as it would have had the loop waited for it
        other.execute("ROLLBACK")
        await waiting
        assert [d.version.epoch for d in store.last(10)] == [1]


async def test_who_watches_waits_for_the_store_and_nobody_else_does():
    store = SlowStore()
    store.may_add.set()
    decisions = Decisions(store, Metrics(CollectorRegistry()))
    async with aclosing(decisions.watch(2)) as watched:
        first = asyncio.ensure_future(anext(watched))
        for epoch in (1, 2, 3):
            decisions.add(decision(epoch))
            await decisions.kept()
        assert not first.done()
        store.may_read.set()
        assert [(await first).version.epoch, (await anext(watched)).version.epoch] == [2, 3]


@asynccontextmanager
async def admin(store):
    config, fleet = Config(), Fleet([Host(4000, 1 << 33)], 0.001)
    loop = ControlLoop(config, fleet, FakeActuator(), store, Metrics(CollectorRegistry()))
    server = grpc.aio.server()
    control_pb2_grpc.add_AdminServicer_to_server(AdminServer(loop, 3.0, lambda: 0.0), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield control_pb2_grpc.AdminStub(channel)
    finally:
        await server.stop(None)


async def test_so_many_past_decisions_are_told_and_no_more():
    with closing(Store("")) as store:
        store.add([(1.7e9, decision(epoch)) for epoch in range(MOST_PAST + 1)])
        async with admin(store) as stub:
            call = stub.WatchDecisions(pb.WatchDecisionsRequest(past=MOST_PAST))
            assert (await call.read()).version.epoch == 1
            call.cancel()
            with pytest.raises(grpc.aio.AioRpcError) as refusal:
                await stub.WatchDecisions(pb.WatchDecisionsRequest(past=MOST_PAST + 1)).read()
    assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert refusal.value.details() == "past: expected at most 10000, got 10001"
