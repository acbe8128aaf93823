"""Faults around planes of this machine, in small: what must hold meanwhile and after, durations aside."""

from pathlib import Path

import pytest

from core.cgroup import usable_parent
from evaluation.faults import clock, killed, liar, neighbour, telemetry
from evaluation.faults.liar import Lie
from evaluation.serving import subjects
from evaluation.serving.subjects import Subject

pytestmark = [
    pytest.mark.skipif(usable_parent() is None, reason="no control group may be made here"),
    pytest.mark.timeout(600),
]


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    return subjects.build(subjects.PARAGRAPHS, tmp_path_factory.mktemp("model"))


async def test_a_control_plane_that_is_killed_again_and_again(subject: Subject, tmp_path: Path) -> None:
    assert (await killed.control_plane(subject, tmp_path, kills=2)).broken == []


async def test_telemetry_that_is_lost(subject: Subject, tmp_path: Path) -> None:
    assert (await telemetry.lost(subject, tmp_path, seconds=4.0)).broken == []


async def test_telemetry_that_comes_late(subject: Subject, tmp_path: Path) -> None:
    assert (await telemetry.delayed(subject, tmp_path, seconds=4.0)).broken == []


async def test_a_worker_whose_numbers_cannot_be(subject: Subject, tmp_path: Path) -> None:
    assert (await liar.absurd(subject, tmp_path, seconds=2.0)).broken == []


async def test_a_worker_that_claims_the_whole_host(subject: Subject, tmp_path: Path) -> None:
    assert (await liar.plausible(subject, tmp_path, 2.0, Lie.GIANT)).broken == []


async def test_a_worker_that_says_it_runs_as_much_as_any_may(subject: Subject, tmp_path: Path) -> None:
    assert (await liar.plausible(subject, tmp_path, 2.0, Lie.WIDE)).broken == []


@pytest.mark.skipif(clock.library() is None, reason="libfaketime is not installed: apt-get install faketime")
async def test_a_clock_that_is_stepped(subject: Subject, tmp_path: Path) -> None:
    assert (await clock.stepped(subject, tmp_path, seconds=2.0)).broken == []


async def test_a_neighbour_that_takes_a_cpu(subject: Subject, tmp_path: Path) -> None:
    assert (await neighbour.shrinks(subject, tmp_path, seconds=1.0)).broken == []
