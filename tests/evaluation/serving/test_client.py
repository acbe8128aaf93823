import contextlib

import numpy as np
import pytest
from aiohttp import web

from evaluation.process import free_port
from evaluation.serving import client, subjects
from evaluation.serving.client import Unanswered
from evaluation.serving.recipes import Dialect
from protos import inference_pb2 as pb


@pytest.fixture(scope="module")
def payload(tmp_path_factory):
    return subjects.build(subjects.MLP, tmp_path_factory.mktemp("mlp")).payloads[0]


@contextlib.asynccontextmanager
async def http(answer):
    app = web.Application()
    app.router.add_post("/predict", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    address = f"127.0.0.1:{free_port()}"
    await web.TCPSite(runner, *address.split(":")).start()
    try:
        yield address
    finally:
        await runner.cleanup()


async def test_rows_go_out_as_bytes_and_answers_come_in_so(payload):
    async def answer(request):
        rows = np.frombuffer(await request.read(), np.float32)
        return web.Response(body=rows[:10].tobytes())

    async with http(answer) as address, client.connect(Dialect.HTTP, address) as way:
        found = way.decode(await way.infer(payload, 5.0))
        np.testing.assert_array_equal(found, payload.rows[0, :10])


async def test_an_error_over_http_is_no_answer(payload):
    async def answer(_request):
        return web.Response(status=503, text="busy")

    async with http(answer) as address, client.connect(Dialect.HTTP, address) as way:
        with pytest.raises(Unanswered, match="HTTP 503 busy") as caught:
            await way.infer(payload, 5.0)
        assert caught.value.status == "HTTP 503"


@pytest.mark.parametrize("dialect", [Dialect.GRPC, Dialect.HTTP])
async def test_nobody_there_is_no_answer(dialect, payload):
    async with client.connect(dialect, f"127.0.0.1:{free_port()}") as way:
        with pytest.raises(Unanswered):
            await way.infer(payload, 5.0)


async def test_answers_over_grpc_may_be_typed():
    async with client.connect(Dialect.GRPC, f"127.0.0.1:{free_port()}") as way:
        response = pb.ModelInferResponse()
        response.outputs.add(name="scores", datatype="FP32").contents.fp32_contents.extend([1.0, 2.0])
        assert way.decode(response.SerializeToString()).tolist() == [1.0, 2.0]
        response.raw_output_contents.append(np.float32([3.0]).tobytes())
        assert way.decode(response.SerializeToString()).tolist() == [3.0]


async def test_the_bare_loop_takes_no_requests():
    with pytest.raises(ValueError, match="expected a server that takes requests"):
        async with client.connect(Dialect.LOOP, "127.0.0.1:1"):
            pass
