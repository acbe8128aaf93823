"""What the control plane learns: cells left out, seconds to come, and goals that can be missed."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from controlplane.config import Explore
from controlplane.curve import Curve
from controlplane.demand import Ahead
from controlplane.profiled import Times
from core.config import load
from evaluation.experiment import ahead, cold, kinds, learning, left_out, slowed
from evaluation.experiment.ahead import Coverage, Second
from evaluation.experiment.finding import Finding
from evaluation.experiment.learning_tables import Reading
from evaluation.experiment.left_out import Prediction
from evaluation.simulation import offered
from evaluation.simulation.offered import RatesError
from sponge.__main__ import main

CURVE = Curve(gamma=0.080, delta=0.010, epsilon=0.020, eta=0.005)
TEXT = """
kind = "learning"
title = "What is learned"
question = "How well?"
profiles = ["grid.csv"]
arrivals = ["steady.txt", "steps.txt"]
mean_rates = [20.0]
seed = 1
starts = 1
"""


def grid(spread: float = 1.2, **cells: float) -> dict[tuple[int, int], Times]:
    """A grid that is the curve, but for cells such as b2t2, which take so many times as long."""
    times = {}
    for b in (1, 2, 4, 8):
        for t in (1, 2, 4):
            mean_s = CURVE.work(b, t) * cells.get(f"b{b}t{t}", 1.0)
            times[b, t] = Times(mean_s, mean_s, spread * mean_s, spread * mean_s)
    return times


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An experiment with all that it reads."""
    monkeypatch.delenv("SPONGE_TRACES", raising=False)
    (tmp_path / "small.toml").write_text(TEXT)
    header = "max_batch_size,cpu_request,model_latencies_avg,model_latencies_p95,model_latencies_p99"
    rows = [f"{b},{t},{cell.mean_s},{cell.p95_s},{cell.p99_s}" for (b, t), cell in grid().items()]
    (tmp_path / "grid.csv").write_text("\n".join([header, *rows]))
    (tmp_path / "steady.txt").write_text("20\n" * 300)
    (tmp_path / "steps.txt").write_text(" ".join(["10"] * 150 + ["40"] * 150))
    return tmp_path


def experiment(folder: Path, *more: str) -> int:
    return main(["experiment", str(folder / "small.toml"), "--output", str(folder / "out"), *more])


def test_a_cell_of_a_true_curve_is_found_again() -> None:
    found = left_out.predict(grid())
    assert len(found) == 12
    assert [(one.rows, one.threads) for one in found if one.inner] == [(2, 2), (4, 2)]
    assert all(one.fitted_error == pytest.approx(0, abs=1e-6) for one in found)
    assert all(abs(one.error) < 0.1 for one in found)


def test_a_cell_that_is_left_out_says_nothing_of_itself() -> None:
    plain = {(one.rows, one.threads): one for one in left_out.predict(grid())}
    slow = {(one.rows, one.threads): one for one in left_out.predict(grid(b2t2=2.0))}
    assert slow[2, 2].mean_s == pytest.approx(plain[2, 2].mean_s)
    assert slow[2, 2].error == pytest.approx((1 + plain[2, 2].error) / 2 - 1)
    assert slow[2, 2].under
    assert slow[2, 2].fitted_under
    # The others are predicted with it.
    assert slow[4, 2].mean_s != pytest.approx(plain[4, 2].mean_s)


def test_too_few_cells_are_refused() -> None:
    few = dict(list(grid().items())[:4])
    with pytest.raises(ValueError, match="expected 5 cells or more, got 4"):
        left_out.predict(few)


def test_a_second_is_forecast_from_those_before_it() -> None:
    one = ahead.follow([20] * 50 + [500], np.random.default_rng(1))
    other = ahead.follow([20] * 50 + [0], np.random.default_rng(1))
    assert len(one) == 50
    assert one[-1].arrivals == 500
    assert one[-1].ahead == other[-1].ahead
    assert one[-1].ahead.mean == pytest.approx(20, rel=0.05)


