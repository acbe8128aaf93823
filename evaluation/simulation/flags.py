"""The flags of `sponge simulate`; apart, so that the command's help loads nothing else."""

import argparse
import math
from functools import partial
from pathlib import Path

POLICIES = (
    "sponge, paper, paper-hold, paper-nt, fa2, static:N, static-best, usage, usage-nt (or with their target: "
    "usage:70, usage-nt:70), bound"
)
DEFAULT_POLICIES = ("sponge", "paper", "static-best", "paper-nt", "usage-nt", "bound")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe every input. What is not given stays unset: the defaults are those of `description`."""
    add = parser.add_argument
    service = partial(parser.add_argument_group("service").add_argument, default=argparse.SUPPRESS)
    service("--profile", metavar="FILE", help="latencies by batch and cores, CSV")
    service("--bandwidth", metavar="FILE", help="log each upload goes over; default: synthetic 4G")
    service(
        "--payload-kb",
        metavar="MIX",
        help="KiB: 284, 100,200,500 or 100:2,500:1; default: 284",
    )
    service(
        "--arrivals",
        help="constant, poisson, flash:FACTOR,AT_S,LENGTH_S, drift:FACTOR, or a file of rates per second; "
        "default: poisson",
    )
    service("--rate", type=_above, help="requests/s, but of a file; default: 20")
    service("--scale-to", type=_above, metavar="MEAN", help="mean requests/s to scale the rates to")
    service("--slo-ms", metavar="MIX", help="as --payload-kb; default: 1000")
    service("--max-cores", type=_count, help="of one container; default: 16")
    service("--max-batch", type=_count, help="default: 8")
    service("--max-instances", type=_count, help="of ours; default: as many as cores")
    service(
        "--followed-from",
        type=_count,
        metavar="CORES",
        help="of a profile whose threads did not follow its quota: take its cells of so many cores for fewer",
    )
    service("--start-cores", type=_count, help="default: 70 %% used by the mean rate on one-thread instances")
    service(
        "--services",
        type=Path,
        metavar="TOML",
        default=None,
        help="several services: [[service]] name=…, keys as flags",
    )
    host = partial(parser.add_argument_group("host").add_argument, default=argparse.SUPPRESS)
    host("--host-cores", type=_count, help="default: the largest --max-cores")
    host("--seconds", type=_above, help="default: 600")
    host(
        "--outage",
        action="append",
        metavar="AT_S:LENGTH_S",
        help="no client's bandwidth is above zero then; repeatable",
    )
    host("--truth", choices=("grid", "fit"), help="interpolate the profile, or fit it")
    host("--noise", type=_share, metavar="CV", help="of executions; default: 0")
    host("--contention", type=_share, metavar="K", help="per other busy instance; default: 0.04")
    host("--actuation-ms", type=_share, help="until a quota is in force; default: 30")
    host("--cold-start-s", type=_share, help="of a new replica; default: 5")
    host("--interval-s", type=_above, help="between decisions; default: 1")
    host("--no-distress", dest="distress", action="store_false", help="workers report by the clock only")
    host("--order", choices=("edf", "fifo"), help="default: edf")
    host("--grace-ms", type=_share, help="late answers wanted for so long; default: 0")
    host("--patience-ms", type=_share, help="before a request is refused; default: 250")
    host("--seed", type=int, help="default: 1")
    add(
        "--policy",
        action="append",
        metavar="NAME",
        help=f"{POLICIES}; repeatable; default: {', '.join(DEFAULT_POLICIES)}",
    )
    add("--json", action="store_true", help="one object per policy on one line")


def _above(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text}")
    return value


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number of 0 or more, got {text}")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, got {text}")
    return value
