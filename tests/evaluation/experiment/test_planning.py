"""How long planning takes: fleets and menus that are what they say, cases repeated, goals judged."""

from pathlib import Path

import numpy as np
import pytest

from controlplane import knapsack
from core.config import load
from evaluation.experiment import fleets, kinds, planner_tables, planner_time, planning
from evaluation.experiment.fleets import CROWDED, ROOM
from evaluation.experiment.kinds import Options
from evaluation.experiment.planner_time import Costs, Patience, Planned, Problem, Solved, Took


def test_the_experiment_that_is_shipped_is_read() -> None:
    settings = load(kinds.shipped()["planner"], planning.Settings)
    assert settings.services == [1, 8, 32, 128, 256]
    assert 64 in settings.queue


@pytest.mark.parametrize("fill", [ROOM, CROWDED])
def test_a_fleet_wants_the_share_of_the_host_that_it_is_made_for(fill: float) -> None:
    services = fleets.fleet(8, 16, 16_000, fill, np.random.default_rng(1))
    wanted = sum(service.demand.rate * service.latency.mean(1, 1) for service in services)
    assert wanted == pytest.approx(16 * fill, rel=0.1)
    assert all(len(service.queue) == 16 for service in services)
    assert len({service.latency.mean(1, 1) for service in services}) == 8


def test_menus_leave_something_to_decide() -> None:
    menus = fleets.menus(8, 16_000, np.random.default_rng(1))
    for menu in menus:
        assert [choice.cost for choice in menu] == sorted((choice.cost for choice in menu), reverse=True)
        assert [choice.cpu for choice in menu] == sorted({choice.cpu for choice in menu})
    assert sum(menu[-1].cpu for menu in menus) > 16_000
    assert sum(menu[0].cpu for menu in menus) <= 16_000


@pytest.mark.parametrize("seed", range(5))
def test_with_memory_short_what_cpu_alone_allows_does_not_fit(seed: int) -> None:
    menus = fleets.menus(8, 16_000, np.random.default_rng(seed))
    memory = fleets.contended(menus, 16_000)
    free, short = (knapsack.solve(menus, 16_000, limit, 5.0) for limit in (1 << 50, memory))
    taken = [
        sum(menu[index].memory for menu, index in zip(menus, solution.chosen, strict=True))
        for solution in (free, short)
    ]
    assert taken[1] <= memory < taken[0]


def test_a_case_is_repeated_at_least_and_at_most_as_often_as_asked() -> None:
    (few,) = planner_time.plans([1], [0], 16, ROOM, Patience(2, 5, 1e-9), 0)
    assert few.took.repetitions == 2
    (many,) = planner_time.solutions([1], 16, Problem(Costs.PLANNED, False, 0.0), Patience(2, 5, 1e9), 0)
    assert many.took.repetitions == 5
    assert 0 < many.took.median_ms <= many.took.p95_ms


def test_a_host_grows_with_more_services_than_have_room_on_it() -> None:
    assert [fleets.host_millicores(count, 16) for count in (1, 64, 128, 256)] == [
        16_000,
        16_000,
        32_000,
        64_000,
    ]


def test_random_menus_have_costs_that_do_not_fall_with_cpu() -> None:
    menus = fleets.random_menus(8, 16_000, np.random.default_rng(1))
    for menu in menus:
        assert len({choice.cpu for choice in menu}) == 20
        assert [choice.cost for choice in menu] != sorted((choice.cost for choice in menu), reverse=True)
    assert sum(menu[-1].cpu for menu in menus) > 16_000


@pytest.mark.parametrize("costs", Costs)
def test_a_solution_is_timed_until_it_is_near_enough(costs: Costs) -> None:
    problem = Problem(costs, True, 0.05)
    (one,) = planner_time.solutions([8], 16, problem, Patience(3, 3, 1.0), 0)
    assert one.took.gap <= 0.05


def _took(median_ms: float, gap: float = 0.0) -> Took:
    return Took(9, median_ms, 2 * median_ms, "optimal", gap)


def _planned(services: int, median_ms: float, waiting: int = 64) -> Planned:
    return Planned(services, waiting, 16, True, _took(median_ms))


def _solved(services: int, median_ms: float, gap: float, near_enough: float = 0.01) -> Solved:
    return Solved(services, 16, Problem(Costs.RANDOM, True, near_enough), _took(median_ms, gap))


def test_goals_are_judged_by_the_median_and_the_gap() -> None:
    made = planner_tables.goals(
        [_planned(1, 10.0), _planned(8, 60.1), _planned(32, 1.0, waiting=0), _planned(128, 1.0)],
        [_solved(256, 999.0, 0.01), _solved(128, 1.0, 0.02), _solved(128, 1.0, 0.0, near_enough=0.001)],
    )
    assert [goal.met for goal in made] == [True, False, True, False]


def test_a_small_one_is_run_and_drawn(tmp_path: Path) -> None:
    toml = tmp_path / "small.toml"
    toml.write_text(
        'kind = "planner"\ntitle = "t"\nquestion = "q"\nseed = 1\nhost_cores = 4\nservices = [1, 2]\n'
        "queue = [0, 64]\nleast = 1\nmost = 1\nseconds = 1.0\n"
    )
    finding = planning.run(toml, tmp_path, Options("c", None, 1, None, lambda _: None))
    assert [len(table.rows) for table in finding.tables] == [8, 12]
    assert [(tmp_path / plot.file).is_file() for plot in finding.plots] == [True]
