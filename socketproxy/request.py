"""One HTTP/1.1 request, read strictly: what could be understood in two ways is not understood at all."""

import re
from dataclasses import dataclass
from http import HTTPStatus

MAX_HEAD_BYTES = 8192  # the Docker SDK sends some 250

# Neither a space nor a control character, and no absolute form.
_REQUEST_LINE = re.compile(rb"([A-Z]{1,16}) (/[!-~]*) HTTP/1\.1")
# One line each, in printable ASCII, with nothing between name and colon.
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):([\t -~]*)")
_LENGTH = re.compile(rb"[0-9]{1,9}")
# A second way to tell where a body ends, other protocols, and answers before the request is there.
_FORBIDDEN = {b"transfer-encoding", b"trailer", b"upgrade", b"http2-settings", b"expect"}


class Refusal(Exception):
    """What is not let through; the text tells the client and the log why."""

    def __init__(self, reason: str, status: HTTPStatus = HTTPStatus.FORBIDDEN) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True, slots=True)
class Request:
    """What is left of a request: no header has a meaning beyond the body's length."""

    method: str
    target: str  # as it came, never decoded
    body: bytes


def parse(received: bytes, max_body_bytes: int) -> Request | None:
    """The one request that `received` is, or None while the end is missing.

    Raises Refusal as soon as it is not one, or larger than allowed, or something follows it.
    """
    head, end, rest = received.partition(b"\r\n\r\n")
    if len(head) > MAX_HEAD_BYTES:
        raise Refusal(f"header: expected at most {MAX_HEAD_BYTES} bytes")
    if not end:
        return None
    first, *lines = head.split(b"\r\n")
    line = _REQUEST_LINE.fullmatch(first)
    if line is None:
        raise Refusal("request line: expected a method, a path and HTTP/1.1")
    length = _length(lines)
    if length > max_body_bytes:
        raise Refusal(f"body: expected at most {max_body_bytes} bytes, got {length}")
    if len(rest) > length:
        raise Refusal("connection: expected a single request, got more behind it")
    if len(rest) < length:
        return None
    return Request(line[1].decode(), line[2].decode(), rest)


def _length(lines: list[bytes]) -> int:
    """Length of the body by these header lines."""
    length = None
    for line in lines:
        field = _FIELD.fullmatch(line)
        if field is None:
            raise Refusal("header: expected lines of a name, a colon and printable ASCII")
        name, value = field[1].lower(), field[2].strip(b" \t")
        if name in _FORBIDDEN or (name == b"connection" and b"upgrade" in value.lower()):
            raise Refusal(f"header: {name.decode()} is not allowed")
        if name == b"content-length":
            if length is not None or not _LENGTH.fullmatch(value):
                raise Refusal("header: expected one content-length, of digits")
            length = int(value)
    return length or 0
