"""The latency model: what it recovers, and what it never does."""

import os
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.cell import HALF_LIFE_S, SAMPLES, SPACING_S
from controlplane.curve import Curve, fit_curve
from controlplane.latency import ENOUGH, KAPPA, LatencyModel
from controlplane.profiled import Times
from controlplane.surface import MOST_CELLS
from evaluation.experiment import learning_tables, left_out
from evaluation.simulation import profile


def fed(cells, repeat=16, busy=1.0, now=0.0) -> LatencyModel:
    """Give a model that has seen each cell `repeat` times."""
    model = LatencyModel()
    for (rows, threads), work in cells.items():
        for _ in range(repeat):
            model.record(rows, threads, work, busy, now)
    return model


def authors_times(name: str) -> dict[tuple[int, int], Times]:
    """What the paper's authors measured, by rows and threads."""
    default = Path(__file__).parents[2] / "../shared/traces"
    path = Path(os.environ.get("SPONGE_TRACES", default)) / "sponge_paper" / f"profile_{name}.csv"
    if not path.is_file():
        pytest.skip(f"no measured profile at {path}; SPONGE_TRACES may name another folder")
    return profile.read_authors_times(path)


@pytest.fixture
def yolo() -> dict[tuple[int, int], float]:
    """Mean seconds by rows and threads."""
    return {key: times.mean_s for key, times in authors_times("yolov5s").items()}


def test_a_model_never_seen_is_unknown_and_slow():
    model = LatencyModel()
    assert not model.known
    assert 0.05 < model.low(1, 1) < model.mean(1, 1) < model.upper(1, 1) < 0.2
    assert model.mean(8, 1) > 4 * model.mean(1, 1)
    assert model.kappa == KAPPA


def test_recovers_known_coefficients():
    true = Curve(gamma=0.080, delta=0.010, epsilon=0.020, eta=0.005)
    keys = [(b, t) for b in (1, 2, 4, 8) for t in (1, 2, 4)]
    found = fit_curve(keys, [true.work(b, t) for b, t in keys], [1.0] * len(keys))
    assert found.gamma == pytest.approx(true.gamma, rel=0.02)
    assert found.delta == pytest.approx(true.delta, rel=0.05)
    assert found.epsilon == pytest.approx(true.epsilon, rel=0.05)
    assert found.eta == pytest.approx(true.eta, rel=0.1)


def test_predicts_cells_never_seen():
    true = Curve(gamma=0.080, delta=0.010, epsilon=0.020, eta=0.005)
    model = fed({(b, t): true.work(b, t) for b in (1, 4) for t in (1, 4)})
    assert model.mean(2, 2) == pytest.approx(true.work(2, 2), rel=0.03)
    assert model.mean(16, 8) == pytest.approx(true.work(16, 8), rel=0.1)
    assert model.residual < 0.01


def test_with_one_cell_the_prior_says_how_threads_and_rows_scale():
    model = fed({(1, 1): 0.100})
    assert model.mean(1, 1) == pytest.approx(0.100, rel=0.01)
    assert model.mean(1, 4) == pytest.approx(0.100 * (0.15 + 0.85 / 4), rel=0.02)
    assert model.mean(4, 1) == pytest.approx(0.100 * (0.1 + 0.9 * 4), rel=0.02)


def test_a_cell_with_enough_executions_speaks_for_itself():
    cells = {(1, 1): 0.10, (2, 1): 0.20, (4, 1): 0.25, (8, 1): 0.80}
    model = fed(cells)
    for (rows, threads), work in cells.items():
        assert model.mean(rows, threads) == pytest.approx(work)


def test_a_cell_with_few_executions_is_drawn_to_the_curve():
    cells = {(b, 1): 0.1 * b for b in (1, 2, 8)}
    model = fed(cells)
    for _ in range(int(ENOUGH / 4)):
        model.record(4, 1, 0.6, 1.0, 0.0)
    assert 0.4 < model.mean(4, 1) < 0.5


def test_how_far_a_cell_speaks_for_itself():
    model = fed({(1, 1): 0.1}, repeat=2)
    assert (model.trust(1, 1), model.trust(1, 2)) == (0.25, 0.0)
    for _ in range(20):
        model.record(2, 1, 0.2, 1.0, HALF_LIFE_S)
    assert (model.trust(1, 1), model.trust(2, 1)) == (0.125, 1.0)


def test_quantiles_are_those_of_the_cell():
    model = LatencyModel()
    for step in range(100):
        model.record(1, 1, 0.100 + 0.001 * step, 1.0, 0.0)
    assert model.mean(1, 1) == pytest.approx(0.1495, rel=0.01)
    assert model.upper(1, 1) == pytest.approx(0.194, abs=0.002)
    assert model.low(1, 1) == pytest.approx(0.104, abs=0.002)


