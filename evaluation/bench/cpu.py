"""CPU time of processes of this host, as the kernel counts it."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

_ENGINE = ("dockerd", "containerd", "docker-proxy")  # and containerd-shim…
_PROC = Path("/proc")

Use = Mapping[str, Mapping[int, float]]


def engine(proc: Path = _PROC) -> list[int]:
    """Processes of the container engine, one's own or not."""
    found = []
    for path in proc.glob("[0-9]*/comm"):
        try:
            name = path.read_text()
        except OSError:  # it has ended
            continue
        if name.startswith(_ENGINE):
            found.append(int(path.parent.name))
    return found


def use(pids: Mapping[str, Iterable[int]], proc: Path = _PROC) -> Use:
    """CPU seconds so far of each process that is there, by the given groups."""
    return {
        group: {pid: seconds for pid in members if (seconds := _seconds(proc, pid)) is not None}
        for group, members in pids.items()
    }


def between(before: Use, after: Use) -> dict[str, float]:
    """CPU seconds of each group between two readings; what ended meanwhile counts for nothing."""
    return {
        group: sum(seconds - before.get(group, {}).get(pid, 0.0) for pid, seconds in members.items())
        for group, members in after.items()
    }


def _seconds(proc: Path, pid: int) -> float | None:
    try:
        text = (proc / str(pid) / "stat").read_text()
    except OSError:
        return None
    # The name, in parentheses, may hold blanks; utime and stime are fields 14 and 15.
    fields: Sequence[str] = text.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
