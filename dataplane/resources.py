"""What the kernel says of this worker: CPU used, quota, throttling, memory."""

import os
import re
import resource
import time
from pathlib import Path

from core.cgroup import Cgroup, CgroupError
from dataplane.telemetry import Resources

_PAGE_BYTES = resource.getpagesize()
_PEAK = re.compile(r"^VmHWM:\s*(\d+) kB$", re.MULTILINE)


def own_cgroup(root: Path = Path("/")) -> Cgroup | None:
    """The cgroup whose CPU time and quota are this worker's; None where others share them, as in a login session.

    `root` is where /proc and the mount points are looked for.
    """
    try:
        cgroup = Cgroup.of_process("self", root)
        if cgroup is None or cgroup.is_root:
            return None
        alone = all(
            set((path / "cgroup.procs").read_text().split()) == {str(os.getpid())}
            for path in (cgroup.cpu, cgroup.cpuacct)
        )
    except (CgroupError, OSError):
        return None
    return cgroup if alone or _is_main(cgroup) else None


def _is_main(cgroup: Cgroup) -> bool:
    """Whether this is what a container was started for: its init, or that one's child.

    Besides it only its health checks and what people execute there run in the container's cgroup, which
    is mounted as the top of the hierarchy.
    """
    return 1 in (os.getpid(), os.getppid()) and cgroup.cpu.is_mount()


def read(cgroup: Cgroup | None) -> Resources:
    """Counters since the start of the cgroup, or of the process where there is none or it cannot be read."""
    if cgroup is None:
        return _of_process()
    try:
        throttling = cgroup.throttling()
        return Resources(
            cpu_s=cgroup.cpu_seconds(),
            quota_millicores=cgroup.quota_millicores() or 0,
            throttled_s=throttling.throttled_s,
            periods=throttling.periods,
            throttled_periods=throttling.throttled_periods,
            memory_bytes=(working_set := cgroup.working_set_bytes()),
            memory_peak_bytes=max(working_set, _peak_bytes()),
        )
    except CgroupError:
        return _of_process()


def resident_bytes() -> int:
    """Memory that this process has for itself, without files that it has mapped."""
    _, resident, shared, *_ = Path("/proc/self/statm").read_text().split()
    return (int(resident) - int(shared)) * _PAGE_BYTES


def _of_process() -> Resources:
    rss = int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_BYTES
    return Resources(cpu_s=time.process_time(), memory_bytes=rss, memory_peak_bytes=_peak_bytes())


def _peak_bytes() -> int:
    """Most that this process ever had resident.

    A control group's own peak counts page cache, which fills whatever the limit leaves: a limit made from it would grow
    without end. And that of getrusage is also what the process had before it became this program.
    """
    peak = _PEAK.search(Path("/proc/self/status").read_text())
    return int(peak[1]) * 1024 if peak else 0
