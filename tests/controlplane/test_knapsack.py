"""The knapsack: against brute force, and its solver."""

import subprocess
import sys
from dataclasses import replace
from itertools import product

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from controlplane.knapsack import Choice, SolverStatus, _Table, solve

CHOICES = st.builds(
    Choice,
    cpu=st.integers(1, 20).map(lambda n: 100 * n),
    memory=st.integers(0, 6),
    cost=st.integers(0, 5000).map(float),
)


@settings(max_examples=150, deadline=None)
@given(
    menus=st.lists(st.lists(CHOICES, min_size=1, max_size=4), min_size=1, max_size=4),
    host_cpu=st.integers(0, 60).map(lambda n: 100 * n),
    host_memory=st.integers(0, 18),
)
def test_solve_equals_brute_force(menus, host_cpu, host_memory):
    costs = [
        sum(choice.cost for choice in chosen)
        for chosen in product(*menus)
        if sum(choice.cpu for choice in chosen) <= host_cpu
        and sum(choice.memory for choice in chosen) <= host_memory
    ]
    solution = solve(menus, host_cpu, host_memory, time_limit_s=10.0)
    chosen = [menu[index] for menu, index in zip(menus, solution.chosen, strict=True)]
    if costs:
        assert solution.status is SolverStatus.OPTIMAL
        assert sum(choice.cost for choice in chosen) == min(costs)
        assert sum(choice.cpu for choice in chosen) <= host_cpu
        assert sum(choice.memory for choice in chosen) <= host_memory
        return
    assert solution.status is SolverStatus.OVERCOMMITTED
    frugal = [
        [choice for choice in menu if choice.memory == min(each.memory for each in menu)] for menu in menus
    ]
    costs = [
        sum(choice.cost for choice in picked)
        for picked in product(*frugal)
        if sum(choice.cpu for choice in picked) <= host_cpu
    ]
    if costs:
        assert all(choice in row for choice, row in zip(chosen, frugal, strict=True))
        assert sum(choice.cpu for choice in chosen) <= host_cpu
        assert sum(choice.cost for choice in chosen) == min(costs)
    else:
        assert [c.cpu for c in chosen] == [min(choice.cpu for choice in menu) for menu in menus]


@settings(max_examples=100, deadline=None)
@given(
    menus=st.lists(st.lists(CHOICES, min_size=1, max_size=4), min_size=1, max_size=4),
    more=st.lists(st.integers(0, 99), min_size=4, max_size=4),
    host_cpu=st.integers(0, 6000),
)
def test_menus_that_begin_with_odd_cpu_on_a_host_of_odd_size_are_solved_exactly(menus, more, host_cpu):
    odd = [
        [replace(choice, cpu=choice.cpu + extra) for choice in menu]
        for menu, extra in zip(menus, more, strict=False)
    ]
    solution = solve(odd, host_cpu, 100)
    shifted = solve(menus, host_cpu - sum(more[: len(menus)]), 100)
    assert solution == shifted


@settings(max_examples=100, deadline=None)
@given(
    menus=st.lists(st.lists(CHOICES, min_size=1, max_size=4), min_size=1, max_size=4),
    host_memory=st.integers(0, 12),
    gap_limit=st.sampled_from([0.0, 0.05, 0.99]),
    time_limit_s=st.sampled_from([1e-6, 10.0]),
)
def test_a_solution_is_no_further_from_the_optimum_than_its_gap_says(
    menus, host_memory, gap_limit, time_limit_s
):
    costs = [
        sum(choice.cost for choice in chosen)
        for chosen in product(*menus)
        if sum(choice.cpu for choice in chosen) <= 3000
        and sum(choice.memory for choice in chosen) <= host_memory
    ]
    assume(costs)
    solution = solve(menus, 3000, host_memory, time_limit_s, gap_limit)
    chosen = [menu[index] for menu, index in zip(menus, solution.chosen, strict=True)]
    cost = sum(choice.cost for choice in chosen)
    assert sum(choice.memory for choice in chosen) <= host_memory
    assert cost - min(costs) <= solution.gap * max(cost, 0.01) + 1e-9
    assert solution.gap <= gap_limit or time_limit_s < 1
    assert (solution.status is SolverStatus.OPTIMAL) == (solution.gap == 0)


def test_costs_that_say_never_and_memory_in_bytes_leave_bounds_true():
    menu = [Choice(100 * n, (n << 30) + n, 1e10 / n if n > 3 else 1e14) for n in range(1, 12)]
    solution = solve([menu] * 12, 5000, 40 << 30, 10.0)
    chosen = [menu[index] for index in solution.chosen]
    assert sum(choice.memory for choice in chosen) <= 40 << 30
    assert solution.status is SolverStatus.OPTIMAL


def test_nothing_to_solve():
    assert solve([], 1000, 0).chosen == ()


def test_many_equal_services_are_proven_at_once():
    menu = [Choice(100 * n, 0, 100 * n + 90_000 / n) for n in range(5, 40)]
    solution = solve([menu] * 24, 32_000, 0)
    assert solution.status is SolverStatus.OPTIMAL
    assert sum(menu[index].cpu for index in solution.chosen) <= 32_000


def test_odd_sizes_take_no_larger_a_table():
    menu = [Choice(333 + 100 * n, 0, 90_000 / (5 + n)) for n in range(35)]
    table = _Table([menu] * 24, 32_057)
    assert table._size == (32_057 - 24 * 333) // 100 + 1
    assert table.least(table.costs) is not None


def test_the_solver_leaves_interrupts_to_the_process():
    """In a process of its own: the handler is the C library's business, which Python does not see."""
    program = """
import os, signal, sys
from controlplane.knapsack import Choice, solve
menus = [[Choice(500, 1, 9.0), Choice(1100, 5, 1.0)]] * 2
assert solve(menus, 1700, 4).chosen == (0, 0)  # memory decides: only then is CP-SAT asked
try:
    os.kill(os.getpid(), signal.SIGINT)
    signal.pause()
except KeyboardInterrupt:
    sys.exit(7)
"""
    done = subprocess.run([sys.executable, "-c", program], timeout=60, check=False)
    assert done.returncode == 7
