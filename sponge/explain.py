"""`sponge explain`: why a service has the CPU that it has, by the control plane's newest plan."""

import json
import sys
from collections.abc import Iterator

import grpc
from google.protobuf.json_format import MessageToDict

from core.access import OPEN, Access
from protos import control_pb2 as pb
from protos import control_pb2_grpc

_TIMEOUT_S = 10.0
# Fewer a second are printed as 0.00.
_NOTHING = 0.005

_UNPLANNED = {
    "starting": "It starts: it keeps at least its start-up allocation until it is warm, and is planned then.",
    "unheard": "It has attached and has not reported yet: nothing is known to plan with.",
    "unplanned": "No plan has been made since it came.",
    "homeless": "It is not known on which host it runs: no engine that answers has its container.",
}
_HOLDS = {
    "settling": "The plan waits: an earlier change is still under way.",
    "dead band": "The plan is not put in force: it is hardly less than what the worker has.",
    "held": "The shrink is held: a larger plan of a moment ago still counts.",
}
_HALF_A_MILLICORE = 0.5  # less is printed as 0
_PARTS = ("throughput", "queue", "budget")


def run(
    address: str,
    service: str,
    worker_id: str = "",
    *,
    as_json: bool = False,
    access: Access = OPEN,
) -> int:
    """Print why the workers of `service`, or one of them, have what they have.

    Exit code 2 and one line for an unknown service or worker, or a control plane at `address` that does not answer,
    or wants more than `access` brings.
    """
    with access.channel(address) as channel:
        admin = control_pb2_grpc.AdminStub(channel)
        try:
            request = pb.ExplainRequest(service=service, worker_id=worker_id)
            response = admin.Explain(request, timeout=_TIMEOUT_S, metadata=access.metadata)
        except grpc.RpcError as error:
            print(f"sponge: {_text(error, address)}", file=sys.stderr)
            return 2
    if as_json:
        print(
            json.dumps(
                MessageToDict(
                    response,
                    preserving_proto_field_name=True,
                    always_print_fields_with_no_presence=True,
                )
            )
        )
        return 0
    if not response.explanations:
        print(f"No worker of {service} is attached: nothing is planned for it.")
    for index, explanation in enumerate(response.explanations):
        print("\n" * (index > 0) + "\n".join(lines(explanation)))
    return 0


def _text(error: grpc.RpcError, address: str) -> str:
    assert isinstance(error, grpc.Call)  # as all errors of a blocking call are
    if error.code() is grpc.StatusCode.NOT_FOUND:
        return error.details() or "not found"
    return f"control plane at {address}: {error.code().name}: {error.details()}"


def lines(of: pb.Explanation) -> Iterator[str]:
    """An explanation for people, line by line."""
    where = f" on {of.standing.host}" * (of.standing.host != "")
    name = f"{of.service}, worker {of.worker_id}{where}"
    if of.state != "planned":
        yield f"{name}: not planned"
        yield _UNPLANNED.get(of.state) or (
            f"It has been silent for {of.silent_s:.0f} s: it keeps what it has, and is planned when it speaks again."
        )
        yield f"It has {_allocation(of.standing.target)}."
        yield from _standing(of.standing)
        return
    seen, choice = of.seen, of.choice
    yield f"{name}: {_allocation(choice.allocation)}"
    yield f"Bound by {choice.bound}: {_bound(seen, choice)}."
    yield ""
    yield f"What the planner saw, {seen.age_s:.1f} s ago"
    yield from _seen(seen, choice)
    yield ""
    if choice.HasField("misses"):
        yield f"What it compared: {choice.candidates} candidates, by CPU and misses per second"
        yield from _compared(choice)
        yield ""
        yield f"Why not less: {_less(choice)}."
        yield f"Why not more: {_more(seen, choice)}."
    else:
        yield "Another planner chose this, which is none of the candidates of Sponge's own: there is no more to tell."
    yield _in_force(choice, of.standing)
    yield from _standing(of.standing)


