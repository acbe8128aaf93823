"""Network namespaces of this process alone, and in them links whose uploads pass a token bucket of the kernel's."""

import asyncio
import ctypes
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from evaluation import tbf

T = TypeVar("T")

_CLONE_NEWNET = 0x40000000
_SEND_BUFFER = 128 * 1024  # what an upload may have under way before its sender feels that the link is slow
_DISCARD = 9  # the port for what nobody reads
_FULL_PACKET = bytes(tbf.MTU - 28)  # less IP (20) and UDP (8)
_SNDBUFFORCE = 32  # SO_SNDBUF beyond the system's limit
_MOST_LINKS = 64 * 256  # as many networks of four addresses as 10.0.0.0/16 has
# While a link waits for its next upload, and for what a broken one left in it.
OPEN = tbf.setting(1e9)


class NetworkError(Exception):
    """Links of the kernel's cannot be had; the text is one line and says what is missing."""


@dataclass(frozen=True, slots=True)
class _Namespace:
    """A network namespace that is alive as long as its one thread and the sockets made there.

    It has no name and no file, and its addresses mean nothing outside: it collides with nothing, and there is
    nothing to clear away after it, not even if the process is killed.
    """

    thread: ThreadPoolExecutor

    def run(self, what: Callable[[], T]) -> T:
        """Run `what` inside: the sockets that it makes stay there."""
        return self.thread.submit(what).result()

    def configure(self, tool: str, commands: Iterable[str], needs: str) -> None:
        """Have iproute2's `tool` carry out all commands, which take what the kernel calls `needs`."""
        batch = "\n".join(commands)
        done = self.run(
            lambda: subprocess.run(
                [tool, "-batch", "-"], input=batch, text=True, capture_output=True, check=False
            )
        )
        if done.returncode:
            reason = " ".join(done.stderr.split())
            raise NetworkError(f"emulated links need the kernel's {needs}: {tool}: {reason}")


@contextmanager
def _namespace() -> Iterator[_Namespace]:
    with ThreadPoolExecutor(1, "netns") as thread:
        thread.submit(_unshare).result()
        yield _Namespace(thread)


def _unshare() -> None:
    """Move this thread, and no other, to a network namespace of its own."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNET):
        reason = os.strerror(ctypes.get_errno())
        raise NetworkError(f"emulated links need root, to make network namespaces: unshare: {reason}")


@dataclass(eq=False, slots=True)
class Link:
    """Two interfaces that face each other; what is sent passes the bucket of the client's one."""

    interface: int  # the kernel's index of the client's
    listener: socket.socket  # at the server's
    _clients: _Namespace
    _netlink: socket.socket
    _ballast: socket.socket
    _connecting: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def connect(self) -> tuple[socket.socket, socket.socket]:
        """Give a new connection: its end that sends through the bucket, and its end that receives."""
        loop = asyncio.get_running_loop()
        with ExitStack() as stack:
            sending = stack.enter_context(self._clients.run(socket.socket))
            sending.setblocking(False)
            # A sender that probes for the bandwidth, as BBR does, is late whenever it changes. Nothing is lost
            # on this link, so that Reno, which every kernel has, grows its window and stays out of the way.
            sending.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")
            sending.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
            async with self._connecting:
                await loop.sock_connect(sending, self.listener.getsockname())
                while True:
                    receiving, sender = await loop.sock_accept(self.listener)
                    if sender == sending.getsockname():
                        stack.pop_all()
                        return sending, receiving
                    receiving.close()  # of a connection that was given up before it was accepted

    def set(self, bucket: tbf.Setting, ballast: int = 0) -> None:
        """Change the bucket and send so many full packets of ballast; in force on return. Raises OSError."""
        tbf.change(self._netlink, self.interface, bucket)
        # One at least, even if it is empty. The kernel looks at its queue when the old rate would have let the
        # next packet through, which after a rate of nearly zero is in a minute, or when another packet comes.
        sink = (self.listener.getsockname()[0], _DISCARD)
        if not ballast:
            self._ballast.sendto(b"", sink)
        for _ in range(ballast):
            self._ballast.sendto(_FULL_PACKET, sink)


@contextmanager
def network(count: int) -> Iterator[Sequence[Link]]:
    """Give `count` links, open; blocks for about 2 ms a link.

    Raises NetworkError without root, without iproute2, or on a kernel without veth or tbf.
    """
    if not 0 < count <= _MOST_LINKS:
        raise ValueError(f"count: expected 1 to {_MOST_LINKS} links")
    for tool in ("ip", "tc"):
        if shutil.which(tool) is None:
            raise NetworkError(f"emulated links need iproute2: there is no command `{tool}`")
    with _namespace() as clients, _namespace() as server, ExitStack() as stack:
        _connect(count, clients, server)

        def listener(number: int) -> socket.socket:
            sock = socket.create_server((_address(number, server=True), 0), backlog=128)
            sock.setblocking(False)
            return stack.enter_context(sock)

        netlink = stack.enter_context(
            clients.run(lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE))
        )
        ballast = stack.enter_context(clients.run(lambda: socket.socket(type=socket.SOCK_DGRAM)))
        ballast.setblocking(False)
        # A bound that only matters in zero bandwidth, where the ballast of all links waits with the uploads.
        ballast.setsockopt(socket.SOL_SOCKET, _SNDBUFFORCE, min(count * tbf.QUEUE_BYTES, 2**30 - 1))
        listeners = server.run(lambda: [listener(number) for number in range(count)])
        index = {name: index for index, name in clients.run(socket.if_nameindex)}
        yield tuple(
            Link(index[f"up{number}"], listener, clients, netlink, ballast)
            for number, listener in enumerate(listeners)
        )


def _connect(count: int, clients: _Namespace, server: _Namespace) -> None:
    """Lay `count` pairs of interfaces between the two, with an open bucket each."""
    there = f"/proc/{os.getpid()}/task/{server.run(threading.get_native_id)}/ns/net"
    near, far = ["link set lo up"], ["link set lo up"]
    for number in range(count):
        # Both ends have one hardware address, so that nobody has to ask for it: the question would wait behind
        # the upload, and be given up in a long second of zero bandwidth.
        end = f"mtu {tbf.MTU} address 02:00:00:00:{number >> 8:02x}:{number & 255:02x} arp off"
        near.append(f"link add name up{number} {end} type veth peer name down{number} {end} netns {there}")
        for commands, name, address in (
            (near, f"up{number}", _address(number, server=False)),
            (far, f"down{number}", _address(number, server=True)),
        ):
            commands.append(f"address add {address}/30 dev {name}")
            # Packets of one segment only: a longer one that finds the bucket made smaller than itself never goes.
            commands.append(f"link set {name} gso_max_segs 1 up")
    clients.configure("ip", near, "veth interfaces")
    server.configure("ip", far, "veth interfaces")
    bucket = f"tbf rate {OPEN.bytes_per_s}bps burst {OPEN.burst_bytes} limit {tbf.QUEUE_BYTES}"
    clients.configure(
        "tc",
        (f"qdisc add dev up{number} root {bucket}" for number in range(count)),
        "queueing discipline tbf",
    )


def _address(number: int, *, server: bool) -> str:
    """Give the address of one end of a link, in a network of four."""
    host = 4 * number + (2 if server else 1)
    return f"10.0.{host >> 8}.{host & 255}"
