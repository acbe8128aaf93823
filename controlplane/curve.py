"""The curve of service times: how rows and intra-op threads make up the work of an execution."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
# A float, or an array of them.
Work = TypeVar("Work", float, NDArray[np.float64])

# What the curve assumes where executions do not tell: share of the work that threads divide, and share of the
# first row's work that further rows do not add. The weight is that of an observation, squared.
PARALLEL_SHARE, FIXED_SHARE, PRIOR_WEIGHT = 0.85, 0.1, 0.02
# The share that one hopes for: of what is known to scale well, 0.97 to 0.99.
HOPED_SHARE = 0.98


@dataclass(frozen=True, slots=True)
class Curve:
    """Work of b rows on t threads: ℓ(b, t) = (γb + ε)/t + δb + η, all in seconds and not negative."""

    gamma: float
    delta: float
    epsilon: float
    eta: float

    def work(self, rows: Work, threads: Work) -> Work:
        """Work for numbers, or for arrays that broadcast against each other."""
        return (self.gamma * rows + self.epsilon) / threads + self.delta * rows + self.eta


def fit_curve(
    keys: Sequence[tuple[int, int]],
    values: Sequence[float],
    weights: Sequence[float],
    parallel_share: float = PARALLEL_SHARE,
) -> Curve:
    """Non-negative least squares of the *relative* error of ℓ(b, t) = (γb + ε)/t + δb + η.

    `keys` are (rows, threads). Weak pseudo-observations settle what the data leave open: with one thread
    only, γ and δ, ε and η cannot be told apart, and `parallel_share` of the work is divided; with one batch size
    only, γ and ε, δ and η.
    """
    b, t = np.array(keys, dtype=float).T
    observed = np.array(values)
    weight = np.sqrt(np.array(weights))
    matrix = np.stack([b / t, b, 1 / t, np.ones_like(b)], axis=1) * (weight / observed)[:, None]
    # The prior's rows are relative to the work of one row on one thread, which this is near to.
    serial = (1 - parallel_share) + parallel_share / t
    scale = median((observed / (serial * (FIXED_SHARE + (1 - FIXED_SHARE) * b))).tolist())
    prior = np.array(
        [
            [1 - parallel_share, -parallel_share, 0.0, 0.0],  # γ : δ
            [0.0, 0.0, 1 - parallel_share, -parallel_share],  # ε : η
            [-FIXED_SHARE, -FIXED_SHARE, 1 - FIXED_SHARE, 1 - FIXED_SHARE],  # (γ + δ) : (ε + η)
        ]
    )
    rows = np.concatenate([matrix, prior * (PRIOR_WEIGHT * weight.max() / scale)])
    target = np.concatenate([weight, np.zeros(len(prior))])
    # Columns of one size: the solver's tolerance is absolute.
    size = np.linalg.norm(rows, axis=0)
    solution, _ = nnls(rows / size, target)
    return Curve(*(solution / size).tolist())
