"""What a request's parameters say of its time."""

import pytest

from dataplane import parameters
from dataplane.deadline import Stated
from dataplane.tensors import InvalidRequest
from protos import inference_pb2 as pb
from tests.inference import set_parameters


def stated(remaining_s=None, **given):
    message = pb.ModelInferRequest()
    set_parameters(message.parameters, given)
    return parameters.stated(message, remaining_s)


def test_nothing():
    assert stated() == (Stated(), 0)


def test_each_by_itself():
    assert stated(1.5)[0] == Stated(remaining_s=1.5)
    assert stated(slo_ms=300)[0] == Stated(budget_s=0.3)
    assert stated(slo_ms=0.5)[0] == Stated(budget_s=0.0005)
    assert stated(timeout=250_000)[0] == Stated(budget_s=0.25)
    assert stated(timeout=0)[0] == Stated()  # none, says Triton
    assert stated(grace_ms=2000)[0] == Stated(grace_s=2.0)
    assert stated(priority=-3)[1] == -3


def test_the_shortest_budget_counts():
    assert stated(slo_ms=300, timeout=250_000)[0] == Stated(budget_s=0.25)
    assert stated(slo_ms=200, timeout=250_000)[0] == Stated(budget_s=0.2)


def test_time_since_sending_is_over_and_no_clock_ahead_gives_more():
    assert stated(slo_ms=300, sent_unix_ms=0)[0].budget_s < 0
    assert stated(slo_ms=300, sent_unix_ms=4e12)[0] == Stated(budget_s=0.3)


@pytest.mark.parametrize("name", ["slo_ms", "timeout", "grace_ms", "priority"])
@pytest.mark.parametrize("value", ["soon", float("nan"), float("inf")])
def test_what_is_no_number_is_named(name, value):
    with pytest.raises(InvalidRequest, match=rf"^parameters\.{name}: expected a finite number$"):
        stated(**{name: value})


def test_grace_cannot_be_negative():
    with pytest.raises(InvalidRequest, match=r"^parameters\.grace_ms: expected a duration of at least 0$"):
        stated(grace_ms=-1)


def test_durations_beyond_all_numbers_stay_numbers():
    age_of_all = {"slo_ms": -1.7e308, "sent_unix_ms": -1.7e308}
    assert stated(**age_of_all)[0] == Stated(budget_s=-1e9)
    assert stated(slo_ms=1.7e308, grace_ms=1.7e308)[0] == Stated(budget_s=1e9, grace_s=1e9)