@pytest.mark.parametrize("count", [4, 10, 20, 100])
def test_one_outlier_moves_little(count):
    model = fed({(1, 1): 0.1}, repeat=count)
    before = model.upper(1, 1)
    model.record(1, 1, 1.0, 1.0, 0.0)
    assert model.mean(1, 1) < 0.1 * (1 + 2.1 / count)
    assert model.upper(1, 1) <= max(before, 0.301)
    assert count < 20 or model.upper(1, 1) == model.mean(1, 1)


def test_a_second_kind_of_execution_is_no_outlier():
    model = LatencyModel()
    for index in range(60):
        model.record(1, 1, 1.0 if index % 4 == 0 else 0.1, 1.0, 0.0)
    assert model.mean(1, 1) == pytest.approx(0.325, rel=0.01)
    assert model.upper(1, 1) == pytest.approx(1.0)


def test_old_executions_are_forgotten():
    model = fed({(1, 1): 0.1}, repeat=32)
    for step in range(16):
        model.record(1, 1, 0.2, 1.0, 8 * HALF_LIFE_S + step)
    assert model.mean(1, 1) == pytest.approx(0.2, rel=0.01)


def test_more_samples_than_fit_replace_the_oldest():
    model = fed({(1, 1): 0.1}, repeat=200)
    for index in range(SAMPLES):
        model.record(1, 1, 0.3, 1.0, SPACING_S * (index + 1))
    assert model.mean(1, 1) == pytest.approx(0.3)


def test_what_comes_often_is_learned_no_sooner_than_over_a_minute():
    model = fed({(1, 1): 0.1}, repeat=SAMPLES)
    for index in range(2000):
        model.record(1, 1, 0.3, 1.0, (index + 1) / 100)
    # Of 20 seconds, a hundred executions in each.
    taken = round(20 / SPACING_S)
    assert model.cells[1, 1].work.count(0.3) == taken
    assert len(model.cells[1, 1].at) == SAMPLES


def test_after_a_silence_what_comes_often_is_learned_at_once():
    model = fed({(1, 1): 0.1}, repeat=SAMPLES)
    for index in range(SAMPLES):
        model.record(1, 1, 0.3, 1.0, HALF_LIFE_S + index / 100)
    assert model.mean(1, 1) == pytest.approx(0.3)
    assert model.executed(1, 1) == SAMPLES


def test_contention_is_learned_and_taken_out():
    model = LatencyModel()
    for busy in (1.0, 2.0, 3.0, 4.0):
        for _ in range(25):
            model.record(1, 1, 0.1 * (1 + 0.2 * (busy - 1)), busy, 0.0)
    assert model.kappa == pytest.approx(0.2, abs=0.02)
    assert model.mean(1, 1) == pytest.approx(0.1, rel=0.02)


def test_contention_stays_a_share():
    model = fed({(1, 1): 0.1})
    for _ in range(64):
        model.record(1, 1, 1.0, 2.0, 0.0)
    assert 0.0 <= model.kappa <= 1.0


@pytest.mark.parametrize("work", [0.0, -1.0, float("nan"), float("inf")])
def test_what_no_execution_can_take_is_ignored(work):
    model = LatencyModel()
    model.record(1, 1, work, 1.0, 0.0)
    model.record(0, 1, 0.1, 1.0, 0.0)
    model.record(1_000_000, 1, 0.1, 1.0, 0.0)
    model.record(1, 1024, 0.1, 1.0, 0.0)
    assert not model.known


CELLS = st.dictionaries(
    st.tuples(st.integers(1, 8), st.sampled_from([1, 2, 3, 4])), st.floats(1e-4, 10.0), max_size=8
)


@settings(max_examples=60, deadline=None)
@given(cells=CELLS, repeat=st.integers(1, 12))
def test_monotone_in_rows_antitone_in_threads_and_ordered(cells, repeat):
    model = fed(cells, repeat)
    model.table(6, 10)  # of one fit: two of different sizes may round differently
    tables = [model.table(threads, 10) for threads in (1, 2, 3, 4, 6)]
    for table in tables:
        for values in (table.mean, table.upper, table.low):
            assert all(a <= b for a, b in pairwise(values))
        rows = zip(table.low[1:], table.mean[1:], table.upper[1:], strict=True)
        assert all(0 <= low <= mean <= upper for low, mean, upper in rows)
    for fewer, more in pairwise(tables):
        for name in ("mean", "upper", "low"):
            assert all(a >= b for a, b in zip(getattr(fewer, name), getattr(more, name), strict=True))


@settings(max_examples=30, deadline=None)
@given(cells=CELLS)
def test_what_is_asked_for_first_changes_no_answer(cells):
    small, large = fed(cells), fed(cells)
    large.table(8, 64)
    one, other = small.table(2, 3), large.table(2, 3)
    for name in ("mean", "upper", "low"):
        assert getattr(one, name) == pytest.approx(getattr(other, name), rel=1e-12)


