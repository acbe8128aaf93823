"""What control costs: made-up work that is what it says, real processes weighed, goals judged."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from controlplane import reports
from core.cgroup import Cgroup
from core.config import load
from dataplane.agent import shape_of
from evaluation.experiment import cost_tables, costs, effect_time, footprint, kinds, spinner
from evaluation.experiment import telemetry_size as telemetry
from evaluation.experiment.cost_tables import Measured
from evaluation.experiment.effect_time import Effect, Step, Way
from evaluation.experiment.footprint import ControlPlane, Model, Worker
from evaluation.experiment.reporter import Reporter
from evaluation.process import StartError
from protos import control_pb2
from tests import models
from tests.processes import eventually


class Clock:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_experiment_that_is_shipped_is_read() -> None:
    settings = load(kinds.shipped()["costs"], costs.Settings)
    assert settings.effect.resizes >= 100


def test_a_reporter_reports_its_rate_over_windows_of_any_length() -> None:
    clock = Clock()
    reporter = Reporter("made-up", clock, rate=7.0)
    arrivals = 0
    for window_s in (0.05, 0.2, 0.2, 1.0, 0.55):
        clock.now += window_s
        sample = reporter.sample(distress=False)
        reports.check_sample(sample, reporter.hello())
        assert sample.window_s == pytest.approx(window_s)
        assert len(sample.executions) == sample.outcomes.on_time == sample.arrivals == sample.headers
        arrivals += sample.arrivals
    assert arrivals == 14


def test_a_reporter_reports_its_queue_in_deadline_order() -> None:
    reporter = Reporter("made-up", Clock(), rate=0.0, waiting=4, slack_s=1.0)
    sample = reporter.sample(distress=True)
    assert sample.distress
    assert [waiting.remaining_ms for waiting in sample.waiting] == pytest.approx([250, 500, 750, 1000])
    assert len(sample.running) == 1
    reporter.waiting = 0
    assert not reporter.sample(distress=False).waiting


async def test_a_reporter_acknowledges_what_it_is_told() -> None:
    acknowledged = asyncio.Event()
    reporter = Reporter("made-up", Clock(), rate=0.0, waiting=9)
    reporter.on_acknowledged = acknowledged.set
    directive = control_pb2.Directive(
        version={"term": 1, "epoch": 4},
        allocation={"cpu_millicores": 2100, "instances": 2, "threads": 1, "max_batch": 1},
    )
    await reporter.obey(directive)
    assert acknowledged.is_set()
    sample = reporter.sample(distress=False)
    assert (sample.acknowledged.term, sample.acknowledged.epoch) == shape_of(directive).version
    assert sample.allocation == directive.allocation
    assert len(sample.running) == 2


def test_a_hello_is_one_that_a_control_plane_takes() -> None:
    reports.check_hello(Reporter("made-up", Clock(), rate=1.0).hello())


def test_samples_grow_with_the_queue_up_to_what_is_told_of_it() -> None:
    empty, short, full, longer = telemetry.samples([20.0], [0, 64, 256, 1024])
    assert empty.sample_bytes < short.sample_bytes < full.sample_bytes
    # Of what waits beyond 256 only the number is told.
    assert longer.sample_bytes - full.sample_bytes <= 4
    assert empty.bytes_per_s == 5 * empty.sample_bytes


def test_directives_grow_with_what_they_predict() -> None:
    assert telemetry.hello() > 100
    assert telemetry.directive(1) < telemetry.directive(8)


def _measured(effects: Sequence[Effect] = ()) -> Measured:
    return Measured(
        sizes=list(telemetry.samples([1.0], [0, 8])),
        control_planes=[
            ControlPlane(0, 100 << 20, 0.0),
            ControlPlane(1, 101 << 20, 0.01),
            ControlPlane(3, 105 << 20, 0.05),
        ],
        workers=[Worker("vision", 300 << 20, 250 << 20, 0.0)],
        effects=effects,
        unavailable=[],
    )


def test_the_goal_of_an_effect_is_its_99th_percentile() -> None:
    late = Effect(Way.DOCKER, Step.DISTRESS, [0.1] * 90 + [0.2] * 10)
    soon = Effect(Way.DOCKER, Step.DISTRESS, [0.1] * 999 + [0.2])
    assert [goal.met for goal in cost_tables.goals(_measured(effects=[late, soon]))] == [False, True]


def test_every_row_of_every_table_has_a_cell_for_each_column() -> None:
    effect = Effect(Way.LOCAL, Step.OWNER, [0.001, 0.002])
    tables = cost_tables.tables(_measured([effect]), 20.0, 8)
    assert all(len(row) == len(table.columns) for table in tables for row in table.rows)
    assert all(table.rows for table in tables)


def test_what_a_worker_more_costs_is_told() -> None:
    (note,) = cost_tables.notes(_measured())
    assert "2.00 MiB and 20.0 millicores" in note


async def test_a_worker_weighs_more_than_its_session(tmp_path: Path) -> None:
    model = Model("scale", models.scale(tmp_path / "scale.onnx"), "x", (4,), "float32")
    worker = await footprint.worker(tmp_path, model, 2, 0.1)
    assert worker.rss_bytes > worker.bare_rss_bytes > 10 << 20


async def test_a_model_that_cannot_run_is_one_line(tmp_path: Path) -> None:
    model = Model("none", tmp_path / "none.onnx", "x", (4,), "float32")
    with pytest.raises(StartError, match=r"none\.onnx"):
        await footprint.worker(tmp_path, model, 1, 0.1)


def test_a_host_is_busy_with_what_spins_on_it() -> None:
    load = footprint.HostLoad()
    eventually(load.share)
    assert 0 < load.share() <= 1


async def test_a_control_plane_is_weighed_with_workers_attached(tmp_path: Path) -> None:
    weighed = await footprint.control_plane(tmp_path, 2, rate=20.0, seconds=0.2)
    assert weighed.workers == 2
    assert weighed.rss_bytes > 10 << 20


async def test_what_spins_is_held_to_its_quota_and_gone_afterwards() -> None:
    try:
        async with spinner.local(500) as spinning:
            group = Cgroup.at(Path(spinning.cgroup_path))
            assert group.quota_millicores() == 500
            (pid,) = (group.cpu / "cgroup.procs").read_text().split()
            eventually(lambda: footprint.cpu_seconds(int(pid)))
    except spinner.Unavailable as error:
        pytest.skip(str(error))
    assert not group.cpu.exists()


async def test_each_step_of_a_resize_is_timed_on_a_real_control_plane(tmp_path: Path) -> None:
    try:
        effects = await effect_time.measure(Way.LOCAL, tmp_path, 2, 0, lambda _: None)
    except spinner.Unavailable as error:
        pytest.skip(str(error))
    assert [effect.step for effect in effects] == list(Step)
    assert all(len(effect.seconds) == 2 and min(effect.seconds) > 0 for effect in effects)
