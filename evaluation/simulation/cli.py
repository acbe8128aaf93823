"""`sponge simulate`: flags and files to a scenario, policies by name, one line each."""

import argparse
import sys
from collections.abc import Iterator

from msgspec import structs

from core.config import ConfigError, convert
from evaluation.bandwidth import TraceError
from evaluation.simulation import contest
from evaluation.simulation.contest import PolicyError
from evaluation.simulation.description import Description, read_services
from evaluation.simulation.flags import DEFAULT_POLICIES
from evaluation.simulation.offered import RatesError
from evaluation.simulation.profile import ProfileError
from evaluation.simulation.scenario import Scenario
from evaluation.simulation.score import Score, table


def run(parsed: argparse.Namespace) -> int:
    """Simulate each policy; 2 and one line on stderr for input that cannot be used."""
    try:
        names = parsed.policy or list(DEFAULT_POLICIES)
        for name in names:
            contest.check(name)
        scores = []
        for score in scores_of(description(parsed).scenario(), names):
            scores.append(score)
            if parsed.json:
                print(score.json(), flush=True)
    except (ProfileError, TraceError, RatesError, ConfigError, PolicyError) as error:
        print(f"sponge simulate: {error}", file=sys.stderr)
        return 2
    if not parsed.json:
        print(table(scores))
    return 0


def description(parsed: argparse.Namespace) -> Description:
    """Give what the flags and the services file describe. Raises ConfigError."""
    given = {key: value for key, value in vars(parsed).items() if key in Description.__struct_fields__}
    described = convert(given, Description, "flags")
    if parsed.services is not None:
        described = structs.replace(described, service=read_services(parsed.services))
    return described


def scores_of(where: Scenario, names: list[str]) -> Iterator[Score]:
    """Give the score of each policy in turn. Raises PolicyError."""
    missed: int | None = None
    for name in names:
        score = contest.play(where, name, missed=missed).score
        if name == contest.OURS:
            missed = score.avoidable_missed
        yield score
