"""Bearer tokens: who may call, decided when the header is there and before the body is read."""

import hashlib
import hmac
import re
import time
from collections.abc import Callable, Container, Iterable
from pathlib import Path
from typing import Any

import grpc

from core.files import FileError, Reloaded, contents
from core.handlers import refusal

_LOOK_S = 1.0  # how often the file is looked at, at most
_TOKEN = re.compile(rb"[A-Za-z0-9._~+/-]+=*")  # RFC 6750, section 2.1
HEALTH = "/grpc.health.v1.Health/"  # what its methods begin with
_SCHEME = "bearer"


class Tokens(Container[str]):
    """The tokens of a file, one a line; lines that are empty or begin with # are none.

    The file is read anew within a second of a change. Raises FileError, which names the key `setting`, if it cannot
    be used at first.
    """

    def __init__(
        self,
        path: Path,
        clock: Callable[[], float] = time.monotonic,
        *,
        setting: str = "server.token_file",
    ) -> None:
        self._digests = Reloaded(lambda: [_digest(token) for token in _read(setting, path)], path)
        self._clock = clock
        self._looked_at = clock()

    def __contains__(self, token: object) -> bool:
        now = self._clock()
        if now - self._looked_at >= _LOOK_S:
            self._looked_at = now
            self._digests.reload()
        # Of equal length and all compared in full: the time it takes tells nothing of the tokens.
        digest = _digest(str(token).encode(errors="replace"))
        return True in [hmac.compare_digest(digest, known) for known in self._digests.value]


class Guard(grpc.GenericRpcHandler):
    """Answers calls that bring none of `tokens`, and leaves all others to the handlers after it.

    Health is open: probes bring no token. `refused` hears of each call that is answered here.
    """

    def __init__(self, tokens: Container[str], refused: Callable[[], None]) -> None:
        self._tokens = tokens
        self._refused = refused

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> "grpc.RpcMethodHandler[Any, Any] | None":
        """The refusal, None to let the call pass."""
        if handler_call_details.method.startswith(HEALTH):
            return None
        if brought(handler_call_details.invocation_metadata) in self._tokens:
            return None
        self._refused()
        return UNAUTHENTICATED


def first(setting: str, path: Path) -> str:
    """The first token of a file, for one who calls; raises FileError that names the key `setting`."""
    return _read(setting, path)[0].decode("ascii")


def brought(metadata: Iterable[tuple[str, str | bytes]]) -> str:
    """The bearer token of a call, "" if it brings none."""
    for key, value in metadata:
        if key == "authorization":
            scheme, _, token = str(value).partition(" ")
            return token if scheme.lower() == _SCHEME else ""
    return ""


UNAUTHENTICATED = refusal(grpc.StatusCode.UNAUTHENTICATED, "authorization: expected Bearer and a valid token")


def _read(setting: str, path: Path) -> list[bytes]:
    tokens = []
    for number, line in enumerate(contents(setting, path).splitlines(), 1):
        token = line.strip()
        if not token or token.startswith(b"#"):
            continue
        if not _TOKEN.fullmatch(token):
            raise FileError(
                f"{setting}: expected a token of letters, digits and -._~+/ a line;"
                f" line {number} of {path} is none"
            )
        tokens.append(token)
    if not tokens:
        raise FileError(f"{setting}: expected at least one token, {path} holds none")
    return tokens


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()
