"""The same contract for all that own quotas without an engine, and what is particular to each."""

import asyncio
import os
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from controlplane import config as settings
from controlplane.actuators import ActuationError, Actuator, Pending, Quota, WorkerRef, make
from controlplane.actuators.docker import DockerActuator
from controlplane.actuators.fake import FakeActuator
from controlplane.actuators.local import LocalActuator
from core.cgroup import Cgroup, usable_parent
from core.config import ConfigError
from tests.cgroup_tree import CgroupTree

PERIOD_US = 20_000


def local(tree: CgroupTree, *, resize_memory: bool = False) -> LocalActuator:
    return LocalActuator(tree.root, PERIOD_US, resize_memory, proc_root=tree.top)


async def settle(actuator: LocalActuator, tree: CgroupTree) -> None:
    """Wait for what is lowered: a plain file is empty for a moment while it is written."""
    await actuator.settle()
    tree.lift(tree.worker("w1"))


@dataclass(frozen=True, slots=True)
class Ground:
    """An actuator, two workers that it can resize, and what they are held to: found without its help."""

    actuator: Actuator
    one: WorkerRef
    other: WorkerRef
    unknown: Mapping[str, WorkerRef]  # by what its refusal says of it
    held: Callable[[WorkerRef], Quota | None]
    put: Callable[[WorkerRef, int], None]  # somebody else changes a quota


@pytest.fixture(params=[1, 2], ids=["v1", "v2"])
def tree(request: pytest.FixtureRequest, tmp_path: Path) -> CgroupTree:
    return CgroupTree(request.param, tmp_path)


@contextmanager
def on_kernel() -> Iterator[Ground]:
    parent = usable_parent()
    if parent is None:
        pytest.skip("no control group below which this user may create others")
    with ExitStack() as made:

        def create(name: str, parent: Cgroup) -> Cgroup:
            group = Cgroup.create(name, parent)
            made.callback(group.remove)
            return group

        root = create(f"sponge-actuator-{os.getpid()}", parent)
        groups = {str(group.cpu): group for group in (create("w1", root), create("w2", root))}
        one, other = (WorkerRef("w", cgroup_path=path) for path in groups)
        yield Ground(
            make(settings.Actuator(kind=settings.ActuatorKind.LOCAL, cgroup_root=str(root.cpu))),
            one,
            other,
            {"no such control group": WorkerRef("w", cgroup_path=str(root.cpu / "gone"))},
            lambda worker: Quota(groups[worker.cgroup_path].quota_millicores()),
            lambda worker, millicores: groups[worker.cgroup_path].set_quota(millicores, PERIOD_US),
        )


@pytest.fixture(params=["local v1", "local v2", "local, this kernel", "threads"])
def ground(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ground]:
    match request.param:
        case "threads":
            threads = make(settings.Actuator(kind=settings.ActuatorKind.THREADS))
            anyone = {"never refused": WorkerRef("u")}
            yield Ground(
                threads, WorkerRef("w"), WorkerRef("x"), anyone, lambda _worker: None, lambda *_put: None
            )
        case "local, this kernel":
            with on_kernel() as ground:
                yield ground
        case _:
            tree = CgroupTree(1 if request.param == "local v1" else 2, tmp_path)
            unknown = {
                "registered no control group": WorkerRef("w"),
                "gone: no such control group": tree.worker("gone"),
            }
            yield Ground(local(tree), tree.worker("w1"), tree.worker("w2"), unknown, tree.held, tree.put)


# The contract: what `Actuator` says, of all that run without an engine


def holds(ground: Ground, millicores: int | None) -> Quota | None:
    """How such a quota reads, where somebody holds quotas."""
    return Quota(millicores) if ground.actuator.holds_quota else None


def test_it_is_what_the_configuration_calls_it(ground):
    kind = settings.ActuatorKind(ground.actuator.kind)
    assert type(make(settings.Actuator(kind=kind))) is type(ground.actuator)
    assert ground.actuator.holds_quota == (kind is not settings.ActuatorKind.THREADS)


async def test_what_nobody_has_written_is_read_as_it_is(ground):
    assert await ground.actuator.read(ground.one) == holds(ground, None)
    ground.put(ground.one, 700)
    assert await ground.actuator.read(ground.one) == holds(ground, 700)


