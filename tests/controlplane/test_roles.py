"""Which token may call what, by the method alone."""

import enum
from collections import Counter, namedtuple

import pytest
import structlog
from prometheus_client import CollectorRegistry

from controlplane.config import Server
from controlplane.roles import ROLES, Role, RoleGuard, guard, required
from core.edge import Edge
from core.files import FileError
from protos import control_pb2

Details = namedtuple("Details", ["method", "invocation_metadata"])


class Verdict(enum.Enum):
    """What becomes of a call."""

    PASSES = enum.auto()
    UNAUTHENTICATED = enum.auto()
    PERMISSION_DENIED = enum.auto()


def judged(may_read, may_write, method, token):
    """What a guard makes of a call, and that it counts what it refuses and nothing else."""
    refused = Counter()
    bearer = [("authorization", f"Bearer {token}")] if token else []
    tried = RoleGuard(may_read, may_write, lambda code: refused.update([code]))
    answered = tried.service(Details(method, bearer)) is not None
    assert refused.total() == answered
    return Verdict[next(iter(refused)).name] if answered else Verdict.PASSES


def test_every_method_of_the_protocol_has_a_role_and_nothing_else_has():
    """A new method fails here until somebody has decided who may call it."""
    methods = {
        f"/{service.full_name}/{method.name}"
        for service in control_pb2.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }
    assert {method for method in ROLES if method.startswith("/sponge.")} == methods


def test_what_is_not_known_takes_most_and_health_nothing():
    assert required("/sponge.control.Admin/Another") is Role.WRITE
    assert required("/other.Service/Call") is Role.WRITE
    assert required("/grpc.health.v1.Health/Watch") is Role.NONE
    assert required("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo") is Role.READ


READ, WRITE, NONE = (
    "/sponge.control.Admin/GetFleet",
    "/sponge.control.Admin/Pause",
    "/sponge.control.ControlPlane/Attach",
)


@pytest.mark.parametrize(
    ("token", "method", "verdict"),
    [
        ("", NONE, Verdict.PASSES),
        ("", READ, Verdict.UNAUTHENTICATED),
        ("", WRITE, Verdict.UNAUTHENTICATED),
        ("other", NONE, Verdict.PASSES),
        ("other", READ, Verdict.UNAUTHENTICATED),
        ("other", WRITE, Verdict.UNAUTHENTICATED),
        ("r", READ, Verdict.PASSES),
        ("r", WRITE, Verdict.PERMISSION_DENIED),
        ("w", READ, Verdict.PASSES),
        ("w", WRITE, Verdict.PASSES),
    ],
)
def test_a_token_that_writes_may_read_and_not_the_other_way_round(token, method, verdict):
    assert judged(["r"], ["w"], method, token) is verdict


def test_with_tokens_of_one_role_only_nothing_becomes_open():
    assert judged(["r"], [], WRITE, "r") is Verdict.PERMISSION_DENIED
    assert judged([], ["w"], READ, "") is Verdict.UNAUTHENTICATED
    assert judged([], ["w"], READ, "w") is Verdict.PASSES
    # Who brings no token has "" for one.
    assert judged([], [], READ, "") is Verdict.UNAUTHENTICATED


def nobody(code):
    raise AssertionError(f"refused: {code}")


def test_without_a_file_there_is_no_guard():
    assert guard(Server(), nobody) is None


@pytest.mark.parametrize("key", ["admin_read_token_file", "admin_write_token_file"])
def test_a_file_that_cannot_be_used_is_named_by_its_key(tmp_path, key):
    path = tmp_path / "tokens"
    with pytest.raises(FileError, match=rf"^server\.{key}: expected a file, .* cannot be read"):
        guard(Server(**{key: str(path)}), nobody)
    path.write_text("two words")
    with pytest.raises(FileError, match=rf"^server\.{key}: expected a token of letters"):
        guard(Server(**{key: str(path)}), nobody)


@pytest.mark.parametrize(("listen", "warned"), [("127.0.0.1:0", 0), ("0.0.0.0:0", 1)])
async def test_tokens_in_the_clear_are_warned_of_where_others_may_listen(listen, warned):
    edge = Edge([], guard=RoleGuard(["r"], ["w"], nobody))
    with structlog.testing.capture_logs() as lines:
        try:
            await edge.listen(listen, "", CollectorRegistry())
        finally:
            await edge.stop()
    assert [line["log_level"] for line in lines] == warned * ["warning"]