def test_coverage_by_hand() -> None:
    def second(arrivals: int, upper: float, unlearned: float) -> Second:
        return Second(arrivals, Ahead(10.0, 2.0, upper), Ahead(10.0, 2.0, unlearned))

    seconds = [second(12, 11, 15), second(12, 12, 11), second(8, 7, 7), second(16, 15, 16)]
    found = ahead.coverage(seconds)
    assert found == Coverage(4, rate=12, covered=0.25, later=0.0, unlearned=0.5, above=pytest.approx(0.125))


def test_who_knows_the_rate_adds_what_chance_does() -> None:
    # P(X ≤ 27) = 0.948, P(X ≤ 28) = 0.966 for a mean of 20: tables of the Poisson distribution.
    assert ahead.known([20.0, 20.0]) == pytest.approx(28 / 20 - 1)


def test_goals_are_about_every_profile_and_every_kind_of_arrivals() -> None:
    good, bad = left_out.predict(grid(spread=1.0)), left_out.predict(grid(b2t2=3.0))
    exact = [replace(one, mean_s=one.measured.mean_s, upper_s=one.measured.p95_s) for one in good]

    def latency(**found: list[Prediction]) -> list[bool | None]:
        read = {(name, Reading.P99): cells for name, cells in found.items()} | {("c", Reading.WHOLE): bad}
        return [goal.met for goal in learning.latency_goals(read)]

    assert latency(a=exact) == [True, True]
    assert latency(a=exact, b=bad) == [False, False]
    covered = Coverage(100, 20.0, covered=0.95, later=0.94, unlearned=0.8, above=0.4)
    low, later = replace(covered, covered=0.92), replace(covered, later=0.98)
    for one, met in ((covered, True), (low, False), (later, False)):
        goals = learning.demand_goals(
            {("a", "x"): (covered, None), ("b", "x"): (covered, 0.3), ("b", "y"): (one, 0.3)}
        )
        assert [goal.met for goal in goals] == [True, met]


def test_from_a_file_to_a_finding_and_the_same_again(folder: Path) -> None:
    assert experiment(folder, "--traces", str(folder)) == 0
    path = folder / "out" / "small.json"
    found = Finding.read(path)
    assert found.command.endswith("--traces DIR")
    assert str(folder / "grid.csv") not in path.read_text()
    assert [table.title for table in found.tables] == [
        "Latency of cells left out",
        "Cold start",
        "Executions that take longer for a minute",
        "Arrivals of the next second",
        "Cells of grid",
    ]
    tables = {table.title: table.rows for table in found.tables}
    assert [tuple(row[:3]) for row in tables["Arrivals of the next second"]] == [
        ("steady", "as recorded", 299),
        ("steady", "Poisson, 20/s", 299),
        ("steps", "as recorded", 299),
        ("steps", "Poisson, 20/s", 299),
    ]
    assert len(tables["Cells of grid"]) == 12
    assert len(found.goals) == 6
    written = path.read_bytes()
    assert experiment(folder, "--traces", str(folder)) == 0
    assert path.read_bytes() == written


def test_a_part_of_each_trace(folder: Path) -> None:
    assert experiment(folder, "--traces", str(folder), "--seconds", "30") == 0
    found = Finding.read(folder / "out" / "small.json")
    tables = {table.title: table.rows for table in found.tables}
    assert {row[2] for row in tables["Arrivals of the next second"]} == {29}
    assert found.settings["seconds of each"] == "30"


@pytest.mark.parametrize(
    ("name", "text", "error"),
    [
        ("steps.txt", "10", "steps.txt: expected two seconds or more"),
        ("steps.txt", "0 0 0", "steps.txt: expected two seconds or more, and a rate above zero"),
        ("steps.txt", "ten", "steps.txt: expected numbers only"),
        ("grid.csv", "a,b\n", "grid.csv: expected the columns"),
        ("small.toml", TEXT.replace("[20.0]", "[0.0]"), "mean_rates"),
    ],
)
def test_what_cannot_be_used_is_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], name: str, text: str, error: str
) -> None:
    (folder / name).write_text(text)
    assert experiment(folder, "--traces", str(folder)) == 2
    said = capsys.readouterr().err
    assert error in said
    assert said.count("\n") == 1


