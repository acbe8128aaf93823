"""What was learned outlives the process: a restart is to a model what a silence of the same length is."""

import sqlite3
import struct
from contextlib import closing
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from controlplane import config
from controlplane.cell import HALF_LIFE_S, SAMPLES, Cell
from controlplane.latency import LatencyModel
from controlplane.memory import Memory
from controlplane.metrics import Metrics
from controlplane.store import Store

WALL_S = 1.7e9
KEYS = tuple(product((1, 2, 4), (1, 2)))


class Life:
    """The memory of one process: its clock starts anywhere, Unix time goes on."""

    def __init__(self, path: Path, clock_s: float, wall_s: float = WALL_S, **settings: float) -> None:
        self.clock_s, self.wall_s = clock_s, wall_s
        self.registry = CollectorRegistry()
        self.store = Store(str(path))
        section = config.Store(path=str(path), **settings)
        self.memory = Memory(
            self.store, section, Metrics(self.registry), lambda: self.clock_s, lambda: self.wall_s
        )

    def __enter__(self) -> "Life":
        return self

    def __exit__(self, *_: object) -> None:
        self.store.close()

    def pass_time(self, seconds: float) -> None:
        self.clock_s += seconds
        self.wall_s += seconds

    def recall(self) -> LatencyModel:
        return LatencyModel(cells=self.memory.recall("d"))

    def count(self, name: str) -> float | None:
        return self.registry.get_sample_value(f"sponge_control_store_{name}_total")


def learn(life: Life, keys=KEYS) -> LatencyModel:
    """A minute of executions of each of `keys`, with noise and neighbours."""
    random = np.random.default_rng(7)
    model = LatencyModel()
    for _ in range(60):
        life.pass_time(1.0)
        for rows, threads in keys:
            work_s = 0.02 * rows / threads * random.lognormal(0.0, 0.1)
            model.record(rows, threads, work_s, random.choice([1.0, 2.0]), life.clock_s)
    return model


def predictions(model: LatencyModel) -> list[float]:
    mean, upper = model.grid(4, 8)
    return [model.kappa, model.residual, *mean.ravel(), *upper.ravel(), model.low(1, 1)]


async def test_predictions_are_the_same_in_the_next_process(tmp_path):
    with Life(tmp_path / "db", clock_s=5000.0) as first:
        model = learn(first)
        await first.memory.keep({"d": model})
    with Life(tmp_path / "db", clock_s=3.0, wall_s=first.wall_s + 100.0) as second:
        recalled = second.recall()
        assert repr(recalled) == repr(model)
        assert predictions(recalled) == pytest.approx(predictions(model), rel=1e-6)
        assert not LatencyModel(cells=second.memory.recall("another")).known


@pytest.mark.parametrize("away_s", [0.0, 60.0, 8 * HALF_LIFE_S, 86_400.0, 1e7])
async def test_what_is_learned_next_counts_as_after_a_silence_of_the_same_length(tmp_path, away_s):
    with Life(tmp_path / "db", clock_s=5000.0) as first:
        model = learn(first)
        await first.memory.keep({"d": model})
    with Life(tmp_path / "db", clock_s=0.0, wall_s=first.wall_s + away_s) as second:
        recalled = second.recall()
        for _ in range(3):
            model.record(1, 1, 0.2, 1.0, first.clock_s + away_s)
            recalled.record(1, 1, 0.2, 1.0, second.clock_s)
        assert predictions(recalled) == pytest.approx(predictions(model), rel=1e-6)


async def test_the_longer_ago_the_less_it_weighs(tmp_path):
    with Life(tmp_path / "db", clock_s=5000.0) as first:
        await first.memory.keep({"d": learn(first)})
    means = []
    for away_s in (0.0, HALF_LIFE_S, 4 * HALF_LIFE_S):
        with Life(tmp_path / "db", clock_s=0.0, wall_s=first.wall_s + away_s) as second:
            recalled = second.recall()
            for _ in range(10):
                recalled.record(1, 1, 0.04, 1.0, 0.0)
            means.append(recalled.mean(1, 1))
    assert 0.02 < means[0] < means[1] < means[2] < 0.04


async def test_a_clock_that_was_set_back_makes_nothing_younger_than_now(tmp_path):
    with Life(tmp_path / "db", clock_s=5000.0) as first:
        model = learn(first)
        await first.memory.keep({"d": model})
    with Life(tmp_path / "db", clock_s=3.0, wall_s=first.wall_s - 3600.0) as second:
        cells = second.memory.recall("d")
        assert {at for cell in cells.values() for at in cell.at} == {3.0}
        # With the time that it has now it is kept again, or it would stay the newest for an hour.
        await second.memory.keep({"d": LatencyModel(cells=cells)})
    with closing(sqlite3.connect(tmp_path / "db")) as file:
        assert file.execute("SELECT max(newest_unix_s) FROM latency").fetchone()[0] == second.wall_s


async def test_only_what_is_new_is_written(tmp_path):
    with Life(tmp_path / "db", clock_s=0.0) as life, closing(sqlite3.connect(tmp_path / "db")) as file:

        def version() -> int:
            return file.execute("PRAGMA data_version").fetchone()[0]

        model = learn(life)
        before = version()
        life.pass_time(1.0)
        await life.memory.keep({"d": model})
        kept = version()
        assert kept != before
        life.pass_time(1.0)
        await life.memory.keep({"d": model})
        assert version() == kept
        model.record(4, 2, 0.05, 1.0, life.clock_s)
        await life.memory.keep({"d": model})
        assert version() != kept
        assert sorted(len(cell.at) for cell in life.recall().cells.values()) == [60] * 5 + [61]


