"""Faults of a real engine and of containers, in small: what must hold meanwhile and after, durations aside."""

import shutil
from pathlib import Path

import pytest

from evaluation.faults import dockerd, engines
from evaluation.faults.engines import Fault
from evaluation.serving import subjects
from evaluation.serving.subjects import Subject

pytestmark = [
    pytest.mark.usefixtures("images"),
    pytest.mark.skipif(not engines.hosted.ENGINE.exists(), reason="no engine at a local socket"),
]


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    return subjects.build(subjects.PARAGRAPHS, tmp_path_factory.mktemp("model"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tmp_path.chmod(0o755)  # the workers are not root
    return tmp_path


@pytest.mark.usefixtures("root")
async def test_a_worker_that_is_killed(subject: Subject, folder: Path) -> None:
    assert (await engines.worker_killed(subject, folder)).broken == []


async def test_a_container_that_is_created_anew_with_other_limits(subject: Subject, folder: Path) -> None:
    assert (await engines.recreated(subject, folder)).broken == []


async def test_limits_of_a_running_container_that_are_changed(subject: Subject, folder: Path) -> None:
    assert (await engines.limits_changed(subject, folder)).broken == []


@pytest.mark.parametrize("fault", [Fault.STOPPED, Fault.SLOW, Fault.REFUSING])
async def test_an_engine_that_is_not_what_it_should_be(subject: Subject, folder: Path, fault: Fault) -> None:
    assert (await engines.disturbed(subject, folder, fault, 5.0, delay_s=2.0)).broken == []


@pytest.mark.skipif(shutil.which("dockerd") is None, reason="no dockerd to run one of our own")
async def test_an_engine_that_is_killed_and_started_again(subject: Subject, folder: Path) -> None:
    async with dockerd.own() as own:
        assert (await engines.disturbed(subject, folder, Fault.RESTARTED, 5.0, dockerd=own)).broken == []
