"""Requests are read in one way or not at all."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from socketproxy.request import MAX_HEAD_BYTES, Refusal, Request, parse

GET = b"GET /version HTTP/1.1\r\nHost: docker\r\n\r\n"
POST = b"POST /x HTTP/1.1\r\nContent-Length: 4\r\n\r\nbody"


def test_a_request_is_its_method_target_and_body() -> None:
    assert parse(GET, 10) == Request("GET", "/version", b"")
    assert parse(POST, 10) == Request("POST", "/x", b"body")
    assert parse(POST, 4) == Request("POST", "/x", b"body")


@pytest.mark.parametrize("whole", [GET, POST])
def test_until_its_end_there_is_none(whole: bytes) -> None:
    for size in range(len(whole)):
        assert parse(whole[:size], 10) is None


@pytest.mark.parametrize(
    ("received", "reason"),
    [
        (GET + b"x", "a single request"),
        (GET + GET, "a single request"),
        (POST + GET, "a single request"),
        (b"POST /x HTTP/1.1\r\n\r\nbody", "a single request"),
        (b"POST /x HTTP/1.1\r\nContent-Length: 11\r\n\r\n", "at most 10 bytes, got 11"),
        (b"POST /x HTTP/1.1\r\nContent-Length: 4\r\nContent-Length: 4\r\n\r\nbody", "one content-length"),
        (b"POST /x HTTP/1.1\r\nContent-Length: 4, 4\r\n\r\nbody", "one content-length"),
        (b"POST /x HTTP/1.1\r\nContent-Length: +4\r\n\r\nbody", "one content-length"),
        (b"POST /x HTTP/1.1\r\nContent-Length: 0x4\r\n\r\nbody", "one content-length"),
        (b"POST /x HTTP/1.1\r\nContent-Length:\r\n\r\n", "one content-length"),
        (b"POST /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "transfer-encoding"),
        (b"POST /x HTTP/1.1\r\nContent-Length: 4\r\ntransfer-encoding: x\r\n\r\nbody", "transfer-encoding"),
        (b"POST /x HTTP/1.1\r\nContent-Length : 4\r\n\r\nbody", "a name, a colon"),
        (b"POST /x HTTP/1.1\r\nA: b\r\n Content-Length: 4\r\n\r\nbody", "a name, a colon"),
        (b"GET /x HTTP/1.1\r\nA: b\nContent-Length: 4\r\n\r\n", "a name, a colon"),
        (b"GET /x HTTP/1.1\r\nA: b\rc\r\n\r\n", "a name, a colon"),
        (b"GET /x HTTP/1.1\r\nA: \x00\r\n\r\n", "a name, a colon"),
        (b"GET /x HTTP/1.1\r\nUpgrade: tcp\r\n\r\n", "upgrade"),
        (b"GET /x HTTP/1.1\r\nConnection: keep-alive, Upgrade\r\n\r\n", "connection"),
        (b"GET /x HTTP/1.1\r\nExpect: 100-continue\r\n\r\n", "expect"),
        (b"GET /x HTTP/1.0\r\n\r\n", "request line"),
        (b"GET /x\r\n\r\n", "request line"),
        (b"GET  /x HTTP/1.1\r\n\r\n", "request line"),
        (b"GET /x y HTTP/1.1\r\n\r\n", "request line"),
        (b"GET http://docker/x HTTP/1.1\r\n\r\n", "request line"),
        (b"get /x HTTP/1.1\r\n\r\n", "request line"),
        (b"GET /x\xff HTTP/1.1\r\n\r\n", "request line"),
        (b"\r\nGET /x HTTP/1.1\r\n\r\n", "request line"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "request line"),
        (b"GET /" + b"x" * MAX_HEAD_BYTES, "at most 8192 bytes"),
        (b"GET /x HTTP/1.1\r\nA: " + b"x" * MAX_HEAD_BYTES + b"\r\n\r\n", "at most 8192 bytes"),
    ],
)
def test_what_has_two_meanings_or_none_is_refused(received: bytes, reason: str) -> None:
    with pytest.raises(Refusal, match=reason):
        parse(received, 10)


@given(st.binary(max_size=200), st.sampled_from([b"", GET[:-2], POST[:-4], b"GET /x HTTP/1.1\r\nA: "]))
def test_any_bytes_are_a_request_or_refused(noise: bytes, before: bytes) -> None:
    try:
        request = parse(before + noise, 10)
    except Refusal:
        return
    assert request is None or (request.target.isprintable() and len(request.body) <= 10)
