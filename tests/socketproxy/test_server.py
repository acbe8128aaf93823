"""The proxy between a client and an engine's socket: what arrives there, and what comes back."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest
from structlog.testing import capture_logs

from controlplane import config as settings
from controlplane.actuators import ActuationError, Quota, WorkerRef
from controlplane.actuators.docker import DockerActuator
from socketproxy.config import Config, read
from socketproxy.engine import Engine
from socketproxy.server import Proxy
from tests.engine_api import PROJECT, SECRET, FakeEngine, container

VISION, OTHER, CONTROL, FOREIGN = (digit * 64 for digit in "abcd")
LABEL = "sponge.worker"
CPU = {"CpuPeriod": 20_000, "CpuQuota": 30_000, "CpuShares": 1500}


class Setup:
    """A fake engine, and a proxy before it with a configuration of one's own."""

    def __init__(self, directory: Path) -> None:
        self.engine = FakeEngine(
            directory / "docker.sock",
            [
                container(VISION, "vision", {LABEL: "true", PROJECT: "ours"}),
                container(OTHER, "prometheus", {PROJECT: "ours"}),
                container(CONTROL, "control", {PROJECT: "ours"}),
                container(FOREIGN, "foreign", {LABEL: "true", PROJECT: "theirs"}),
            ],
        )
        self.path = directory / "proxy.sock"

    @contextlib.asynccontextmanager
    async def proxy(self, hostname: str = CONTROL[:12], **config: Any) -> AsyncIterator[None]:
        """A proxy that runs in the container `hostname`."""
        proxy = Proxy(Config(**config), Engine(str(self.engine.path)), hostname)
        server = await asyncio.start_unix_server(proxy.serve, self.path)
        yield
        server.close()
        await server.wait_closed()
        # Of clients that have just closed theirs.
        others = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.gather(*(task for task in others if "Proxy.serve" in str(task.get_coro())))

    async def send(self, raw: bytes) -> tuple[int, Any]:
        """Status and document of the answer to these bytes."""
        reader, writer = await asyncio.open_unix_connection(self.path)
        writer.write(raw)
        received = await reader.read()
        writer.close()
        head, _, body = received.partition(b"\r\n\r\n")
        status = int(head.split(b" ")[1])
        return status, body.decode() if body == b"OK" else json.loads(body)

    async def ask(self, method: str, target: str, body: object = None) -> tuple[int, Any]:
        """As `send`, of a request with `body` as JSON."""
        content = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {target} HTTP/1.1\r\nHost: docker\r\nContent-Length: {len(content)}\r\n\r\n"
        return await self.send(head.encode() + content)


@pytest.fixture
async def setup(tmp_path: Path) -> AsyncIterator[Setup]:
    setup = Setup(tmp_path)
    await setup.engine.open()
    yield setup
    await setup.engine.close()


async def test_ping_and_version_are_the_engines(setup: Setup) -> None:
    async with setup.proxy():
        assert await setup.ask("GET", "/_ping") == (200, "OK")
        assert await setup.ask("GET", "/v1.41/version") == (
            200,
            {"ApiVersion": "1.41", "MinAPIVersion": "1.12"},
        )
    assert setup.engine.requests == [("GET", "/_ping"), ("GET", "/v1.41/version")]


async def test_an_inspection_tells_no_secret(setup: Setup) -> None:
    async with setup.proxy():
        status, document = await setup.ask("GET", f"/v1.41/containers/{FOREIGN[:12]}/json")
    assert status == 200
    assert SECRET not in json.dumps(document)
    assert (document["Id"], document["Name"]) == (FOREIGN, "/foreign")
    assert document["Config"] == {"Labels": {LABEL: "true", PROJECT: "theirs"}}
    assert document["HostConfig"] == {
        "CpuQuota": 50_000,
        "CpuPeriod": 100_000,
        "CpuShares": 0,
        "NanoCpus": 0,
        "Memory": 0,
        "MemorySwap": 0,
        "CpusetCpus": "",
    }


async def test_a_list_has_only_sponges_containers(setup: Setup) -> None:
    expected = [
        {"Id": VISION, "Names": ["/vision"], "State": "running", "Labels": {LABEL: "true", PROJECT: "ours"}}
    ]
    async with setup.proxy():
        assert await setup.ask("GET", "/v1.41/containers/json") == (200, expected)
        assert await setup.ask("GET", "/containers/json?all=1") == (200, expected)
    async with setup.proxy(hostname="elsewhere"):
        assert await setup.ask("GET", "/containers/json") == (200, [])


