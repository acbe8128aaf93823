"""What a decision was made of, in the numbers that are kept of it."""

from collections.abc import Sequence
from itertools import accumulate

from controlplane.allocation import Allocation
from controlplane.decision import Inputs
from controlplane.explanation import Round
from controlplane.stretch import walls_of


def inputs(of: Round, index: int, after: Allocation) -> Inputs:
    """What the worker at `index` was planned with, and what executions take with what it is given."""
    service, reasons = of.services[index], of.plan.assignments[index].reasons
    demand, queue, rows = service.demand, service.queue, reasons.rows
    floor, ceiling = service.limits.within(service.limits.max_millicores)
    mean_s, upper_s = walls_of(
        service.latency,
        rows,
        after.cpu_millicores,
        after.instances,
        after.threads,
        service.period_s,
        service.slower,
        service.wider,
    )
    p5, p50, p95 = (_quantile_ms(demand.budgets, share) for share in (0.05, 0.5, 0.95))
    return Inputs(
        rate_error=demand.rate_error,
        rows_per_request=demand.rows_per_request,
        dispersion=demand.dispersion,
        reserve=service.reserve,
        weight=service.weight,
        min_millicores=floor,
        max_millicores=ceiling,
        budget_p5_ms=p5,
        budget_p50_ms=p50,
        budget_p95_ms=p95,
        waiting_rows=sum(each.rows for each in queue),
        first_due_ms=1000 * min(each.remaining_s for each in queue) if queue else None,
        running=len(service.running),
        saturated=service.saturated(of.settings.saturated),
        execution_rows=rows,
        execution_mean_ms=1000 * float(mean_s[rows - 1]),
        execution_upper_ms=1000 * float(upper_s[rows - 1]),
        measured_share=service.latency.trust(rows, after.threads),
        drift=service.slower,
        host_millicores=of.host_millicores,
        host_memory_bytes=of.host_memory,
        bound=reasons.bound.value,
    )


def _quantile_ms(budgets: Sequence[tuple[float, float]], share: float) -> float | None:
    """The budget that so many requests arrive with at the most; None where none is known."""
    if not budgets:
        return None
    reached = accumulate(part for _, part in budgets)
    within = (s for (s, _), so_far in zip(budgets, reached, strict=True) if so_far >= share)
    return 1000 * next(within, budgets[-1][0])
