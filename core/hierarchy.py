"""Where control group hierarchies are mounted, and where in them a process is: the texts of /proc, parsed."""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

V2 = ""  # stands for version 2 among the names of version 1's controllers, as in /proc/<pid>/cgroup


@dataclass(frozen=True, slots=True)
class Mount:
    """A mounted hierarchy: its group `top` and what is below it is seen at `point`."""

    point: Path
    top: str
    controllers: frozenset[str]

    def locate(self, path: str) -> Path | None:
        """Where the group `path` is to be seen; None if it lies outside of what is mounted."""
        inner = PurePosixPath(path)
        return self.point / inner.relative_to(self.top) if inner.is_relative_to(self.top) else None


def parse_mounts(mountinfo: str, root: Path) -> list[Mount]:
    """All control group mounts among the lines of mountinfo, with their mount points below `root`."""
    found = []
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        if kind in ("cgroup", "cgroup2"):
            _, _, _, top, point, *_ = before.split(" ")
            controllers = frozenset(options.split(",")) if kind == "cgroup" else frozenset({V2})
            found.append(Mount(root / _unescape(point).lstrip("/"), _unescape(top), controllers))
    return found


def parse_paths(text: str) -> dict[str, str]:
    """Path of a process's group by controller: the lines «id:controller,…:path» of /proc/<pid>/cgroup."""
    paths = {}
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        paths.update(dict.fromkeys(controllers.split(","), path))
    return paths


def _unescape(path: str) -> str:
    """Undo the octal escapes of mountinfo."""
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        path = path.replace(code, character)
    return path
