"""A multiple-choice knapsack: one item of each menu, at the least cost within a host's CPU and memory."""

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from ortools.sat.python import cp_model

from controlplane.curve import Floats

COST_SCALE = 100  # the solver counts in hundredths of a millicore
MAX_COST = 10**12  # in those; a sum over thousands of services is still exact
_PRICES = 20  # of memory that are tried at most
_PAIRS = 300_000  # of choices that are tried at a time: milliseconds
_ROUNDING = 1e-13  # more than sums of thousands are off by, as a share


@dataclass(frozen=True, slots=True)
class Choice:
    """One item of a menu."""

    cpu: int
    memory: int
    cost: float


class SolverStatus(enum.Enum):
    """How good a plan is known to be."""

    OPTIMAL = "optimal"
    FEASIBLE = "feasible"  # good enough, or time ran out; the gap says how far it may be from the optimum
    OVERCOMMITTED = "overcommitted"  # not even the smallest configurations fit together


@dataclass(frozen=True, slots=True)
class Solution:
    """The index chosen from each menu."""

    chosen: tuple[int, ...]
    status: SolverStatus
    gap: float = 0.0


def solve(
    menus: Sequence[Sequence[Choice]],
    host_cpu: int,
    host_memory: int,
    time_limit_s: float = 0.5,
    gap_limit: float = 0.0,
) -> Solution:
    """Choose one of each menu, none of them empty, at the least total cost within CPU and memory.

    A multiple-choice knapsack. Where the cheapest of each menu fit together they are the optimum; else dynamic
    programming finds that for CPU alone. Where it does not fit into memory, a price of memory gives a solution and a
    bound, and if those are more than `gap_limit` apart CP-SAT goes on from there, with one worker and a fixed seed.
    Where nothing fits: of each menu what takes the least memory, at the least cost within CPU, as memory that is short
    is no reason to leave CPU unused; where those do not fit into CPU, the least CPU of each menu, then the least cost.
    """
    cheapest = tuple(_least([choice.cost for choice in menu]) for menu in menus)
    if _fits(menus, cheapest, host_cpu, host_memory):
        return Solution(cheapest, SolverStatus.OPTIMAL)
    table = _Table(menus, host_cpu)
    relaxed = table.least(table.costs)
    if relaxed is None:
        return _overcommitted(table)
    # What is best without a constraint, and meets it, is best with it.
    if _fits(menus, relaxed, host_cpu, host_memory):
        return Solution(relaxed, SolverStatus.OPTIMAL)
    priced = _priced(table, relaxed, host_memory)
    if priced is None:
        return _overcommitted(table)
    if priced.gap <= gap_limit:
        return priced.solution()
    return _searched(table, host_memory, priced, time_limit_s, gap_limit)


@dataclass(frozen=True, slots=True)
class _Bracket:
    """A solution, and what none costs less than."""

    chosen: tuple[int, ...]
    cost: float
    bound: float

    @property
    def gap(self) -> float:
        return max(0.0, self.cost - self.bound) / max(abs(self.cost), 1.0)

    def solution(self) -> Solution:
        return Solution(self.chosen, SolverStatus.FEASIBLE if self.gap else SolverStatus.OPTIMAL, self.gap)


