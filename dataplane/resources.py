"""What the kernel says of this worker: CPU used, quota, throttling, memory."""

import resource
import time
from pathlib import Path

from core.cgroup import Cgroup, CgroupError
from dataplane.telemetry import Resources

_PAGE_BYTES = resource.getpagesize()


def own_cgroup() -> Cgroup | None:
    """The cgroup this process has to itself, as in a container; None where it shares the root's."""
    try:
        cgroup = Cgroup.of_process("self")
    except CgroupError:
        return None
    return None if cgroup is None or cgroup.is_root else cgroup


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
            memory_bytes=cgroup.memory_bytes(),
            memory_peak_bytes=cgroup.memory_peak_bytes(),
        )
    except CgroupError:
        return _of_process()


def _of_process() -> Resources:
    rss = int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_BYTES
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return Resources(cpu_s=time.process_time(), memory_bytes=rss, memory_peak_bytes=peak)