def _bound(seen: pb.Seen, choice: pb.Choice) -> str:
    match choice.bound:
        case "floor":
            least = min(seen.min_millicores, seen.max_millicores, seen.host_millicores)
            return f"{_cores(least)} is the least that is allowed, and enough"
        case "throughput":
            reserve = f" and a reserve of {seen.reserve:.0%}" if seen.reserve else ""
            return f"less would not keep up with {_rate(seen)}{reserve}"
        case "queue":
            return f"with less, more of the {seen.waiting} waiting would miss their deadlines"
        case "budget":
            return "less would be too slow for the budgets that requests arrive with"
        case "ceiling" if choice.HasField("larger"):
            return f"it would have more, were it not for max_millicores = {seen.max_millicores}"
        case "ceiling":
            return f"it has too little, and {_slots(seen)}{_within(seen)} can use no more"
        case _:
            others = f", of which {_cores(seen.others_millicores)} are planned for others" * (
                seen.others_millicores > 0
            )
            return f"it would have more if the host did: {_cores(seen.host_millicores)}{others}"


def _seen(seen: pb.Seen, choice: pb.Choice) -> Iterator[str]:
    reserve = f"; with a reserve of {seen.reserve:.0%}" if seen.reserve else ""
    full = "; the CPU is used up: more is planned for" * seen.saturated
    rows = f"{seen.rows_per_request:.1f} rows each"
    yield f"  demand     {_rate(seen)}, {rows}, dispersion {seen.dispersion:.1f}{reserve}{full}"
    yield f"  budgets    {_budgets(seen)}"
    rows = _count(seen.waiting_rows, "row")
    due = f" with {rows}, the first due in {seen.first_due_ms:.0f} ms" * (seen.waiting > 0)
    lost = f"; {choice.lost:.1f} are lost whatever is done" * (choice.lost >= _NOTHING)
    yield f"  queue      {seen.waiting} waiting{due}{lost}; {seen.running} running"
    if choice.HasField("service_time"):
        drift = seen.drift or 1.0  # a control plane of before tells of none
        late = f"; of late they take {drift:.2f} × what is believed of the model" * (drift != 1.0)
        yield f"  execution  {_execution(choice.service_time)}; {_basis(seen, choice.service_time)}{late}"
    yield (
        f"  limits     {seen.min_millicores / 1000:.2f} to {_cores(seen.max_millicores)}, {_slots(seen)}, "
        f"batches of up to {seen.max_batch}{_within(seen)}; weight {seen.weight:g}"
    )
    yield f"  host       {_cores(seen.host_millicores)}, {_cores(seen.others_millicores)} of it planned for others"


def _within(seen: pb.Seen) -> str:
    """The ceiling of memory, where there is one."""
    return f" within {seen.max_memory_bytes >> 20} MiB" if seen.max_memory_bytes else ""


def _budgets(seen: pb.Seen) -> str:
    if not seen.budgets:
        return "not known: nothing has arrived"
    shares = 0.0
    for middle in seen.budgets:
        shares += middle.share
        if shares >= 0.5:
            break
    least = seen.budgets[0]
    return (
        f"at arrival {middle.remaining_ms:.0f} ms in the median, "
        f"{least.remaining_ms:.0f} ms at the least ({least.share:.0%} of requests)"
    )


def _execution(of: pb.ServiceTime) -> str:
    return (
        f"{_count(of.rows, 'row')} on {_count(of.threads, 'thread')} "
        f"{of.mean_ms:.1f} ms in the mean, {of.upper_ms:.1f} ms planned for"
    )


def _basis(seen: pb.Seen, of: pb.ServiceTime) -> str:
    if not seen.latency_known:
        return "assumed, as nothing has run yet"
    if of.measured_share >= 1:
        return "measured"
    curve = f"by the curve, which is off by {seen.curve_error:.0%} where that can be told"
    return curve if of.measured_share == 0 else f"{of.measured_share:.0%} measured, else {curve}"


def _compared(choice: pb.Choice) -> Iterator[str]:
    yield "             cores    n×t×b   load   throughput     queue    budget  cost (millicores)"
    if choice.HasField("smaller"):
        yield _neighbour("smaller", choice.smaller)
    misses = "".join(f"{getattr(choice.misses, part):10.2f}" for part in _PARTS)
    yield f"{_row('chosen', choice.allocation, choice.utilisation)}   {misses}"
    if choice.HasField("larger"):
        yield _neighbour("larger", choice.larger)


def _neighbour(name: str, of: pb.Neighbour) -> str:
    # With 0.0 added there is no minus before a zero.
    misses = "".join(f"{round(getattr(of.misses, part), 2) + 0.0:+10.2f}" for part in _PARTS)
    return f"{_row(name, of.allocation, of.utilisation)}   {misses}  {of.cost_millicores:+17.0f}"


