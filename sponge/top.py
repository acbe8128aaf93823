"""`sponge top`: the fleet as the control plane sees it, live in a terminal."""

import contextlib
import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import grpc
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from core.access import OPEN, Access
from protos import control_pb2 as pb
from protos import control_pb2_grpc

Ask: TypeAlias = Callable[[pb.GetFleetRequest], pb.Fleet]

# Waiting longer than this for an answer is news in itself.
_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class View:
    """What is on the screen: the last fleet seen, if any, and what is wrong with asking, if anything."""

    address: str
    fleet: pb.Fleet | None
    error: str = ""
    silent_s: float = 0.0


@dataclass(frozen=True, slots=True)
class _Column:
    """One column; terminals of fewer than `from_width` characters leave it out."""

    title: str
    cell: Callable[[pb.WorkerStatus], str]
    from_width: int = 0
    right: bool = True


def run(address: str, interval_s: float = 1.0, once: bool = False, access: Access = OPEN) -> int:
    """Show the fleet of the control plane at `address` until interrupted, or print it `once`.

    Returns the exit status: 1 if `once` finds no control plane, else 0.
    """
    console = Console()
    options = (("grpc.max_reconnect_backoff_ms", 1000), ("grpc.min_reconnect_backoff_ms", 200))
    with access.channel(address, options) as channel, contextlib.suppress(KeyboardInterrupt):
        admin = control_pb2_grpc.AdminStub(channel)
        ask = functools.partial(admin.GetFleet, timeout=_TIMEOUT_S, metadata=access.metadata)
        view = _observe(ask, View(address, None), silent_s=0.0)
        if once:
            console.print(render(view, console.width))
            return 1 if view.error else 0
        _watch(ask, view, console, interval_s)
    return 0


def _watch(ask: Ask, view: View, console: Console, interval_s: float) -> None:
    answered_at = time.monotonic()
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            live.update(render(view, console.width), refresh=True)
            time.sleep(interval_s)
            view = _observe(ask, view, time.monotonic() - answered_at)
            if not view.error:
                answered_at = time.monotonic()


def _observe(ask: Ask, last: View, silent_s: float) -> View:
    try:
        return View(last.address, ask(pb.GetFleetRequest()))
    except grpc.RpcError as error:
        return View(last.address, last.fleet, _text(error), silent_s)


def _text(error: grpc.RpcError) -> str:
    assert isinstance(error, grpc.Call)  # as all errors of a blocking call are
    return f"{error.code().name}: {error.details() or 'no more is known'}"


def render(view: View, width: int) -> RenderableType:
    """`view` for a terminal of `width` characters."""
    parts: list[RenderableType] = []
    if view.error:
        since = f" for {duration(view.silent_s)}" if view.fleet is not None else ""
        parts.append(
            Text.assemble((f"The control plane at {view.address} has not answered{since}.", "bold red"))
        )
        parts.append(Text(view.error, "red", no_wrap=True, overflow="ellipsis"))
        parts.append(Text("Trying again. Workers go on with what they were last given.", "red"))
        parts.append("")
    if view.fleet is not None:
        parts.append(_header(view.fleet))
        parts += [_host(host) for host in view.fleet.hosts if host.name or host.unreachable]
        parts.append("")
        parts += _body(view.fleet, width)
    return Group(*parts)


def duration(seconds: float) -> str:
    """Seconds in the largest unit that leaves a number of one to three digits."""
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _header(fleet: pb.Fleet) -> Text:
    share = fleet.planned_millicores / fleet.host_millicores if fleet.host_millicores else 0.0
    text = Text.assemble(
        ("Sponge", "bold"),
        f"  planned {_cores(fleet.planned_millicores)} of {_cores(fleet.host_millicores)} cores ({share:.0%})",
        f"  actuator {fleet.actuator}  term {fleet.term}",
    )
    if fleet.paused:
        text.append("  ")
        text.append(" PAUSED ", "bold black on yellow")
    return text


def _host(host: pb.Host) -> Text:
    text = Text(no_wrap=True, overflow="ellipsis")
    if host.name:
        text.append(
            f"  {host.name}  planned {_cores(host.planned_millicores)} of {_cores(host.millicores)} cores"
        )
    if host.full:
        text.append("  full", "yellow")
    if host.unreachable:
        text.append(f"  does not answer: {host.unreachable}", "red")
    return text


def _body(fleet: pb.Fleet, width: int) -> list[RenderableType]:
    if not fleet.workers:
        return [Text("No worker is attached.", "yellow")]
    several = len(fleet.hosts) > 1
    columns = [
        column for column in _COLUMNS if width >= column.from_width and (several or column is not _HOST)
    ]
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(
            column.title, justify="right" if column.right else "left", no_wrap=column is not _DECISION
        )
    for worker in fleet.workers:
        table.add_row(
            *(column.cell(worker) for column in columns), style="" if worker.state == "serving" else "dim"
        )
    if _DECISION in columns:
        return [table]
    # No room beside: below.
    decisions = [
        Text.assemble(("\n" + worker.service, "bold"), f"  {_decision(worker)}")
        for worker in fleet.workers
        if worker.last_decision
    ]
    return [table, *decisions]


def _cores(millicores: int) -> str:
    return f"{millicores / 1000:.2f}"


def _service(worker: pb.WorkerStatus) -> str:
    state = {"serving": "[green]●[/]", "starting": "[yellow]◌[/]"}.get(worker.state, "[red]○[/]")
    return f"{state} {escape(worker.service)}"


def _quota(worker: pb.WorkerStatus) -> str:
    in_force, target = worker.in_force.cpu_millicores, worker.target.cpu_millicores
    text = _cores(in_force) if in_force else "none"
    return f"{text} [yellow]→ {_cores(target)}[/]" if target and target != in_force else text


def _shape(worker: pb.WorkerStatus) -> str:
    allocation = worker.in_force
    return f"{allocation.instances}×{allocation.threads}×{allocation.max_batch}"


def _on_time(worker: pb.WorkerStatus) -> str:
    share = worker.on_time_share
    colour = "green" if share >= 0.99 else "yellow" if share >= 0.95 else "red"
    # Down, not to the nearest: 100 % is only what missed nothing.
    return f"[{colour}]{int(share * 1000) / 10:.1f}%[/]"


def _throttled(worker: pb.WorkerStatus) -> str:
    text = f"{worker.throttled_share:.1%}"
    return f"[yellow]{text}[/]" if worker.throttled_share >= 0.05 else text


def _decision(worker: pb.WorkerStatus) -> str:
    if not worker.last_decision:
        return "none yet"
    return f"{duration(worker.last_decision_age_s)} ago, {worker.last_decision}"


_DECISION = _Column("last decision", lambda worker: escape(_decision(worker)), from_width=150, right=False)
_HOST = _Column("host", lambda worker: escape(worker.host or "?"), right=False)
_COLUMNS = (
    _Column("  service", _service, right=False),
    _HOST,
    _Column("worker", lambda worker: escape(worker.worker_id[-8:]), from_width=100, right=False),
    _Column("state", lambda worker: worker.state, from_width=90, right=False),
    _Column("rate/s", lambda worker: f"{worker.arrival_rate:.1f}"),
    _Column("queue", lambda worker: str(worker.queue_depth)),
    _Column("quota", _quota),
    _Column("used", lambda worker: f"{worker.cpu_used:.2f}"),
    _Column("n×t×b", _shape),
    _Column("on time", _on_time),
    _Column("throttled", _throttled, from_width=70),
    _DECISION,
)
