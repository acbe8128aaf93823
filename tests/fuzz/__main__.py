"""`make fuzz`: a million bodies into the decoder, twenty thousand calls on the socket, and clients that misbehave."""

import argparse
import sys
import tempfile
from pathlib import Path

from tests.fuzz import decoder, target, wire


def main() -> int:
    """Exit code 1 after any violation."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help="decoder, socket; default: all", default=[])
    parser.add_argument("--inputs", type=int, default=1_000_000, help="of the decoder; default: %(default)s")
    parser.add_argument("--calls", type=int, default=20_000, help="on the socket; default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parsed = parser.parse_args()
    runs = {"decoder": _decoder, "socket": _socket}
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
    with tempfile.TemporaryDirectory() as directory, target.running(Path(directory)) as worker:
        findings = wire.run(worker, parsed.calls, parsed.seed)
    return _told(wire.report(findings), findings.violations)


def _told(report: str, violations: list[str]) -> list[str]:
    print(report, *(f"  VIOLATION: {violation}" for violation in violations), sep="\n", flush=True)
    return violations


if __name__ == "__main__":
    sys.exit(main())
