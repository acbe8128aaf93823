"""Flags that several commands have, and what their values may be."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from evaluation import cache

if TYPE_CHECKING:
    from core.access import Access

_CONTROL = "127.0.0.1:8500"


def add_load(parser: argparse.ArgumentParser) -> None:
    """The demo's load: network, arrivals, models."""
    parser.add_argument(
        "--bandwidth", type=Path, metavar="FILE", help="log to emulate; default: synthetic 4G"
    )
    parser.add_argument("--seconds", type=seconds, default=40.0, help="length of one run; default: 40")
    parser.add_argument(
        "--seed",
        type=int,
        default=59,
        help="of arrivals and network; default: 59, with dips and a short outage",
    )
    parser.add_argument("--models", type=Path, default=cache.models(), help=f"default: {cache.models()}")


def add_control(parser: argparse.ArgumentParser) -> None:
    """Where the control plane is, and what it wants."""
    group = parser.add_argument_group("the control plane")
    group.add_argument("--control", default=_CONTROL, metavar="HOST:PORT", help=f"default: {_CONTROL}")
    group.add_argument("--token-file", metavar="FILE", help="its first token goes with every call")
    group.add_argument(
        "--ca", default="", metavar="FILE.pem", help="TLS: who may have signed its certificate"
    )
    group.add_argument(
        "--certificate", default="", metavar="FILE.pem", help="TLS: what it is shown, where it asks for one"
    )
    group.add_argument("--key", default="", metavar="FILE.pem", help="TLS: of --certificate")


def access(parsed: argparse.Namespace) -> "Access":
    """By the flags about the control plane; raises FileError that names one."""
    from core import tokens
    from core.access import Access
    from core.tls import ClientTls, channel_credentials

    tls = ClientTls(ca=parsed.ca, certificate=parsed.certificate, key=parsed.key)
    return Access.by(
        channel_credentials(tls, "--") if tls != ClientTls() else None,
        tokens.first("--token-file", Path(parsed.token_file)) if parsed.token_file is not None else "",
    )


def seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds <= 86_400:
        raise argparse.ArgumentTypeError(f"expected seconds above 0 and up to 86400, got {text}")
    return seconds


def percent(text: str) -> float:
    percent = float(text)
    if not 0 < percent < 100:
        raise argparse.ArgumentTypeError(f"expected per cent between 0 and 100, got {text}")
    return percent


def rate(text: str) -> tuple[str, float]:
    name, _, number = text.rpartition("=")
    try:
        rate = float(number)
    except ValueError:
        rate = -1.0
    if not name or not 0 <= rate <= 1e6:
        raise argparse.ArgumentTypeError(f"expected SERVICE=R, R from 0 to a million, got {text}")
    return name, rate


def count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, got {text}")
    return count
