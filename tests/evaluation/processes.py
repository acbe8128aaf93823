"""What `evaluation.embedded` has running and has made."""

import contextlib
from pathlib import Path

from core.cgroup import usable_parent


def planes(directory: Path) -> list[str]:
    """Command lines of the processes that run with a configuration in `directory`."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has ended
            words = path.read_bytes().decode(errors="replace").split("\0")
            if "--config" in words and words[words.index("--config") + 1].startswith(f"{directory}/"):
                found.append(" ".join(words))
    return found


def groups(pid: int) -> list[Path]:
    """Directories of the control group that the process `pid` has made for all that it starts."""
    parent = usable_parent()
    if parent is None:
        return []
    above = {parent.cpu, parent.cpuacct, parent.memory} - {None}
    return sorted(path / f"sponge-{pid}" for path in above if (path / f"sponge-{pid}").exists())
