"""A port that speaks TLS: who gets in, and what happens as its files change."""

from contextlib import asynccontextmanager

import grpc
import pytest
import structlog
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client import CollectorRegistry

from core.edge import Edge, ListenError
from core.files import FileError
from core.tls import ClientTls, channel_credentials
from tests.certificates import Identity

OURS, THEIRS = trustme.CA(), trustme.CA()

OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]


@asynccontextmanager
async def listening(tls):
    edge = Edge([], tls=tls)
    addresses = await edge.listen("127.0.0.1:0", "", CollectorRegistry())
    await edge.serve()
    try:
        yield addresses["listen"]
    finally:
        await edge.stop()


async def asked(channel):
    """OK, or the code of the failure."""
    try:
        await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


async def asked_anew(address, credentials):
    """The same over a connection of its own."""
    async with grpc.aio.secure_channel(address, credentials, OWN_CONNECTION) as channel:
        return await asked(channel)


def trusting(identity):
    """Credentials of a client that shows nothing."""
    return grpc.ssl_channel_credentials(identity.ca.read_bytes())


@pytest.fixture
def server(tmp_path):
    return Identity.issue(tmp_path / "server", OURS)


@pytest.fixture
def client(tmp_path):
    return Identity.issue(tmp_path / "client", OURS, "robot.test")


@pytest.fixture
def stranger(tmp_path):
    return Identity.issue(tmp_path / "stranger", THEIRS)


OK, UNAVAILABLE = grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE


async def test_who_trusts_the_certificate_gets_in(server, stranger):
    async with listening(server.tls()) as address:
        assert await asked_anew(address, trusting(server)) is OK
        assert await asked_anew(address, trusting(stranger)) is UNAVAILABLE
        async with grpc.aio.insecure_channel(address) as channel:
            assert await asked(channel) is UNAVAILABLE


async def test_with_a_client_ca_only_who_shows_a_certificate_of_it(server, client, stranger):
    async with listening(server.tls(client_ca=client.ca)) as address:
        assert await asked_anew(address, client.credentials()) is OK
        assert await asked_anew(address, trusting(server)) is UNAVAILABLE
        assert await asked_anew(address, stranger.credentials(server.ca)) is UNAVAILABLE


async def test_new_connections_go_by_new_files_and_old_ones_stay(server, stranger):
    async with listening(server.tls()) as address:
        old, new = trusting(server), trusting(stranger)
        async with grpc.aio.secure_channel(address, old, OWN_CONNECTION) as before:
            assert await asked(before) is OK
            Identity.issue(server.certificate.parent, THEIRS)
            assert await asked_anew(address, new) is OK
            assert await asked_anew(address, old) is UNAVAILABLE
            assert await asked(before) is OK


async def test_a_directory_that_a_link_leads_to_is_swapped(tmp_path, stranger):
    """As Kubernetes does with a secret."""
    Identity.issue(tmp_path / "first", OURS)
    link = tmp_path / "data"
    link.symlink_to("first")
    server = Identity(link / "tls.crt", link / "tls.key", link / "ca.crt")
    async with listening(server.tls()) as address:
        assert await asked_anew(address, trusting(server)) is OK
        Identity.issue(tmp_path / "second", THEIRS)
        (tmp_path / "next").symlink_to("second")
        (tmp_path / "next").replace(link)
        assert await asked_anew(address, trusting(stranger)) is OK


async def test_a_new_client_ca_locks_the_clients_of_the_old_one_out(server, client, stranger):
    async with listening(server.tls(client_ca=client.ca)) as address:
        shown = client.credentials(), stranger.credentials(server.ca)
        client.ca.write_bytes(stranger.ca.read_bytes())
        assert [await asked_anew(address, each) for each in shown] == [UNAVAILABLE, OK]