def test_without_traces_it_says_what_it_needs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert experiment(folder) == 2
    assert "needs a folder of measured traces that holds grid.csv" in capsys.readouterr().err


def test_what_is_shipped_is_about_every_trace_of_arrivals(traces: Path) -> None:
    settings = load(kinds.find("learning"), learning.Settings)
    assert kinds.run_of("learning") is learning.run
    recorded = set()
    for path in (traces / "arrivals").iterdir():
        try:
            offered.read_rates(path)
        except RatesError:
            continue
        recorded.add(f"arrivals/{path.name}")
    assert set(settings.arrivals) == recorded


@pytest.mark.parametrize("share", [1.0, 1 / 3])
def test_executions_that_take_longer_are_answered_sooner_than_they_are_learned(share: float) -> None:
    found = slowed.follow(2.0, share, 20.0, seed=1)
    assert found == slowed.follow(2.0, share, 20.0, seed=1)
    times_s = found.widened_s, found.right_s, found.over_s
    assert all(each is not None and each <= 3.0 for each in times_s)
    assert found.right_undetected_s is None or found.right_undetected_s > 3.0
    assert found.above < found.above_undetected


def test_nothing_changes_where_nothing_takes_longer() -> None:
    found = slowed.follow(1.0, 1.0, 20.0, seed=1)
    assert found.above == pytest.approx(found.above_undetected)


def test_a_cold_start_with_tries_is_of_use_within_half_a_minute() -> None:
    points = cold.of_curve(
        Curve(gamma=0.19, delta=0.001, epsilon=0.008, eta=0.001), (1, 2, 4), (1, 2, 4, 8, 16)
    )
    # No configuration seems to meet 40 ms before 8 threads have been tried.
    case = cold.Case("divided", points, rate=20.0, slo_s=0.04, max_batch=4)
    start, told = (
        cold.start(case, 1, profiled=False, explore=Explore.ALWAYS),
        cold.start(case, 1, profiled=True),
    )
    assert start.cells < told.cells
    assert start.later_cores == pytest.approx(told.later_cores, rel=0.1)
    assert start.later_on_time > told.later_on_time - 0.05


def test_several_starts_are_told_in_the_mean() -> None:
    one, other = cold.Start(4.0, 1.0, 3.0, 0.9, 20), cold.Start(2.0, 0.9, 2.0, 1.0, 17)
    assert cold.mean([one, other]) == cold.Start(3.0, 0.95, 2.5, 0.95, 18.5)


@pytest.mark.parametrize(
    ("cores", "on_time", "met"), [(4.3, 0.99, True), (4.5, 0.99, False), (4.0, 0.97, False)]
)
def test_the_goal_of_a_cold_start_is_about_cores_and_deadlines(
    cores: float, on_time: float, met: bool
) -> None:
    case = cold.Case("m", (), 1.0, 1.0, 1)
    told = cold.Start(4.0, 1.0, 4.0, 1.0, 20)
    start = cold.Start(9.0, 0.5, cores, on_time, 5)
    assert (
        learning.start_goal(
            [cold.Starts(case, told, told, told, told), cold.Starts(case, start, told, told, told)]
        ).met
        is met
    )


@pytest.mark.parametrize(("widened_s", "met"), [(1.0, True), (3.0, False), (None, False)])
def test_the_goal_of_drift_is_about_the_margin(widened_s: float | None, met: bool) -> None:
    often = slowed.Slowed(2.0, 1.0, 20.0, widened_s, 1.0, 0.05, 0.1, 5.0, 1.0)
    seldom = slowed.Slowed(2.0, 1.0, 2.0, 20.0, 1.0, 0.05, 0.1, 5.0, 1.0)
    assert learning.drift_goal([often, seldom]).met is met
