"""Ask a gRPC server on this host, by grpc.health.v1, whether it serves; exit code 0 if it does, else 1.

    healthcheck.py PORT [tls [CERTIFICATE KEY]]

With `tls` it takes whatever certificate the port shows, and shows its own where the port asks for one.

Speaks just enough HTTP/2 by hand: the check runs inside the CPU quota of the worker it asks, and importing
gRPC costs 0.1 s of CPU every time, which at half a core is 0.2 s in which no request is served.
"""

import socket
import sys

DATA, HEADERS, SETTINGS = 0x0, 0x1, 0x4
END_STREAM, END_HEADERS = 0x1, 0x4
PATH = b"/grpc.health.v1.Health/Check"
SERVING = b"\x08\x01"  # HealthCheckResponse{status: SERVING}


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One HTTP/2 frame (RFC 9113, section 4.1)."""
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def text(value: bytes) -> bytes:
    """A header string of at most 126 bytes, without Huffman coding (RFC 7541, section 5.2)."""
    return bytes((len(value),)) + value


REQUEST = b"".join(
    (
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        frame(SETTINGS, 0, 0),
        frame(
            HEADERS,
            END_HEADERS,
            1,
            b"\x83\x86"  # :method POST, :scheme http; the numbers are those of RFC 7541, appendix A
            + (b"\x04" + text(PATH))
            + (b"\x01" + text(b"localhost"))
            + (b"\x0f\x10" + text(b"application/grpc"))
            + (b"\x00" + text(b"te") + text(b"trailers")),
        ),
        # A HealthCheckRequest for the whole server is empty; gRPC puts a flag and a length before it.
        frame(DATA, END_STREAM, 1, bytes(5)),
    )
)


def secured(connection: socket.socket, identity: list[str]) -> socket.socket:
    """TLS over `connection`; `identity` is the certificate and the key to show, if any."""
    import ssl  # here, as it doubles what the check costs

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # Whoever listens on this port of this host is who is meant.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    if identity:
        context.load_cert_chain(*identity)
    return context.wrap_socket(connection)


def serving(port: int, identity: list[str] | None = None, timeout_s: float = 4.0) -> bool:
    """Whether the server on `port` answers SERVING; raises OSError if it cannot be reached in time.

    Without an `identity` the port is plain.
    """
    plain = socket.create_connection(("127.0.0.1", port), timeout_s)
    with plain if identity is None else secured(plain, identity) as connection:
        connection.sendall(REQUEST)
        stream = connection.makefile("rb")
        while len(head := stream.read(9)) == 9:
            kind, flags = head[3], head[4]
            payload = stream.read(int.from_bytes(head[:3], "big"))
            if kind == DATA:
                return payload[5:] == SERVING
            if kind == HEADERS and flags & END_STREAM:
                return False
    return False


if __name__ == "__main__":
    try:
        number, *rest = sys.argv[1:]
        sys.exit(0 if serving(int(number), rest[1:] if rest[:1] == ["tls"] else None) else 1)
    except OSError as error:
        sys.exit(f"port {number}: {error}")
