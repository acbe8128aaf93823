"""Executions of one number of rows on one number of threads: what a latency model is made of."""

from collections import deque
from dataclasses import dataclass, field
from typing import Self

import numpy as np
from numpy.typing import NDArray

SAMPLES = 128
# A full cell that is of no more than SPAN_S takes one in so much time, and so comes to be of a minute however often
# executions come: what they are for a few seconds is for `drift` to tell, which would come too late otherwise.
SPACING_S = 0.5
SPAN_S = SAMPLES * SPACING_S
HALF_LIFE_S = 300.0  # a model, and the machine under it, change over minutes

_NUMBER = np.dtype("<f8")
_BYTES = 3 * _NUMBER.itemsize  # of an execution


def _samples() -> deque[float]:
    return deque(maxlen=SAMPLES)


@dataclass(slots=True)
class Cell:
    """Work in seconds, busy slots and time of each execution, oldest first."""

    work: deque[float] = field(default_factory=_samples)
    busy: deque[float] = field(default_factory=_samples)
    at: deque[float] = field(default_factory=_samples)

    def record(self, work_s: float, busy: float, now: float) -> None:
        """Add an execution. A full cell loses its oldest; or leaves it, if all are of SPAN_S and one of SPACING_S."""
        if len(self.at) == SAMPLES and now - self.at[0] < SPAN_S and now - self.at[-1] < SPACING_S:
            return
        self.work.append(work_s)
        self.busy.append(busy)
        self.at.append(now)

    def weights(self, now: float) -> NDArray[np.float64]:
        """What each execution counts: 1 now, half of that a half-life ago."""
        return np.exp2((np.array(self.at) - now) / HALF_LIFE_S)

    def scale(self, factor: float) -> None:
        """Believe that each took so many times what it did."""
        self.work = deque((work_s * factor for work_s in self.work), SAMPLES)

    def copy(self) -> "Cell":
        return Cell(self.work.copy(), self.busy.copy(), self.at.copy())

    def pack(self, epoch_s: float) -> bytes:
        """As bytes that mean the same to another process.

        `epoch_s` is the Unix time at which the clock that `at` was read from stood at zero.
        """
        return np.array([self.work, self.busy, np.array(self.at) + epoch_s], _NUMBER).tobytes()

    @classmethod
    def unpack(cls, packed: bytes, epoch_s: float, now: float) -> Self:
        """What `pack` made the bytes of; raises ValueError for bytes that it cannot have made.

        An execution that seems to be of later than `now` is of now: somebody has set the clock back.
        """
        if not 0 < len(packed) <= SAMPLES * _BYTES or len(packed) % _BYTES:
            raise ValueError(
                f"executions: expected 1 to {SAMPLES} of {_BYTES} bytes, got {len(packed)} bytes"
            )
        columns = np.frombuffer(packed, _NUMBER).reshape(3, -1)
        work, busy, unix_s = columns
        if not (np.isfinite(columns).all() and (work > 0).all() and (busy >= 1).all()):
            raise ValueError("executions: expected finite numbers, work above 0, at least 1 busy slot")
        at = np.minimum(unix_s - epoch_s, now)
        return cls(*(deque(column.tolist(), SAMPLES) for column in (work, busy, at)))
