"""What each policy decides, and what the search for a static one finds."""

import pytest

from evaluation.bandwidth import BandwidthTrace
from evaluation.simulation.policies import fit
from evaluation.simulation.policies.bound import bound
from evaluation.simulation.policies.fa2 import Fa2
from evaluation.simulation.policies.paper import Paper, PaperInstances
from evaluation.simulation.policies.sponge import Sponge
from evaluation.simulation.policies.static import Static, best, shapes, smallest
from evaluation.simulation.policies.usage import Usage, UsageInstances
from evaluation.simulation.run import run
from tests.evaluation.simulation.scenarios import every, scenario, service

# Nothing from second 3 to second 4.
OUTAGE = BandwidthTrace((3.0, 1.0, 96.0), (1e6, 0.0, 1e6))


def test_whole_cores_are_cut_down_to_the_host():
    assert fit([3, 4], 8) == [3, 4]
    assert fit([6, 4], 8) == [4, 3]
    assert fit([9, 1, 1], 3) == [1, 1, 1]


def test_paper_takes_the_largest_where_nothing_is_feasible_or_holds_what_it_has():
    where = scenario(service(every(0.1, 8), link=OUTAGE, payload_bytes=1e4), seconds=8.0)
    for policy, cores in ((Paper(), 8), (Paper(hold=True), 4)):
        found = run(where, policy, "paper")
        chosen = [None if size is None else size.cores for size in policy.sizes]
        # 10 rows in 890 ms: 100 ms on one core is too long, 60 ms on two is not.
        assert chosen[:3] == [2, 2, 2]
        assert chosen[3] is None
        assert chosen[4:8] == [2, 2, 2, 2]
        expected = 2.0 if cores == 4 else (2 * 7 + 8) / 8
        assert found.score.mean_cores == pytest.approx(expected, abs=0.1)


def test_papers_rule_on_instances():
    # ⌈10/n⌉·100 ms within 900 ms less the upload.
    found = run(scenario(service(every(0.1, 5)), seconds=5.0), PaperInstances(), "paper-nt")
    assert found.score.mean_cores == pytest.approx(2.0)
    assert found.score.on_time == 50


def test_fa2_pays_for_replicas_that_still_start():
    # 10/s: (⌈10/n⌉ + 1)·100 ms ≤ 900 ms wants 2; at 30/s it wants 4, and waits 5 s for two of them.
    sent = [*every(0.1, 4), *(4 + t for t in every(1 / 30, 16))]
    found = run(scenario(service(sent), seconds=20.0, cold_start_s=5.0), Fa2(), "fa2").score
    assert found.mean_cores == pytest.approx((4 * 2 + 16 * 4) / 20, abs=0.1)
    assert found.avoidable_missed > 20


def test_usage_grows_slowly_and_usage_of_instances_at_once():
    sent = [*every(0.2, 5), *(5 + t for t in every(0.05, 25))]
    where = scenario(service(sent), seconds=30.0)
    slow, fast = run(where, Usage(), "usage").score, run(where, UsageInstances(), "usage-nt").score
    assert fast.avoidable_missed < slow.avoidable_missed
    # 20/s of 100 ms at 80 %: three instances.
    assert fast.mean_cores == pytest.approx((5 * 1 + 25 * 3) / 30, abs=0.4)


def test_shapes_of_a_static_allocation():
    assert set(shapes(service([0.0]), 4)) == {(4, 1, 1), (2, 2, 1), (1, 4, 1)}


def test_the_smallest_static_is_searched():
    # 25/s of 100 ms: three instances, or as many threads as make one execution fit.
    where = scenario(service(every(0.04, 10)))
    found = smallest(where, 0, "static-best").score
    assert (found.mean_cores, found.avoidable_missed, found.resizes) == (3.0, 0, 0)
    assert smallest(where, 1000, "static-best").score.mean_cores == 1.0
    assert best(where, 2, "static:2").score.avoidable_missed > 0
    assert best(where, 4, "static:4").score.avoidable_missed == 0


def test_a_run_that_misses_too_much_ends_early():
    where = scenario(service(every(0.04, 10)))
    assert run(where, Static([(1, 1, 1)]), "", max_missed=5).hopeless


def test_the_bound_is_each_request_at_its_cheapest():
    # With 1 s left: 100 ms on one core. With 45 ms left: 40 ms on four cores.
    relaxed, urgent = service([0.0, 1.0]), service([0.0], slo_s=0.045)
    assert bound(scenario(relaxed), "bound").core_seconds == pytest.approx(0.2)
    assert bound(scenario(urgent), "bound").core_seconds == pytest.approx(0.16)
    assert bound(scenario(service([0.0], slo_s=0.02)), "bound").core_seconds == 0.0


def test_no_policy_that_serves_all_reserves_less_than_the_bound():
    where = scenario(service(every(0.05, 20)), seconds=20.0)
    least = bound(where, "bound").core_seconds
    for policy in (Sponge(), Paper(), PaperInstances(), UsageInstances(), Static([(3, 1, 1)])):
        found = run(where, policy, "any").score
        if found.avoidable_missed == 0:
            assert found.core_seconds >= least


def test_sponge_follows_demand_both_ways():
    sent = [*every(0.5, 20), *(20 + t for t in every(0.025, 20)), *(40 + t for t in every(0.5, 20))]
    where = scenario(service(sent), seconds=60.0)
    found = run(where, Sponge(), "sponge").score
    largest = smallest(where, found.avoidable_missed, "static-best").score
    assert found.mean_cores < 0.75 * largest.mean_cores
    assert found.avoidable_missed <= 0.005 * found.requests
    assert 2 <= found.resizes <= 40


def test_several_services_share_a_host_by_weight():
    sent = every(0.025, 20)
    heavy = service(sent, name="heavy", weight=10.0, start_cores=2)
    light = service(sent, name="light", weight=1.0, start_cores=2)
    found = run(scenario(heavy, light, host_cores=6, seconds=20.0), Sponge(), "sponge")
    missed = [tally.avoidable_missed for tally in found.tallies]
    assert missed[0] < missed[1] / 3
    assert found.score.mean_cores <= 6.5
