"""What emulated links of either kind ask of sockets."""

import asyncio
import socket
import struct

# The kernel's own read-ahead; less makes loopback, with its 64 KB segments, stutter.
_RECEIVE_BUFFER = 256 * 1024
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close with a reset


def listening(address: tuple[str, int]) -> socket.socket:
    """Give a socket bound to `address`, whose connections read ahead no more than a little. Raises OSError."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)  # accepted sockets inherit it
    try:
        listener.bind(address)
    except OSError:
        listener.close()
        raise
    return listener


def no_delay(transport: asyncio.BaseTransport) -> None:
    """Send at once what is written."""
    transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def abort(transport: asyncio.WriteTransport) -> None:
    """Close at once, so that the peer sees a reset and not an end."""
    if not transport.is_closing():
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    transport.abort()
