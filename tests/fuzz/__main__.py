"""`make fuzz`: a million bodies into the decoder, twenty thousand calls on the socket, and clients that misbehave."""

import argparse
import sys
import tempfile
from pathlib import Path

import grpc

from tests.fuzz import abuse, decoder, target, wire


def main() -> int:
    """Exit code 1 after any violation."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument(
        "parts", nargs="*", metavar="PART", help="decoder, socket, abuse; default: all", default=[]
    )
    parser.add_argument("--inputs", type=int, default=1_000_000, help="of the decoder; default: %(default)s")
    parser.add_argument("--calls", type=int, default=20_000, help="on the socket; default: %(default)s")
    parser.add_argument("--crowd", type=int, default=10_000, help="calls at once; default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parsed = parser.parse_args()
    runs = {"decoder": _decoder, "socket": _socket, "abuse": _abuse}
    parts = parsed.parts or list(runs)
    unknown = set(parts) - set(runs)
    if unknown:
        parser.error(f"expected some of {', '.join(runs)}; found {', '.join(sorted(unknown))}")
    violations = [violation for part in parts for violation in runs[part](parsed)]
    print(f"{len(violations)} violations")
    return 1 if violations else 0


def _decoder(parsed: argparse.Namespace) -> list[str]:
    findings = decoder.run(parsed.inputs, parsed.seed)
    return _told(decoder.report(findings), findings.violations)


def _socket(parsed: argparse.Namespace) -> list[str]:
    with tempfile.TemporaryDirectory() as directory, target.echo(Path(directory)) as worker:
        findings = wire.run(worker, parsed.calls, parsed.seed)
    return _told(wire.report(findings), findings.violations)


def _abuse(parsed: argparse.Namespace) -> list[str]:
    """Each kind on a worker that has seen the others, several times."""
    violations = []
    with (
        tempfile.TemporaryDirectory() as directory,
        target.spinner(Path(directory, "spinner")) as spinner,
        target.echo(Path(directory, "echo")) as echo,
    ):
        for kind, worker, count, rounds in (
            # What is known of connections, the last 10,000, and the allocator's arenas take ten of these to fill.
            (abuse.half_open, spinner, 200, 20),
            (abuse.slow_readers, echo, 500, 6),
            (abuse.vanishing, spinner, 100, 6),
            (abuse.killed, spinner, 500, 6),
            (abuse.crowd, spinner, parsed.crowd, 4),
        ):
            try:
                print(f"abuse: {abuse.repeated(worker, rounds, kind, count)}", flush=True)
            except (AssertionError, OSError, grpc.RpcError) as error:
                violations += _told(f"abuse: {kind.__name__}", [repr(error)])
    return violations


def _told(report: str, violations: list[str]) -> list[str]:
    print(report, *(f"  VIOLATION: {violation}" for violation in violations), sep="\n", flush=True)
    return violations


if __name__ == "__main__":
    sys.exit(main())