async def test_an_update_goes_to_the_container_that_was_checked(setup: Setup) -> None:
    async with setup.proxy():
        target = f"/v1.41/containers/{VISION[:12]}/update"
        assert await setup.ask("POST", target, CPU) == (200, {"Warnings": None})
    assert setup.engine.updates == [(VISION, CPU)]


@pytest.mark.parametrize(
    ("asked", "config", "reason"),
    [
        (OTHER, {}, "container prometheus: expected the label sponge.worker"),
        (CONTROL, {}, "container control: expected the label sponge.worker"),
        (FOREIGN, {}, f"container foreign: expected the label {PROJECT}=ours"),
        (VISION, {"compose_project": "theirs"}, f"container vision: expected the label {PROJECT}=theirs"),
        (VISION, {"label": "other"}, "container vision: expected the label other"),
        (VISION, {"hostname": "elsewhere"}, "compose_project: expected the project"),
        (VISION, {"hostname": "control"}, "compose_project: expected the project"),  # a name is no id
        ("f" * 12, {}, "no container has the id ffffffffffff"),  # a container of that name
    ],
)
async def test_updates_of_other_containers_are_refused(
    setup: Setup, asked: str, config: dict[str, str], reason: str
) -> None:
    setup.engine.containers.append(container("9" * 64, "f" * 12, {LABEL: "true", PROJECT: "ours"}))
    async with setup.proxy(**config):
        status, document = await setup.ask("POST", f"/containers/{asked}/update", CPU)
        assert status == 403
        assert document["message"].startswith(f"socket proxy: {reason}")
        status, _ = await setup.ask("POST", f"/containers/{asked}/update", {"RestartPolicy": {}})
        assert status == 403
    assert setup.engine.updates == []


async def test_use_of_memory_is_told_of_sponges_containers(setup: Setup) -> None:
    query = "stats?stream=False&one-shot=True"
    async with setup.proxy(resize_memory=True):
        assert await setup.ask("GET", f"/containers/{VISION}/{query}") == (
            200,
            {"memory_stats": {"usage": 4096, "stats": {"inactive_file": 1024}}},
        )
        assert (await setup.ask("GET", f"/containers/{FOREIGN}/{query}"))[0] == 403
    assert [target for _, target in setup.engine.requests if "stats" in target] == [
        f"/containers/{VISION}/stats?stream=false&one-shot=true"
    ]


@pytest.mark.parametrize(
    "raw",
    [
        b"POST /containers/create HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}",
        b"GET //containers/json HTTP/1.1\r\n\r\n",
        b"GET /containers/%2e%2e/version HTTP/1.1\r\n\r\n",
        b"GET /version HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n",
        b"GET /version HTTP/1.1\r\n\r\nGET /info HTTP/1.1\r\n\r\n",
        b"GET /version HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET /version HTTP/1.1\r\nContent-Length: 99999\r\n\r\n",
        b"\x16\x03\x01\x00\xa5\x01\x00\x00\r\n\r\n",
    ],
)
async def test_a_refusal_is_an_error_as_dockers_and_one_line_in_the_log(setup: Setup, raw: bytes) -> None:
    async with setup.proxy():
        with capture_logs() as lines:
            status, document = await setup.send(raw)
    assert status == 403
    assert list(document) == ["message"]
    assert document["message"].startswith("socket proxy: ")
    assert setup.engine.requests == []
    assert [(line["event"], line["log_level"]) for line in lines] == [("refused", "warning")]
    assert lines[0]["reason"] in document["message"]
    assert lines[0]["request"].isascii()
    assert lines[0]["request"].isprintable()


async def test_errors_of_the_engine_are_passed_on(setup: Setup) -> None:
    async with setup.proxy():
        gone = (404, {"message": "No such container: eeeeeeeeeeee"})
        assert await setup.ask("GET", f"/containers/{'e' * 12}/json") == gone
        assert await setup.ask("POST", f"/containers/{'e' * 12}/update", CPU) == gone


