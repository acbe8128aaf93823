"""The stream to the control plane: samples up, directives down, for as long as there is one."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from typing import Protocol, TypeAlias

import grpc
import structlog

from core.access import OPEN, Access
from core.files import FileError
from core.tls import ClientTls, channel_credentials
from protos import control_pb2, control_pb2_grpc

_FIRST_BACKOFF_S = 0.2
_MAX_BACKOFF_S = 1.0
# A stream that held for so long counts as one: its loss is news, and worth an attempt at once. To connect does not
# count: where packets are dropped it takes 5 s, and ends in nothing.
_ATTACHED_S = 1.0
# Distress repeats with every step while it lasts; the control plane needs to hear it once in a while.
_DISTRESS_INTERVAL_S = 0.1

# Connecting ends in an error sooner than the default of 20 s. A dead peer is noticed within 30 s; on Linux after 10 in
# which it has confirmed no report, because gRPC gives the last of these to the kernel, too (TCP_USER_TIMEOUT).
_CHANNEL_OPTIONS = (
    ("grpc.min_reconnect_backoff_ms", 5_000),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
)

Call: TypeAlias = "grpc.aio.StreamStreamCall[control_pb2.Report, control_pb2.Directive]"

log = structlog.get_logger()


class Source(Protocol):
    """What the uplink reads of the worker and asks of it."""

    def hello(self) -> control_pb2.Hello: ...
    def sample(self, *, distress: bool) -> control_pb2.Sample: ...
    async def obey(self, directive: control_pb2.Directive) -> None: ...


class Uplink:
    """Keeps one stream to the control plane open; serving does not depend on it.

    `address` may be several, with commas between: they are tried in turns, as of several control planes one leads.
    With `tls` it connects so, by the files as they are at each attempt; where they cannot be used, that is logged as
    the reason why nothing is reached.

    What comes by a stream is obeyed while that lives: what is not in force by then never will be. So a hello tells the
    next control plane all that there is, and of what that sends nothing has the same version.
    """

    def __init__(
        self,
        address: str,
        source: Source,
        interval_s: float,
        clock: Callable[[], float],
        tls: ClientTls | None = None,
    ) -> None:
        self._addresses = deque(each.strip() for each in address.split(","))
        self._source = source
        self._interval_s = interval_s
        self._clock = clock
        self._tls = tls
        self._send_now = asyncio.Event()
        self._distress = False
        self._renewing = False
        self._distress_sent_at = float("-inf")
        self._opened_at: float | None = None  # since when there is a stream; None while there is none
        self._newest: control_pb2.Directive | None = None
        self._directed = asyncio.Event()

    def distress(self) -> None:
        """What waits is not going to make it: tell at once."""
        self._distress = True
        if self._clock() - self._distress_sent_at >= _DISTRESS_INTERVAL_S:
            self._send_now.set()

    def acknowledge(self) -> None:
        """A new allocation is fully in force: tell at once."""
        self._send_now.set()

    def renew(self) -> None:
        """The source says hello differently: end the stream, and attach anew at once."""
        self._renewing = True
        self._send_now.set()

    async def run(self) -> None:
        """Attach, and attach again with back-off whenever the stream breaks; until cancelled.

        Whatever the source raises is logged, and ends no more than this stream or this directive.
        """
        backoff_s, turn = _FIRST_BACKOFF_S, 0
        while True:
            self._opened_at = None
            try:
                reason = await self._attached()
            except Exception:
                log.exception("report failed")
                reason = "report failed"
            if self._opened_at is not None:
                if self._renewing:
                    continue
                if self._clock() - self._opened_at > _ATTACHED_S:
                    backoff_s, turn = _FIRST_BACKOFF_S, 0
            if backoff_s == _FIRST_BACKOFF_S and turn == 0:
                log.warning("control plane out of reach", address=self._addresses[0], reason=reason)
            self._addresses.rotate(-1)
            turn = (turn + 1) % len(self._addresses)
            if turn == 0:  # until then another of them may lead
                await asyncio.sleep(backoff_s)
                backoff_s = min(backoff_s * 2, _MAX_BACKOFF_S)

    async def _attached(self) -> str:
        """One stream, from hello to its end; returns why it ended."""
        try:
            # To read and check a bundle of authorities takes milliseconds, for which no request is to wait.
            access = Access(await asyncio.to_thread(channel_credentials, self._tls)) if self._tls else OPEN
        except FileError as error:
            return str(error)
        async with access.aio_channel(self._addresses[0], _CHANNEL_OPTIONS) as channel:
            call = control_pb2_grpc.ControlPlaneStub(channel).Attach()
            self._newest = None
            try:
                async with asyncio.TaskGroup() as tasks:
                    obeying = tasks.create_task(self._obey())
                    sending = tasks.create_task(self._send(call))
                    receiving = tasks.create_task(self._receive(call))

                    def end(_: object) -> None:
                        for task in (sending, receiving, obeying):
                            task.cancel()

                    # Either ends the stream, and what has come by it and is not in force yet.
                    sending.add_done_callback(end)
                    receiving.add_done_callback(end)
            except* (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                pass  # the call tells why
            return await call.details() or (await call.code()).name

    async def _receive(self, call: Call) -> None:
        """Until the control plane ends the stream."""
        async for directive in call:
            if not self._renewing:  # else it is for what the source was
                self._newest = directive
                self._directed.set()

    async def _send(self, call: Call) -> None:
        """Until the source is to be announced anew."""
        await call.wait_for_connection()
        self._opened_at = self._clock()
        self._renewing = False
        await call.write(control_pb2.Report(hello=self._source.hello()))
        # The window begins with the hello: one request in its first millisecond is no rate.
        self._send_now.clear()
        while True:
            pending_s = _DISTRESS_INTERVAL_S if self._distress else self._interval_s
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(pending_s, self._interval_s)):
                    await self._send_now.wait()
            if self._renewing:
                return
            distress, self._distress = self._distress, False
            if distress:
                self._distress_sent_at = self._clock()
            self._send_now.clear()
            await call.write(control_pb2.Report(sample=self._source.sample(distress=distress)))

    async def _obey(self) -> None:
        """Follow the newest directive; one that is overtaken while a session is built is skipped."""
        failed: control_pb2.Version | None = None  # and logged: it comes again
        while True:
            await self._directed.wait()
            self._directed.clear()
            if (directive := self._newest) is None:
                continue
            try:
                await self._source.obey(directive)
            except Exception:
                if directive.version != failed:
                    log.exception("directive failed")
                failed = directive.version
