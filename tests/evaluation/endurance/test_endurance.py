"""The endurance experiment, for seconds: nothing fails and every answer is right; how long it takes is not judged."""

import pytest

from core.cgroup import usable_parent
from core.config import load
from evaluation.endurance import experiment
from evaluation.endurance.seesaw import CONFIGURATIONS, LIMITS
from evaluation.experiment import kinds
from evaluation.serving import subjects

pytestmark = pytest.mark.skipif(usable_parent() is None, reason="no control group may be made here")


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    return subjects.build(subjects.MLP, tmp_path_factory.mktemp("models"))


async def test_no_request_fails_while_the_worker_is_resized_every_second(subject, tmp_path):
    resized = await experiment.resizing(subject, tmp_path, 10.0, 0.3, lambda _: None)
    assert resized.answers.right > 0
    assert not resized.answers.failed
    assert {(swap.instances, swap.threads) for swap in resized.applied} >= {(4, 1), (1, 2), (2, 2)}
    assert all(swap.decided_s <= swap.applied_s for swap in resized.applied)
    assert len(resized.beside) == len(resized.applied)
    assert len(resized.table().rows) == 3
    assert resized.goals()[0].met


async def test_memory_is_read_until_the_requests_and_swaps_are_done(subject, tmp_path):
    remembered = await experiment.remembering(
        subject, tmp_path, requests=400, swaps=3, after=100, progress=lambda _: None
    )
    assert not remembered.answers.failed
    assert remembered.answers.right >= 400
    last = remembered.readings[-1]
    assert (last.requests, last.swaps) >= (400, 3)
    assert all(reading.rss_bytes > 0 for reading in remembered.readings)


def test_the_shipped_experiment_can_be_read():
    settings = load(kinds.shipped()["endurance"], experiment.Settings)
    assert (settings.resize.seconds, settings.memory.requests, settings.memory.swaps) == (300, 200_000, 300)


def test_no_two_configurations_in_turn_are_alike():
    for before, after in zip(CONFIGURATIONS, (*CONFIGURATIONS[1:], CONFIGURATIONS[0]), strict=True):
        assert before.cpu_millicores != after.cpu_millicores
        assert (before.instances, before.threads) != (after.instances, after.threads)
    assert max(one.cpu_millicores for one in CONFIGURATIONS) <= LIMITS.max_millicores
