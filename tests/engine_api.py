"""A Docker engine in memory, for tests: containers that are inspected, listed, measured, updated, and told of.

It answers with an engine's status codes and documents, and keeps every request that reached it. It is not a real one.
"""

import asyncio
import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

PROJECT = "com.docker.compose.project"
SECRET = "a-password-of-somebody"

Json = dict[str, Any]


def container(container_id: str, name: str, labels: dict[str, str]) -> Json:
    """A container's document as an inspection shows it, with a secret where those use to be."""
    return {
        "Id": container_id,
        "Name": f"/{name}",
        "Config": {"Env": [f"PASSWORD={SECRET}"], "Labels": {**labels, "token": SECRET}},
        "HostConfig": {
            "CpuQuota": 50_000,
            "CpuPeriod": 100_000,
            "CpuShares": 0,
            "NanoCpus": 0,
            "Memory": 0,
            "MemorySwap": 0,
            "Binds": [SECRET],
        },
    }


@dataclass
class FakeEngine:
    """Listens at `path`, or at `port` of this host with `tls`, and answers for `containers`."""

    path: Path
    containers: list[Json] = field(default_factory=list)
    requests: list[tuple[str, str]] = field(default_factory=list)  # method and target
    updates: list[tuple[str, Json]] = field(default_factory=list)  # container's id and body
    silent: bool = False  # takes requests and answers none
    refuses: Mapping[str, tuple[int, str]] = field(
        default_factory=dict
    )  # last part of a path: status and message
    tls: ssl.SSLContext | None = None
    port: int = 0
    deserted: asyncio.Event = field(default_factory=asyncio.Event)  # somebody who has followed events is gone

    async def open(self) -> None:
        """Begin to listen."""
        self._connections: set[asyncio.StreamWriter] = set()
        self._listeners: set[asyncio.Queue[bytes]] = set()
        if self.tls is None:
            self._server = await asyncio.start_unix_server(self._serve, self.path)
        else:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=self.tls)
            self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Stop, as an engine that is gone."""
        self._server.close()
        for writer in tuple(self._connections):
            writer.transport.abort()
        await self._server.wait_closed()
        self.path.unlink(missing_ok=True)

    def happened(self, action: str, container_id: str) -> None:
        """Tell all who follow."""
        actor = {"ID": container_id, "Attributes": {"password": SECRET}}
        event = {"Type": "container", "Action": action, "Actor": actor, "status": action, "id": container_id}
        for listener in self._listeners:
            listener.put_nowait(json.dumps(event).encode() + b"\n")

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        try:
            await self._converse(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self._connections.discard(writer)
            writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request; its answer ends with the connection."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        method, target, protocol = head.split("\r\n")[0].split(" ")
        lengths = [
            int(line.split(":")[1]) for line in head.split("\r\n") if line.startswith("Content-Length:")
        ]
        body = await reader.readexactly(lengths[0]) if lengths else b""
        self.requests.append((method, target))
        if self.silent:
            await reader.read()  # until the other side gives up
            return
        status, document = self._refusal(target) or self._answer(method, target, body)
        chunked = document is None and protocol == "HTTP/1.1"
        writer.write(
            f"{protocol} {status} -\r\nContent-Type: application/json\r\nConnection: close\r\n".encode()
        )
        writer.write(b"Transfer-Encoding: chunked\r\n\r\n" if chunked else b"\r\n")
        if document is None:
            await self._tell(reader, writer, chunked)
        else:
            writer.write(document)
            await writer.drain()

    async def _tell(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, chunked: bool) -> None:
        events: asyncio.Queue[bytes] = asyncio.Queue()
        self._listeners.add(events)
        leaving = asyncio.ensure_future(reader.read())
        try:
            while not leaving.done():
                event = asyncio.ensure_future(events.get())
                await asyncio.wait((leaving, event), return_when=asyncio.FIRST_COMPLETED)
                if event.done():
                    line = event.result()
                    writer.write(b"%x\r\n%b\r\n" % (len(line), line) if chunked else line)
                else:
                    event.cancel()
        finally:
            self._listeners.discard(events)
            self.deserted.set()
            leaving.cancel()

    def _refusal(self, target: str) -> tuple[int, bytes] | None:
        refused = self.refuses.get(urlsplit(target).path.rpartition("/")[2])
        return refused and (refused[0], json.dumps({"message": refused[1]}).encode())

    def _answer(self, method: str, target: str, body: bytes) -> tuple[int, bytes | None]:
        """Status and document; None for a stream of events."""
        url = urlsplit(target)
        parts = url.path.removeprefix("/v1.41").strip("/").split("/")
        if parts == ["_ping"]:
            return 200, b"OK"
        if parts == ["version"]:
            return 200, json.dumps({"ApiVersion": "1.41", "MinAPIVersion": "1.12"}).encode()
        if parts == ["containers", "json"]:
            return 200, json.dumps(self._listed(parse_qs(url.query))).encode()
        if parts == ["events"]:
            assert "start" in json.loads(parse_qs(url.query)["filters"][0])["event"]
            return 200, None
        found = [c for c in self.containers if c["Id"].startswith(parts[1]) or c["Name"] == f"/{parts[1]}"]
        if not found:
            return 404, json.dumps({"message": f"No such container: {parts[1]}"}).encode()
        match method, parts[2]:
            case "GET", "json":
                return 200, json.dumps(found[0]).encode()
            case "GET", "stats":
                used = {"memory_stats": {"usage": 4096, "stats": {"inactive_file": 1024}}, "networks": SECRET}
                return 200, json.dumps(used).encode()
            case "POST", "update":
                self.updates.append((found[0]["Id"], json.loads(body)))
                found[0]["HostConfig"] |= json.loads(body)
                self.happened("update", found[0]["Id"])
                return 200, b'{"Warnings":null}'
        raise AssertionError(f"{method} {target} reached the engine")

    def _listed(self, query: dict[str, list[str]]) -> list[Json]:
        wanted = [label.partition("=") for label in json.loads(query["filters"][0])["label"]]
        return [
            {"Id": c["Id"], "Names": [c["Name"]], "State": "running", "Labels": labels, "Command": SECRET}
            for c in self.containers
            for labels in [c["Config"]["Labels"]]
            if all(name in labels and (not equals or labels[name] == value) for name, equals, value in wanted)
        ]
