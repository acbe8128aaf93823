"""From what is believed of a worker to what the planner, the worker and people are told of it."""

from collections.abc import Sequence
from dataclasses import replace

from controlplane import cpuset, explanation
from controlplane.allocation import Allocation
from controlplane.config import Config, ServicePolicy
from controlplane.explanation import Explanation, Round
from controlplane.operation import Waiting
from controlplane.planner import Assignment, Bound, Limits, ServiceState
from controlplane.reports import allocation_message
from controlplane.resize import SendDirective
from controlplane.state import Fleet, Host, Worker
from controlplane.stretch import walls_of
from protos import control_pb2 as pb


def service_state(worker: Worker, policy: ServicePolicy, config: Config) -> ServiceState:
    """`worker` as the planner takes it."""
    hello, sample = worker.hello, worker.sample
    needed = 1 + config.planner.memory_head_room if config.actuator.resize_memory else 0.0
    return ServiceState(
        name=worker.service,
        latency=worker.latency.snapshot(),
        demand=worker.demand.estimate(),
        limits=Limits(
            min_millicores=policy.min_millicores,
            max_millicores=_most_millicores(policy, config),
            max_instances=hello.max_instances,
            max_threads=hello.max_threads,
            max_batch=min(hello.max_batch, policy.max_batch),
            whole_cores=policy.whole_cores,
            max_memory_bytes=None if policy.max_memory_mib is None else policy.max_memory_mib << 20,
        ),
        queue=[
            Waiting(
                w.remaining_ms / 1000, min(w.rows, hello.max_batch), (w.remaining_ms + w.waited_ms) / 1000
            )
            for w in sample.waiting
            if w.remaining_ms > 0
        ],
        running=[(r.elapsed_ms / 1000, min(r.rows, hello.max_batch)) for r in sample.running],
        slower=worker.drift.slower,
        wider=worker.drift.wider,
        on_time=worker.on_time_share(),
        current=worker.allocation,
        weight=policy.weight,
        reserve=policy.reserve,
        request_overhead_s=worker.request_overhead_s,
        period_s=config.actuator.period_us / 1e6,
        cores_used=worker.cores_used(),
        memory_base_bytes=int(worker.memory_within(sample.usage.memory_bytes) * needed),
        memory_per_row_bytes=int(policy.memory_mib_per_row * (1 << 20) * needed),
        memory_peak_bytes=int(worker.memory_within(sample.usage.memory_peak_bytes) * needed),
    )


def _most_millicores(policy: ServicePolicy, config: Config) -> int:
    """What the policy allows, and no more CPUs of its own than may be given away."""
    usable = cpuset.parse(config.actuator.whole_cores_cpus)
    if not (policy.whole_cores and usable):
        return policy.max_millicores
    return min(policy.max_millicores, 1000 * len(usable))


def reason(
    assignment: Assignment, worker: Worker, reserve: float, before: Allocation, after: Allocation
) -> str:
    """Why this much, in a line for people; `reserve` is the share that was planned for beyond the demand."""
    memory = f"memory {_memory(before.memory_bytes)} → {_memory(after.memory_bytes)}"
    if after.memory_bytes == before.memory_bytes:
        return _why(assignment, worker, reserve)
    if replace(after, memory_bytes=before.memory_bytes) == before:
        return f"{memory}, for what is in use and head room"
    return f"{_why(assignment, worker, reserve)}; {memory}"


def _memory(limit_bytes: int) -> str:
    return f"{limit_bytes / (1 << 20):.0f} MiB" if limit_bytes else "unlimited"


def _why(assignment: Assignment, worker: Worker, reserve: float) -> str:
    estimate, reasons = worker.demand.estimate(), assignment.reasons
    match reasons.bound:
        case Bound.FLOOR:
            why = "the least allowed is enough"
        case Bound.THROUGHPUT:
            more = f" and a reserve of {reserve:.0%}" if reserve else ""
            why = f"needed to keep up with {estimate.rate:.1f} requests/s{more}"
        case Bound.QUEUE:
            why = f"{worker.queue_depth} waiting would miss their deadlines with less"
        case Bound.BUDGET:
            why = "budgets at arrival leave no time for less"
        case Bound.CEILING:
            why = "it is allowed no more"
        case Bound.HOST:
            why = "the host has no more"
    return f"{why} (utilisation {reasons.utilisation:.0%}, expected misses {reasons.expected_misses:.2f}/s)"


