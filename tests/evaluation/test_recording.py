"""A real run in one file."""

import asyncio

import pytest

from dataplane.request import Outcome
from evaluation import recording, scenario
from evaluation.recording import Options, Recording
from tests.evaluation.recordings import ONE_CORE, executed, served
from tests.evaluation.recordings import recording as by_hand


def test_a_file_gives_back_what_was_written_and_always_the_same_bytes(tmp_path):
    one = by_hand([served(1.0), served(2.0, outcome=Outcome.REFUSED)], [executed(1.0), executed(2.0, rows=2)])
    one.write(tmp_path / "a.json.gz")
    one.write(tmp_path / "b.json.gz")
    assert Recording.read(tmp_path / "a.json.gz") == one
    assert (tmp_path / "a.json.gz").read_bytes() == (tmp_path / "b.json.gz").read_bytes()


@pytest.mark.parametrize("content", [b"text", b"\x1f\x8b", b""])
def test_a_foreign_file_is_one_line_that_names_it(content, tmp_path):
    (tmp_path / "other.gz").write_bytes(content)
    with pytest.raises(ValueError, match=r"other\.gz: expected a recording"):
        Recording.read(tmp_path / "other.gz")


def test_mean_cores_are_weighed_by_time():
    held = (ONE_CORE, recording.Held(at_s=8.0, cpu_millicores=2100, instances=2, threads=1, max_batch=1))
    assert by_hand([], [], held).mean_cores == pytest.approx(0.8 * 1.1 + 0.2 * 2.1)


@pytest.mark.timeout(300)
def test_a_short_run_is_recorded_from_both_ends(models, tmp_path):
    stages = []
    options = Options(models, service=scenario.MAGIKA, seconds=4.0, rate=5.0)
    found = asyncio.run(recording.record(options, stages.append))
    assert found.service == scenario.MAGIKA
    # It begins with the first look at the fleet, before the first request.
    assert 4.0 < found.seconds < 30.0
    assert found.held[0].at_s == 0.0
    assert found.client.offered >= len(found.served) > 0
    assert [one.arrived_s for one in found.served] == sorted(one.arrived_s for one in found.served)
    ran = [one for one in found.served if one.started_s is not None]
    assert sum(one.rows for one in found.executions) == len(ran)
    for one in ran:
        assert 0 < one.header_s <= one.arrived_s <= one.started_s <= one.finished_s
    for one in found.executions:
        # Each is rounded to a hundredth of a millisecond.
        assert 0 < one.wall_s <= one.slot_s + 2e-5
    assert stages[-1].done == stages[-1].total == found.client.offered
    found.write(tmp_path / "run.json.gz")
    assert Recording.read(tmp_path / "run.json.gz") == found