async def test_an_engine_that_is_gone_or_says_nothing_is_an_error(setup: Setup) -> None:
    async with setup.proxy(engine_timeout_s=0.05):
        setup.engine.silent = True
        assert await setup.ask("GET", "/version") == (
            504,
            {"message": "socket proxy: the engine does not answer"},
        )
        await setup.engine.close()
        status, document = await setup.ask("GET", "/version")
        assert status == 502
        assert document["message"].startswith("socket proxy: engine unreachable")
        await setup.engine.open()


async def test_connections_are_bounded_in_number_and_in_time(setup: Setup) -> None:
    async with setup.proxy(max_connections=1, request_timeout_s=0.2):
        reader, writer = await asyncio.open_unix_connection(setup.path)
        writer.write(b"GET /ver")
        await writer.drain()
        second_reader, second_writer = await asyncio.open_unix_connection(setup.path)
        assert await second_reader.read() == b""
        second_writer.close()
        assert (await reader.read()).startswith(b"HTTP/1.1 408 ")
        writer.close()
        await writer.wait_closed()
        assert (await setup.ask("GET", "/version"))[0] == 200


async def test_the_actuator_works_through_it(setup: Setup) -> None:
    async with setup.proxy(resize_memory=True):
        actuator = DockerActuator(
            settings.Actuator(compose_project="ours", resize_memory=True), base_url=f"unix://{setup.path}"
        )
        vision, foreign = (WorkerRef("w", container_id=whole[:12]) for whole in (VISION, FOREIGN))
        assert await actuator.read(vision) == Quota(500)
        for quota in (Quota(1500, 1 << 30), Quota(None)):
            await actuator.write(vision, quota)
            await actuator.settle()
            assert await actuator.read(vision) == quota
        with pytest.raises(ActuationError, match=f"container foreign: expected the label {PROJECT}=ours"):
            await actuator.write(foreign, Quota(1500))
        with pytest.raises(ActuationError, match="is gone: No such container"):
            await actuator.write(WorkerRef("w", container_id="e" * 12), Quota(1500))
        await actuator.close()


async def test_events_are_of_sponges_containers_and_tell_no_secret(setup: Setup) -> None:
    async with setup.proxy(events=True):
        reader, writer = await asyncio.open_unix_connection(setup.path)
        writer.write(b"GET /v1.41/events?filters=%7B%7D HTTP/1.1\r\nHost: docker\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        setup.engine.happened("update", VISION)
        event = json.loads(await reader.readline())
        assert event == {"Type": "container", "Action": "update", "Actor": {"ID": VISION}}
        [(_, target)] = [request for request in setup.engine.requests if "events" in request[1]]
        filters = json.loads(parse_qs(urlsplit(target).query)["filters"][0])
        assert filters == {
            "type": ["container"],
            "event": ["start", "update"],
            "label": [LABEL, f"{PROJECT}=ours"],
        }
        writer.close()
        await setup.engine.deserted.wait()  # it does not listen for nobody


async def test_events_end_with_the_engine(setup: Setup) -> None:
    async with setup.proxy(events=True):
        reader, writer = await asyncio.open_unix_connection(setup.path)
        writer.write(b"GET /events HTTP/1.1\r\nHost: docker\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        await setup.engine.close()
        assert await reader.read() == b""
        writer.close()
        assert (await setup.ask("GET", "/events"))[0] == 502
        await setup.engine.open()
        setup.engine.silent = True
    async with setup.proxy(events=True, engine_timeout_s=0.2):
        assert (await setup.ask("GET", "/events"))[0] == 504


async def test_events_are_refused_without_the_setting_or_a_project(setup: Setup) -> None:
    async with setup.proxy():
        assert (await setup.ask("GET", "/events"))[0] == 403
    async with setup.proxy(events=True, hostname="elsewhere"):
        status, document = await setup.ask("GET", "/events")
    assert (status, "compose_project: expected" in document["message"]) == (403, True)
    assert not any("events" in target for _, target in setup.engine.requests)


def test_compose_names_the_project(tmp_path: Path) -> None:
    path = tmp_path / "proxy.toml"
    path.write_text('compose_project = "file"')
    assert read(path, {"SPONGE_COMPOSE_PROJECT": "environment"}).compose_project == "environment"
    assert read(path, {"SPONGE_COMPOSE_PROJECT": ""}).compose_project == "file"
    assert msgspec.structs.replace(read(path, {}), compose_project="") == Config()
