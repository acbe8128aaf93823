"""A worker that becomes slower than its model says."""

import math
from statistics import NormalDist

import numpy as np
import pytest

from controlplane.cell import HALF_LIFE_S
from controlplane.drift import MATURE, NEWEST, TOLERATED, UNSEEN_S, Drift, agreed
from controlplane.governor import Governor
from controlplane.resize import Resize
from controlplane.state import Fleet, Host, Worker
from protos import control_pb2 as pb


def observed(ratios, drift: Drift | None = None) -> Drift:
    """Executions that were expected to take a second, 1.2 at worst."""
    drift = drift or Drift()
    for ratio in ratios:
        drift.observe(ratio, 1.0, 1.2, 0.0)
    return drift


def test_as_expected_is_no_drift():
    drift = observed([1.0, 0.95, 1.05] * 100)
    assert (drift.slower, drift.wider, drift.began_at) == (1.0, 1.0, None)


@pytest.mark.parametrize(("ratio", "after"), [(1.3, 6), (2.0, 5), (10.0, 5)])
def test_what_takes_longer_is_seen_after_a_few_executions_and_widens_at_once(ratio, after):
    drift = observed([1.0] * 50 + [ratio] * (after - 1))
    assert drift.began_at is None
    observed([ratio], drift)
    assert drift.began_at == 0.0
    assert drift.slower == pytest.approx(ratio)
    # No less than in the mean: the upper estimate was 1.2, and all of it is needed.
    assert drift.wider == pytest.approx(ratio)


def test_what_is_faster_is_believed_later():
    drift = observed([1.0] * 50 + [0.5] * 9)
    assert drift.began_at is not None
    assert (drift.slower, drift.wider) == (1.0, 1.0)
    observed([0.5] * 7, drift)
    assert drift.slower == pytest.approx(0.5)
    assert drift.wider == pytest.approx(0.5)


def test_outliers_are_no_drift():
    rng = np.random.default_rng(7)
    ratios = np.exp(rng.normal(0.0, 0.08, 20_000)) * np.where(rng.random(20_000) < 0.03, 5.0, 1.0)
    begins = 0
    drift = Drift()
    for ratio in ratios:
        before = drift.began_at
        observed([ratio], drift)
        begins += before is None and drift.began_at is not None
    assert begins == 0


def test_an_upper_estimate_tells_of_the_spread_by_its_own_quantile():
    # A fifth above the mean: of a quantile of 95 % that is narrow, of one of 60 % wide.
    assert observed([1.0] * 50 + [1.3] * 20).began_at is not None
    assert observed([1.0] * 50 + [1.3] * 20, Drift(0.6)).began_at is None


def test_a_neighbour_of_some_executions_is_seen_and_counts_in_the_mean():
    rng = np.random.default_rng(3)
    drift = observed(np.exp(rng.normal(0.0, 0.08, 500)))
    assert drift.began_at is None
    # A third of them beside it.
    slower = []
    for beside in rng.random(1000) < 1 / 3:
        observed([math.exp(rng.normal(0.0, 0.08)) * (2.0 if beside else 1.0)], drift)
        slower.append(drift.slower)
    seen = next(index for index, each in enumerate(slower) if each > 1.0)
    assert seen < 200
    assert np.mean(slower[seen:]) == pytest.approx(4 / 3, rel=0.05)
    assert np.mean(np.array(slower[seen:]) > 1.0) > 0.9


@pytest.mark.parametrize("quantile", [0.6, 0.95, 0.99])
def test_its_margin_is_of_the_quantile_that_is_planned_for(quantile):
    rng = np.random.default_rng(11)
    drift = Drift(quantile)
    upper = math.exp(0.1 * NormalDist().inv_cdf(quantile))

    def run(factor, count):
        for noise in rng.normal(0.0, 0.1, count):
            drift.observe(factor * math.exp(noise), 1.0, upper, 0.0)

    run(1.5, 200)
    assert drift.wider == pytest.approx(1.5, rel=0.15)
    run(1.0, 200)
    assert drift.began_at is None


