"""A bench as if it had been run: two policies, two rounds, one service."""

from collections.abc import Sequence

from evaluation.bench.record import Bench, Events, Service, Trial
from evaluation.result import Change, Point
from evaluation.rows import Outcome, Row

SERVICE = Service(name="vision", slo_ms=1000.0, rate=10.0, row_ms=60.0, fastest_ms=30.0)
WARMUP_S, SECONDS = 5.0, 10.0


def row(at_s: float, outcome: Outcome = Outcome.ON_TIME, budget_ms: float = 800.0) -> Row:
    return Row(
        service="vision",
        scheduled_s=at_s,
        sent_s=at_s,
        finished_s=at_s + 0.3,
        deadline_s=at_s + 1.0,
        slo_ms=1000.0,
        size_bytes=284_000,
        outcome=outcome,
        budget_on_arrival_ms=budget_ms,
        answered=outcome in (Outcome.ON_TIME, Outcome.LATE),
    )


def point(at_s: float, cores: float) -> Point:
    """With a quota that never changed."""
    reserved, used, executing = (cores * at_s / part for part in (1, 2, 3))
    return Point(
        at_s, "vision", int(1000 * cores), 1, 1, 4, 0, 10.0, cores / 2, 0.0, reserved, used, executing
    )


def events(cores: float, rows: Sequence[Row]) -> Events:
    changes = [Change(2.5, "vision", "grow", "needed", 500, int(1000 * cores))]
    return Events(tuple(rows), [point(number * 0.5, cores) for number in range(32)], changes)


def trial(number: int, policy: str, busy: float = 0.5) -> Trial:
    return Trial(
        round=number,
        policy=policy,
        directory=f"{number}-{policy.replace(':', '-')}",
        start={"vision": "700 millicores"},
        host_busy_share=busy,
        cpu_s={"load generator and links": 2.0, "control plane": 0.5},
    )


def bench(trials: Sequence[Trial]) -> Bench:
    return Bench(
        command="sponge bench",
        settings={"machine": "2 CPUs"},
        services=[SERVICE],
        host_millicores=1500,
        holds_quota=True,
        warmup_s=WARMUP_S,
        seconds=SECONDS,
        trials=trials,
    )
