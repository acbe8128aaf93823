"""The paper's fit and rule, by hand and on the authors' own measurements."""

import pytest

from controlplane.knapsack import Choice, solve
from evaluation import bandwidth
from evaluation.paper import Curve, Point, Size, feasible, fit, read_profile, smallest

# What the paper's evaluation runs: 284 KB pictures at 20 requests/s, 1 s end to end, a tenth of it kept back.
RATE = 20
PICTURE_BYTES = 284 * 1024
BUDGET_MS = 0.9 * 1000
SECONDS = 600


def budgets_ms(traces) -> list[float]:
    """What is left of the budget in each second, after the upload of a request sent at its start."""
    link = bandwidth.read(traces / "ghent_4g" / "report_bus_0001.log")
    return [BUDGET_MS - 1000 * (link.finish(s, PICTURE_BYTES) - s) for s in range(SECONDS)]


def test_fit_recovers_a_curve():
    curve = Curve(gamma=100.0, delta=20.0, epsilon=-10.0, eta=5.0)
    points = [Point(b, c, curve.latency_ms(b, c)) for b in (1, 2, 4) for c in (1, 2, 8)]
    found = fit(points)
    assert [found.gamma, found.delta, found.epsilon, found.eta] == pytest.approx([100, 20, -10, 5])
    assert found.r_squared(points) == pytest.approx(1)


def test_latency_is_cut_to_whole_milliseconds():
    curve = Curve(gamma=0.0, delta=0.0, epsilon=0.0, eta=10.9)
    assert feasible(curve, Size(1, 1), rate=20, budget_ms=200)
    assert not feasible(curve, Size(1, 1), rate=20, budget_ms=199)


def test_cores_before_batch():
    # One core needs batches of 4 to make it; more cores would do with smaller ones.
    curve = Curve(gamma=100.0, delta=0.0, epsilon=0.0, eta=100.0)
    assert smallest(curve, rate=8, budget_ms=1000) == Size(1, 4)
    assert smallest(curve, rate=8, budget_ms=100) is None


def test_numbers_of_the_authors_profile(traces):
    points = read_profile(traces / "sponge_paper" / "profile_yolov5s.csv")
    curve = fit(points)
    assert curve.gamma == pytest.approx(140.32, abs=0.005)
    assert curve.delta == pytest.approx(25.31, abs=0.005)
    assert curve.epsilon == pytest.approx(-50.42, abs=0.005)
    assert curve.eta == pytest.approx(22.34, abs=0.005)
    assert curve.r_squared(points) == pytest.approx(0.9947, abs=0.00005)
    assert sum(curve.latency_ms(p.batch, p.cores) < p.latency_ms for p in points) == 8


def test_rule_over_the_4g_log(traces):
    curve = fit(read_profile(traces / "sponge_paper" / "profile_yolov5s.csv"))
    sizes = [smallest(curve, RATE, budget) for budget in budgets_ms(traces)]
    cores = [size.cores for size in sizes if size is not None]
    assert (len(cores), sizes.count(None)) == (516, 84)
    assert sum(cores) / len(cores) == pytest.approx(12.43, abs=0.005)


def test_our_program_on_one_execution_and_whole_cores_is_the_papers(traces):
    curve = fit(read_profile(traces / "sponge_paper" / "profile_yolov5s.csv"))
    every = [Size(cores, batch) for cores in range(1, 17) for batch in range(1, 9)]
    compared = 0
    for budget in budgets_ms(traces):
        allowed = [size for size in every if feasible(curve, size, RATE, budget)]
        expected = smallest(curve, RATE, budget)
        if not allowed:
            assert expected is None
            continue
        menu = [Choice(1000 * size.cores, 0, 1000 * size.cores + size.batch) for size in allowed]
        assert allowed[solve([menu], 16_000, 0).chosen[0]] == expected
        compared += 1
    assert compared == 516
