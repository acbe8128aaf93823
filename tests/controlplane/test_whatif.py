"""What would be: the planner's answer read off, and how many copies fit."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane import config
from controlplane.curve import Curve
from controlplane.demand import settled
from controlplane.knapsack import SolverStatus
from controlplane.operation import ServiceState
from controlplane.planner import plan
from controlplane.profiled import of_curve
from controlplane.shape import MEMORY_STEP_BYTES, Limits
from controlplane.whatif import Host, fit, foresee

SETTINGS = config.Planner()
# Every miss counts the same, and nothing but millicores is paid for them.
PLAIN = config.Planner(tight_weight=1.0, batch_cost_millicores=0.0)
MODEL = of_curve(Curve(0.080, 0.012, 0.006, 0.002), 1.0, max_threads=8, max_batch=8)  # 0.1 s for a row
SHARE = 0.01


def service(name: str = "vision", rate: float = 10.0, *budgets_s: float, **more) -> ServiceState:
    """Give a service whose requests have each of the budgets as often."""
    budgets = [(budget_s, 1 / len(budgets_s)) for budget_s in sorted(budgets_s)]
    return ServiceState(name, MODEL, settled(rate, budgets or [(1.0, 1.0)]), **more)


def test_it_is_the_planners_own_answer():
    services = [service(), service("other", 30.0, 0.3, 0.6, weight=2.0), service("idle", 0.0)]
    made = plan(services, 5700, 0, PLAIN)
    outlook = foresee(services, Host(5700), PLAIN)
    assert [p.name for p in outlook.prospects] == ["vision", "other", "idle"]
    for prospect, assignment in zip(outlook.prospects, made.assignments, strict=True):
        assert prospect.configuration == assignment.configuration
        assert prospect.bound is assignment.reasons.bound
        assert prospect.utilisation == pytest.approx(assignment.reasons.utilisation)
        assert prospect.misses == pytest.approx(assignment.reasons.expected_misses)
    assert outlook.left_millicores == 5700 - sum(a.configuration.cpu_millicores for a in made.assignments)
    assert (outlook.status, outlook.gap, outlook.crowded) == (made.status, made.gap, made.host_full)


def test_service_times_are_those_of_the_configuration():
    (prospect,) = foresee([service(rate=4.0)], Host(3700), SETTINGS).prospects
    chosen = prospect.configuration
    assert (chosen.instances, chosen.threads, prospect.batch_rows) == (1, 1, 1)
    stretch = max(1.0, 1000 / chosen.cpu_millicores)
    assert prospect.mean_s == pytest.approx(0.1 * stretch)
    assert prospect.upper_s >= prospect.mean_s


def test_tight_requests_count_in_full_and_hopeless_ones_too():
    # 0.12 s are tight, 5 ms hopeless, a second is easy.
    told = service("vision", 2.0, 0.005, 0.12, 1.0, 1.0, limits=Limits(max_threads=1))
    (prospect,) = foresee([told], Host(1100), SETTINGS).prospects
    assert prospect.hopeless == pytest.approx(0.5)
    counted = plan([told], 1100, 0, SETTINGS).assignments[0].reasons.expected_misses
    assert prospect.misses - prospect.hopeless > 1.01 * counted
    assert prospect.miss_share == pytest.approx(prospect.misses / 2.0)


def test_a_host_below_the_floors_is_too_little():
    outlook = foresee([service(rate=0.0), service("other", 0.0)], Host(900), SETTINGS)
    assert outlook.left_millicores == -100
    assert not outlook.fits
    assert outlook.host_full
    assert outlook.status is SolverStatus.OVERCOMMITTED


def test_memory_is_given_too():
    step = MEMORY_STEP_BYTES
    told = service(rate=0.0, memory_base_bytes=3 * step, memory_per_row_bytes=step)
    outlook = foresee([told], Host(3700, 10 * step), SETTINGS)
    assert outlook.left_memory_bytes == 6 * step
    assert fit(told, [], Host(3700, 10 * step), SETTINGS, SHARE).copies == 2
    assert fit(told, [], Host(3700, 40 * step), SETTINGS, SHARE).copies == 7  # then CPU ends first


def test_of_what_is_idle_as_many_fit_as_floors_do():
    found = fit(service(rate=0.0), [service("other", 0.0)], Host(3700), SETTINGS, SHARE)
    assert found.copies == 6
    assert not found.beyond.fits
    assert len(found.beyond.prospects) == 8


def test_none_fits_beside_one_that_misses_anyway():
    drowned = service("drowned", 1000.0)
    found = fit(service(rate=0.0), [drowned], Host(3700), SETTINGS, SHARE)
    assert found.copies == 0
    assert [p.name for p in found.beyond.missing(SHARE)] == ["drowned"]


budgets = st.lists(st.integers(15, 100), min_size=1, max_size=3, unique=True).map(
    lambda hundredths: [h / 100 for h in hundredths]
)


@settings(deadline=None, max_examples=40)
@given(
    told=st.lists(st.tuples(st.integers(1, 60), budgets), min_size=1, max_size=2),
    cores=st.integers(1, 8),
)
def test_more_host_never_more_misses(told, cores):
    services = [service(str(index), float(rate), *some) for index, (rate, some) in enumerate(told)]

    def missed(millicores: int) -> float:
        """What the program minimises besides CPU: the sum of the shares."""
        return sum(p.miss_share for p in foresee(services, Host(millicores), PLAIN).prospects)

    # A core and head-room more each: quotas that are the ceiling of one host are none of a larger one otherwise.
    # The program counts in hundredths of a millicore, of which a share of 1 is 100 000.
    assert missed(1000 * (cores + 1) + 100) <= missed(1000 * cores + 100) + 1e-6


@settings(deadline=None, max_examples=15)
@given(
    rate=st.integers(0, 30),
    some=budgets,
    beside=st.lists(st.integers(1, 20), max_size=1),
    cores=st.integers(1, 6),
)
def test_so_many_copies_fit_and_one_more_does_not(rate, some, beside, cores):
    host = Host(1000 * cores + 700)
    copied = service("copied", float(rate), *some)
    others = [service("other", float(other)) for other in beside]
    found = fit(copied, others, host, SETTINGS, SHARE)

    def good(copies: int) -> bool:
        outlook = foresee([*others, *[copied] * copies], host, SETTINGS)
        return outlook.fits and all(p.misses <= SHARE * p.rate for p in outlook.prospects)

    assert not good(found.copies + 1)
    assert found.copies == 0 or good(found.copies)


def test_what_a_reserve_is_for_is_not_foreseen_to_come():
    (plain,) = foresee([service(rate=10.0)], Host(5700), SETTINGS).prospects
    (prospect,) = foresee([service(rate=10.0, reserve=0.5)], Host(5700), SETTINGS).prospects
    assert prospect.rate == plain.rate == 10.0
    assert prospect.configuration.cpu_millicores > plain.configuration.cpu_millicores
    assert prospect.utilisation < plain.utilisation
    assert prospect.misses < plain.misses
