"""A control plane that wants certificates and tokens of two roles, a worker attached to it, and who else may ask."""

import json

import grpc
import pytest
import trustme

from core.access import Access
from protos import control_pb2 as pb
from protos import control_pb2_grpc
from sponge.__main__ import main
from tests import models, processes
from tests.certificates import Identity
from tests.planes import control
from tests.processes import LOOPBACK, PATIENCE_S, Process, eventually, write_toml

READER, WRITER = "may-read", "may-write"
TLS = {"certificate": "tls.crt", "key": "tls.key"}
OK, UNAVAILABLE = grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE
UNAUTHENTICATED, PERMISSION_DENIED = grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED

READS = {
    "GetFleet": pb.GetFleetRequest(),
    "WatchDecisions": pb.WatchDecisionsRequest(past=1),
    "Explain": pb.ExplainRequest(service="scale"),
}
WRITES = {
    "SetServicePolicy": pb.SetServicePolicyRequest(service="scale", weight=2),
    "Pause": pb.PauseRequest(),
    "Resume": pb.ResumeRequest(),
}


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture(scope="module")
def client(tmp_path_factory, authority):
    return Identity.issue(tmp_path_factory.mktemp("client"), authority, "operator.test")


@pytest.fixture(scope="module")
def home(tmp_path_factory, authority):
    """Where the control plane has its files, as they are named in its control.toml."""
    home = tmp_path_factory.mktemp("control")
    Identity.issue(home, authority)
    (home / "readers").write_text(READER)
    (home / "writers").write_text(WRITER)
    return home


@pytest.fixture(scope="module")
def plane(home, client):
    server = {
        "admin_read_token_file": "readers",
        "admin_write_token_file": "writers",
        "tls": {**TLS, "client_ca": "ca.crt"},
    }
    # What it gives the worker whatever the load, which comes with less: so there is a decision.
    policy = {"min_millicores": 1500, "max_millicores": 1500}
    access = Access.by(client.credentials(), READER)
    sections = {"host": {"millicores": 4000}, "planner": {"interval_s": 0.2}, "services": {"scale": policy}}
    with control(home, access=access, server=server, **sections) as plane:
        yield plane


@pytest.fixture(scope="module")
def worker(tmp_path_factory, plane, authority):
    """Shows its certificate, and brings no token."""
    directory = tmp_path_factory.mktemp("worker")
    Identity.issue(directory, authority, "worker.test")
    section = {"address": plane.address, "report_interval_ms": 50, "tls": {**TLS, "ca": "ca.crt"}}
    with processes.worker(directory, models.scale(directory / "scale.onnx"), control=section) as worker:
        eventually(plane.worker, lambda found: found is not None and found.state == "serving")
        yield worker


