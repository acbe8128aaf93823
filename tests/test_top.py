"""The live view, against an Admin service over loopback."""

import asyncio
import io
import os
import pty
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest
from rich.console import Console

from protos import control_pb2 as pb
from protos import control_pb2_grpc
from sponge import top

LEAVE_ALTERNATE_SCREEN = b"\x1b[?1049l"


def a_fleet(**changes: object) -> pb.Fleet:
    vision = pb.WorkerStatus(
        worker_id="host-1a2b3c4d",
        service="vision",
        state="serving",
        arrival_rate=12.34,
        queue_depth=3,
        in_force=pb.Allocation(cpu_millicores=1100, instances=1, threads=1, max_batch=4),
        target=pb.Allocation(cpu_millicores=2100, instances=2, threads=1, max_batch=4),
        on_time_share=0.9999,
        throttled_share=0.061,
        cpu_used=0.87,
        last_decision="grow: needed to keep up with 12.3 requests/s [sic]",
        last_decision_age_s=130,
    )
    files = pb.WorkerStatus(
        worker_id="host-99999999",
        service="files",
        state="stale",
        in_force=pb.Allocation(cpu_millicores=500, instances=1, threads=1, max_batch=1),
        on_time_share=1,
    )
    fleet = pb.Fleet(
        workers=[files, vision], host_millicores=4000, planned_millicores=2600, term=7, actuator="docker"
    )
    for name, value in changes.items():
        setattr(fleet, name, value)
    return fleet


def lines(view: top.View, width: int) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=width).print(top.render(view, width))
    return [line.rstrip() for line in out.getvalue().splitlines()]


def row(printed: list[str], service: str) -> list[str]:
    return next(line for line in printed if line[2:].startswith(service)).split()


class Admin(control_pb2_grpc.AdminServicer):
    """Tells of one fleet."""

    def __init__(self, fleet: pb.Fleet) -> None:
        self.fleet = fleet

    async def GetFleet(self, request: pb.GetFleetRequest, context: object) -> pb.Fleet:
        return self.fleet


@asynccontextmanager
async def answering(fleet: pb.Fleet) -> AsyncIterator[tuple[str, grpc.aio.Server]]:
    server = grpc.aio.server()
    control_pb2_grpc.add_AdminServicer_to_server(Admin(fleet), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}", server
    finally:
        await server.stop(None)


def test_a_wide_terminal_shows_all_of_it_in_one_table() -> None:
    printed = lines(top.View("here:1", a_fleet()), width=200)
    assert printed[0] == "Sponge  planned 2.60 of 4.00 cores (65%)  actuator docker  term 7"
    cells = "1a2b3c4d serving 12.3 3 1.10 → 2.10 0.87 1×1×4 99.9% 6.1% 2 min ago, grow: needed to keep up"
    assert " ".join(row(printed, "vision")[2:]).startswith(cells)
    assert row(printed, "files")[2:] == [
        "99999999",
        "stale",
        "0.0",
        "0",
        "0.50",
        "0.00",
        "1×1×1",
        "100.0%",
        "0.0%",
        "none",
        "yet",
    ]


@pytest.mark.parametrize("width", [60, 80, 100, 149, 150])
def test_numbers_are_never_cut(width: int) -> None:
    printed = lines(top.View("here:1", a_fleet()), width)
    assert all(len(line) <= width for line in printed)
    assert {"12.3", "3", "1.10", "2.10", "0.87", "1×1×4", "99.9%"} <= set(row(printed, "vision"))
    assert "needed to keep up" in " ".join(" ".join(printed).split())


def test_paused_and_empty_fleets_say_so() -> None:
    assert "PAUSED" in lines(top.View("here:1", a_fleet(paused=True)), 80)[0]
    assert "PAUSED" not in lines(top.View("here:1", a_fleet()), 80)[0]
    assert "No worker is attached." in lines(top.View("here:1", pb.Fleet()), 80)


def test_several_hosts_have_a_line_each_and_a_column() -> None:
    fleet = a_fleet()
    fleet.workers[1].host = "near"
    fleet.hosts.add(name="near", millicores=3000, planned_millicores=2100, full=True)
    fleet.hosts.add(name="far", millicores=1000, planned_millicores=500, unreachable="refused")
    printed = lines(top.View("here:1", fleet), 80)
    assert printed[1] == "  near  planned 2.10 of 3.00 cores  full"
    assert printed[2] == "  far  planned 0.50 of 1.00 cores  does not answer: refused"
    assert row(printed, "vision")[2] == "near"
    assert row(printed, "files")[2] == "?"


def test_a_single_host_is_told_of_only_while_it_does_not_answer() -> None:
    fleet = a_fleet()
    fleet.hosts.add(millicores=4000, planned_millicores=2600, full=True)
    assert lines(top.View("here:1", fleet), 80) == lines(top.View("here:1", a_fleet()), 80)
    fleet.hosts[0].unreachable = "refused"
    printed = lines(top.View("here:1", fleet), 80)
    assert "does not answer: refused" in printed[1]
    assert "host" not in printed[3]


def test_a_silent_control_plane_leaves_the_last_fleet_on_the_screen() -> None:
    printed = lines(top.View("here:1", a_fleet(), error="UNAVAILABLE: refused", silent_s=12), 80)
    assert printed[0] == "The control plane at here:1 has not answered for 12 s."
    assert printed[1] == "UNAVAILABLE: refused"
    assert "12.3" in row(printed, "vision")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (119, "119 s"), (120, "2 min"), (7_199, "120 min"), (7_200, "2 h"), (172_800, "2 d")],
)
def test_durations(seconds: float, text: str) -> None:
    assert top.duration(seconds) == text


async def test_once_prints_one_frame(capsys: pytest.CaptureFixture[str]) -> None:
    async with answering(a_fleet()) as (address, _):
        assert await asyncio.to_thread(top.run, address, once=True) == 0
    assert "vision" in capsys.readouterr().out


def test_once_fails_without_a_control_plane(capsys: pytest.CaptureFixture[str]) -> None:
    assert top.run("127.0.0.1:1", once=True) == 1
    assert "The control plane at 127.0.0.1:1 has not answered." in capsys.readouterr().out


async def test_it_keeps_trying_until_interrupted_and_leaves_the_terminal_clean() -> None:
    master, slave = pty.openpty()
    screen = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    loop.add_reader(master, lambda: screen.feed_data(os.read(master, 65_536)))
    async with answering(a_fleet()) as (address, server):
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-c", f"import sys; from sponge.top import run; sys.exit(run({address!r}, interval_s=0.01))"),
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=os.environ | {"TERM": "xterm", "COLUMNS": "120", "LINES": "40"},
        )
        await screen.readuntil(b"vision")
        await server.stop(None)
        await screen.readuntil(b"has not answered")
    process.send_signal(signal.SIGINT)
    assert await process.wait() == 0
    rest = await screen.readuntil(LEAVE_ALTERNATE_SCREEN)
    assert b"Traceback" not in rest
    loop.remove_reader(master)
    os.close(master)
    os.close(slave)
