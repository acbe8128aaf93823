"""What no worker can mean."""

import pytest

from controlplane.latency import MOST_ROWS, MOST_THREADS
from controlplane.reports import AbsurdReportError, check_hello
from protos import control_pb2 as pb

HELLO = pb.Hello(
    worker_id="w1",
    service="vision",
    model_digest="d",
    max_instances=4,
    max_threads=4,
    max_batch=8,
    allocation=pb.Allocation(cpu_millicores=1100, instances=1, threads=1, max_batch=1),
)


@pytest.mark.parametrize(
    ("field", "absurd"),
    [
        ("hello.service", {"service": ""}),
        ("hello.worker_id", {"worker_id": "w" * 257}),
        ("hello.service", {"service": "s" * 257}),
        ("hello.container_id", {"container_id": "c" * 257}),
        ("hello.cgroup_path", {"cgroup_path": "/" * 4097}),
        ("hello.model_digest", {"model_digest": "d" * 257}),
        ("hello.model_name", {"model_name": "m" * 257}),
        ("hello.max_instances", {"max_instances": 0}),
        ("hello.max_threads", {"max_threads": MOST_THREADS + 1}),
        ("hello.max_batch", {"max_batch": MOST_ROWS + 1}),
        (
            "hello.allocation.threads",
            {"allocation": pb.Allocation(cpu_millicores=1000, instances=1, threads=5, max_batch=1)},
        ),
        (
            "hello.allocation.max_batch",
            {"allocation": pb.Allocation(cpu_millicores=1000, instances=1, threads=1, max_batch=9)},
        ),
        (
            "hello.allocation.cpu_millicores",
            {"allocation": pb.Allocation(instances=1, threads=1, max_batch=1)},
        ),
        (
            "hello.allocation.memory_bytes",
            {
                "allocation": pb.Allocation(
                    cpu_millicores=1, instances=1, threads=1, max_batch=1, memory_bytes=2**64 - 1
                )
            },
        ),
        ("hello.applied.term", {"applied": pb.Version(term=2**64 - 1)}),
    ],
)
def test_absurd_hellos_are_refused_by_field(field, absurd):
    message = pb.Hello()
    message.CopyFrom(HELLO)
    for name, value in absurd.items():
        message.ClearField(name)
        message.MergeFrom(pb.Hello(**{name: value}))
    with pytest.raises(AbsurdReportError, match=f"^{field}:"):
        check_hello(message)
    check_hello(HELLO)


def test_every_text_of_a_hello_may_be_so_long_and_no_longer():
    """Whatever text the protocol comes to have: nothing of a hello is without a bound."""
    for field in pb.Hello.DESCRIPTOR.fields:
        if field.type == field.TYPE_STRING:
            longest = 4096 if field.name == "cgroup_path" else 256
            check_hello(_with(field.name, "é" * longest))
            with pytest.raises(AbsurdReportError, match=f"^hello.{field.name}: .* to {longest} characters"):
                check_hello(_with(field.name, "é" * (longest + 1)))
        assert not field.is_repeated


def _with(name: str, text: str) -> pb.Hello:
    message = pb.Hello()
    message.CopyFrom(HELLO)
    setattr(message, name, text)
    return message
