"""Which of the requests that arrive will miss their deadlines, for each way a worker may run."""

from collections.abc import Callable

import numpy as np
from scipy.special import log_ndtr, ndtr

from controlplane.curve import Floats
from controlplane.demand import DemandEstimate
from controlplane.operation import Operations


def late(
    demand: DemandEstimate,
    found: Operations,
    backlog_rows: int = 0,
    horizon_s: float = 1.0,
    worth: Callable[[float], float] = lambda _: 1.0,
) -> Floats:
    """Requests per second that arrive to miss their deadline, for each operation, `horizon_s` from now.

    That is when the next plan can mend what this one has let happen: a queue that takes longer to build up
    does no harm. With slack = budget − ℓ, ℓ the upper quantile, and n slots loaded to ρ, a request misses if

    - its slack is negative;
    - or all slots are busy, P = C = ρ^(√(2(n+1)) − 1), with executions of which not even the first to end
      does so within the slack: (1 − slack/ℓ̄)ⁿ, their ages being uniform. C is Sakasegawa's approximation
      ("An approximation formula L_q ≃ α·ρ^β/(1 − ρ)", Ann. Inst. Stat. Math. 29, 1977);
    - or so much waits that even the best order does not save all, whichever is likelier. Earliest deadline
      first misses nothing until work exceeds the *mean* slack (Doytchinov, Lehoczky and Shreve, "Real-time
      queues in heavy traffic with earliest-deadline-first queue discipline", Ann. Appl. Probab. 11, 2001):
      that of all requests, or that of the most urgent among them, wherever one draws the line.

    The wait of those who wait is a Brownian motion from today's backlog x, with drift μ = ρ − 1 and variance
    σ² = ℓ̄·(c_a² + c_s²)/n, regulated at zero (Harrison, "Brownian Motion and Stochastic Flow Systems", 1985,
    §1.8): P(W_t > y) = Φ((x + μt − y)/σ√t) + C·exp(2μy/σ²)·Φ((−x − μt − y)/σ√t), where C, 1 in his, leaves out
    those who find an idle slot. In the long run that is Hopp and Spearman's mean wait ("Factory Physics",
    ch. 8) and an exponential tail. What is not known of the rate adds to σ².

    Executions of g requests each arrive with c_a²/g of the requests' c_a². Nobody waits for a batch to fill.
    Budgets that no configuration can meet count for none, others what they are `worth`.
    """
    if not demand.budgets:
        return np.zeros(len(found.shape))
    upper_s = found.shapes.upper_s
    budgets, shares = (np.array(column) for column in zip(*demand.budgets, strict=True))
    feasible = budgets >= found.least_s
    budgets, shares = budgets[feasible], shares[feasible]
    worths = np.array([worth(budget_s) for budget_s in budgets])
    if not budgets.size:
        return np.zeros(len(found.shape))
    slots = found.shapes.instances[found.shape, None].astype(float)
    rows = found.rows[:, None].astype(float)
    upper = upper_s[found.shape, found.rows - 1][:, None]
    mean, load = found.mean_s[:, None], found.load[:, None]
    variation = demand.dispersion * demand.rows_per_request / rows + found.spread[:, None]
    slack = budgets - upper
    living = np.where(slack < 0, 0.0, shares)
    hopeless = (shares - living) * worths
    slack = np.maximum(slack, 0.0)
    exponent = np.sqrt(2 * (slots + 1)) - 1
    all_busy = np.minimum(load, 1.0) ** exponent
    blocked = all_busy * np.maximum(1 - slack / mean, 0.0) ** slots * living * worths

    # The most urgent, in all cuts of the demand; those too late anyway are in nobody's way.
    part = np.cumsum(living, axis=1)
    mean_slack = np.cumsum(living * slack, axis=1) / np.maximum(part, 1e-12)
    rho = load * part
    drift = rho - 1
    doubt = rho * demand.rate_error / max(demand.rate, 1e-9)
    variance = np.maximum(mean * variation / slots + doubt**2 * horizon_s, 1e-12)
    backlog = part * backlog_rows * mean / (rows * slots)
    deviation = np.sqrt(variance * horizon_s)
    straight = ndtr((backlog + drift * horizon_s - mean_slack) / deviation)
    regulated = np.exp(
        2 * drift * mean_slack / variance + log_ndtr((-backlog - drift * horizon_s - mean_slack) / deviation)
    )
    waits = np.minimum(straight + np.minimum(rho, 1.0) ** exponent * regulated, 1.0)
    overtaken = np.max(np.cumsum(living * worths, axis=1) * waits, axis=1)
    share = hopeless.sum(axis=1) + np.maximum(blocked.sum(axis=1), overtaken)
    late_rates: Floats = found.served * share
    return late_rates
