"""Bodies into everything that a worker does with one before it is queued, and after."""

import faulthandler
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field

import numpy as np
from google.protobuf.message import DecodeError

from dataplane import message
from dataplane.datatypes import to_raw
from dataplane.deadline import Policy
from dataplane.inference import Inference
from dataplane.refusal import Refusal
from dataplane.request import Completion, Outcome, Request
from dataplane.served import Model, Served, State
from dataplane.statistics import Statistics
from dataplane.tensors import ModelSignature
from dataplane.worker import Answer, Unanswered
from protos import inference_pb2 as pb
from tests.fuzz import texts
from tests.fuzz.bodies import MAX_ROWS, Bodies
from tests.fuzz.memory import rss_mib

# What gRPC may say is left of a deadline.
_REMAINING_S = (None, 1.0, 1e-9, 0.0, -1.0, 1e18)
_HANG_S = 60
_MAX_TYPED_BYTES = 4096
# Caches fill up meanwhile.
_WARM_UP = 0.05
_MAX_GROWTH_MIB = 16


class FakeWorker:
    """Answers at once, with ones, what is not late; remembers the request."""

    def __init__(self, signature: ModelSignature) -> None:
        self._signature = signature
        self.asked: Request | None = None

    async def infer(self, request: Request) -> Answer:
        self.asked = request
        if request.expires_at <= 0:
            raise Unanswered(Outcome.REFUSED, 0.001)
        outputs = {
            spec.name: np.full(
                [request.rows, *[1] * len(spec.shape[1:])] if spec.shape else [],
                "1" if spec.datatype == "BYTES" else 1,
                spec.dtype,
            )
            for spec in self._signature.outputs
        }
        return Answer(outputs, Completion(Outcome.ON_TIME, request.rows, 0.0, 1.0, started_at=0.5))


class Target:
    """A worker of one model, without its queue and engine. `max_slo_s` is None where clients are believed."""

    def __init__(self, signature: ModelSignature) -> None:
        self.worker = FakeWorker(signature)
        served = Served(Model(0, signature, "", MAX_ROWS), State.SERVING)
        statistics = Statistics()
        statistics.begin(0)
        policy = Policy(max_slo_s=1.0, trust_client=True)
        self._inference = Inference(
            self.worker, served, policy, _MAX_TYPED_BYTES, statistics, (), lambda: 0.0
        )

    def ask(self, body: bytes, remaining_s: float | None) -> bytes:
        """The response. Raises Refusal, and whatever else escapes."""
        parsed = self._inference.decode(body, 0.0)
        answering = self._inference.answer(parsed, 0.0, 0.0, remaining_s)
        try:
            # Nothing in it waits, so that it ends at once.
            answering.send(None)
        except StopIteration as end:
            response: bytes = end.value
            return response
        raise AssertionError("an answer that waits")


@dataclass(slots=True)
class Findings:
    """What became of the inputs, and what must not have."""

    inputs: int = 0
    answered: int = 0
    late: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    shapes: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    slowest_s: float = 0.0
    seconds: float = 0.0
    rss_before_mib: float = 0.0
    rss_after_mib: float = 0.0
    violations: list[str] = field(default_factory=list)


def run(inputs: int, seed: int) -> Findings:
    """Try so many; stops at the tenth violation."""
    findings = Findings()
    bodies = Bodies(seed)
    targets: dict[ModelSignature, Target] = {}
    began = time.perf_counter()
    for number in range(inputs):
        if number == int(inputs * _WARM_UP):
            findings.rss_before_mib = rss_mib()
        if number % 1000 == 0:
            # Nothing but a signal gets through to a loop that hangs.
            faulthandler.dump_traceback_later(_HANG_S, exit=True)
        body, signature = bodies.next()
        target = targets.get(signature) or targets.setdefault(signature, Target(signature))
        _try(target, signature, body, _REMAINING_S[number % len(_REMAINING_S)], findings)
        findings.inputs += 1
        if len(findings.violations) >= 10:
            break
    faulthandler.cancel_dump_traceback_later()
    findings.seconds = time.perf_counter() - began
    findings.rss_after_mib = rss_mib()
    growth = findings.rss_after_mib - findings.rss_before_mib
    if growth > _MAX_GROWTH_MIB:
        findings.violations.append(f"memory grew by {growth:.0f} MiB")
    return findings