def test_paper_grid(yolo):
    model = fed(yolo)
    errors = [abs(model.mean(b, t) / work - 1) for (b, t), work in yolo.items()]
    assert sum(errors) / len(errors) < 0.01
    # The curve alone, which speaks for the cells between.
    assert model.residual < 0.15


def test_paper_grid_with_a_cell_left_out(yolo):
    inner = [key for key in yolo if key[0] in (2, 4) and key[1] in (2, 4, 8)]
    errors = []
    for key in inner:
        model = fed({k: v for k, v in yolo.items() if k != key})
        errors.append(abs(model.mean(*key) / yolo[key] - 1))
    assert sum(errors) / len(errors) < 0.2


def test_where_no_cell_speaks_the_upper_estimate_is_raised_and_most_beyond_all_cells():
    cells = {(1, 1): 0.10, (2, 1): 0.25, (4, 1): 0.40, (8, 1): 1.00}
    model = fed(cells)
    for (rows, threads), work in cells.items():
        assert model.upper(rows, threads) == pytest.approx(work)
    raised = [model.upper(rows, 1) / model.mean(rows, 1) for rows in (9, 12, 16, 32)]
    assert raised[0] > 1.05
    assert raised == sorted(raised)
    # Between two by no more than the next takes.
    assert 0.25 <= model.upper(3, 1) <= 0.40
    assert model.mean(8, 2) < model.upper(8, 2) <= 1.00


def test_between_two_cells_lies_nothing_beyond_them():
    model = fed({(1, 1): 0.10, (2, 1): 0.20, (4, 1): 0.21, (8, 1): 0.80, (2, 2): 0.19})
    assert 0.20 <= model.mean(3, 1) <= 0.21
    assert 0.21 <= model.mean(6, 1) <= 0.80
    assert 0.19 <= model.mean(3, 2) <= 0.21


def test_a_deviation_is_shared_by_neighbours_and_forgotten_with_distance():
    true = Curve(gamma=0.080, delta=0.010, epsilon=0.020, eta=0.005)
    cells = {(b, t): true.work(b, t) for b in (1, 2, 4, 8, 16, 32) for t in (1, 2, 4)}
    model = fed({**cells, (8, 1): 1.3 * cells[8, 1]})
    off = [model.mean(rows, 1) / true.work(rows, 1) for rows in (3, 6, 7)]
    assert 1.0 < off[0] < off[1] < off[2] < 1.3


def test_a_curve_that_is_right_over_more_cells_than_it_has_coefficients_raises_nothing():
    true = Curve(gamma=0.080, delta=0.010, epsilon=0.020, eta=0.005)
    model = fed({(b, t): true.work(b, t) for b in (1, 4) for t in (1, 2, 4)})
    assert model.upper(8, 8) == pytest.approx(model.mean(8, 8), rel=1e-3)


def test_few_cells_say_little_of_others_however_well_the_curve_fits():
    model = fed({(1, 1): 0.10, (2, 1): 0.20})
    assert model.residual < 0.01
    assert model.upper(1, 1) == pytest.approx(0.10)
    assert model.upper(4, 1) > 1.05 * model.mean(4, 1)


def test_one_wild_execution_hardly_raises_what_many_cells_say():
    true = Curve(gamma=0.080, delta=0.010, epsilon=0.020, eta=0.005)
    cells = {
        (b, t): true.work(b, t) * (1.02 if b == 2 else 0.98) for b in (1, 2, 4, 8, 16) for t in (1, 2, 4, 8)
    }
    calm, wild = fed(cells), fed(cells)
    wild.record(6, 2, 20 * true.work(6, 2), 1.0, 0.0)
    assert wild.upper(32, 8) < 1.15 * calm.upper(32, 8)
    assert wild.mean(12, 2) < 1.2 * calm.mean(12, 2)


def test_more_cells_than_say_something_of_others_speak_for_themselves():
    cells = {(b, t): 0.01 * b / t * (1 + 0.1 * (b % 2)) for b in range(2, 82, 2) for t in (1, 2)}
    model = fed(cells)
    assert len(cells) > MOST_CELLS
    for (rows, threads), work in cells.items():
        assert model.mean(rows, threads) == pytest.approx(work)


@pytest.mark.parametrize("name", ["yolov5s", "resnet18"])
def test_cells_of_the_papers_grids_left_out(name):
    times = authors_times(name)
    found = left_out.predict({key: Times(*[cell.p99_s] * 4) for key, cell in times.items()})
    assert learning_tables.mean_error(found) < 0.08
    assert learning_tables.under(found) <= 0.05