async def test_what_is_written_is_in_force_on_return_and_read_again(ground):
    for millicores in (500, 1500, 800, None, 700):
        await ground.actuator.write(ground.one, Quota(millicores))
        assert ground.held(ground.one) == holds(ground, millicores)
        assert await ground.actuator.read(ground.one) == holds(ground, millicores)


async def test_what_somebody_else_has_changed_is_read_and_written_again(ground):
    await ground.actuator.write(ground.one, Quota(1500))
    ground.put(ground.one, 700)
    assert await ground.actuator.read(ground.one) == holds(ground, 700)
    await ground.actuator.write(ground.one, Quota(1500))
    assert ground.held(ground.one) == holds(ground, 1500)


async def test_each_worker_has_its_own_and_calls_may_overlap(ground):
    actuator = ground.actuator
    await actuator.write(ground.one, Quota(1500))
    assert await actuator.read(ground.other) == ground.held(ground.other) == holds(ground, None)
    await asyncio.gather(actuator.write(ground.one, Quota(900)), actuator.write(ground.other, Quota(600)))
    assert await asyncio.gather(actuator.read(ground.one), actuator.read(ground.other)) == [
        holds(ground, 900),
        holds(ground, 600),
    ]


async def test_memory_is_left_alone_unless_it_is_resized(ground):
    await ground.actuator.write(ground.one, Quota(1500, 5000))
    assert ground.held(ground.one) == holds(ground, 1500)
    assert await ground.actuator.read(ground.one) == holds(ground, 1500)


async def test_who_is_not_known_is_refused_by_name_where_somebody_holds_quotas(ground):
    for words, worker in ground.unknown.items():
        if ground.actuator.holds_quota:
            for call in (ground.actuator.read(worker), ground.actuator.write(worker, Quota(1000))):
                with pytest.raises(ActuationError, match=f"worker w: .*{words}"):
                    await call
        else:
            await ground.actuator.write(worker, Quota(1000))
            assert await ground.actuator.read(worker) is None


async def test_a_quota_that_no_kernel_takes_is_refused_and_changes_nothing(ground):
    await ground.actuator.write(ground.one, Quota(1500))
    if ground.actuator.holds_quota:
        with pytest.raises(ActuationError, match="expected at least 1000 µs"):
            await ground.actuator.write(ground.one, Quota(20))
    else:
        await ground.actuator.write(ground.one, Quota(20))
    assert await ground.actuator.read(ground.one) == ground.held(ground.one) == holds(ground, 1500)


async def test_there_is_one_host_and_nobody_tells_of_changes(ground):
    assert await ground.actuator.host(ground.one) == ""
    await ground.actuator.watch(lambda _container: pytest.fail("nobody tells"))  # and returns


async def test_quotas_stay_when_a_worker_is_forgotten_and_when_it_is_closed(ground):
    await ground.actuator.write(ground.one, Quota(1500))
    ground.actuator.forget(ground.one)
    ground.actuator.forget(ground.other)  # of which nothing was kept
    assert await ground.actuator.read(ground.one) == holds(ground, 1500)
    await ground.actuator.close()
    assert ground.held(ground.one) == holds(ground, 1500)


# Control groups alone


async def test_weight_is_in_proportion(tree):
    weights = []
    for millicores in (500, 1500, None):
        await local(tree).write(tree.worker("w1"), Quota(millicores))
        weights.append(tree.weight(tree.worker("w1")))
    assert weights == ([500, 1500, 1000] if tree.version == 1 else [49, 146, 98])


async def test_memory_is_written_where_it_is_resized(tree):
    actuator, worker = local(tree, resize_memory=True), tree.worker("w1")
    for mib in (200, 500, 300):
        await actuator.write(worker, Quota(1500, mib << 20))
        await settle(actuator, tree)
        assert await actuator.read(worker) == tree.held(worker) == Quota(1500, mib << 20)
    # No lower than what is in use and a margin, and the CPU all the same.
    tree.use(worker, 200 << 20)
    await actuator.write(worker, Quota(800, 100 << 20))
    await settle(actuator, tree)
    assert tree.held(worker) == Quota(800, 264 << 20)
    await actuator.write(worker, Quota(800))
    await settle(actuator, tree)
    assert await actuator.read(worker) == tree.held(worker) == Quota(800)
    assert tree.held(tree.worker("w2")) == Quota(None)


