"""CPUs that one container has to itself: which numbers it is given. Pure."""

import re
from collections.abc import Collection, Iterable

_LIST = re.compile(r"\d{1,5}(-\d{1,5})?(,\d{1,5}(-\d{1,5})?)*")


def parse(text: str) -> frozenset[int]:
    """The numbers of a list as kernel and engine write it: 0-2,5. Raises ValueError for what is none."""
    if not text:
        return frozenset()
    if not _LIST.fullmatch(text):
        raise ValueError(f"expected CPU numbers as in 0-2,5, got {text!r}")
    ranges = [part.partition("-") for part in text.split(",")]
    return frozenset(cpu for low, _, high in ranges for cpu in range(int(low), int(high or low) + 1))


def written(cpus: Iterable[int]) -> str:
    """The list of `cpus` that `parse` reads."""
    runs: list[list[int]] = []
    for cpu in sorted(cpus):
        if runs and cpu == runs[-1][-1] + 1:
            runs[-1] = [runs[-1][0], cpu]
        else:
            runs.append([cpu])
    return ",".join("-".join(map(str, run)) for run in runs)


def assign(
    count: int, held: Collection[int], taken: Collection[int], usable: Collection[int]
) -> frozenset[int] | None:
    """`count` of the `usable` CPUs that are not `taken`; None where so many are not free.

    Of those that it has held a container keeps all it may: caches stay warm. Others are the highest that are free, as
    kernels do most of their own work on the lowest.
    """
    free = frozenset(usable) - frozenset(taken)
    order = sorted(free, key=lambda cpu: (cpu in held, cpu), reverse=True)
    return frozenset(order[:count]) if len(order) >= count else None
