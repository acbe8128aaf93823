"""CFS periods: statistics over rounds by hand, and a real worker under a real quota."""

import re
from pathlib import Path

import pytest

from core.cgroup import CgroupError, usable_parent
from core.config import ConfigError, load
from evaluation.experiment import cfs_period, cfs_plot, kinds, throttled
from evaluation.experiment.footprint import Model
from evaluation.experiment.rounds import cpu_ms, health_ms, mean_ms, median, ratio, service_ms, spread
from evaluation.experiment.throttled import Observation, Setting
from tests import models


def observation(service_ms: float, health_ms: float, cpu_ms: float) -> Observation:
    """All executions and all health checks took the same."""
    return Observation([service_ms] * 4, [health_ms] * 4, cpu_ms, 0.5)


def rounds(ours: tuple[float, float, float], quota: int = 500) -> dict[Setting, list[Observation]]:
    """Two rounds, the second on a machine half as fast."""
    reference = (20.0, 50.0, 10.0)
    return {
        Setting(quota, 100): [observation(*reference), observation(*(2 * value for value in reference))],
        Setting(quota, 20): [observation(*ours), observation(*(2 * value for value in ours))],
    }


def test_the_experiment_that_is_shipped_compares_the_default() -> None:
    settings = load(kinds.shipped()["cfs-period"], cfs_period.Settings)
    assert settings.periods_ms[0] == max(settings.periods_ms)
    assert cfs_period.DEFAULT_MS in settings.periods_ms


@pytest.mark.parametrize(
    ("before", "after", "complaint"),
    [
        ("100, 20, 5", "100, 5", "periods_ms: expected the default of 20"),
        ("500, 750", "150, 750", "quotas_millicores: expected at least 200"),
    ],
)
def test_what_cannot_be_measured_is_said_first(
    tmp_path: Path, before: str, after: str, complaint: str
) -> None:
    toml = tmp_path / "periods.toml"
    shipped = kinds.shipped()["cfs-period"].read_text()
    assert before in shipped
    toml.write_text(shipped.replace(before, after))
    options = kinds.Options("periods", None, 1, None, lambda _: None)
    with pytest.raises(ConfigError, match=re.escape(complaint)):
        cfs_period.run(toml, tmp_path, options)


def test_drift_between_rounds_cancels_from_ratios() -> None:
    measured = rounds((22.0, 25.0, 10.1))
    ours = Setting(500, 20)
    assert median(measured[ours], mean_ms) == pytest.approx(33.0)
    assert spread(measured[ours], mean_ms) == pytest.approx((22.0, 44.0))
    assert ratio(measured, ours, 100, mean_ms) == pytest.approx(1.1)
    assert ratio(measured, ours, 100, cpu_ms) == pytest.approx(1.01)
    assert ratio(measured, ours, 100, health_ms(99)) == pytest.approx(0.5)
    assert ratio(measured, Setting(500, 100), 100, service_ms(95)) == 1.0


def test_a_health_check_that_is_never_answered_took_forever() -> None:
    assert health_ms(99)(Observation([1.0], [], 1.0, 0.0)) == float("inf")


def test_the_default_is_supported_where_it_is_cheap_and_stalls_less() -> None:
    goals = cfs_period.goals("made-up", rounds((20.0, 25.0, 10.3)), 100)
    assert [goal.met for goal in goals] == [True, True, True]
    assert cfs_period.verdict(goals, 0.6).endswith("and the data support it.")


def test_a_busy_host_supports_no_claim() -> None:
    goals = cfs_period.goals("made-up", rounds((20.0, 25.0, 10.3)), 100)
    assert cfs_period.verdict(goals, 0.95).endswith("95% busy: this run supports no claim.")


@pytest.mark.parametrize(
    ("ours", "met"),
    [
        ((20.0, 25.0, 10.4), [False, True, True]),
        ((21.1, 25.0, 10.0), [True, False, True]),
        ((20.0, 53.0, 10.0), [True, True, False]),
    ],
)
def test_what_speaks_against_the_default_is_said(ours: tuple[float, float, float], met: list[bool]) -> None:
    goals = cfs_period.goals("made-up", rounds(ours), 100)
    assert [goal.met for goal in goals] == met
    verdict = cfs_period.verdict(goals, 0.6)
    assert "but for 1 of 3" in verdict
    assert goals[met.index(False)].goal in verdict


def test_at_a_core_or_more_only_the_cost_counts() -> None:
    (goal,) = cfs_period.goals("made-up", rounds((99.0, 99.0, 10.0), quota=1000), 100)
    assert goal.met


def test_tables_and_plot_hold_every_setting(tmp_path: Path) -> None:
    measured = rounds((20.0, 25.0, 10.0))
    table = cfs_period.table("made-up", measured, 100)
    assert [row[:3] for row in table.rows] == [("0.5", 100, 8), ("0.5", 20, 8)]
    assert all(len(row) == len(table.columns) for row in table.rows)
    cfs_plot.plot(tmp_path / "made-up.png", {"made-up": measured}, 100)
    assert (tmp_path / "made-up.png").stat().st_size > 1000


async def test_a_real_worker_is_seen_throttled_by_a_small_quota_only(tmp_path: Path) -> None:
    try:
        if usable_parent() is None:
            pytest.skip("no control group may be made here")
    except CgroupError as error:
        pytest.skip(str(error))
    model = Model("slow", models.slow(tmp_path / "slow.onnx", work=300), "x", (256,), "float32")
    async with throttled.subject(tmp_path, model) as subject:
        group = subject.group
        small = await subject.observe(Setting(200, 20), 0.5)
        assert (group.quota_millicores(), group.period_us) == (200, 20_000)
        large = await subject.observe(Setting(64_000, 100), 0.5)
        assert (group.quota_millicores(), group.period_us) == (64_000, 100_000)
    assert small.throttled_share > 0.5
    assert large.throttled_share == 0
    assert min(len(small.service_ms), len(small.health_ms), len(large.service_ms)) > 0
    assert not group.cpu.exists()