def directive(worker: Worker, action: SendDirective, period_s: float, *, pace: bool) -> pb.Directive:
    """A directive with the service times that its allocation should give."""
    allocation = action.allocation
    table, drift = worker.latency.table(allocation.threads, allocation.max_batch), worker.drift
    mean_s, upper_s = walls_of(
        worker.latency,
        allocation.max_batch,
        allocation.cpu_millicores,
        allocation.instances,
        allocation.threads,
        period_s,
        drift.slower,
        drift.wider,
    )
    return pb.Directive(
        version=pb.Version(term=action.version.term, epoch=action.version.epoch),
        allocation=allocation_message(allocation),
        predictions=[
            pb.Prediction(
                rows=rows,
                mean_ms=1000 * float(mean_s[rows - 1]),
                low_ms=1000 * table.low[rows] * drift.slower,
                high_ms=1000 * float(upper_s[rows - 1]),
            )
            for rows in range(1, allocation.max_batch + 1)
        ],
        pace=pace,
    )


def fleet(believed: Fleet, actuator: str, stale_s: float, now: float) -> pb.Fleet:
    """The fleet as people see it."""
    workers = sorted(believed.workers.values(), key=lambda worker: (worker.service, worker.worker_id))
    return pb.Fleet(
        workers=[_worker(worker, stale_s, now) for worker in workers],
        host_millicores=sum(host.millicores for host in believed.hosts.values()),
        planned_millicores=sum(_planned(workers)),
        paused=believed.paused,
        term=believed.term,
        actuator=actuator,
        hosts=[_host(host, workers) for host in believed.hosts.values()],
    )


def _host(host: Host, workers: Sequence[Worker]) -> pb.Host:
    return pb.Host(
        name=host.name,
        millicores=host.millicores,
        planned_millicores=sum(_planned([worker for worker in workers if worker.host is host])),
        full=host.full,
        unreachable=host.unreachable,
    )


def _planned(workers: Sequence[Worker]) -> list[int]:
    return [worker.resize.target.cpu_millicores for worker in workers if worker.resize.target is not None]


def explained(
    worker: Worker, last: Round | None, why: Explanation | None, paused: bool, stale_s: float, now: float
) -> pb.Explanation:
    """Why `worker` has what it has, for people; of one that the last round left out, why it did."""
    index = None if last is None else last.index(worker)
    message = pb.Explanation(
        worker_id=worker.worker_id,
        service=worker.service,
        silent_s=now - worker.last_seen_at,
        standing=_standing(worker, paused),
    )
    if last is None or index is None or why is None:
        state = _state(worker, stale_s, now)
        heard = worker.sample.window_s > 0
        why_not = "homeless" if worker.host is None else "unplanned" if heard else "unheard"
        message.state = state if state != "serving" else why_not
        return message
    message.state = "planned"
    message.seen.CopyFrom(_seen(last, index, now))
    message.choice.CopyFrom(_choice(why))
    return message


def _seen(last: Round, index: int, now: float) -> pb.Seen:
    service = last.services[index]
    demand, limits, queue = service.demand, service.limits, service.queue
    floor, ceiling = limits.within(limits.max_millicores)
    planned = [each.configuration.cpu_millicores for each in last.plan.assignments]
    return pb.Seen(
        age_s=now - last.at,
        arrival_rate=demand.rate,
        rate_error=demand.rate_error,
        rows_per_request=demand.rows_per_request,
        dispersion=demand.dispersion,
        budgets=[pb.Budget(remaining_ms=1000 * seconds, share=share) for seconds, share in demand.budgets],
        waiting=len(queue),
        waiting_rows=sum(each.rows for each in queue),
        first_due_ms=1000 * min((each.remaining_s for each in queue), default=0.0),
        running=len(service.running),
        saturated=service.saturated(last.settings.saturated),
        weight=service.weight,
        reserve=service.reserve,
        min_millicores=floor,
        max_millicores=ceiling,
        max_instances=limits.max_instances,
        max_threads=limits.max_threads,
        max_batch=limits.max_batch,
        max_memory_bytes=limits.max_memory_bytes or 0,
        host_millicores=last.host_millicores,
        others_millicores=sum(planned) - planned[index],
        latency_known=service.latency.known,
        curve_error=service.latency.residual,
        drift=service.slower,
    )