def _try(
    target: Target, signature: ModelSignature, body: bytes, remaining_s: float | None, findings: Findings
) -> None:
    target.worker.asked = None
    began = time.perf_counter()
    try:
        try:
            response = target.ask(body, remaining_s)
        finally:
            findings.slowest_s = max(findings.slowest_s, time.perf_counter() - began)
        _check_response(response)
        findings.answered += 1
    except Refusal as refusal:
        _check_refusal(refusal, body, findings)
    except Exception as error:  # noqa: BLE001 - whatever it is, it has escaped
        findings.violations.append(f"{error!r} for {body.hex()}")
        return
    try:
        _check_parse(body)
        if target.worker.asked is not None:
            _check_arrays(target.worker.asked, body, signature)
    except AssertionError as error:
        findings.violations.append(f"{error} for {body.hex()}")


def _check_response(response: bytes) -> None:
    parsed = pb.ModelInferResponse.FromString(response)
    assert parsed.outputs, "an answer without outputs"


def _check_refusal(refusal: Refusal, body: bytes, findings: Findings) -> None:
    if dict(refusal.trailers).get("sponge-reason"):
        findings.late += 1
        name = "deadline"
    else:
        name = texts.field(refusal.text) or ""
    leak = texts.leak(refusal.text)
    if leak or not name:
        findings.violations.append(f"{refusal.text!r}: {leak or 'names no field'}, for {body.hex()}")
    findings.refused[name] += 1
    findings.shapes[name].add(texts.shape(refusal.text))


def _check_parse(body: bytes) -> None:
    """Cutting raw contents out changes nothing."""
    try:
        expected = pb.ModelInferRequest.FromString(body)
    except DecodeError:
        expected = None
    rest, cut = message._cut_raw(body)
    try:
        found = pb.ModelInferRequest.FromString(rest)
    except DecodeError:
        found = None
    if expected is None or found is None:
        assert expected is found, "refused with raw contents or without"
        return
    contents = [*map(bytes, cut), *found.raw_input_contents]
    assert contents == list(expected.raw_input_contents), "other raw contents"
    del expected.raw_input_contents[:], found.raw_input_contents[:]
    assert expected.SerializeToString() == found.SerializeToString(), "another message"


def _check_arrays(asked: Request, body: bytes, signature: ModelSignature) -> None:
    """Each is what the message says, of the model's datatype and within its memory."""
    said = pb.ModelInferRequest.FromString(body)
    inputs = asked.inputs or {}
    assert list(inputs) == [spec.name for spec in signature.inputs], "other inputs"
    positions = {tensor.name: position for position, tensor in enumerate(said.inputs)}
    for spec in signature.inputs:
        array, tensor = inputs[spec.name], said.inputs[positions[spec.name]]
        assert array.shape == tuple(tensor.shape), "another shape"
        assert array.size, "empty"
        assert array.dtype == spec.dtype, "another dtype"
        assert array.flags.aligned, "not aligned"
        assert array.flags.c_contiguous, "not contiguous"
        assert not signature.batched or 1 <= asked.rows == len(array) <= MAX_ROWS, "other rows"
        if said.raw_input_contents:
            assert bytes(to_raw(array, spec.elements)) == said.raw_input_contents[positions[spec.name]], (
                "other contents"
            )
        else:
            values = getattr(tensor.contents, spec.elements.typed)
            if spec.datatype == "BYTES":
                assert [element.encode() for element in array.flat] == list(values), "other contents"
            else:
                # Python's floats do not keep every NaN's bits, arrays do.
                typed = np.array(values, spec.elements.wire)
                equal_nan = typed.dtype.kind == "f"
                assert np.array_equal(array.ravel(), typed, equal_nan=equal_nan), "other contents"


def report(findings: Findings) -> str:
    """What the command prints."""
    lines = [
        f"decoder: {findings.inputs} inputs in {findings.seconds:.1f} s, {findings.inputs / findings.seconds:.0f}/s,"
        f" the slowest {1000 * findings.slowest_s:.1f} ms",
        f"  answered {findings.answered}, refused {sum(findings.refused.values())},"
        f" of these {findings.late} for their deadline",
        f"  memory {findings.rss_before_mib:.1f} MiB after warm-up, {findings.rss_after_mib:.1f} MiB at the end",
        "  refusals by field, and how many texts there are:",
    ]
    for name, count in findings.refused.most_common():
        lines.append(f"    {count:>9}  {len(findings.shapes[name]):>3}  {name}")
    return "\n".join(lines)
