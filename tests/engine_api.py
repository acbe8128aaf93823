"""A Docker engine's socket in memory, for tests: containers that are inspected, listed, measured and updated.

It answers with an engine's status codes and documents, and keeps every request that reached it. It is not a real one.
"""

import asyncio
import json
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
    """Listens at `path` and answers for `containers`."""

    path: Path
    containers: list[Json] = field(default_factory=list)
    requests: list[tuple[str, str]] = field(default_factory=list)  # method and target
    updates: list[tuple[str, Json]] = field(default_factory=list)  # container's id and body
    silent: bool = False  # takes requests and answers none

    async def open(self) -> None:
        """Begin to listen."""
        self._server = await asyncio.start_unix_server(self._serve, self.path)

    async def close(self) -> None:
        """Stop, as an engine that is gone."""
        self._server.close()
        await self._server.wait_closed()
        self.path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        method, target, protocol = head.split("\r\n")[0].split(" ")
        assert protocol == "HTTP/1.0"
        lengths = [
            int(line.split(":")[1]) for line in head.split("\r\n") if line.startswith("Content-Length:")
        ]
        body = await reader.readexactly(lengths[0]) if lengths else b""
        self.requests.append((method, target))
        if self.silent:
            await reader.read()  # until the other side gives up
        else:
            status, document = self._answer(method, target, body)
            writer.write(f"HTTP/1.0 {status} -\r\nContent-Type: application/json\r\n\r\n".encode() + document)
        writer.close()

    def _answer(self, method: str, target: str, body: bytes) -> tuple[int, bytes]:
        url = urlsplit(target)
        parts = url.path.removeprefix("/v1.41").strip("/").split("/")
        if parts == ["_ping"]:
            return 200, b"OK"
        if parts == ["version"]:
            return 200, json.dumps({"ApiVersion": "1.41", "MinAPIVersion": "1.12"}).encode()
        if parts == ["containers", "json"]:
            return 200, json.dumps(self._listed(parse_qs(url.query))).encode()
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
