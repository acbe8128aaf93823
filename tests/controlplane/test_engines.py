"""Docker engines that come and go, tell of changes, and are several: fakes of them, at sockets and by TLS."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trustme
from structlog.testing import capture_logs

from controlplane import config as settings
from controlplane.actuators import ActuationError, Quota, Unreachable, WorkerRef, make
from controlplane.actuators.docker import DockerActuator
from controlplane.actuators.engine import Address, Engine
from controlplane.actuators.engines import Engines
from controlplane.actuators.events import RefusedError, follow
from controlplane.actuators.events import events as events_of
from core.files import FileError
from core.tls import ClientTls
from socketproxy.config import Config as ProxyConfig
from socketproxy.engine import Engine as ProxiedEngine
from socketproxy.server import Proxy
from tests.certificates import Identity
from tests.engine_api import PROJECT, FakeEngine, container

VISION, OTHER = (digit * 64 for digit in "ab")
LABELS = {"sponge.worker": "true", PROJECT: "ours"}
WORKER = WorkerRef("w", container_id=VISION[:12])


def engine(path: Path, *ids: str) -> FakeEngine:
    return FakeEngine(path, [container(whole, whole[:3], LABELS) for whole in ids])


def actuator(path: Path, **config: float) -> DockerActuator:
    return DockerActuator(settings.Actuator(compose_project="ours", **config), base_url=f"unix://{path}")


@contextlib.asynccontextmanager
async def running(*engines: FakeEngine) -> AsyncIterator[None]:
    for one in engines:
        await one.open()
    try:
        yield
    finally:
        for one in engines:
            await one.close()


@contextlib.asynccontextmanager
async def watched(watcher: DockerActuator | Engines) -> AsyncIterator["asyncio.Queue[str]"]:
    """What is told to one who watches."""
    told: asyncio.Queue[str] = asyncio.Queue()
    watching = asyncio.create_task(watcher.watch(told.put_nowait))
    try:
        yield told
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        await watcher.close()


async def test_an_engine_tells_who_was_updated(tmp_path):
    docker = engine(tmp_path / "docker.sock", VISION, OTHER)
    async with running(docker), watched(actuator(docker.path)) as told:
        assert await told.get() == ""  # whatever was before
        docker.happened("update", VISION)
        docker.happened("start", OTHER)
        assert [await told.get(), await told.get()] == [VISION, OTHER]


async def test_an_engine_that_comes_back_is_listened_to_again(tmp_path):
    docker = engine(tmp_path / "docker.sock", VISION)
    with capture_logs() as logs:
        async with running(docker), watched(actuator(docker.path)) as told:
            assert await told.get() == ""
            await docker.close()
            await asyncio.sleep(1.0)  # long enough for a second attempt
            await docker.open()
            assert await told.get() == ""
            docker.happened("update", VISION)
            assert await told.get() == VISION
    assert len([line for line in logs if line["event"] == "events interrupted"]) == 1


async def test_what_is_no_stream_of_events_is_told_once(tmp_path):
    docker = engine(tmp_path / "docker.sock", VISION)
    docker.refuses = {"events": (500, "out of order")}
    with capture_logs() as logs:
        async with running(docker), watched(actuator(docker.path)) as told:
            await asyncio.sleep(1.0)
            assert told.empty()
    assert [line["error"] for line in logs] == ["expected a stream of events, got status 500"]


@pytest.mark.parametrize("events", [True, False])
async def test_the_socket_proxy_lets_events_through_where_it_may(tmp_path, events):
    docker, path = engine(tmp_path / "docker.sock", VISION), tmp_path / "proxy.sock"
    proxy = Proxy(ProxyConfig(compose_project="ours", events=events), ProxiedEngine(str(docker.path)))
    server = await asyncio.start_unix_server(proxy.serve, path)
    through = actuator(path)
    async with running(docker):
        if events:
            async with watched(through) as told:
                assert await told.get() == ""
                docker.happened("update", VISION)
                assert await told.get() == VISION
            await docker.deserted.wait()
            await asyncio.sleep(0.05)  # until the proxy has closed its end
        else:
            asked = Engine(Address.from_env(f"unix://{path}"), 2.0)
            with pytest.raises(RefusedError, match="events = true"):
                await anext(events_of(asked, "sponge.worker"))
            await asked.close()
            assert await through.read(WORKER) == Quota(500)
            await through.close()
    server.close()


class Hesitant(FakeEngine):
    """Refuses what it is told to refuse only the first two times that it is asked anything."""

    def _refusal(self, target: str) -> tuple[int, bytes] | None:
        return super()._refusal(target) if len(self.requests) <= 2 else None


async def test_events_that_are_let_through_later_are_followed_and_refusals_told_once(tmp_path):
    docker = Hesitant(tmp_path / "docker.sock", refuses={"events": (403, "the project is not known")})
    told: asyncio.Queue[str] = asyncio.Queue()
    asked = Engine(Address.from_env(f"unix://{docker.path}"), 2.0)
    with capture_logs() as logs:
        async with running(docker):
            following = asyncio.create_task(
                follow(asked, "far", "sponge.worker", told.put_nowait, refused_s=0.0)
            )
            assert await told.get() == ""
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
    assert len(docker.requests) == 3
    [refusal] = [line for line in logs if line["event"] == "events not followed"]
    assert (refusal["host"], "the project is not known" in refusal["error"]) == ("far", True)
    await asked.close()


async def test_a_connection_that_does_not_come_about_is_given_up():
    left = asyncio.Event()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        await writer.wait_closed()
        left.set()

    server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    address = Address(f"https://127.0.0.1:{port}", context=ssl.create_default_context)
    silent = Engine(address, 0.05)
    with pytest.raises(OSError, match=r"^no connection within 0\.05 s$"):
        await silent.open()
    await left.wait()
    await silent.close()
    server.close()


async def test_an_answer_that_is_not_understood_is_an_error_that_says_so(tmp_path):
    docker = engine(tmp_path / "docker.sock", VISION)
    whole = actuator(docker.path)
    async with running(docker):
        assert await whole.read(WORKER) == Quota(500)
        for wrong in ({}, None, [], {"CpuQuota": "much"}):
            docker.containers[0]["HostConfig"] = wrong
            with pytest.raises(ActuationError, match=r"^the engine's answer is not understood: \w+Error: "):
                await whole.read(WORKER)
    await whole.close()


async def test_calls_that_hang_are_in_nobody_elses_way(tmp_path):
    silent, well = engine(tmp_path / "silent.sock", VISION), engine(tmp_path / "well.sock", OTHER)
    silent.silent = True
    slow, quick = (actuator(one.path, docker_timeout_s=0.5) for one in (silent, well))
    async with running(silent, well):
        hanging = [asyncio.create_task(slow.read(WORKER)) for _ in range(50)]
        await asyncio.sleep(0.05)
        assert await quick.read(WorkerRef("o", container_id=OTHER[:12])) == Quota(500)
        assert await asyncio.to_thread(lambda: "planned") == "planned"
        assert not any(task.done() for task in hanging)
        with pytest.raises(Unreachable, match="Docker engine unreachable"):
            await hanging[0]
        for task in hanging:
            task.cancel()
        await asyncio.gather(*hanging, return_exceptions=True)
        await slow.close()
        await quick.close()


# Several


def several(**engines: FakeEngine) -> Engines:
    config = settings.Actuator(
        compose_project="ours",
        docker_timeout_s=0.3,
        engines={
            name: settings.Engine(host=f"unix://{one.path}", millicores=4000) for name, one in engines.items()
        },
    )
    made = make(config)
    assert isinstance(made, Engines)
    return made


async def test_a_worker_belongs_to_the_engine_that_has_its_container(tmp_path):
    one, two = engine(tmp_path / "one.sock", OTHER), engine(tmp_path / "two.sock", VISION)
    async with running(one, two):
        engines = several(one=one, two=two)
        assert await engines.host(WORKER) == "two"
        await engines.write(WORKER, Quota(1500))
        assert await engines.read(WORKER) == Quota(1500)
        assert (len(one.updates), len(two.updates)) == (0, 1)
        async with watched(engines) as told:
            assert [await told.get(), await told.get()] == ["", ""]
            one.happened("update", OTHER)
            two.happened("update", VISION)
            assert {await told.get(), await told.get()} == {OTHER, VISION}


async def test_an_engine_that_does_not_answer_holds_up_no_worker_of_another(tmp_path):
    silent, well = engine(tmp_path / "silent.sock", OTHER), engine(tmp_path / "well.sock", VISION)
    silent.silent = True
    engines = several(silent=silent, well=well)
    async with running(silent, well):
        assert await engines.host(WORKER) == "well"
        assert await engines.read(WORKER) == Quota(500)
        lost = WorkerRef("o", container_id=OTHER[:12])
        with pytest.raises(Unreachable, match=r"worker o: .*: silent: .*unreachable.*; well: .* is gone"):
            await engines.host(lost)
        silent.silent = False
        assert await engines.host(lost) == "silent"
        await engines.close()


async def test_a_container_that_is_forgotten_is_asked_for_anew(tmp_path):
    near, far = engine(tmp_path / "near.sock", VISION), engine(tmp_path / "far.sock", OTHER)
    engines = several(near=near, far=far)
    async with running(near, far):
        assert await engines.host(WORKER) == "near"
        near.containers, far.containers = far.containers, near.containers
        assert await engines.host(WORKER) == "near"
        engines.forget(WORKER)
        assert await engines.host(WORKER) == "far"
        engines.forget(WorkerRef("stranger"))
        await engines.close()


async def test_a_worker_that_no_engine_has_is_an_error_that_says_so(tmp_path):
    one, two = engine(tmp_path / "one.sock", OTHER), engine(tmp_path / "two.sock")
    async with running(one, two):
        engines = several(one=one, two=two)
        with pytest.raises(ActuationError, match=r"found on no engine: one: container .* is gone") as refused:
            await engines.read(WORKER)
        assert not isinstance(refused.value, Unreachable)
        await engines.close()


# TLS


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
async def secured(tmp_path: Path, authority: trustme.CA) -> AsyncIterator[FakeEngine]:
    """An engine that takes only clients with a certificate of the authority."""
    identity = Identity.issue(tmp_path / "engine", authority)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(identity.ca))
    context.load_cert_chain(identity.certificate, identity.key)
    context.verify_mode = ssl.CERT_REQUIRED
    docker = engine(tmp_path / "none.sock", VISION)
    docker.tls = context
    async with running(docker):
        yield docker


def by_tls(docker: FakeEngine, tls: ClientTls, **config: bool) -> Engines:
    one = settings.Engine(host=f"tcp://127.0.0.1:{docker.port}", tls=tls, millicores=4000)
    made = make(settings.Actuator(compose_project="ours", engines={"far": one}, **config))
    assert isinstance(made, Engines)
    return made


async def test_an_engine_is_resized_and_listened_to_by_mutual_tls(tmp_path, secured, authority):
    engines = by_tls(secured, Identity.issue(tmp_path / "me", authority).client_tls())
    await engines.write(WORKER, Quota(1500))
    assert await engines.read(WORKER) == Quota(1500)
    async with watched(engines) as told:
        assert await told.get() == ""
        secured.happened("update", VISION)
        assert await told.get() == VISION


async def test_no_group_is_looked_for_of_an_engine_elsewhere(tmp_path, secured, authority):
    engines = by_tls(secured, Identity.issue(tmp_path / "me", authority).client_tls(), cgroup_write=True)
    with capture_logs() as logs:
        await engines.write(WORKER, Quota(1500))
    assert await engines.read(WORKER) == Quota(1500)
    assert ([whole for whole, _ in secured.updates], logs) == ([VISION], [])
    await engines.close()


async def test_an_engine_with_another_certificate_is_not_spoken_to(tmp_path, secured):
    stranger = Identity.issue(tmp_path / "stranger", trustme.CA())
    engines = by_tls(secured, stranger.client_tls())
    with pytest.raises(Unreachable, match="certificate verify failed"):
        await engines.read(WORKER)
    await engines.close()
    assert secured.requests == []


async def test_files_that_cannot_be_used_are_named(tmp_path, secured):
    with pytest.raises(FileError, match=r"actuator\.engines\.far\.tls\.ca: expected a file"):
        by_tls(secured, ClientTls(ca=str(tmp_path / "none")))
    with pytest.raises(FileError, match=r"actuator\.engines\.far\.tls\.key: expected a file beside"):
        by_tls(secured, ClientTls(certificate=str(tmp_path / "none")))


async def test_files_that_are_gone_meanwhile_are_told_and_looked_for_again(tmp_path, secured, authority):
    me = Identity.issue(tmp_path / "me", authority)
    engines = by_tls(secured, me.client_tls())
    key = me.key.read_bytes()
    me.key.unlink()
    with capture_logs() as logs:
        async with watched(engines) as told:
            await asyncio.sleep(0.1)
            me.key.write_bytes(key)
            assert await told.get() == ""
    [interrupted] = [line["error"] for line in logs if line["event"] == "events interrupted"]
    assert interrupted.startswith("actuator.engines.far.tls.key: expected a file")
