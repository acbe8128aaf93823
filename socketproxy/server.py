"""The shell around the policy: connections in, calls of the engine out, one log line for each refusal."""

import asyncio
import socket
from http import HTTPStatus

import msgspec
import structlog

from socketproxy import policy
from socketproxy.config import Config
from socketproxy.engine import STREAM, Answer, Engine, EngineError, Stream, decode, failure
from socketproxy.policy import Call, Event, Inspected, Kind, Listed, Stats
from socketproxy.request import Refusal, Request, parse

_LOGGED_BYTES = 200  # of what was refused

log = structlog.get_logger()


class Proxy:
    """Answers each connection's one request, by the engine's word or with a refusal."""

    def __init__(self, config: Config, engine: Engine, hostname: str = "") -> None:
        """`hostname` is looked up as the proxy's own container; default is what this host is called."""
        self._config = config
        self._engine = engine
        self._hostname = hostname or socket.gethostname()
        self._project = config.compose_project
        self._connections = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """See one connection to its end; to be given to asyncio."""
        self._connections += 1
        try:
            if self._connections > self._config.max_connections:
                log.warning("refused", reason=f"expected at most {self._config.max_connections} connections")
                return
            answer = await self._answer(reader)
            if isinstance(answer, Stream):
                await self._relay(answer, reader, writer)
            elif answer is not None:
                async with asyncio.timeout(self._config.request_timeout_s):
                    await self._send(answer, reader, writer)
        except OSError:  # the client is gone, or does not read
            writer.transport.abort()
        finally:
            self._connections -= 1
            writer.close()

    async def _send(self, answer: Answer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Return when the client has the answer, and has closed."""
        writer.transport.set_write_buffer_limits(high=0)  # drained is what the client has taken
        writer.write(answer.encoded())
        await writer.drain()
        writer.write_eof()
        # To close while something lies unread resets the connection, and the client may miss the answer.
        while await reader.read(16_384):
            pass

    async def _relay(
        self, stream: Stream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Pass on what the engine tells, until it ends or the client leaves."""
        telling, leaving = (
            asyncio.create_task(self._tell(stream, writer)),
            asyncio.create_task(reader.read(1)),
        )
        await asyncio.wait((telling, leaving), return_when=asyncio.FIRST_COMPLETED)
        for task in (telling, leaving):
            task.cancel()
        await asyncio.gather(telling, leaving, return_exceptions=True)
        stream.close()

    async def _tell(self, stream: Stream, writer: asyncio.StreamWriter) -> None:
        writer.transport.set_write_buffer_limits(high=0)  # who does not read is not waited for
        writer.write(STREAM)
        while line := await stream.line():
            event = decode(Answer(HTTPStatus.OK, line), Event)
            writer.write(msgspec.json.encode(event) + b"\n")
            async with asyncio.timeout(self._config.request_timeout_s):
                await writer.drain()

    async def _answer(self, reader: asyncio.StreamReader) -> Answer | Stream | None:
        """The answer to what the client asks; None if it leaves before it has asked."""
        received = bytearray()
        try:
            request = await self._request(reader, received)
            if request is None:
                return None
            config = self._config
            call = policy.call(request, config.resize_memory, config.events, config.whole_cores)
            async with asyncio.timeout(self._config.engine_timeout_s):
                return await self._forward(call)
        except Refusal as refusal:
            line = bytes(received[:_LOGGED_BYTES]).partition(b"\r\n")[0]
            log.warning("refused", request=ascii(line.decode("latin-1")), reason=str(refusal))
            return failure(refusal.status, f"socket proxy: {refusal}")
        except EngineError as error:
            return failure(HTTPStatus.BAD_GATEWAY, f"socket proxy: {error}")
        except TimeoutError:
            return failure(HTTPStatus.GATEWAY_TIMEOUT, "socket proxy: the engine does not answer")

    async def _request(self, reader: asyncio.StreamReader, received: bytearray) -> Request | None:
        """Read the request, and into `received` what there is of it. Raises Refusal."""
        limits = self._config
        try:
            async with asyncio.timeout(limits.request_timeout_s):
                while data := await reader.read(16_384):
                    received += data
                    request = parse(bytes(received), limits.max_body_bytes)
                    if request is not None:
                        return request
        except TimeoutError as error:
            reason = f"expected a whole request within {limits.request_timeout_s:g} s"
            raise Refusal(reason, HTTPStatus.REQUEST_TIMEOUT) from error
        except OSError:
            pass
        return None

    async def _forward(self, call: Call) -> Answer | Stream:
        """Ask the engine, and cut its answer to what may be told. Raises Refusal and EngineError."""
        match call.kind:
            case Kind.PING:
                return await self._engine.ask("GET", f"{call.version}/_ping")
            case Kind.VERSION:
                return await self._engine.ask("GET", f"{call.version}/version")
            case Kind.LIST:
                return await self._list(call)
            case Kind.EVENTS:
                project = await self._own_project()
                policy.expect(project)
                query = policy.changes(self._config.label, project)
                return await self._engine.listen(f"{call.version}/events?{query}")
        answer = await self._engine.ask("GET", f"{call.version}/containers/{call.container}/json")
        if answer.status != HTTPStatus.OK:
            return answer
        found = decode(answer, Inspected)
        if call.kind is Kind.INSPECT:
            return self._inspected(found)
        policy.check(found, call.container, self._config.label, await self._own_project())
        # By the whole id that was checked: what was asked for may by now be short for two.
        path = f"{call.version}/containers/{found.id}"
        if call.kind is Kind.UPDATE:
            return await self._engine.ask("POST", f"{path}/update", msgspec.json.encode(call.limits))
        stats = await self._engine.ask("GET", f"{path}/stats?stream=false&one-shot=true")
        if stats.status != HTTPStatus.OK:
            return stats
        return Answer(HTTPStatus.OK, msgspec.json.encode(decode(stats, Stats)))

    async def _list(self, call: Call) -> Answer:
        project = await self._own_project()
        if not project:
            return Answer(HTTPStatus.OK, b"[]")
        query = "&".join(part for part in (call.query, policy.only(self._config.label, project)) if part)
        answer = await self._engine.ask("GET", f"{call.version}/containers/json?{query}")
        if answer.status != HTTPStatus.OK:
            return answer
        told = [
            msgspec.structs.replace(container, labels=policy.told(container.labels, self._config.label))
            for container in decode(answer, list[Listed])
        ]
        return Answer(HTTPStatus.OK, msgspec.json.encode(told))

    def _inspected(self, found: Inspected) -> Answer:
        labels = policy.told(found.config.labels, self._config.label)
        config = msgspec.structs.replace(found.config, labels=labels)
        return Answer(HTTPStatus.OK, msgspec.json.encode(msgspec.structs.replace(found, config=config)))

    async def _own_project(self) -> str:
        """The Compose project whose containers may be touched; "" while there is none."""
        # In a container its short id, unless set otherwise.
        if not self._project and policy.is_id(self._hostname):
            answer = await self._engine.ask("GET", f"/containers/{self._hostname}/json")
            if answer.status == HTTPStatus.OK:
                own = decode(answer, Inspected)
                if own.id.startswith(self._hostname):  # names may look like ids
                    self._project = own.project
        return self._project
