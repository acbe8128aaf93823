"""`python -m evaluation.bench.control --policy NAME --config control.toml`: a control plane with another planner."""

import argparse
import sys

from controlplane import __main__ as plane
from controlplane import planner
from controlplane.planner import Planner
from evaluation.bench.policies import TARGET, Paper, Usage


def decides(policy: str) -> Planner:
    """Give the planner of the policy of that name. Raises ValueError for one that has none."""
    name, _, target = policy.partition(":")
    match name:
        case "sponge" if not target:
            return planner.plan
        case "paper" if not target:
            return Paper()
        case "paper-nt" if not target:
            return Paper(instances=True)
        case "usage" if not target or (target.isdecimal() and 0 < int(target) < 100):
            return Usage(int(target) / 100 if target else TARGET)
    raise ValueError(f"expected sponge, paper, paper-nt, usage or usage:PERCENT, got {policy!r}")


def main() -> int:
    """As that of `controlplane`."""
    parser = argparse.ArgumentParser(prog="python -m evaluation.bench.control", description=__doc__)
    parser.add_argument("--policy", required=True)
    own, others = parser.parse_known_args()
    try:
        decide = decides(own.policy)
    except ValueError as error:
        parser.error(f"--policy: {error}")
    return plane.main(others, decide)


if __name__ == "__main__":
    sys.exit(main())
