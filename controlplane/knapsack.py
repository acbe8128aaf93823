"""A multiple-choice knapsack: one item of each menu, at the least cost within a host's CPU and memory."""

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from ortools.sat.python import cp_model

COST_SCALE = 100  # the solver counts in hundredths of a millicore
MAX_COST = 10**12  # in those; a sum over thousands of services still fits its 64 bits


@dataclass(frozen=True, slots=True)
class Choice:
    """One item of a menu."""

    cpu: int
    memory: int
    cost: float


class SolverStatus(enum.Enum):
    """How good a plan is known to be."""

    OPTIMAL = "optimal"
    FEASIBLE = "feasible"  # time ran out; the gap says how far it may be from the optimum
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
) -> Solution:
    """Choose one of each menu, none of them empty, at the least total cost within CPU and memory.

    A multiple-choice knapsack. Where the cheapest of each menu fit together they are the optimum; else dynamic
    programming finds that for CPU alone, and where it does not fit into memory CP-SAT decides, with one worker and a
    fixed seed. Where nothing fits: the least CPU of each menu, then the least cost.
    """
    cheapest = tuple(_least([choice.cost for choice in menu]) for menu in menus)
    if _fits(menus, cheapest, host_cpu, host_memory):
        return Solution(cheapest, SolverStatus.OPTIMAL)
    smallest = tuple(_least([(choice.cpu, choice.cost) for choice in menu]) for menu in menus)
    overcommitted = Solution(smallest, SolverStatus.OVERCOMMITTED)

    costs = [[_scaled(choice.cost) for choice in menu] for menu in menus]
    relaxed = _without_memory(menus, costs, host_cpu)
    if relaxed is None:
        return overcommitted
    # What is best without a constraint, and meets it, is best with it.
    if _fits(menus, relaxed, host_cpu, host_memory):
        return Solution(relaxed, SolverStatus.OPTIMAL)
    # Of near-equal services CP-SAT finds the optimum in milliseconds and takes seconds to prove it: the bound helps.
    model = cp_model.CpModel()
    picks = [[model.new_bool_var("") for _ in menu] for menu in menus]
    for row in picks:
        model.add_exactly_one(row)
    flat = [pick for row in picks for pick in row]
    items = [choice for menu in menus for choice in menu]
    total = cp_model.LinearExpr.weighted_sum(flat, [cost for row in costs for cost in row])
    model.add(cp_model.LinearExpr.weighted_sum(flat, [choice.cpu for choice in items]) <= host_cpu)
    model.add(cp_model.LinearExpr.weighted_sum(flat, [choice.memory for choice in items]) <= host_memory)
    model.add(total >= sum(row[index] for row, index in zip(costs, relaxed, strict=True)))
    for row, hinted in zip(picks, relaxed, strict=True):
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
    status = solver.solve(model)
    if status in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        picked = tuple(
            next(index for index, pick in enumerate(row) if solver.boolean_value(pick)) for row in picks
        )
        if status == cp_model.OPTIMAL:
            return Solution(picked, SolverStatus.OPTIMAL)
        value, bound = solver.objective_value, solver.best_objective_bound
        return Solution(picked, SolverStatus.FEASIBLE, max(0.0, (value - bound) / max(abs(value), 1.0)))
    if status == cp_model.INFEASIBLE:
        return overcommitted
    return replace(overcommitted, status=SolverStatus.FEASIBLE, gap=1.0)  # nothing was found in time


def _fits(menus: Sequence[Sequence[Choice]], chosen: Sequence[int], host_cpu: int, host_memory: int) -> bool:
    picked = [menu[index] for menu, index in zip(menus, chosen, strict=True)]
    return sum(one.cpu for one in picked) <= host_cpu and sum(one.memory for one in picked) <= host_memory


def _scaled(cost: float) -> int:
    return round(min(cost * COST_SCALE, MAX_COST))


def _without_memory(
    menus: Sequence[Sequence[Choice]], costs: Sequence[Sequence[int]], host_cpu: int
) -> tuple[int, ...] | None:
    """Solve the knapsack for CPU alone, exactly; None if nothing fits.

    Dynamic programming over menus and CPU, in units of the greatest common divisor.
    """
    unit = math.gcd(*(choice.cpu for menu in menus for choice in menu)) or 1
    size = host_cpu // unit + 1
    unreachable = np.iinfo(np.int64).max // 2
    none = np.full(size, unreachable)
    best = np.zeros(size, dtype=np.int64)  # least cost of the menus so far, within so much CPU
    picked = []
    for menu, row in zip(menus, costs, strict=True):
        units = np.array([min(choice.cpu // unit, size) for choice in menu])
        # Row u of the windows, from the end: the best that leaves u units.
        windows = sliding_window_view(np.concatenate([none, best]), size)
        totals = windows[size - units] + np.array(row)[:, None]
        pick = totals.argmin(axis=0)
        picked.append(pick)
        best = np.minimum(totals[pick, np.arange(size)], unreachable)
    if best[-1] >= unreachable:
        return None
    chosen = []
    left = size - 1
    for menu, pick in zip(reversed(menus), reversed(picked), strict=True):
        index = int(pick[left])
        chosen.append(index)
        left -= menu[index].cpu // unit
    return tuple(reversed(chosen))


def _least(values: Sequence[float] | Sequence[tuple[int, float]]) -> int:
    """Index of the first of the least."""
    return min(range(len(values)), key=values.__getitem__)