class _Table:
    """Menus with costs as whole numbers, on a host of so much CPU.

    What counts is what choices take beyond the least of their menu: steps are as large, whatever they begin with.
    """

    def __init__(self, menus: Sequence[Sequence[Choice]], host_cpu: int) -> None:
        self.menus = menus
        self.host_cpu = host_cpu
        # Whole numbers, of which sums are exact.
        self.costs = [np.array([float(_scaled(choice.cost)) for choice in menu]) for menu in menus]
        self.memory = [np.array([float(choice.memory) for choice in menu]) for menu in menus]
        cpu = [np.array([choice.cpu for choice in menu]) for menu in menus]
        beyond = [row - row.min() for row in cpu]
        unit = math.gcd(*(int(more) for row in beyond for more in row)) or 1
        spare = host_cpu - sum(int(row.min()) for row in cpu)
        self._size = min(spare, sum(int(row.max()) for row in beyond)) // unit + 1
        self._units = [np.minimum(row // unit, max(0, self._size)) for row in beyond]

    def least(self, costs: Sequence[Floats]) -> tuple[int, ...] | None:
        """Solve the knapsack for CPU alone, exactly, at other costs; None if nothing fits.

        Dynamic programming over menus and CPU, in units of the greatest common divisor.
        """
        size = self._size
        if size <= 0:
            return None
        none = np.full(size, np.inf)
        best = np.zeros(size)  # least cost of the menus so far, within so much CPU
        picked = []
        for units, row in zip(self._units, costs, strict=True):
            # Row u of the windows, from the end: the best that leaves u units.
            windows = sliding_window_view(np.concatenate([none, best]), size)
            totals = windows[size - units] + row[:, None]
            pick = totals.argmin(axis=0)
            picked.append(pick)
            best = totals[pick, np.arange(size)]
        if best[-1] == np.inf:
            return None
        chosen = []
        left = size - 1
        for units, pick in zip(reversed(self._units), reversed(picked), strict=True):
            index = int(pick[left])
            chosen.append(index)
            left -= int(units[index])
        return tuple(reversed(chosen))


def _overcommitted(table: _Table) -> Solution:
    """Give what takes the least memory within the host's CPU; where that does not fit, the least CPU."""
    frugal = table.least(
        [
            np.where(memory == memory.min(), cost, np.inf)
            for cost, memory in zip(table.costs, table.memory, strict=True)
        ]
    )
    smallest = (_least([(choice.cpu, choice.cost) for choice in menu]) for menu in table.menus)
    return Solution(frugal or tuple(smallest), SolverStatus.OVERCOMMITTED)


def _total(columns: Sequence[Floats], chosen: Sequence[int]) -> float:
    return sum(float(column[index]) for column, index in zip(columns, chosen, strict=True))


def _priced(table: _Table, relaxed: tuple[int, ...], host_memory: int) -> _Bracket | None:
    """Put a price on memory: the best that does fit at one, and the best bound; None if nothing fits.

    Lagrange's relaxation (Fisher, "The Lagrangian relaxation method for solving integer programming problems",
    Management Science 27, 1981). The next price is that at which two choices cost the same: the last that did not
    fit, and the last that did. Where nothing costs less at that price, no other gives a better bound.
    """
    fitting = table.least(table.memory)
    if fitting is None or _total(table.memory, fitting) > host_memory:
        return None
    beyond, best = relaxed, fitting
    bound = _total(table.costs, relaxed)
    for _ in range(_PRICES):
        more = _total(table.memory, beyond) - _total(table.memory, fitting)
        price = (_total(table.costs, fitting) - _total(table.costs, beyond)) / more
        prices = [cost + price * memory for cost, memory in zip(table.costs, table.memory, strict=True)]
        found = table.least(prices)
        assert found is not None  # as of other costs
        least, known = _total(prices, found), _total(prices, fitting)
        bound = max(bound, least - price * host_memory - _ROUNDING * least)
        if least >= known * (1 - _ROUNDING):
            break
        if _total(table.memory, found) > host_memory:
            beyond = found
        else:
            fitting = found
            best = min(best, found, key=lambda chosen: _total(table.costs, chosen))
    best = _improved(table, best, host_memory)
    return _Bracket(best, _total(table.costs, best), math.ceil(bound))


def _improved(table: _Table, chosen: tuple[int, ...], host_memory: int) -> tuple[int, ...]:
    """Exchange one choice, or two of different menus, for what saves most and fits, until nothing does."""
    of = np.repeat(np.arange(len(table.menus)), [len(menu) for menu in table.menus])
    cost, memory = np.concatenate(table.costs), np.concatenate(table.memory)
    cpu = np.array([float(choice.cpu) for menu in table.menus for choice in menu])
    first = np.searchsorted(of, np.arange(len(table.menus)))
    picked = first + np.array(chosen)
    while True:
        now = picked[of]
        saved, more_cpu, more_memory = cost[now] - cost, cpu - cpu[now], memory - memory[now]
        cpu_left, memory_left = table.host_cpu - cpu[picked].sum(), host_memory - memory[picked].sum()
        # With each that saves something another that may make room for it; to stay is one of those.
        gains = np.argsort(-saved)[: max(1, _PAIRS // len(of))]
        gains = gains[saved[gains] > 0]
        fits = (more_cpu[gains, None] + more_cpu <= cpu_left) & (
            more_memory[gains, None] + more_memory <= memory_left
        )
        fits &= (of[gains, None] != of) | (now == np.arange(len(of)))
        both = np.where(fits, saved[gains, None] + saved, 0.0)
        if not both.size or both.max() <= 0:
            return tuple((picked - first).tolist())
        gain, room = np.unravel_index(both.argmax(), both.shape)
        picked[of[room]] = room
        picked[of[gains[gain]]] = gains[gain]


def _searched(
    table: _Table, host_memory: int, known: _Bracket, time_limit_s: float, gap_limit: float
) -> Solution:
    """Ask CP-SAT for something better than what is known."""
    model = cp_model.CpModel()
    picks = [[model.new_bool_var("") for _ in menu] for menu in table.menus]
    for row in picks:
        model.add_exactly_one(row)
    flat = [pick for row in picks for pick in row]
    items = [choice for menu in table.menus for choice in menu]
    total = cp_model.LinearExpr.weighted_sum(flat, [round(cost) for row in table.costs for cost in row])
    model.add(cp_model.LinearExpr.weighted_sum(flat, [choice.cpu for choice in items]) <= table.host_cpu)
    model.add(cp_model.LinearExpr.weighted_sum(flat, [choice.memory for choice in items]) <= host_memory)
    # Of near-equal services CP-SAT finds the optimum in milliseconds and takes seconds to prove it: the bound helps.
    model.add(total >= round(known.bound))
    model.add(total <= round(known.cost))
    for row, hinted in zip(picks, known.chosen, strict=True):
        for index, pick in enumerate(row):
            model.add_hint(pick, index == hinted)
    model.minimize(total)
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    # Presolving takes half of the time, and of 128 services with little memory all that there is, without a solution.
    solver.parameters.cp_model_presolve = False
    solver.parameters.linearization_level = 2
    solver.parameters.random_seed = 0
    solver.parameters.catch_sigint_signal = False  # it would leave SIGINT at its default, which is to die
    solver.parameters.max_time_in_seconds = time_limit_s
    solver.parameters.relative_gap_limit = gap_limit
    status = solver.solve(model)
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):  # nothing was found in time
        return known.solution()
    picked = tuple(
        next(index for index, pick in enumerate(row) if solver.boolean_value(pick)) for row in picks
    )
    bound = max(known.bound, math.ceil(solver.best_objective_bound - 1e-6))
    return _Bracket(picked, _total(table.costs, picked), bound).solution()


def _fits(menus: Sequence[Sequence[Choice]], chosen: Sequence[int], host_cpu: int, host_memory: int) -> bool:
    picked = [menu[index] for menu, index in zip(menus, chosen, strict=True)]
    return sum(one.cpu for one in picked) <= host_cpu and sum(one.memory for one in picked) <= host_memory


def _scaled(cost: float) -> int:
    return round(min(cost * COST_SCALE, MAX_COST))


def _least(values: Sequence[float] | Sequence[tuple[int, float]]) -> int:
    """Index of the first of the least."""
    return min(range(len(values)), key=values.__getitem__)