def _row(name: str, of: pb.Allocation, utilisation: float) -> str:
    shape = f"{of.instances}×{of.threads}×{of.max_batch}"
    return f"  {name:8}{of.cpu_millicores / 1000:8.2f} {shape:>8} {utilisation:6.0%}"


def _less(choice: pb.Choice) -> str:
    if not choice.HasField("smaller"):
        return "nothing less is allowed"
    smaller = choice.smaller
    parts = {part: getattr(smaller.misses, part) for part in _PARTS}
    more = sum(parts.values())
    cost = f"in all it costs {_difference(smaller)}"
    if more < _NOTHING:
        return f"{_cores(smaller.allocation.cpu_millicores)} would miss no more, but {cost}"
    before = choice.service_time.upper_ms
    match max(parts, key=parts.__getitem__):
        case "throughput":
            why = f"they exceed what it can serve, at a load of {smaller.utilisation:.0%}"
        case "queue":
            why = "they wait already, and it would be late for them"
        case _:
            why = f"they arrive with less than it needs: executions of {smaller.service_time.upper_ms:.1f} ms"
            why += f" instead of {before:.1f} ms, and the wait for a slot"
    return (
        f"{_cores(smaller.allocation.cpu_millicores)} would miss {more:.2f} a second more, most of them because "
        f"{why}; {cost}"
    )


def _more(seen: pb.Seen, choice: pb.Choice) -> str:
    if not choice.HasField("larger"):
        return "nothing larger is of use, or allowed"
    larger = choice.larger
    saved = -sum(getattr(larger.misses, part) for part in _PARTS)
    cores = _cores(larger.allocation.cpu_millicores)
    would = (
        f"{cores} would save {saved:.2f} misses a second" if saved >= _NOTHING else f"{cores} would save none"
    )
    if choice.bound == "ceiling":
        return f"{would}, and max_millicores = {seen.max_millicores} does not allow it"
    if choice.bound == "host" and larger.cost_millicores < 0:
        return f"{would}, and the host has no room for it"
    return f"{would}, and in all costs {_difference(larger)}"


def _difference(of: pb.Neighbour) -> str:
    """How much more or less it costs, of what, and whether only a change of shape makes it so."""
    cost, change = of.cost_millicores, of.parts.change
    parts = (
        (of.parts.cpu, "CPU"),
        (of.parts.misses, "misses"),
        (of.parts.batch, "batch limit"),
        (change, "change of shape"),
    )
    listed = ", ".join(f"{name} {part:+.0f}" for part, name in parts if abs(part) >= _HALF_A_MILLICORE)
    told = f"{abs(cost):.0f} millicores {'more' if cost >= 0 else 'less'} ({listed})"
    if change >= _HALF_A_MILLICORE and cost - change < 0 <= cost:
        return f"{told}: it is not worth the change of shape, which counts for {change:.0f}"
    return told


def _in_force(choice: pb.Choice, standing: pb.Standing) -> str:
    if choice.allocation == standing.target:
        if not standing.pending:
            return "It is in force."
        quota = (
            f"{_cores(standing.quota_millicores)} are in force"
            if standing.quota_millicores
            else "no quota is known"
        )
        return f"The worker is on its way to it: {quota}."
    return f"The worker has {_allocation(standing.target)} instead."


def _standing(of: pb.Standing) -> Iterator[str]:
    if of.paused:
        yield "The control plane is paused: it observes and plans, and changes nothing."
    if of.hold:
        yield _HOLDS.get(of.hold, of.hold)
    if of.overdue:
        yield "The worker has not acknowledged its allocation in time: the quota stays until it does."
    if of.failure:
        yield f"Its quota could not be written, and that is tried again: {of.failure}"


def _rate(seen: pb.Seen) -> str:
    return f"{seen.arrival_rate:.1f} ± {seen.rate_error:.1f} requests/s"


def _slots(seen: pb.Seen) -> str:
    return f"{_count(seen.max_instances, 'instance')} of {_count(seen.max_threads, 'thread')}"


def _allocation(of: pb.Allocation) -> str:
    slots = f"{_count(of.instances, 'instance')} of {_count(of.threads, 'thread')}"
    memory = f", {of.memory_bytes / (1 << 20):.0f} MiB of memory" * (of.memory_bytes > 0)
    return f"{_cores(of.cpu_millicores)}, {slots}, batches of up to {of.max_batch}{memory}"


def _cores(millicores: int) -> str:
    return f"{millicores / 1000:.2f} cores"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + "s" * (number != 1)
