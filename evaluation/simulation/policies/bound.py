"""The least CPU time that could serve every request that is not dead: no policy, but a bound for all."""

import time
from bisect import bisect_right

from dataplane.request import Outcome
from evaluation.simulation.profile import Truth
from evaluation.simulation.scenario import Scenario
from evaluation.simulation.score import Class, Score, Tally, score


def bound(scenario: Scenario, name: str) -> Score:
    """Each request at its cheapest (b, t): the least t·l(b, t)/b of the executions that fit into its budget.

    Whoever serves a request in time runs it in an execution of b rows on t threads that is no longer than its
    budget on arrival, and reserves t cores for l(b, t), of which b requests share. Contention and noise only add.
    """
    began = time.perf_counter()
    core_seconds = 0.0
    tallies = []
    for service in scenario.services:
        tally = Tally(service)
        lengths, costs = _frontier(service.truth, service.max_batch)
        offered = service.offered
        for index, kind in enumerate(tally.classes):
            if kind != Class.DEAD:
                budget_s = offered.deadline_s[index] - offered.arrived_s[index]
                core_seconds += costs[bisect_right(lengths, budget_s) - 1]
                tally.end(index, Outcome.ON_TIME)
        tallies.append(tally)
    return score(name, tallies, core_seconds, scenario.seconds, 0, time.perf_counter() - began)


def _frontier(truth: Truth, max_batch: int) -> tuple[list[float], list[float]]:
    """Durations of executions, ascending, and the least CPU per row of those no longer than each."""
    lengths: list[float] = []
    costs: list[float] = []
    for length, cost in sorted(
        (truth.seconds(rows, threads), threads * truth.seconds(rows, threads) / rows)
        for threads in range(1, truth.max_threads + 1)
        for rows in range(1, max_batch + 1)
    ):
        lengths.append(length)
        costs.append(min(cost, costs[-1]) if costs else cost)
    return lengths, costs
