"""Bearer tokens: which are taken, and what a call without one is told."""

from contextlib import asynccontextmanager

import grpc
import pytest
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from prometheus_client import CollectorRegistry

from core.edge import Edge, ListenError
from core.tokens import Tokens


class Clock:
    """Stands still until it is set."""

    def __init__(self):
        self.now = 1.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "tokens"
    path.write_text("# robots\n  abc-._~+/1==  \n\nsecond\r\n")
    return path


class TestTokens:
    def test_are_the_lines_of_the_file(self, path, clock):
        tokens = Tokens(path, clock)
        assert "abc-._~+/1==" in tokens
        assert "second" in tokens
        for other in ("", "# robots", "robots", "abc", "abc-._~+/1", "secondd", "SECOND", "sécond", "\udcff"):
            assert other not in tokens

    def test_a_change_counts_a_second_after_the_last_look(self, path, clock):
        tokens = Tokens(path, clock)
        path.write_text("third")
        clock.now = 1.9
        assert "second" in tokens
        assert "third" not in tokens
        clock.now = 2.0
        assert "third" in tokens
        assert "second" not in tokens

    @pytest.mark.parametrize("content", [None, "", "# none\n", "two words\n"])
    def test_a_file_that_cannot_be_used_any_more_leaves_the_old_ones_and_is_logged_once(
        self, path, clock, content
    ):
        tokens = Tokens(path, clock)
        path.unlink()
        if content is not None:
            path.write_text(content)
        with structlog.testing.capture_logs() as lines:
            for clock.now in (2.0, 3.0, 4.0):
                assert "second" in tokens
        assert [line["event"] for line in lines] == ["changed files refused"]
        assert lines[0]["problem"].startswith("server.token_file: expected")
        assert "two words" not in str(lines)
        path.write_text("third")
        clock.now = 5.0
        assert "third" in tokens

    @pytest.mark.parametrize(
        ("content", "text"),
        [
            (None, "expected a file, {path} cannot be read: No such file or directory"),
            (b"", "expected at least one token, {path} holds none"),
            (b"# a comment\n\n", "expected at least one token, {path} holds none"),
            (b"good\nBearer x\n", "expected a token of letters, digits and -._~+/ a line; line 2 of {path} is none"),
            (b"\xff\xfe", "expected a token of letters, digits and -._~+/ a line; line 1 of {path} is none"),
        ],
    )  # fmt: skip
    def test_a_file_that_cannot_be_used_is_named_by_key_and_path(self, tmp_path, content, text):
        path = tmp_path / "tokens"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(ListenError) as caught:
            Edge([], token_file=str(path))
        assert str(caught.value) == f"server.token_file: {text.format(path=path)}"


METHOD = "/test.Service/Call"
GOOD = "Bearer second"


class Listening:
    """An edge whose one method echoes, with tokens."""

    def __init__(self):
        self.called = 0
        self.refused = 0

    async def echo(self, request, _context):
        self.called += 1
        return request

    def refuse(self):
        self.refused += 1


@pytest.fixture
def service():
    return Listening()


@asynccontextmanager
async def channel_to(service, path, listen="127.0.0.1:0"):
    edge = Edge(["test.Service"], token_file=str(path), unauthenticated=service.refuse)
    handlers = {"Call": grpc.unary_unary_rpc_method_handler(service.echo)}
    edge.server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Service", handlers),))
    addresses = await edge.listen(listen, "", CollectorRegistry())
    await edge.serve()
    try:
        async with grpc.aio.insecure_channel(addresses["listen"]) as channel:
            yield channel
    finally:
        await edge.stop()


async def error_of(call):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details()


REFUSED = (grpc.StatusCode.UNAUTHENTICATED, "authorization: expected Bearer and a valid token")


@pytest.mark.parametrize("value", [GOOD, "bearer second", "Bearer abc-._~+/1=="])
async def test_a_call_with_a_token_is_answered(service, path, value):
    async with channel_to(service, path) as channel:
        assert await channel.unary_unary(METHOD)(b"x", metadata=[("authorization", value)]) == b"x"
    assert service.refused == 0


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        [("authorization", "")],
        [("authorization", "Bearer")],
        [("authorization", "Bearer ")],
        [("authorization", "second")],
        [("authorization", "Basic second")],
        [("authorization", "Bearer secon")],
        [("authorization", "Bearer second third")],
        [("authorization", "Bearer third"), ("authorization", GOOD)],
        [("token", GOOD)],
    ],
)
async def test_any_other_is_told_the_same(service, path, metadata):
    async with channel_to(service, path) as channel:
        assert await error_of(channel.unary_unary(METHOD)(b"x", metadata=metadata)) == REFUSED
    assert (service.called, service.refused) == (0, 1)


async def test_a_stranger_does_not_learn_which_methods_there_are(service, path):
    async with channel_to(service, path) as channel:
        unknown = channel.unary_unary("/test.Service/Other")
        assert await error_of(unknown(b"")) == REFUSED
        code, _ = await error_of(unknown(b"", metadata=[("authorization", GOOD)]))
        assert code is grpc.StatusCode.UNIMPLEMENTED


async def test_the_refusal_does_not_wait_for_the_body(service, path):
    async with channel_to(service, path) as channel:
        call = channel.stream_unary(METHOD)()  # sends its header, and never a message
        assert await error_of(call) == REFUSED


async def test_health_is_open_and_reflection_is_not(service, path):
    async with channel_to(service, path) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        request = health_pb2.HealthCheckRequest(service="test.Service")
        assert (await health.Check(request)).status == health_pb2.HealthCheckResponse.SERVING
        assert (await health.Watch(request).read()).status == health_pb2.HealthCheckResponse.SERVING
        reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
        requests = [reflection_pb2.ServerReflectionRequest(list_services="")]
        assert await error_of(reflection.ServerReflectionInfo(iter(requests)).read()) == REFUSED
        admitted = reflection.ServerReflectionInfo(iter(requests), metadata=[("authorization", GOOD)])
        assert (await admitted.read()).list_services_response.service


@pytest.mark.parametrize(("listen", "warned"), [("127.0.0.1:0", 0), ("localhost:0", 0), ("0.0.0.0:0", 1)])
async def test_tokens_in_the_clear_are_warned_of_where_others_may_listen(service, path, listen, warned):
    with structlog.testing.capture_logs() as lines:
        async with channel_to(service, path, listen):
            pass
    assert [line["log_level"] for line in lines] == warned * ["warning"]
