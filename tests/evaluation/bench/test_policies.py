"""What the baselines choose, on models whose latency is known."""

import itertools

import pytest

from controlplane.allocation import Allocation
from controlplane.config import Planner
from controlplane.demand import DemandEstimate
from controlplane.latency import LatencyModel
from controlplane.planner import Bound, ServiceState
from controlplane.shape import Limits
from evaluation.bench import control, policies
from evaluation.bench.policies import Paper, Usage

HOST = 4000
LIMITS = Limits(min_millicores=500, max_millicores=HOST, max_instances=4, max_threads=4, max_batch=4)


def linear(row_s: float) -> LatencyModel:
    """Rows take as long together as one after the other, and threads divide all of it."""
    model = LatencyModel()
    for rows, threads in itertools.product((1, 2, 3, 4), (1, 2, 4)):
        for _ in range(16):
            model.record(rows, threads, row_s * rows / threads, 1.0, 0.0)
    return model


def service(rate=10.0, budgets=((0.8, 0.5), (1.0, 0.5)), row_s=0.1, used=0.0, limits=LIMITS, name="vision"):
    demand = DemandEstimate(rate, 0.0, 1.0, budgets, 1.0)
    return ServiceState(name, linear(row_s), demand, limits, cores_used=used)


def chosen(decide, *services, host=HOST):
    plan = decide(services, host, 1 << 40, Planner())
    return [assignment.configuration for assignment in plan.assignments]


def test_the_paper_serves_a_seconds_arrivals_as_a_burst_within_the_shortest_budget():
    # 10 requests of 100 ms within 0.9·0.8 s: one thread takes 1 s, two take 0.5 s.
    (configuration,) = chosen(Paper(), service())
    assert (configuration.instances, configuration.threads) == (1, 2)
    assert 1000 < configuration.cpu_millicores <= 2100


def test_fewer_requests_and_longer_budgets_need_fewer_cores():
    by_rate = [chosen(Paper(), service(rate=rate))[0].cpu_millicores for rate in (2, 6, 10, 20)]
    by_budget = [
        chosen(Paper(), service(budgets=((b, 0.5), (1.0, 0.5))))[0].cpu_millicores for b in (1.0, 0.6, 0.4)
    ]
    assert by_rate == sorted(by_rate)
    assert by_budget == sorted(by_budget)
    assert by_rate[0] < by_rate[-1]
    assert by_budget[0] < by_budget[-1]


def test_an_infeasible_second_gets_the_largest_allocation():
    plan = Paper()([service(rate=200.0)], HOST, 1 << 40, Planner())
    assert plan.assignments[0].configuration == Allocation(4000, 1, 4, 4)
    assert plan.assignments[0].reasons.bound is Bound.HOST


def test_the_paper_leaves_out_budgets_that_nothing_can_meet():
    hopeless = service(budgets=((0.001, 0.1), (0.8, 0.4), (1.0, 0.5)))
    assert chosen(Paper(), hopeless) == chosen(Paper(), service())


def test_a_short_slo_is_held_to_the_arrivals_of_one_slo():
    # 20 requests/s of 10 ms and 150 ms: three within an SLO, and not twenty.
    short = service(rate=20.0, budgets=((0.13, 1.0),), row_s=0.01)
    (configuration,) = chosen(Paper(), short)
    assert configuration.cpu_millicores == 500


def test_on_instances_the_paper_never_uses_threads():
    (configuration,) = chosen(Paper(instances=True), service(rate=20.0))
    assert configuration.threads == 1
    assert configuration.instances > 1


@pytest.mark.parametrize(("used", "millicores", "instances"), [(0.4, 500, 1), (0.72, 900, 1), (1.6, 2000, 2)])
def test_usage_is_divided_by_its_target_and_instances_follow(used, millicores, instances):
    assert chosen(Usage(), service(used=used)) == [Allocation(millicores, instances, 1, 1)]


def test_usage_grows_while_its_quota_is_used_up():
    used, quotas = 0.5, []
    for _ in range(6):
        (configuration,) = chosen(Usage(), service(used=used))
        quotas.append(configuration.cpu_millicores)
        used = configuration.cpu_millicores / 1000
    assert all(a < b for a, b in itertools.pairwise(quotas))


@pytest.mark.parametrize("decide", [Paper(), Paper(instances=True), Usage()])
def test_a_full_host_is_divided_by_what_is_wanted_beyond_the_floors(decide):
    many = service(rate=200.0, used=8.0)
    few = service(rate=100.0, used=1.2, name="other")
    plan = decide([many, few], 2000, 1 << 40, Planner())
    first, second = (assignment.configuration.cpu_millicores for assignment in plan.assignments)
    assert plan.host_full
    assert first + second <= 2000
    assert min(first, second) >= 500


def test_nobody_gets_threads_that_a_cut_quota_cannot_run():
    (one, _) = chosen(Paper(), service(rate=200.0), service(rate=200.0, name="other"), host=2000)
    assert one == Allocation(1000, 1, 1, 4)


@pytest.mark.parametrize("name", ["sponge", "paper", "paper-nt", "usage", "usage:70"])
def test_every_name_has_a_planner(name):
    assert chosen(control.decides(name), service())[0].cpu_millicores >= 500


@pytest.mark.parametrize("name", ["", "static:MAX", "paper:1", "usage:0", "usage:100", "usage:x", "fa2"])
def test_other_names_have_none(name):
    with pytest.raises(ValueError, match="expected sponge, paper"):
        control.decides(name)


def test_the_papers_plans_are_put_in_force_at_once_and_others_as_ours():
    assert policies.governor("paper").shrink_hold_s == 0
    assert policies.governor("usage") == policies.governor("sponge")
