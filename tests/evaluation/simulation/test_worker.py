"""Executions under quotas and beside neighbours, by hand."""

from dataclasses import replace

import pytest

from dataplane.batcher import Shape
from evaluation.journal import Journal
from evaluation.simulation.policies.static import Static
from evaluation.simulation.run import run
from evaluation.simulation.score import End, Tally
from evaluation.simulation.worker import VirtualWorker, batcher, noise
from protos import control_pb2
from tests.evaluation.simulation.scenarios import scenario, service


def worker(sent_s, shape=(2, 1, 1), quota=2000, **kw):
    where = scenario(service(sent_s, slo_s=10.0), **kw)
    tally = Tally(where.services[0])
    work = where.services[0].truth.noisy(noise(0.0, ()))
    return VirtualWorker(where.services[0], where, batcher(Shape(*shape), 0.0), quota, tally, work), tally


def play(one, until):
    """Run one worker alone; the times at which executions ended."""
    ended = []
    while (now := min(one.next_finish_at, one.next_header_at, one.next_arrival_at, one.wake_at)) <= until:
        if now == one.next_finish_at:
            one.finish(now)
            ended.append(now)
        elif now == one.next_header_at:
            one.announce(now)
        elif now == one.next_arrival_at:
            one.arrive(now)
        else:
            one.pump(now)
        one.advance(now)
        one.respeed(len(one.batcher.running))
    return ended


def test_a_worker_spends_cpu_on_requests_besides_executions_and_tells_observers_of_both():
    where = scenario(replace(service([1.0, 2.0], slo_s=10.0), request_cpu_s=0.01))
    work = where.services[0].truth.noisy(noise(0.0, ()))
    tally = Tally(where.services[0])
    one = VirtualWorker(where.services[0], where, batcher(Shape(2, 1, 1), 0.0), 2000, tally, work)
    journal = Journal()
    one.observers.append(journal)
    play(one, 5.0)
    assert one.cpu_s == pytest.approx(0.22)
    assert [served.latency_s for served in journal.served] == pytest.approx([0.1, 0.1])
    assert [executed.slot_s for executed in journal.executions] == pytest.approx([0.1, 0.1])


def test_an_execution_takes_what_the_truth_says():
    one, tally = worker([1.0])
    assert play(one, 5.0) == pytest.approx([1.1], abs=1e-5)
    assert one.cpu_s == pytest.approx(0.1)
    assert one.done
    assert sum(tally.count(End.ON_TIME)) == 1


def test_threads_share_a_quota():
    one, _ = worker([0.0, 0.0], quota=1000)
    assert play(one, 5.0) == pytest.approx([0.2, 0.2], abs=1e-5)


def test_contention_holds_while_there_is_a_neighbour():
    # Half speed until the first is done, 0.05 s of work left for the other.
    one, _ = worker([0.0, 0.1], contention=1.0)
    assert play(one, 5.0) == pytest.approx([0.1, 0.2], abs=1e-5)
    one, _ = worker([0.0, 0.05], contention=1.0)
    assert play(one, 5.0) == pytest.approx([0.15, 0.2], abs=1e-5)


def test_a_new_quota_counts_from_then_on():
    one, _ = worker([0.0], shape=(1, 2, 1), quota=1000)
    play(one, 0.04)
    one.set_quota(2000, 0.06)
    one.respeed(1)
    # 60 ms on two threads, of which 30 ms are done at half speed.
    assert play(one, 5.0) == pytest.approx([0.09], abs=1e-5)


def test_an_upload_that_outlives_its_deadline_never_arrives():
    where = scenario(service([0.0], payload_bytes=2e6))
    found = run(where, Static([(1, 1, 1)]), "static").score
    assert (found.requests, found.dead_on_arrival, found.on_time, found.late, found.refused) == (
        1,
        1,
        0,
        0,
        0,
    )


def test_headers_are_told_of_before_their_bodies_and_without():
    # 1 MB/s: the first upload takes a second and a half, the second outlives its deadline.
    where = scenario(service([0.0], payload_bytes=1.5e6, slo_s=9.0))
    late = scenario(service([0.0], payload_bytes=2e6, slo_s=1.0))
    for one_of, arrivals in ((where, [0, 1]), (late, [0, 0])):
        tally = Tally(one_of.services[0])
        work = one_of.services[0].truth.noisy(noise(0.0, ()))
        one = VirtualWorker(one_of.services[0], one_of, batcher(Shape(1, 1, 1), 0.0), 1000, tally, work)
        one.listen(0.0)
        samples = []
        for until in (1.0, 3.0):
            play(one, until)
            samples.append(one.report(control_pb2.Allocation(), until))
        assert [sample.headers for sample in samples] == [1, 0]
        assert [sample.arrivals for sample in samples] == arrivals


def test_noise_has_the_mean_and_spread_asked_for():
    draws = noise(0.3, (1, 2))
    values = [next(draws) for _ in range(20000)]
    mean = sum(values) / len(values)
    deviation = (sum((v - mean) ** 2 for v in values) / len(values)) ** 0.5
    assert mean == pytest.approx(1.0, abs=0.01)
    assert deviation == pytest.approx(0.3, abs=0.01)