async def test_memory_that_is_as_low_as_it_may_be_counts_as_what_was_asked_for(tree):
    actuator, worker = local(tree, resize_memory=True), tree.worker("w1")
    await actuator.write(worker, Quota(1500, 500 << 20))
    tree.use(worker, 200 << 20)
    await actuator.write(worker, Quota(1500, 100 << 20))
    await settle(actuator, tree)
    assert await actuator.read(worker) == Quota(1500, 100 << 20)
    tree.put_memory(worker, 300 << 20)  # by somebody else
    assert await actuator.read(worker) == Quota(1500, 300 << 20)
    # Nor is it below what is in use: no change at all is the same.
    tree.use(worker, 290 << 20)
    await actuator.write(worker, Quota(1500, 100 << 20))
    await settle(actuator, tree)
    assert await actuator.read(worker) == Quota(1500, 100 << 20)
    assert tree.held(worker) == Quota(1500, 300 << 20)
    await actuator.close()


async def test_memory_that_cannot_grow_does_not_keep_the_cpu(tree):
    actuator, worker = local(tree, resize_memory=True), tree.worker("w1")
    await actuator.write(worker, Quota(500, 200 << 20))
    await settle(actuator, tree)
    tree.use(worker, 500 << 20)
    with pytest.raises(ActuationError, match=f"expected at least the {500 << 20} bytes in use"):
        await actuator.write(worker, Quota(1500, 300 << 20))
    assert await actuator.read(worker) == tree.held(worker) == Quota(1500, 200 << 20)


async def test_nothing_is_written_but_below_the_root(tree):
    root, other = tree.root, Path(tree.stranger.cgroup_path)
    (root / "link").symlink_to(other)
    for path in (other, root, root / "w1/../../other", root / "link", Path("/")):
        with pytest.raises(ActuationError, match=f"worker w: .*: expected a control group below {root}"):
            await local(tree).write(WorkerRef("w", cgroup_path=str(path)), Quota(1000))
    assert tree.held(tree.stranger) == Quota(None)


async def test_local_without_a_root_says_what_is_missing(tree):
    with pytest.raises(ActuationError, match=r"actuator\.cgroup_root: expected the directory"):
        await make(settings.Actuator(kind=settings.ActuatorKind.LOCAL)).read(tree.worker("w1"))


async def test_without_the_client_of_kubernetes_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "kubernetes", None)  # as if it were not there
    for name in ("kubernetes", "pod"):
        monkeypatch.delitem(sys.modules, f"controlplane.actuators.{name}", raising=False)
    with pytest.raises(ConfigError, match=r"actuator\.kind: .*pip install 'sponge-serving\[kubernetes\]'"):
        make(settings.Actuator(kind=settings.ActuatorKind.KUBERNETES))


async def test_fake_holds_and_fails_as_told():
    actuator = FakeActuator({"w": Quota(1000)})
    actuator.hold()
    write = asyncio.create_task(actuator.write(WorkerRef("w"), Quota(2000)))
    assert await actuator.read(WorkerRef("w")) == Quota(1000)
    assert repr(actuator).endswith("writes=0, held=True)")
    actuator.release()
    await write
    assert actuator.writes == [("w", Quota(2000))]
    actuator.failure = "engine unreachable"
    with pytest.raises(ActuationError, match="engine unreachable"):
        await actuator.write(WorkerRef("w"), Quota(500))
    assert actuator.quotas == {"w": Quota(2000)}
    actuator.failure, actuator.slow = "", True
    with pytest.raises(Pending):
        await actuator.write(WorkerRef("w"), Quota(500))
    assert actuator.quotas == {"w": Quota(2000)}


async def test_an_unreachable_engine_is_an_error_with_its_text():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and never listens
        actuator = DockerActuator(settings.Actuator(), base_url=f"tcp://127.0.0.1:{taken.getsockname()[1]}")
        for _ in range(2):
            with pytest.raises(ActuationError, match=r"Docker engine unreachable: .*Connection refused"):
                await actuator.write(WorkerRef("w", container_id="0123456789ab"), Quota(1000))
    with pytest.raises(ActuationError, match="expected 12 to 64 hexadecimal digits, got 'a-name'"):
        await actuator.read(WorkerRef("w", container_id="a-name"))
    await actuator.close()