async def test_all_of_a_scaled_model_is_written_again(tmp_path):
    with Life(tmp_path / "db", clock_s=0.0) as life:
        model = learn(life)
        life.pass_time(1.0)
        await life.memory.keep({"d": model})
        life.pass_time(1.0)
        model.scale(2.0, life.clock_s)
        model.record(1, 1, 0.04, 1.0, life.clock_s)
        await life.memory.keep({"d": model})
        # Not only the size that was executed since: the next process would mix two speeds.
        assert predictions(life.recall()) == pytest.approx(predictions(model), rel=1e-6)


async def test_what_is_kept_is_bounded_and_the_newest(tmp_path):
    with Life(tmp_path / "db", clock_s=0.0, latency_cells=3) as life:
        model = LatencyModel()
        for rows in (5, 1, 4, 2, 3):
            for _ in range(SAMPLES + 40):
                life.pass_time(0.01)
                model.record(rows, 1, 0.001 * life.clock_s, 1.0, life.clock_s)
            await life.memory.keep({"d": model})
        cells = life.recall().cells
        assert set(cells) == {(4, 1), (2, 1), (3, 1)}
        assert all(len(cell.at) == SAMPLES for cell in cells.values())
        assert cells[3, 1].work == model.cells[3, 1].work


async def test_a_bound_of_none_keeps_nothing(tmp_path):
    with Life(tmp_path / "db", clock_s=0.0, latency_cells=0) as life:
        await life.memory.keep({"d": learn(life)})
        assert not life.recall().known


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("executions", b""),
        ("executions", b"\0" * 23),
        ("executions", struct.pack("<3d", float("nan"), 1.0, WALL_S)),
        ("executions", struct.pack("<3d", 0.01, float("inf"), WALL_S)),
        ("executions", struct.pack("<3d", 0.0, 1.0, WALL_S)),
        ("executions", struct.pack("<3d", 0.01, 0.5, WALL_S)),
        ("executions", struct.pack("<3d", 0.01, 1.0, float("-inf"))),
        ("executions", b"\0" * 24 * (SAMPLES + 1)),
        ("executions", "text"),
        ("batch_rows", -1),
        ("batch_rows", "many"),
        ("batch_rows", 10**12),
        ("threads", 10**6),
        ("threads", 0),
        ("threads", 1.5),
    ],
)
async def test_damaged_rows_are_refused_counted_and_logged_once(tmp_path, capsys, column, value):
    with Life(tmp_path / "db", clock_s=0.0) as first:
        await first.memory.keep({"d": learn(first), "e": learn(first, keys=[(1, 1)])})
    with closing(sqlite3.connect(tmp_path / "db", isolation_level=None)) as file:
        # Of every model one: rows 1, threads 1.
        file.execute(f"UPDATE latency SET {column} = ? WHERE batch_rows = 1 AND threads = 1", (value,))
    with Life(tmp_path / "db", clock_s=0.0, wall_s=first.wall_s) as second:
        assert set(second.recall().cells) == set(KEYS) - {(1, 1)}
        assert second.memory.recall("e") == {}
        assert second.count("rows_refused") == 2
        assert capsys.readouterr().out.count("kept latency refused") == 1


async def test_a_damaged_file_is_counted_and_nothing_of_it_is_believed(tmp_path, capsys):
    with Life(tmp_path / "db", clock_s=0.0) as first:
        await first.memory.keep({"d": learn(first, keys=[(rows, 1) for rows in range(1, 33)])})
    content = bytearray((tmp_path / "db").read_bytes())
    content[8192:] = b"\xff" * (len(content) - 8192)
    (tmp_path / "db").write_bytes(content)
    with Life(tmp_path / "db", clock_s=0.0, wall_s=first.wall_s) as second:
        for _ in range(2):
            assert not second.recall().known
        assert second.count("failures") == 2
        assert capsys.readouterr().out.count("latency not read") == 1


async def test_what_could_not_be_kept_is_kept_when_it_can(tmp_path, capsys):
    with Life(tmp_path / "db", clock_s=0.0) as life:
        model = learn(life)
        with closing(sqlite3.connect(tmp_path / "db", isolation_level=None)) as file:
            file.execute("ALTER TABLE latency RENAME TO gone")
            for _ in range(2):
                await life.memory.keep({"d": model})
            assert life.count("failures") == 2
            assert capsys.readouterr().out.count("latency not kept") == 1
            file.execute("ALTER TABLE gone RENAME TO latency")
        life.pass_time(100.0)
        await life.memory.keep({"d": model})
        assert repr(life.recall()) == repr(model)


def test_a_cell_is_what_it_was_packed_from():
    cell = Cell()
    for at in (-5.0, 0.0, 2.5):
        cell.record(0.01 + at / 1000, 1.0, at + 6)
    assert Cell.unpack(cell.pack(1000.0), 1000.0, 10.0) == cell
    older = Cell.unpack(cell.pack(1000.0), 1100.0, 10.0)
    assert (list(older.at), older.work) == ([-99.0, -94.0, -91.5], cell.work)
