"""Who may call what of the control plane's port: tokens that may read, and tokens that may write."""

import enum
from collections.abc import Callable, Container, Mapping
from pathlib import Path
from typing import Any

import grpc

from controlplane.config import Server
from core.handlers import refusal
from core.tokens import HEALTH, UNAUTHENTICATED, Tokens, brought


class Role(enum.Enum):
    """What a call takes."""

    NONE = enum.auto()  # no token; who may connect at all is for TLS to decide
    READ = enum.auto()
    WRITE = enum.auto()  # may read, too


ROLES: Mapping[str, Role] = {
    "/sponge.control.ControlPlane/Attach": Role.NONE,
    "/sponge.control.Admin/GetFleet": Role.READ,
    "/sponge.control.Admin/WatchDecisions": Role.READ,
    "/sponge.control.Admin/Explain": Role.READ,
    "/sponge.control.Admin/SetServicePolicy": Role.WRITE,
    "/sponge.control.Admin/Pause": Role.WRITE,
    "/sponge.control.Admin/Resume": Role.WRITE,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": Role.READ,
}


def required(method: str) -> Role:
    """What a call of `method`, by its full path, takes; health takes nothing, and what is not known takes most."""
    return Role.NONE if method.startswith(HEALTH) else ROLES.get(method, Role.WRITE)


class RoleGuard(grpc.GenericRpcHandler):
    """Answers calls whose token is not enough, and leaves all others to the handlers after it.

    `refused` hears with which status each call is answered here.
    """

    def __init__(
        self,
        may_read: Container[str],
        may_write: Container[str],
        refused: Callable[[grpc.StatusCode], None],
    ) -> None:
        self._may_read = may_read
        self._may_write = may_write
        self._refused = refused

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> "grpc.RpcMethodHandler[Any, Any] | None":
        """The refusal, None to let the call pass."""
        role = required(handler_call_details.method)
        if role is Role.NONE:
            return None
        token = brought(handler_call_details.invocation_metadata)
        if token in self._may_write:
            return None
        if token not in self._may_read:
            self._refused(grpc.StatusCode.UNAUTHENTICATED)
            return UNAUTHENTICATED
        if role is Role.READ:
            return None
        self._refused(grpc.StatusCode.PERMISSION_DENIED)
        return _READS_ONLY


_READS_ONLY = refusal(
    grpc.StatusCode.PERMISSION_DENIED,
    "authorization: expected a token that may write, got one that may only read",
)


def guard(server: Server, refused: Callable[[grpc.StatusCode], None]) -> RoleGuard | None:
    """By the tokens of the files that `server` names, None if it names none; raises FileError."""
    if not (server.admin_read_token_file or server.admin_write_token_file):
        return None
    return RoleGuard(
        _tokens("server.admin_read_token_file", server.admin_read_token_file),
        _tokens("server.admin_write_token_file", server.admin_write_token_file),
        refused,
    )


def _tokens(setting: str, name: str) -> Container[str]:
    return Tokens(Path(name), setting=setting) if name else ()