def _choice(of: Explanation) -> pb.Choice:
    message = pb.Choice(
        allocation=allocation_message(of.configuration),
        bound=of.bound.value,
        utilisation=of.utilisation,
        candidates=of.candidates,
        lost=of.lost,
    )
    if of.misses is not None:
        message.misses.CopyFrom(_misses(of.misses))
    if of.service_time is not None:
        message.service_time.CopyFrom(_service_time(of.service_time))
    for name, neighbour in (("smaller", of.smaller), ("larger", of.larger)):
        if neighbour is not None:
            getattr(message, name).CopyFrom(_neighbour(neighbour))
    return message


def _neighbour(of: explanation.Neighbour) -> pb.Neighbour:
    return pb.Neighbour(
        allocation=allocation_message(of.configuration),
        utilisation=of.utilisation,
        service_time=_service_time(of.service_time),
        misses=_misses(of.misses),
        cost_millicores=of.cost.total,
        parts=pb.CostParts(
            cpu=of.cost.cpu, batch=of.cost.batch, change=of.cost.change, misses=of.cost.misses
        ),
    )


def _misses(of: explanation.Misses) -> pb.Misses:
    return pb.Misses(throughput=of.throughput, queue=of.queue, budget=of.budget)


def _service_time(of: explanation.ServiceTime) -> pb.ServiceTime:
    return pb.ServiceTime(
        rows=of.rows,
        threads=of.threads,
        mean_ms=1000 * of.mean_s,
        upper_ms=1000 * of.upper_s,
        measured_share=of.trust,
    )


def _standing(worker: Worker, paused: bool) -> pb.Standing:
    resize, hold = worker.resize, worker.governor.hold
    in_force = resize.in_force
    return pb.Standing(
        paused=paused,
        target=allocation_message(worker.allocation),
        quota_millicores=0 if in_force is None else in_force.cpu_millicores or 0,
        hold="" if paused or hold is None else hold.value,
        pending=resize.pending,
        overdue=resize.overdue,
        failure=worker.failure,
        host="" if worker.host is None else worker.host.name,
    )


def _state(worker: Worker, stale_s: float, now: float) -> str:
    return "starting" if worker.starting else "serving" if now - worker.last_seen_at <= stale_s else "stale"


def _worker(worker: Worker, stale_s: float, now: float) -> pb.WorkerStatus:
    sample, resize = worker.sample, worker.resize
    periods = sample.usage.periods
    in_force = pb.Allocation()
    in_force.CopyFrom(sample.allocation)
    if resize.in_force is not None and resize.in_force.cpu_millicores is not None:
        in_force.cpu_millicores = resize.in_force.cpu_millicores
    return pb.WorkerStatus(
        worker_id=worker.worker_id,
        service=worker.service,
        state=_state(worker, stale_s, now),
        arrival_rate=worker.arrival_rate,
        queue_depth=worker.queue_depth,
        in_force=in_force,
        target=None if resize.target is None else allocation_message(resize.target),
        on_time_share=worker.on_time_share(),
        throttled_share=sample.usage.throttled_periods / periods if periods else 0.0,
        cpu_used=sample.usage.cpu_s / sample.window_s if sample.window_s > 0 else 0.0,
        last_decision=worker.last_action,
        last_decision_age_s=0.0 if worker.last_action_at is None else now - worker.last_action_at,
        outcomes=worker.outcomes,
        core_seconds_reserved=worker.core_seconds_reserved,
        core_seconds_used=worker.core_seconds_used,
        core_seconds_executing=worker.core_seconds_executing,
        host="" if worker.host is None else worker.host.name,
    )
