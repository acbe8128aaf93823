"""One worker that wants TLS, a client's certificate and a token, and clients that have them or not."""

import subprocess
import sys
from pathlib import Path

import grpc
import numpy as np
import pytest
import trustme

from protos import inference_pb2 as pb
from sponge.client import Client, InferenceError, tls
from tests import models, processes
from tests.certificates import Identity
from tests.inference import ask_triton, infer_request, output, rows, stub
from tests.processes import connect, eventually

TOKEN = "first-token"

BEARER = [("authorization", f"Bearer {TOKEN}")]
UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture(scope="module")
def client(tmp_path_factory, authority):
    return Identity.issue(tmp_path_factory.mktemp("client"), authority, "robot.test")


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("worker")


@pytest.fixture(scope="module")
def worker(directory, authority, client):
    """Its files are named as they lie beside its worker.toml."""
    Identity.issue(directory, authority)
    (directory / "tokens").write_text(TOKEN)
    server = {
        "token_file": "tokens",
        "tls": {"certificate": "tls.crt", "key": "tls.key", "client_ca": "ca.crt"},
    }
    model = models.scale(directory / "scale.onnx")
    with processes.worker(directory, model, server=server, credentials=client.credentials()) as worker:
        yield worker


@pytest.fixture
def service(worker, client):
    with connect(worker.address, client.credentials()) as channel:
        yield stub(channel)


def code_of(call, *arguments, **options):
    with pytest.raises(grpc.RpcError) as caught:
        call(*arguments, **options)
    return caught.value.code()


def refused(service, request, metadata):
    """Whether it is refused for want of a token."""
    try:
        service.ModelInfer(request, metadata=metadata)
    except grpc.RpcError as error:
        return error.code() is UNAUTHENTICATED
    return False


def unauthenticated(worker):
    return worker.metrics()["sponge_worker_unauthenticated_total"]


def test_with_both_it_answers(service):
    response = service.ModelInfer(infer_request("scale", rows(2)), metadata=BEARER)
    np.testing.assert_array_equal(output(response), 2 * rows(2))
    assert service.ServerReady(pb.ServerReadyRequest(), metadata=BEARER).ready


def test_without_a_certificate_there_is_no_connection(worker, client):
    for credentials in (grpc.ssl_channel_credentials(client.ca.read_bytes()), None):
        with connect(worker.address, credentials) as channel:
            call = stub(channel).ServerLive
            code = code_of(call, pb.ServerLiveRequest(), metadata=BEARER)
            assert code is grpc.StatusCode.UNAVAILABLE


def test_without_a_token_it_is_refused_counted_and_no_request(worker, service):
    before, headers = unauthenticated(worker), worker.metrics()["sponge_worker_headers_total"]
    lines = len(worker.process.events())
    assert code_of(service.ModelInfer, infer_request("scale", rows(2))) is UNAUTHENTICATED
    assert code_of(service.ServerLive, pb.ServerLiveRequest()) is UNAUTHENTICATED
    assert unauthenticated(worker) == before + 2
    assert worker.metrics()["sponge_worker_headers_total"] == headers
    assert len(worker.process.events()) == lines


def test_sponge_client(worker, client):
    credentials = tls(client.ca, client.certificate, client.key)
    x = {"x": rows(2)}
    with Client(worker.address, credentials, token=TOKEN) as known:
        np.testing.assert_array_equal(known.infer(x, model="scale", timeout_s=30)["y"], 2 * rows(2))
    with Client(worker.address, credentials) as unknown, pytest.raises(InferenceError) as caught:
        unknown.infer(x, model="scale", timeout_s=30)
    assert caught.value.code is UNAUTHENTICATED


def test_tritonclient(worker, client):
    options = {
        "ssl": True,
        "root_certificates": str(client.ca),
        "private_key": str(client.key),
        "certificate_chain": str(client.certificate),
    }
    headers = {"authorization": f"Bearer {TOKEN}"}
    said = ask_triton(worker.address, "scale", client=options, headers=headers)
    assert said["ready"]
    assert said["y"] == (2 * rows(2)).tolist()


def test_tokens_change_while_it_runs(directory, service):
    """The new one is let in and the old one no more, after both were."""
    request, new = infer_request("scale", rows(1)), [("authorization", "Bearer new")]

    def admitted():
        return [each for each in (BEARER, new) if not refused(service, request, each)]

    assert admitted() == [BEARER]
    (directory / "tokens").write_text(f"{TOKEN}\nnew\n")
    eventually(admitted, lambda them: them == [BEARER, new])
    (directory / "tokens").write_text("new\n")
    eventually(admitted, lambda them: them == [new])
    (directory / "tokens").write_text(TOKEN)
    eventually(admitted, lambda them: them == [BEARER])


def test_the_health_check_of_the_images(worker, client):
    """It needs a certificate where all do, and no token."""
    script = Path(__file__).parents[1] / "deploy/healthcheck.py"
    port = worker.address.rpartition(":")[2]

    def check(*arguments):
        command = [sys.executable, "-IS", script, port, *arguments]
        return subprocess.run(command, capture_output=True, timeout=60).returncode

    assert check("tls", client.certificate, client.key) == 0
    assert check("tls") == 1
    assert check() == 1
