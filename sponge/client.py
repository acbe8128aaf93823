"""A small client: numpy arrays in and out, and a deadline for every request."""

import struct
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
import numpy as np

from protos import inference_pb2 as pb
from protos import inference_pb2_grpc

Array = np.ndarray[Any, np.dtype[Any]]

# As elements travel in raw contents. BYTES is missing: its elements differ in length.
_DTYPES = {
    "BOOL": np.dtype("?"),
    "INT8": np.dtype("<i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "UINT8": np.dtype("<u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}

_CHANNEL_OPTIONS = (
    # Without it all channels of a process share one socket, whatever their number.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # A worker that restarts is back within a second; the default would look again after up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)


class InferenceError(Exception):
    """A request without an answer.

    `reason` is the worker's own word for why it did not serve the request (refused, queue_full, expired, …) and
    `predicted_s` the time in which an answer would have been ready; None where it does not say.
    """

    def __init__(
        self, code: grpc.StatusCode, text: str, reason: str | None = None, predicted_s: float | None = None
    ) -> None:
        super().__init__(code, text, reason, predicted_s)
        self.code = code
        self.text = text
        self.reason = reason
        self.predicted_s = predicted_s

    def __str__(self) -> str:
        return f"{self.code.name}: {self.text}"


class Client:
    """Of one server, for any number of threads.

    Each call has a connection to itself, kept for later calls: an upload behind another's on the same
    connection would lose time that no deadline knows of.
    """

    def __init__(
        self,
        address: str,
        credentials: grpc.ChannelCredentials | None = None,
        *,
        token: str | None = None,
    ) -> None:
        """`address` is host:port; without `credentials` (see `tls`) the connections are not encrypted.

        `token` goes with every request, for a worker with `server.token_file`.
        """
        self._address = address
        self._credentials = credentials
        self._authorization = (("authorization", f"Bearer {token}"),) if token else ()
        self._lock = threading.Lock()
        self._channels: set[grpc.Channel] = set()
        self._idle: list[grpc.Channel] = []
        self._closed = False

    def infer(
        self,
        inputs: Mapping[str, Array],
        *,
        model: str,
        timeout_s: float,
        grace_s: float = 0.0,
        priority: int = 0,
        id: str = "",  # noqa: A002  # the protocol's name for it
    ) -> dict[str, Array]:
        """Run `model` on `inputs` by name and give its outputs by name.

        The answer is wanted `timeout_s` from now, upload included; for `grace_s` after that a late one is still
        accepted, served behind all that can be on time. Under overload the lowest `priority` is refused
        first. Strings are arrays of str (or bytes, sent as they are) and come back as arrays of str; all
        other outputs are read-only.

        Raises InferenceError; ValueError for an array the protocol has no datatype for, and when closed.
        """
        request = _request(inputs, model, grace_s, priority, id)
        with self._channel() as channel:
            stub = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
            try:
                response = stub.ModelInfer(
                    request,
                    timeout=timeout_s + grace_s,
                    metadata=(("sent-s", f"{time.monotonic():.6f}"), *self._authorization),
                )
            except grpc.RpcError as error:
                raise _inference_error(error) from error
        return _outputs(response)

    def close(self) -> None:
        """Close all connections; calls under way raise InferenceError with CANCELLED."""
        with self._lock:
            self._closed = True
            channels = list(self._channels)
            self._channels.clear()
            self._idle.clear()
        for channel in channels:
            channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Client {self._address}, connections {len(self._channels)}, idle {len(self._idle)}>"

    @contextmanager
    def _channel(self) -> Iterator[grpc.Channel]:
        """A channel for the length of a call; the one used last is the likeliest to be connected."""
        with self._lock:
            if self._closed:
                raise ValueError("the client is closed")
            channel = self._idle.pop() if self._idle else self._open()
        try:
            yield channel
        finally:
            with self._lock:
                if not self._closed:
                    self._idle.append(channel)

    def _open(self) -> grpc.Channel:
        if self._credentials is None:
            channel = grpc.insecure_channel(self._address, _CHANNEL_OPTIONS)
        else:
            channel = grpc.secure_channel(self._address, self._credentials, _CHANNEL_OPTIONS)
        self._channels.add(channel)
        return channel


def tls(
    ca: str | PathLike[str] | None = None,
    certificate: str | PathLike[str] | None = None,
    key: str | PathLike[str] | None = None,
) -> grpc.ChannelCredentials:
    """Credentials of PEM files.

    `ca` holds who may have signed the server's certificate, None for the authorities that gRPC comes with;
    `certificate` and `key` are the client's own, for a worker with `server.tls.client_ca`. Raises OSError.
    """
    return grpc.ssl_channel_credentials(
        *(None if path is None else Path(path).read_bytes() for path in (ca, key, certificate))
    )


def _request(
    inputs: Mapping[str, Array], model: str, grace_s: float, priority: int, request_id: str
) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name=model, id=request_id)
    if grace_s:
        request.parameters["grace_ms"].double_param = 1000 * grace_s
    if priority:
        request.parameters["priority"].int64_param = priority
    for name, value in inputs.items():
        datatype, data = _encode(name, np.asarray(value))
        request.inputs.add(name=name, datatype=datatype, shape=np.shape(value))
        request.raw_input_contents.append(data)
    return request


def _encode(name: str, array: Array) -> tuple[str, bytes]:
    """Datatype and raw contents; `name` is for the error."""
    if array.dtype.kind in "OSU":
        elements = [value.encode() if isinstance(value, str) else value for value in array.flat]
        if not all(isinstance(element, bytes) for element in elements):
            raise ValueError(f"inputs[{name!r}]: expected str or bytes in an array of objects")
        return "BYTES", b"".join(struct.pack("<I", len(element)) + element for element in elements)
    dtype = array.dtype.newbyteorder("<")
    if dtype not in _NAMES:
        raise ValueError(f"inputs[{name!r}]: expected one of {', '.join(_NAMES.values())}, got {array.dtype}")
    return _NAMES[dtype], array.astype(dtype, copy=False).tobytes()


def _outputs(response: pb.ModelInferResponse) -> dict[str, Array]:
    try:
        contents = zip(response.outputs, response.raw_output_contents, strict=True)
        return {
            output.name: _decode(output.datatype, data).reshape(tuple(output.shape))
            for output, data in contents
        }
    except (ValueError, KeyError, struct.error) as error:
        text = f"the answer's raw_output_contents do not fit its outputs: {error}"
        raise InferenceError(grpc.StatusCode.INTERNAL, text) from error


def _decode(datatype: str, data: bytes) -> Array:
    """Raises KeyError for an unknown datatype, struct.error or ValueError for broken contents."""
    if datatype != "BYTES":
        return np.frombuffer(data, _DTYPES[datatype])
    elements = []
    start = 0
    while start < len(data):
        (length,) = struct.unpack_from("<I", data, start)
        start += 4 + length
        if start > len(data):
            raise ValueError("an element of BYTES is longer than what is left")
        elements.append(data[start - length : start].decode())
    return np.array(elements, object)


def _inference_error(error: grpc.RpcError) -> InferenceError:
    assert isinstance(error, grpc.Call)  # as all errors of a blocking call are
    trailers = dict(error.trailing_metadata() or ())
    reason, predicted_ms = trailers.get("sponge-reason"), trailers.get("sponge-predicted-ms")
    return InferenceError(
        error.code(),
        error.details() or "",
        None if reason is None else str(reason),
        None if predicted_ms is None else float(predicted_ms) / 1000,
    )