async def test_new_files_that_do_not_fit_leave_the_old_ones_in_force_and_are_logged_once(server, stranger):
    async with listening(server.tls()) as address:
        old, new = trusting(server), trusting(stranger)
        with structlog.testing.capture_logs() as lines:
            # Half of a rotation: the key is still the old one.
            server.certificate.write_bytes(stranger.certificate.read_bytes())
            for _ in range(3):
                assert await asked_anew(address, old) is OK
            assert [line["event"] for line in lines] == ["changed files refused"]
            assert lines[0]["problem"].startswith("server.tls.key: expected the private key of")
            server.certificate.unlink()
            assert await asked_anew(address, old) is OK
            assert "server.tls.certificate: expected a file" in lines[1]["problem"]
            server.certificate.write_bytes(stranger.certificate.read_bytes())
            server.key.write_bytes(stranger.key.read_bytes())
            assert await asked_anew(address, new) is OK
        assert [line["event"] for line in lines[2:]] == ["changed files read"]


def encrypted(key):
    encryption = BestAvailableEncryption(b"secret")
    return load_pem_private_key(key, None).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


KEY = OURS.issue_cert("other.test").private_key_pem.bytes()


@pytest.mark.parametrize(
    ("file", "content", "text"),
    [
        ("certificate", None, "expected a file, {path} cannot be read: No such file or directory"),
        ("key", None, "expected a file, {path} cannot be read: No such file or directory"),
        ("ca", None, "expected a file, {path} cannot be read: No such file or directory"),
        ("certificate", "ü".encode(), "expected certificates in PEM, {path} holds none"),
        ("ca", b"", "expected certificates in PEM, {path} holds none"),
        (
            "key",
            b"none",
            "expected the private key of server.tls.certificate, {form}; {path} is not: not PEM",
        ),
        ("key", KEY, "expected the private key of server.tls.certificate, {form}; {path} is not: KEY_VALUES"),
        (
            "key",
            encrypted(KEY),
            "expected the private key of server.tls.certificate, {form}; {path} is not: ",
        ),
    ],
)
async def test_files_that_cannot_be_used_are_named_by_key_and_path(server, file, content, text):
    path = getattr(server, file)
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    with pytest.raises(ListenError) as caught:
        Edge([], tls=server.tls(client_ca=server.ca))
    key = "client_ca" if file == "ca" else file
    text = text.format(path=path, form="in PEM and without a passphrase")
    assert str(caught.value).startswith(f"server.tls.{key}: {text}")


class TestOfAClient:
    """What a channel is opened with."""

    async def test_all_three_files_get_it_in_where_a_certificate_is_asked_for(self, server, client):
        async with listening(server.tls(client_ca=client.ca)) as address:
            assert await asked_anew(address, channel_credentials(client.client_tls())) is OK
            nobody = ClientTls(ca=str(client.ca))
            assert await asked_anew(address, channel_credentials(nobody)) is UNAVAILABLE
        async with listening(server.tls()) as address:
            assert await asked_anew(address, channel_credentials(nobody)) is OK

    async def test_an_authority_that_has_not_signed_the_server_does_not(self, server, stranger):
        async with listening(server.tls()) as address:
            others = channel_credentials(ClientTls(ca=str(stranger.ca)))
            assert await asked_anew(address, others) is UNAVAILABLE

    @pytest.mark.parametrize("prefix", ["control.tls.", "--"])
    @pytest.mark.parametrize("file", ["ca", "certificate", "key"])
    def test_files_that_cannot_be_read_are_named_by_key_and_path(self, client, prefix, file):
        path = getattr(client, file)
        path.unlink()
        with pytest.raises(FileError) as caught:
            channel_credentials(client.client_tls(), prefix)
        text = f"expected a file, {path} cannot be read: No such file or directory"
        assert str(caught.value) == f"{prefix}{file}: {text}"

    def test_a_key_of_another_certificate_is_named(self, client, stranger):
        client.key.write_bytes(stranger.key.read_bytes())
        with pytest.raises(FileError, match=r"^control\.tls\.key: expected the private key of control\."):
            channel_credentials(client.client_tls())

    @pytest.mark.parametrize(
        ("given", "missing"), [("certificate", "key"), ("key", "certificate")], ids=["key", "certificate"]
    )
    def test_half_an_identity_is_none(self, client, given, missing):
        half = ClientTls(**{given: str(getattr(client, given))})
        with pytest.raises(FileError) as caught:
            channel_credentials(half)
        assert str(caught.value) == f"control.tls.{missing}: expected a file beside control.tls.{given}"
