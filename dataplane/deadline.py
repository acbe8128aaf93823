"""From what a client says to the times by which a request is served."""

from dataclasses import dataclass

# A client gives up by its own clock, which ran before ours by the way of the header and the rounding of the
# timeout, up to 10 ms: for so long before its deadline it is the deadline that has passed, and not a change of mind.
CLIENT_EARLY_S = 0.050


@dataclass(frozen=True, slots=True)
class Policy:
    """What a service promises and how far it believes its clients; seconds. See `config.Service`."""

    max_slo_s: float
    min_slo_s: float = 0.0
    margin_s: float = 0.0
    trust_client: bool = False
    max_grace_s: float = 10.0


@dataclass(frozen=True, slots=True)
class Stated:
    """What one request says of its time; seconds, None where it says nothing.

    `remaining_s` is what gRPC's deadline leaves at receipt, `budget_s` what the parameters ask for from
    receipt on (negative where it is over already), `grace_s` how long a late answer is still wanted.
    """

    remaining_s: float | None = None
    budget_s: float | None = None
    grace_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Deadline:
    """Absolute times of one request, as in `request.Request`."""

    deadline_at: float
    expires_at: float
    rank_at: float


def resolve(stated: Stated, policy: Policy, received_at: float) -> Deadline:
    """The earliest of gRPC's deadline less the grace, the stated budget, and the service's own SLO.

    The margin is kept back from all of them. A late answer is wanted for the grace, as far as the service
    grants it, and never after the client has gone.
    """
    budgets = []
    if stated.remaining_s is not None:
        budgets.append(stated.remaining_s - stated.grace_s)
    if stated.budget_s is not None:
        budgets.append(stated.budget_s)
    if not (policy.trust_client and budgets):
        budgets.append(policy.max_slo_s)
    deadline_at = received_at + min(budgets) - policy.margin_s
    expires_at = deadline_at + min(stated.grace_s, policy.max_grace_s)
    if stated.remaining_s is not None:
        expires_at = min(expires_at, received_at + stated.remaining_s - policy.margin_s)
    return Deadline(
        deadline_at=deadline_at,
        expires_at=max(expires_at, deadline_at),
        rank_at=max(deadline_at, received_at + policy.min_slo_s),
    )
