"""`python -m evaluation.serving`, which `make bench-serving` runs: Sponge and other servers on the same models."""

import argparse
import json
import shlex
import sys
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from evaluation import process
from evaluation.experiment import text
from evaluation.experiment.finding import Finding
from evaluation.process import StartError
from evaluation.serving import contest, peers, report, running, subjects
from evaluation.serving import plan as plans
from evaluation.serving.peers import PEERS, Missing
from evaluation.serving.plan import Plan
from evaluation.serving.recipes import OURS, Recipe

_RESULTS = Path("evaluation/results")
_WHOLE = "make bench-serving"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write; 2 and one line on stderr where that cannot be, 130 after Ctrl-C."""
    parsed = _parser().parse_args(arguments)
    plan = plans.quick() if parsed.quick else plans.full()
    names = [] if parsed.quick else list(PEERS)
    chosen = [name for name in names if name in (parsed.peers or names)]
    models = parsed.models or list(dict.fromkeys(one.subject for one in plan.comparisons))
    plan = plans.only(plan, models, chosen, parsed.pairs, parsed.seconds)
    missing = dict[str, str]()
    recipes = dict(OURS)
    for name in chosen:
        _tell(f"{name}: installing unless it is there")
        try:
            PEERS[name].install(parsed.environments)
            recipes[name] = PEERS[name].recipe(parsed.environments)
        except Missing as error:
            missing[name] = str(error)
            _tell(f"missing: {error}")
    command = _command(parsed)
    try:
        found = process.run(_run(plan, models, recipes, missing, command))
    except KeyboardInterrupt:
        _tell("interrupted; everything it started is stopped")
        return 130
    except StartError as error:
        _tell(str(error))
        return 2
    print(text.render(found))
    # A part of it must not take the place of the whole.
    output = parsed.output or (_RESULTS if command == _WHOLE else None)
    if output is not None:
        _tell(f"finding: {found.write(output)}")
    return 0


async def _run(
    plan: Plan, models: Sequence[str], recipes: Mapping[str, Recipe], missing: Mapping[str, str], command: str
) -> Finding:
    host = running.divide()
    every = []
    with tempfile.TemporaryDirectory(prefix="sponge-serving-") as name, running.client_pinned(host):
        folder = Path(name)
        for model in models:
            subject = subjects.build(model, folder)
            found = await contest.run(subject, plan, recipes, host, folder / model, _progress)
            for reason in found.missing.values():
                _tell(f"missing: {reason}")
            for line in report.lines(found):
                print(json.dumps(line), flush=True)
            every.append(found)
    return report.finding(command, plan, recipes, host, every, missing)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m evaluation.serving", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="whether it works: no peers, in seconds, no claim"
    )
    parser.add_argument("--models", type=_some_of(subjects.NAMES), help="default: all")
    parser.add_argument("--peers", type=_some_of(PEERS), help="default: all")
    parser.add_argument(
        "--pairs", type=_count, help="at most, of each comparison; default: 12 for goals, else 3"
    )
    parser.add_argument("--seconds", type=_seconds, help="of each window, for a first look")
    parser.add_argument(
        "--environments",
        type=Path,
        default=peers.ENVIRONMENTS,
        help=f"of peers; default: {peers.ENVIRONMENTS}",
    )
    parser.add_argument("--output", type=Path, help=f"default: {_RESULTS} for the whole run, else none")
    return parser


def _command(parsed: argparse.Namespace) -> str:
    """What to type for the same; where it goes changes no number."""
    words = ["--quick"] if parsed.quick else []
    words += [
        f"--{name}={','.join(chosen)}" for name in ("models", "peers") if (chosen := getattr(parsed, name))
    ]
    words += [f"--{name}={value:g}" for name in ("pairs", "seconds") if (value := getattr(parsed, name))]
    return _WHOLE + (f" ARGS={shlex.quote(shlex.join(words))}" if words else "")


def _some_of(known: Collection[str]) -> Callable[[str], list[str]]:
    """Names with commas between."""

    def names(written: str) -> list[str]:
        chosen = written.split(",")
        if not set(chosen) <= set(known):
            raise argparse.ArgumentTypeError(f"expected some of {', '.join(known)}, got {written}")
        return chosen

    return names


def _count(written: str) -> int:
    count = int(written)
    if count < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, got {written}")
    return count


def _seconds(written: str) -> float:
    seconds = float(written)
    if not 0 < seconds <= 60:
        raise argparse.ArgumentTypeError(f"expected seconds above 0 and up to 60, got {written}")
    return seconds


def _progress(line: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)


def _tell(line: str) -> None:
    print(f"bench-serving: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
