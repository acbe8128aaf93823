"""A run second by second, by hand and against its score."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.bandwidth import BandwidthTrace
from evaluation.simulation.policies.fa2 import Fa2
from evaluation.simulation.policies.paper import Paper, PaperInstances
from evaluation.simulation.policies.sponge import Sponge
from evaluation.simulation.policies.static import Static
from evaluation.simulation.policies.usage import Usage, UsageInstances
from evaluation.simulation.run import run
from evaluation.simulation.score import Class
from tests.evaluation.simulation.scenarios import every, scenario, service


def test_requests_count_where_they_are_due_and_budgets_where_they_arrive():
    # The first is served in 100 ms; the other two are due before both could be.
    one = service([0.0, 2.5, 2.5], slo_s=0.6, payload_bytes=1e5, max_cores=1)
    (found,) = run(scenario(one, seconds=2.6), Static([(1, 1, 4)]), "static").series
    assert found.on_time.tolist() == [[0, 0, 0, 0], [0, 0, 0, 0], [1, 0, 0, 2]]
    assert not found.missed.any()
    assert found.core_seconds.tolist() == pytest.approx([1, 1, 0.6, 0])
    assert found.least_budget_s.tolist() == pytest.approx([0.5, np.nan, 0.5, np.nan], nan_ok=True)


def test_what_is_refused_is_avoidable_if_it_had_time_enough():
    # A row takes 100 ms on the only core: of three with 250 ms one goes; one with 120 ms is tight.
    many = service([0.0] * 3, slo_s=0.25, max_cores=1, name="many")
    tight = service([1.0] * 3, slo_s=0.12, max_cores=1, name="tight")
    found, other = run(scenario(many, tight, host_cores=2, seconds=2.0), Static([(1, 1, 1)] * 2), "").series
    assert (found.service, other.service) == ("many", "tight")
    assert found.on_time[Class.REST].tolist() == [2, 0]
    assert found.avoidable_missed.tolist() == found.missed.tolist() == [1, 0]
    assert (other.missed.tolist(), other.avoidable_missed.tolist()) == ([0, 2], [0, 0])


def test_the_median_is_that_of_the_second():
    links = BandwidthTrace((1.0, 1.0), (1e6, 1e5))
    # 100 kB take 0.1 s in the first second and 1 s in the other.
    one = service([0.0, 0.2, 0.4, 1.0], slo_s=3.0, payload_bytes=1e5, link=links)
    (found,) = run(scenario(one, seconds=4.0), Static([(4, 1, 1)]), "").series
    assert found.least_budget_s[:3].tolist() == pytest.approx([2.9, np.nan, 2.0], nan_ok=True)
    assert found.median_budget_s[0] == pytest.approx(2.9)


workloads = st.tuples(
    st.floats(1, 60),  # requests/s
    st.floats(0.05, 2.0),  # SLO
    st.floats(1, 4e5),  # payload
    st.sampled_from([0.0, 0.5]),  # grace
    st.integers(1, 2),  # services
    st.sampled_from([0.0, 0.5]),  # noise
    st.sampled_from([0.0, 0.2]),  # contention
)


@settings(max_examples=40, deadline=None)
@given(workloads, st.sampled_from([Sponge, Paper, PaperInstances, Fa2, Usage, UsageInstances, Static]))
def test_seconds_add_up_to_the_score(workload, kind):
    rate, slo_s, payload, grace_s, count, noise, contention = workload
    link = BandwidthTrace((1.0, 0.5), (1e6, 0.0))
    services = [
        service(every(1 / rate, 5.3), name=name, slo_s=slo_s, payload_bytes=payload, link=link, max_cores=2)
        for name in "ab"[:count]
    ]
    disturbed = {"noise": noise, "contention": contention, "actuation_s": 0.03}
    where = scenario(*services, seconds=5.3, grace_s=grace_s, host_cores=4, **disturbed)
    policy = Static([(2, 1, 2)] * count) if kind is Static else kind()
    found = run(where, policy, "any")
    score, series = found.score, found.series

    def total(name, since=Class.TIGHT):
        return sum(int(getattr(one, name)[since:].sum()) for one in series)

    assert (total("on_time"), total("late"), total("refused")) == (score.on_time, score.late, score.refused)
    assert sum(int(one.avoidable_missed.sum()) for one in series) == score.avoidable_missed
    assert sum(int(one.on_time[Class.TIGHT].sum()) for one in series) == score.tight_on_time
    # Everybody has ended, and once; the dead too.
    assert sum(total(name, Class.DEAD) for name in ("on_time", "late", "refused")) == score.requests
    assert score.requests == score.dead_on_arrival + score.on_time + score.late + score.refused
    assert sum(one.core_seconds.sum() for one in series) == pytest.approx(score.core_seconds)
    assert score.core_seconds == pytest.approx(score.mean_cores * 5.3)
