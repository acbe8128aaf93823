"""Compressed requests: answered like others, and bounded by what they inflate to."""

import grpc
import numpy as np
import pytest

from tests import models, processes
from tests.inference import ask_triton, infer_request, output, rows, stub

BOTH = pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])

# What a message may inflate to is a hundredth of what this does, of which no more than a third may ever be in memory.
LIMIT_MIB, BOMB_MIB = 1, 96


@pytest.fixture(scope="module")
def worker(tmp_path_factory):
    directory = tmp_path_factory.mktemp("scale")
    model = models.scale(directory / "scale.onnx")
    with processes.worker(directory, model, server={"max_message_mib": LIMIT_MIB}) as worker:
        yield worker


@pytest.fixture(scope="module")
def service(worker):
    with grpc.insecure_channel(worker.address, [("grpc.max_send_message_length", -1)]) as channel:
        yield stub(channel)


@BOTH
def test_a_compressed_request_is_answered(service, compression):
    response = service.ModelInfer(infer_request("scale", rows(8)), compression=compression)
    np.testing.assert_array_equal(output(response), 2 * rows(8))


@pytest.mark.parametrize("compression", ["gzip", "deflate"])
def test_tritonclient(worker, compression):
    said = ask_triton(worker.address, "scale", compression=compression)
    assert said["y"] == (2 * rows(2)).tolist()


def peak_mib(pid):
    """The most memory that a process has ever had."""
    with open(f"/proc/{pid}/status") as status:
        fields = dict(line.split(":", 1) for line in status)
    return int(fields["VmHWM"].split()[0]) / 1024


@BOTH
def test_what_inflates_beyond_the_limit_is_refused_before_it_has(worker, service, compression):
    before = peak_mib(worker.process.popen.pid)
    bomb = infer_request("scale", np.zeros(BOMB_MIB << 18, np.float32))
    with pytest.raises(grpc.RpcError) as caught:
        service.ModelInfer(bomb, compression=compression)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert peak_mib(worker.process.popen.pid) - before < BOMB_MIB / 3
    response = service.ModelInfer(infer_request("scale", rows(1)))
    np.testing.assert_array_equal(output(response), 2 * rows(1))
