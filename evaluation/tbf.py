"""Token buckets that follow a bandwidth trace: what the kernel's `tbf` has to be set to, and when."""

import socket
import struct
from dataclasses import dataclass
from typing import Final

from evaluation.bandwidth import BandwidthTrace

# Small packets, as they pass as a whole or not at all: 0.6 KB take 4 ms at 150 KB/s, Ethernet's 1.5 KB take 10.
MTU: Final = 576
FRAME_BYTES: Final = MTU + 14  # as tbf counts a full packet: with the Ethernet header
_SEGMENT_BYTES = MTU - 52  # less IP (20), TCP (20) and its time stamps (12): what it carries of an upload
_WIRE = FRAME_BYTES / _SEGMENT_BYTES
# What a bucket can save up: a busy machine looks at its queues late, and the link catches up as much as this.
_BURST_S = 0.05
_LEAST_BYTES_PER_S = 8.0  # tbf knows no zero; at this rate the next packet comes after 74 s
QUEUE_BYTES: Final = 4 * 1024 * 1024  # never full: the senders have less outstanding


@dataclass(frozen=True, slots=True)
class Setting:
    """What one tbf is told; both as the kernel counts, headers included."""

    bytes_per_s: int
    burst_bytes: int


def setting(bytes_per_s: float) -> Setting:
    """Give the bucket that lets `bytes_per_s` of uploads through, with the headers of full packets on top."""
    wire = max(_LEAST_BYTES_PER_S, bytes_per_s * _WIRE)
    return Setting(round(wire), max(FRAME_BYTES, round(wire * _BURST_S)))


@dataclass(slots=True)
class Bucket:
    """One link's bucket along `trace` from `start_s` on; it owns no clock, and times are those of the trace.

    The kernel fills a bucket whenever it is changed, and nothing but packets empties it. So each turn says how
    many full packets of ballast to send: they take what the bucket holds beyond what the trace has carried by
    then. A turn that comes late is made up for in the same way.
    """

    trace: BandwidthTrace
    start_s: float
    _turned_s: float = 0.0
    _now: Setting = Setting(0, 0)
    _granted: float = (
        0.0  # bytes that have been let through by _turned_s, or could have been; headers included
    )

    def turn(self, now_s: float) -> tuple[Setting, int]:
        """Give the setting from now_s to the trace's next change, and the packets of ballast that go first."""
        self._granted += (now_s - self._turned_s) * self._now.bytes_per_s
        self._now = setting(self.trace.rate(now_s))
        self._turned_s = now_s
        self._granted += self._now.burst_bytes
        spare = self._granted - self.trace.delivered(self.start_s, now_s) * _WIRE
        ballast = max(0, round(spare / FRAME_BYTES))
        self._granted -= ballast * FRAME_BYTES
        return self._now, ballast


_NETLINK_REQUEST, _NETLINK_ACK, _NETLINK_ERROR = 1, 4, 2
_NEW_QDISC, _ROOT = 36, 0xFFFFFFFF
_KIND, _OPTIONS, _PARAMETERS, _BURST = 1, 2, 1, 6  # TCA_KIND, TCA_OPTIONS, TCA_TBF_PARMS, TCA_TBF_BURST
_ETHERNET = 1
_RATE = "BBHhHI"  # struct tc_ratespec


def change(netlink: socket.socket, interface: int, new: Setting) -> None:
    """Set the tbf at the root of the interface with this index; it is in force on return.

    As `tc qdisc change dev … root tbf rate … burst … limit …` does, without the process that a change would cost.
    `netlink` is a NETLINK_ROUTE socket of the interface's namespace. Raises OSError.
    """
    rate = (0, _ETHERNET, 0, 0, 0, new.bytes_per_s)
    parameters = struct.pack(f"={_RATE}{_RATE}III", *rate, *(0,) * 6, QUEUE_BYTES, 0, 0)
    options = _attribute(_PARAMETERS, parameters) + _attribute(_BURST, struct.pack("=I", new.burst_bytes))
    message = struct.pack("=BxHiIII", socket.AF_UNSPEC, 0, interface, 0, _ROOT, 0)
    message += _attribute(_KIND, b"tbf\0") + _attribute(_OPTIONS, options)
    header = struct.pack("=IHHII", 16 + len(message), _NEW_QDISC, _NETLINK_REQUEST | _NETLINK_ACK, 0, 0)
    netlink.send(header + message)
    answer = netlink.recv(4096)
    kind, code = struct.unpack_from("=4xH10xi", answer)
    if kind != _NETLINK_ERROR or code:
        raise OSError(-code, f"interface {interface}: tbf cannot be set to {new}")


def _attribute(kind: int, value: bytes) -> bytes:
    padded = value + bytes(-len(value) % 4)
    return struct.pack("=HH", 4 + len(value), kind) + padded
