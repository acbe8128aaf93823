"""The flags of `sponge bench`; apart, so that the command's help loads nothing else."""

import argparse
from pathlib import Path

from evaluation import cache


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe every input; those of `description.Description` are absent unless given."""
    how = parser.add_argument_group("policies", argument_default=argparse.SUPPRESS).add_argument
    how(
        "--policy",
        dest="policies",
        action="append",
        metavar="NAME",
        help="sponge, paper, paper-nt, usage or usage:PERCENT, static:MAX (the best fixed split of the host), "
        "static:PERCENT%% of it, static:MILLICORES, or static:M1,M2 by service; repeatable; "
        "default: sponge and static:MAX",
    )
    how("--rounds", type=int, help="each with every policy, in another order; default: 1")
    how("--seconds", type=float, help="of each run, after the warm-up; default: 60")
    how("--warmup-s", type=float, metavar="SECONDS", help="of load that does not count; default: 8")
    how("--workers", choices=("embedded", "docker"), help="local processes or containers; default: embedded")
    how("--host-millicores", type=int, help="for workers; default: what is left beside the load")
    how("--min-millicores", type=int, help="the least a worker is given; default: the demo's, 300 and 500")
    load = parser.add_argument_group("load", argument_default=argparse.SUPPRESS).add_argument
    load("--vision", choices=("resnet50", "squeezenet"), help="network on pictures; default: resnet50")
    load(
        "--rate",
        "--scale-to",
        type=float,
        metavar="MEAN",
        help="requests/s of each service in the mean; default: 35 %% of what the host can take",
    )
    load(
        "--arrivals", metavar="FILE", help="rates per second, scaled to the mean; default: base, burst, lull"
    )
    load("--stagger", action="store_true", help="the services' peaks fall at different times")
    load("--bandwidth", metavar="FILE", help="log each upload goes over; default: synthetic 4G")
    load("--link", choices=("proxy", "netns"), help="user-space links, or the kernel's; default: proxy")
    load("--shared-link", action="store_true", help="one link for all requests of a service")
    load("--seed", type=int, help="of arrivals and network; default: 59")
    out = parser.add_argument_group("output").add_argument
    out("--models", type=Path, default=cache.models(), help=f"default: {cache.models()}")
    out("--output", type=Path, default=Path("bench-report"), metavar="DIR", help="default: bench-report")
    out("--from", dest="recorded", type=Path, metavar="DIR", help="run nothing: tables from what is there")
    out("--json", action="store_true", help="print the finding as one JSON object")