def asked(method, plane, access):
    """OK once a method of the admin service answers, else how it refuses and with which text; by a new connection."""
    with access.channel(plane.address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        call = getattr(control_pb2_grpc.AdminStub(channel), method)
        try:
            answer = call((READS | WRITES)[method], timeout=PATIENCE_S, metadata=access.metadata)
            if method == "WatchDecisions":
                next(answer)
        except grpc.RpcError as error:
            return error.code(), error.details()
    return OK, ""


def attaching(plane, access):
    """How a worker that says nothing of itself is refused: INVALID_ARGUMENT if it is listened to."""
    report = pb.Report(hello=pb.Hello(worker_id="w"))
    with access.channel(plane.address) as channel, pytest.raises(grpc.RpcError) as refusal:
        next(control_pb2_grpc.ControlPlaneStub(channel).Attach(iter([report]), timeout=PATIENCE_S))
    return refusal.value.code()


def refused(plane, status):
    return plane.metrics()[f'sponge_control_calls_refused_total{{status="{status}"}}']


@pytest.mark.usefixtures("worker")
def test_a_worker_attaches_with_a_certificate_and_no_token(plane, client):
    assert plane.worker().service == "scale"
    assert attaching(plane, Access(client.credentials())) is grpc.StatusCode.INVALID_ARGUMENT


def test_without_a_certificate_nobody_attaches_or_asks(plane, client, tmp_path):
    stranger = Identity.issue(tmp_path, trustme.CA(), "stranger.test")
    shown_nothing = grpc.ssl_channel_credentials(client.ca.read_bytes())
    for credentials in (shown_nothing, stranger.credentials(client.ca), None):
        assert attaching(plane, Access(credentials)) is UNAVAILABLE
        code, _ = asked("GetFleet", plane, Access.by(credentials, WRITER))
        assert code is UNAVAILABLE


def test_a_server_that_another_authority_has_signed_is_not_asked(plane, client, tmp_path):
    other = Identity.issue(tmp_path, trustme.CA())
    code, _ = asked("GetFleet", plane, Access.by(client.credentials(other.ca), READER))
    assert code is UNAVAILABLE


def test_the_calls_are_all_there_are():
    admin = pb.DESCRIPTOR.services_by_name["Admin"]
    assert {method.name for method in admin.methods} == READS.keys() | WRITES.keys()


@pytest.mark.usefixtures("worker")
def test_who_brings_no_valid_token_is_told_so_and_counted(plane, client):
    before = refused(plane, "unauthenticated")
    told = (UNAUTHENTICATED, "authorization: expected Bearer and a valid token")
    for method in READS | WRITES:
        for token in ("", "other"):
            assert asked(method, plane, Access.by(client.credentials(), token)) == told
    assert refused(plane, "unauthenticated") == before + 2 * len(READS | WRITES)


@pytest.mark.usefixtures("worker")
def test_a_token_that_reads_does_not_write(plane, client):
    before = refused(plane, "permission_denied")
    access = Access.by(client.credentials(), READER)
    text = "authorization: expected a token that may write, got one that may only read"
    assert {method: asked(method, plane, access) for method in READS} == dict.fromkeys(READS, (OK, ""))
    for method in WRITES:
        assert asked(method, plane, access) == (PERMISSION_DENIED, text)
    assert refused(plane, "permission_denied") == before + len(WRITES)
    assert not plane.fleet().paused


@pytest.mark.usefixtures("worker")
def test_a_token_that_writes_does_everything(plane, client):
    access = Access.by(client.credentials(), WRITER)
    for method in READS | WRITES:
        assert asked(method, plane, access) == (OK, "")
    assert asked("Pause", plane, access) == (OK, "")
    assert plane.fleet().paused
    assert asked("Resume", plane, access) == (OK, "")
    assert not plane.fleet().paused


def test_tokens_change_while_it_runs(plane, home, client):
    """One that may only read may write from then on, and then not even read."""
    access = Access.by(client.credentials(), "promoted")

    def codes():
        return [asked(method, plane, access)[0] for method in ("GetFleet", "Resume")]

    assert codes() == [UNAUTHENTICATED, UNAUTHENTICATED]
    (home / "readers").write_text(f"{READER}\npromoted\n")
    eventually(codes, lambda found: found == [OK, PERMISSION_DENIED])
    (home / "writers").write_text(f"{WRITER}\npromoted\n")
    eventually(codes, lambda found: found == [OK, OK])
    (home / "readers").write_text(READER)
    (home / "writers").write_text(WRITER)
    eventually(codes, lambda found: found == [UNAUTHENTICATED, UNAUTHENTICATED])


@pytest.mark.usefixtures("worker")
class TestCommands:
    """What people run, with what the control plane asks for and without."""

    @pytest.fixture
    def flags(self, plane, client, home):
        return [
            *("--control", plane.address),
            *("--ca", str(client.ca), "--certificate", str(client.certificate), "--key", str(client.key)),
            *("--token-file", str(home / "readers")),
        ]

    def test_top(self, flags, capsys):
        assert main(["top", "--once", *flags]) == 0
        assert "scale" in capsys.readouterr().out
        assert main(["top", "--once", *flags[:-2]]) == 1
        assert "UNAUTHENTICATED: authorization: expected Bearer" in capsys.readouterr().out

    def test_explain(self, flags, capsys):
        assert main(["explain", "scale", "--json", *flags]) == 0
        assert json.loads(capsys.readouterr().out)["explanations"][0]["service"] == "scale"
        assert main(["explain", "scale", *flags[:-2]]) == 2
        assert "UNAUTHENTICATED: authorization: expected Bearer" in capsys.readouterr().err

    @pytest.mark.parametrize("flag", ["--token-file", "--ca", "--certificate", "--key"])
    def test_a_file_that_cannot_be_read_is_one_line_that_names_the_flag(self, flags, flag, tmp_path, capsys):
        path = str(tmp_path / "absent")
        flags[flags.index(flag) + 1] = path
        for command in (["top", "--once"], ["explain", "scale"], ["traffic"]):
            assert main([*command, *flags]) == 2
            text = f"{flag}: expected a file, {path} cannot be read: No such file or directory"
            assert capsys.readouterr().err == f"sponge: {text}\n"


def test_certificates_change_while_it_runs(tmp_path):
    """New connections go by the new ones."""
    ours, theirs = trustme.CA(), trustme.CA()

    def trusting(authority):
        return Access(grpc.ssl_channel_credentials(authority.cert_pem.bytes()))

    Identity.issue(tmp_path, ours)
    with control(tmp_path, access=trusting(ours), server={"tls": TLS}) as plane:
        assert [asked("GetFleet", plane, trusting(each))[0] for each in (ours, theirs)] == [OK, UNAVAILABLE]
        Identity.issue(tmp_path, theirs)
        assert [asked("GetFleet", plane, trusting(each))[0] for each in (ours, theirs)] == [UNAVAILABLE, OK]


def ended(directory, module, **sections):
    """What a plane says that ends with exit code 2 at once."""
    config = write_toml(directory / "plane.toml", sections)
    process = Process.start(module, "--config", config, log=directory / "plane.log")
    assert process.wait() == 2
    [line] = process.log.read_text().splitlines()
    assert line.startswith(f"{config}: ")
    return line.removeprefix(f"{config}: ")


@pytest.mark.parametrize("key", ["certificate", "key", "client_ca"])
def test_a_control_plane_whose_certificates_are_missing(tmp_path, key):
    Identity.issue(tmp_path, trustme.CA())
    server = {"listen": f"{LOOPBACK}:0", "tls": {**TLS, "client_ca": "ca.crt", key: "absent"}}
    text = ended(tmp_path, "controlplane", server=server, actuator={"kind": "threads"})
    assert text.startswith(f"server.tls.{key}: expected a file, {tmp_path / 'absent'} cannot be read: ")


@pytest.mark.parametrize("key", ["admin_read_token_file", "admin_write_token_file"])
def test_a_control_plane_whose_tokens_are_none(tmp_path, key):
    (tmp_path / "tokens").write_text("# nobody\n")
    server = {"listen": f"{LOOPBACK}:0", key: "tokens"}
    text = ended(tmp_path, "controlplane", server=server, actuator={"kind": "threads"})
    assert text == f"server.{key}: expected at least one token, {tmp_path / 'tokens'} holds none"


@pytest.mark.parametrize("key", ["ca", "certificate", "key"])
def test_a_worker_whose_files_for_the_control_plane_are_missing(tmp_path, key):
    Identity.issue(tmp_path, trustme.CA())
    tls = {**TLS, "ca": "ca.crt", key: "absent"}
    text = ended(
        tmp_path,
        "dataplane",
        model={"path": models.scale(tmp_path / "scale.onnx")},
        service={"slo_ms": 100},
        control={"address": f"{LOOPBACK}:1", "tls": tls},
    )
    assert text.startswith(f"control.tls.{key}: expected a file, {tmp_path / 'absent'} cannot be read: ")
