"""Trust in the simulator: recorded real runs, run again."""

from pathlib import Path

import numpy as np
import pytest
from msgspec import structs

from dataplane.request import Outcome
from evaluation.experiment import trust
from evaluation.recording import Held, Recording
from evaluation.simulation import replay
from evaluation.simulation.replay import ServiceTimesAgain
from tests.evaluation.recordings import ONE_CORE, executed, recording, served

RECORDED = Path(__file__).parents[2] / "data" / "recording.json.gz"


@pytest.fixture(scope="module")
def recorded():
    return Recording.read(RECORDED)


@pytest.fixture(scope="module")
def replays(recorded):
    return [replay.replay(recorded, seed) for seed in range(3)]


class TestServiceTimes:
    def test_are_those_measured_around_the_time(self):
        slow, fast = (
            [executed(0.1 * i, 0.2) for i in range(100)],
            [executed(50 + 0.1 * i) for i in range(100)],
        )
        times = ServiceTimesAgain(recording([], slow + fast, seconds=100.0), seed=1)
        assert {times(1, 1, 5.0) for _ in range(50)} == {0.2}
        assert {times(1, 1, 99.0) for _ in range(50)} == {0.1}

    def test_a_seed_gives_the_same_again(self):
        executions = [executed(0.1 * i, 0.1 + 0.001 * i) for i in range(100)]
        first, second, other = (
            [times(1, 1, at_s) for at_s in np.linspace(0, 10, 50)]
            for seed in (1, 1, 2)
            for times in [ServiceTimesAgain(recording([], executions), seed)]
        )
        assert first == second != other

    def test_a_quota_is_taken_out_and_the_workers_own_part_stays(self):
        half = Held(at_s=0.0, cpu_millicores=500, instances=1, threads=1, max_batch=1)
        throttled = executed(1.0, wall_s=0.2, cpu_s=0.1, slot_s=0.21)
        times = ServiceTimesAgain(recording([], [throttled], [half]), seed=1)
        assert times(1, 1, 1.0) == pytest.approx(0.11)
        times = ServiceTimesAgain(recording([], [throttled], [ONE_CORE]), seed=1)
        assert times(1, 1, 1.0) == pytest.approx(0.21)

    def test_what_a_resize_fell_into_says_nothing(self):
        times = ServiceTimesAgain(recording([], [executed(1.0), executed(1.1, 5.0, mixed=True)]), seed=1)
        assert {times(1, 1, 1.0) for _ in range(20)} == {0.1}

    def test_an_unseen_cell_is_like_the_nearest(self):
        seen = [executed(1.0), executed(2.0, 0.3, rows=4), executed(3.0, 0.06, threads=2)]
        two = Held(at_s=0.0, cpu_millicores=2100, instances=1, threads=2, max_batch=4)
        times = ServiceTimesAgain(recording([], seen, [two]), seed=1)
        assert times(2, 1, 1.0) == pytest.approx(0.2)
        assert times(8, 1, 1.0) == pytest.approx(0.6)
        assert times(1, 4, 1.0) == pytest.approx(0.06)


class TestReplay:
    def test_a_steady_run_by_hand(self):
        """Ten requests a second of 50 ms on a core of their own: nothing waits, in either world."""
        at_s = [0.5 + 0.1 * i for i in range(200)]
        steady = recording(
            [served(at, 0.05) for at in at_s], [executed(at, 0.05) for at in at_s], seconds=21.0
        )
        real, again = replay.measured(steady), replay.replay(steady, seed=1)
        assert (real.requests, real.on_time, real.p99_ms) == (200, 1.0, pytest.approx(50))
        assert (again.requests, again.on_time, again.mean_batch) == (200, 1.0, 1.0)
        # The quota may fall below a core; then executions take longer, and never shorter.
        assert 50 - 1e-6 <= again.p50_ms <= 100
        assert 0.5 <= again.mean_cores <= 2.0
        assert again.quota[-1].until_s == 21.0

    def test_outcomes_are_shares_of_what_arrived(self):
        ends = [Outcome.ON_TIME, Outcome.LATE, Outcome.REFUSED, Outcome.CANCELLED]
        run = replay.measured(recording([served(1.0 + i, outcome=end) for i, end in enumerate(ends)], []))
        assert (run.on_time, run.late, run.refused, run.missed) == (0.25, 0.25, 0.5, 0.75)
        assert run.p99_ms == float("inf")

    def test_requests_of_several_rows_are_refused(self):
        with pytest.raises(ValueError, match="one row each"):
            replay.replay(recording([served(1.0, rows=2)], [executed(1.0)]), seed=1)


class TestTrust:
    """The recorded run is of `python -m evaluation.recording`: a real worker and control plane, emulated links."""

    def test_the_recording_is_worth_it(self, recorded):
        assert len(recorded.served) >= 900
        assert recorded.seconds >= 60
        assert len({(held.cpu_millicores, held.instances, held.threads) for held in recorded.held}) >= 4
        assert RECORDED.stat().st_size < 300_000

    def test_a_seed_gives_the_same_run_again(self, recorded, replays):
        assert replay.replay(recorded, 0) == replays[0] != replays[1]

    def test_the_simulator_comes_to_what_was_measured(self, recorded, replays):
        """Mean cores within 10 %, late and refused within one percentage point."""
        for goal in trust.goals([(replay.measured(recorded), replays)]):
            assert goal.met, goal

    def test_half_as_fast_a_machine_is_told_apart(self, recorded):
        """What a comparison is worth that would agree with anything."""
        slow = [
            structs.replace(one, wall_s=2 * one.wall_s, slot_s=2 * one.slot_s, cpu_s=2 * one.cpu_s)
            for one in recorded.executions
        ]
        other = replay.replay(structs.replace(recorded, executions=slow), 0)
        assert not all(goal.met for goal in trust.goals([(replay.measured(recorded), [other])]))
