"""Executions under quotas: predictions by hand, and the experiment on small models under real quotas."""

import re
from pathlib import Path

import numpy as np
import pytest

from core.cgroup import usable_parent
from core.config import ConfigError, load
from evaluation.experiment import kinds, residual, residual_tables, residuals
from evaluation.experiment.residual import Patience, Residual
from evaluation.profiling import dominated
from evaluation.slices import Setting, Slice


class Machine:
    """Executions that take 10 ms a row, two thirds of it on two threads, of which 1.75 are then at work."""

    digest, batched = "", True

    def __init__(self) -> None:
        self.asked: list[tuple[Setting, float]] = []

    def run(self, setting: Setting, seconds: float, _pause_s: float) -> Slice:
        self.asked.append((setting, seconds))
        work_s = 0.010 * setting.rows / (1.5 if setting.threads == 2 else 1.0)
        busy = setting.instances * (1.75 if setting.threads == 2 else 1.0)
        stretch = max(1.0, 1000 * busy / setting.millicores) if setting.millicores else 1.0
        return Slice([work_s * stretch] * max(1, int(seconds / work_s / stretch)), 10, 5, 0.1)


SETTINGS = [
    Setting(rows, threads, instances, millicores)
    for millicores in (0, 500, 1500)
    for instances in (1, 2)
    for threads in (1, 2)
    for rows in (1, 2)
]
PATIENCE = Patience(rounds=2, executions=20, least_s=0.1, most_s=2.0)


def measured() -> tuple[Machine, list[Residual]]:
    machine = Machine()
    random = np.random.default_rng(1)
    observed = residual.measure(machine, SETTINGS, PATIENCE, random, lambda *_: None)
    return machine, residual.residuals(residual.learned(observed, 2), observed)


def test_every_setting_has_its_turn_in_every_round_and_time_for_its_executions() -> None:
    machine, _ = measured()
    rounds = machine.asked[4:]
    for part in (rounds[: len(SETTINGS)], rounds[len(SETTINGS) :]):
        assert {setting for setting, _ in part} == set(SETTINGS)
    seconds = dict(rounds)
    assert seconds[Setting(2, 1, 1, 500)] == pytest.approx(20 * 0.040 / 2)
    assert PATIENCE.seconds(0.0001) == pytest.approx(0.05)
    assert PATIENCE.seconds(60.0) == pytest.approx(1.0)


def test_the_mean_of_a_fluid_machine_is_known_and_the_upper_estimate_is_no_less() -> None:
    _, found = measured()
    assert [cell.setting for cell in found] == [setting for setting in SETTINGS if setting.millicores]
    for cell in found:
        assert cell.mean_error == pytest.approx(0.0, abs=0.05)
        assert cell.upper_error >= cell.mean_error - 1e-6
        assert cell.throttled_share == 0.5


def test_nothing_is_learned_under_a_quota_nor_on_more_threads_than_cores() -> None:
    whole = [Slice([0.010] * 20)]
    model = residual.learned(
        {Setting(1, 1): whole, Setting(1, 2, 2): whole, Setting(1, 4): whole, Setting(2, 1, 1, 500): whole}, 2
    )
    assert set(model.cells) == {(1, 1)}


def test_of_many_executions_an_eighth_is_beside_others() -> None:
    many = [Slice([0.010] * 500), Slice([0.020] * 500)]
    model = residual.learned({Setting(1, 1): many, Setting(1, 1, 2): many}, 2)
    cell = model.cells[1, 1]
    assert (list(cell.busy).count(1.0), list(cell.busy).count(2.0)) == (112, 16)
    assert list(cell.work).count(0.010) == 64


def test_the_planner_could_choose_what_a_thread_less_does_not_do_as_well() -> None:
    assert [dominated(runnable, 500) for runnable in (1, 2)] == [False, True]
    assert [dominated(runnable, 1500) for runnable in (1, 2, 4)] == [False, False, True]


def test_tables_and_goals_count_every_cell() -> None:
    _, found = measured()
    tables = residual_tables.tables({"made-up": found}, {})
    chosen, every, *_ = (table.rows for table in tables)
    assert [row[:3] for row in every] == [
        ("made-up", 500, 8), ("made-up", 1500, 8), ("made-up", "all", 16), ("all", "all", 16),
    ]  # fmt: skip
    assert [row[:3] for row in chosen][:3] == [
        ("made-up", 500, 2),
        ("made-up", 1500, 6),
        ("made-up", "all", 8),
    ]
    goals = residual_tables.goals({"made-up": found})
    assert [goal.measured.rpartition(" over ")[2] for goal in goals] == ["16 cells", "8 cells", "8 cells"]


def test_the_experiment_that_is_shipped_is_the_whole_grid() -> None:
    settings = load(kinds.shipped()["residuals"], residuals.Settings)
    assert settings.models == ["resnet50", "squeezenet", "minilm", "silero-vad"]
    assert (settings.instances, settings.threads, settings.batches) == ([1, 2], [1, 2], [1, 2, 4, 8])
    assert settings.quotas_millicores[0] == 250
    assert settings.quotas_millicores[-1] == 2000


@pytest.mark.parametrize(
    ("before", "after", "complaint"),
    [
        ("[1, 2]", "[2]", "instances: expected 1 among them"),
        ("[250, ", "[20, ", "quotas_millicores[0]"),
        ('"minilm"', '"maxilm"', "models[2]"),
    ],
)
def test_what_cannot_be_measured_is_said_first(
    before: str, after: str, complaint: str, tmp_path: Path
) -> None:
    toml = tmp_path / "quotas.toml"
    toml.write_text(kinds.shipped()["residuals"].read_text().replace(before, after, 1))
    with pytest.raises(ConfigError, match=re.escape(complaint)):
        residuals.run(toml, tmp_path, kinds.Options("quotas", None, 1, None, lambda _: None))


@pytest.mark.skipif(usable_parent() is None, reason="no control group may be made here")
def test_a_small_run_is_a_finding_with_a_picture(tmp_path: Path) -> None:
    toml = tmp_path / "residuals.toml"
    text = kinds.shipped()["residuals"].read_text()
    for before, after in (
        (r"models = .*", 'models = ["squeezenet"]'),
        (r"batches = .*", "batches = [1, 2]"),
        (r"quotas_millicores = .*", "quotas_millicores = [500]"),
        (r"rounds = \d+", "rounds = 1"),
    ):
        text = re.sub(before, after, text)
    toml.write_text(text)
    told: list[str] = []
    finding = residuals.run(toml, tmp_path, kinds.Options("residuals", None, 1, 0.05, told.append))
    assert finding.write(tmp_path).exists()
    assert (tmp_path / finding.plots[0].file).exists()
    assert told[-1].startswith("residuals: squeezenet: ")
    assert finding.tables[1].rows[0][:3] == ("squeezenet", 500, 8)