def test_it_follows_and_ends():
    drift = observed([1.0] * 50 + [1.5] * 50)
    assert drift.slower == pytest.approx(1.5)
    observed([2.0] * (NEWEST // 2), drift)
    assert drift.slower == pytest.approx(2.0)
    observed([1.0] * (NEWEST // 2), drift)
    assert drift.slower == pytest.approx(1.0)
    observed([1.0] * (NEWEST // 2), drift)
    assert (drift.slower, drift.wider, drift.began_at) == (1.0, 1.0, None)
    # Nothing is left of it.
    observed([1.0] * 100, drift)
    assert drift.began_at is None


def test_the_margin_is_of_what_is_seen_and_not_of_one_outlier():
    drift = observed([1.0] * 50 + [1.5] * 2 * NEWEST)
    observed([30.0], drift)
    # It counts as at most three others.
    assert drift.slower == pytest.approx(1.5 * (1 + 2 / (NEWEST // 2)))
    assert drift.wider < 2.0
    observed([2.4, 2.4, 2.4], drift)
    assert drift.wider == pytest.approx(2.0, rel=0.01)


def fleet(*names: str, executions: int = MATURE) -> tuple[Fleet, list[Worker]]:
    """Workers of one model that has been executed so often, 50 ms each, on one thread and on two."""
    fleet = Fleet([Host(4000, 1 << 33)], default_overhead_s=0.0015)
    workers = []
    for name in names:
        hello = pb.Hello(worker_id=name, service="vision", model_digest="d", max_threads=2, max_batch=4)
        workers.append(fleet.attach(hello, Resize(), Governor(4.0, 100), 0.0))
    for _ in range(executions):
        for threads in (1, 2):
            workers[0].latency.record(1, threads, 0.050, 1.0, 0.0)
    for worker in workers:
        worker.believed = worker.latency.snapshot()
    return fleet, workers


def half_life(
    fleet: Fleet, walls_ms: list[tuple[Worker, float]], begins: float = 0.0, **more: float
) -> float:
    """Executions of all workers for as long as a drift has to last, without a gap; when it is over."""
    for step in range(round(HALF_LIFE_S / UNSEEN_S) + 2):
        now = begins + step * UNSEEN_S
        for worker, wall_ms in walls_ms:
            report(fleet, worker, wall_ms, 20, now, **more)
    return now


def report(
    fleet: Fleet,
    worker: Worker,
    wall_ms: float,
    count: int,
    now: float,
    millicores: int = 1100,
    cpu_ms: float | None = None,
    threads: int = 1,
):
    """Executions whose CPU time is their wall time, if none is given."""
    cpu_ms = wall_ms if cpu_ms is None else cpu_ms
    run = pb.Execution(rows=1, threads=threads, wall_ms=wall_ms, cpu_ms=cpu_ms, busy=1)
    allocation = pb.Allocation(cpu_millicores=millicores, instances=1, threads=1, max_batch=1)
    sample = pb.Sample(window_s=0.2, allocation=allocation, executions=[run] * count)
    fleet.record(worker, sample, now)


def test_a_worker_that_lies_has_the_drift_for_itself():
    shared, (honest, liar) = fleet("honest", "liar")
    for second in range(100):
        report(shared, liar, 500.0, 4, float(second))
    assert liar.drift.slower == pytest.approx(10.0)
    assert honest.drift.slower == 1.0
    assert honest.latency.mean(1, 1) == pytest.approx(0.050, rel=0.05)


@pytest.mark.parametrize(("wall_ms", "threads"), [(60.0, 1), (100.0, 1), (115.0, 1), (150.0, 2), (170.0, 2)])
def test_what_a_quota_makes_of_executions_is_no_drift(wall_ms, threads):
    shared, (worker,) = fleet("one")
    for second in range(10):
        report(shared, worker, wall_ms, 20, second, millicores=500, cpu_ms=50.0, threads=threads)
    assert worker.drift.began_at is None
    assert worker.latency.mean(1, 1) == pytest.approx(0.050, rel=0.05)


def test_a_neighbour_is_seen_under_a_quota_too_and_is_no_part_of_the_model():
    shared, (worker,) = fleet("one")
    now = half_life(shared, [(worker, 180.0)], millicores=500, cpu_ms=50.0)
    assert worker.drift.slower == pytest.approx(180 / 100 / TOLERATED)
    assert worker.latency.mean(1, 1) == pytest.approx(0.050, rel=0.05)
    half_life(shared, [(worker, 100.0)], begins=now, millicores=500, cpu_ms=50.0)
    assert worker.drift.began_at is None


def test_a_slower_cpu_is_seen_under_a_quota_too():
    shared, (worker,) = fleet("one")
    report(shared, worker, 80.0, 50, 1.0, millicores=500, cpu_ms=75.0)
    assert worker.drift.slower == pytest.approx(1.5)


def test_a_neighbour_is_not_forgotten_for_executions_that_a_quota_throttles():
    shared, (worker,) = fleet("one")
    for second in range(10):
        report(shared, worker, 75.0, 5, second)
        report(shared, worker, 100.0, 50, second + 0.5, millicores=500, cpu_ms=50.0)
    assert worker.drift.slower == pytest.approx(1.5)
    # And neither is taken for the other in what is learned.
    assert worker.latency.mean(1, 1) == pytest.approx(0.050, rel=0.05)


def test_what_is_seen_under_a_quota_holds_until_what_is_not_throttled_says_otherwise():
    shared, (worker,) = fleet("one")
    report(shared, worker, 180.0, 50, 1.0, millicores=500, cpu_ms=50.0)
    assert worker.drift.slower == pytest.approx(1.5)
    report(shared, worker, 50.0, NEWEST // 2 - 1, 2.0)
    assert worker.drift.slower == pytest.approx(1.5)
    report(shared, worker, 50.0, 1, 2.0)
    assert worker.drift.began_at is None


def test_a_worker_that_is_throttled_says_nothing_of_how_it_is():
    shared, (one, throttled) = fleet("one", "throttled")
    for step in range(round(HALF_LIFE_S / UNSEEN_S) + 2):
        report(shared, one, 75.0, 20, step * UNSEEN_S)
        report(shared, throttled, 180.0, 20, step * UNSEEN_S, millicores=500, cpu_ms=50.0)
    assert one.drift.began_at is None
    assert one.latency.mean(1, 1) == pytest.approx(0.075, rel=0.2)


def test_where_a_quota_throttles_all_of_them_what_a_neighbour_did_is_over():
    shared, (worker,) = fleet("one")
    report(shared, worker, 75.0, 20, 1.0)
    assert worker.drift.slower == pytest.approx(1.5)
    for second in range(2, 10 + round(UNSEEN_S)):
        report(shared, worker, 100.0, 5, second, millicores=500, cpu_ms=50.0)
    assert worker.drift.slower == 1.0


def test_sizes_that_are_hardly_known_say_nothing_of_drift():
    shared, (worker,) = fleet("one", executions=MATURE - 1)
    report(shared, worker, 200.0, 50, 1.0)
    assert worker.drift.began_at is None


def test_what_has_lasted_is_how_it_is():
    shared, (worker,) = fleet("one")
    worker.latency.record(2, 1, 0.1, 1.0, 0.0)
    report(shared, worker, 100.0, 20, 0.0)
    assert worker.drift.slower == pytest.approx(2.0)
    assert worker.latency.mean(1, 1) < 0.06
    half_life(shared, [(worker, 100.0)])
    assert worker.drift.began_at is None
    assert worker.latency.mean(1, 1) == pytest.approx(0.1, rel=0.2)
    # Also what was not executed since.
    assert worker.latency.mean(2, 1) > 0.18


def test_silence_says_not_that_it_lasts():
    shared, (worker,) = fleet("one")
    report(shared, worker, 100.0, 20, 1.0)
    # Long ago, but for this one nothing was seen of it.
    report(shared, worker, 100.0, 1, HALF_LIFE_S)
    report(shared, worker, 100.0, 1, 2 * HALF_LIFE_S - 1)
    assert worker.drift.slower == pytest.approx(2.0)
    assert worker.latency.mean(1, 1) < 0.06


def test_what_nobody_has_seen_for_a_half_life_is_over():
    shared, (worker,) = fleet("one")
    report(shared, worker, 100.0, 20, 1.0)
    for second in range(2, round(HALF_LIFE_S)):
        report(shared, worker, 100.0, 0, float(second))
        assert worker.drift.slower == pytest.approx(2.0)
    report(shared, worker, 50.0, 20, 1.0 + HALF_LIFE_S)
    assert worker.drift.began_at is None
    assert worker.latency.mean(1, 1) < 0.06


def test_of_two_workers_of_a_model_one_does_not_say_how_it_is():
    shared, (one, two) = fleet("one", "two")
    half_life(shared, [(one, 100.0), (two, 50.0)])
    assert one.drift.slower == pytest.approx(2.0)
    assert two.drift.slower == 1.0
    assert one.latency.mean(1, 1) == pytest.approx(0.050, rel=0.05)


def test_two_workers_of_a_model_say_how_it_is_as_far_as_both_say_it():
    shared, (one, two) = fleet("one", "two")
    half_life(shared, [(one, 150.0), (two, 100.0)])
    assert one.drift.began_at is two.drift.began_at is None
    assert one.latency.mean(1, 1) == pytest.approx(0.1, rel=0.2)


def test_a_worker_that_executes_nothing_says_nothing():
    shared, (one, idle) = fleet("one", "idle")
    report(shared, idle, 50.0, 20, 20.0)
    now = half_life(shared, [(one, 100.0)])
    assert one.drift.slower == pytest.approx(2.0)
    half_life(shared, [(one, 100.0)], begins=now)
    assert one.drift.began_at is None
    assert one.latency.mean(1, 1) == pytest.approx(0.1, rel=0.2)


@pytest.mark.parametrize(
    ("ratios", "all_say"),
    [([2.0], 2.0), ([2.0, 1.5], 1.5), ([0.5, 0.8], 0.8), ([2.0, 0.5], 1.0), ([3.0, 1.0], 1.0)],
)
def test_ratios_agree_on_the_one_nearest_to_none(ratios, all_say):
    assert agreed(ratios) == all_say


@pytest.mark.parametrize("work_s", [1e-9, 3600.0])
def test_any_ratio_is_a_number(work_s):
    drift = observed([work_s] * 200)
    assert math.isfinite(drift.slower)
    assert math.isfinite(drift.wider)
