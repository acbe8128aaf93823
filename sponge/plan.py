"""`sponge plan`: what the planner would do for services that are only described, in the terminal or as JSON."""

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from controlplane import whatif
from controlplane.whatif import Fit, Outlook, Prospect
from core.config import ConfigError
from sponge import planfile
from sponge.planfile import Question

_MIB = 1 << 20
_NOTHING = 1e-4  # the share of misses below which nobody is said to miss


@dataclass(frozen=True, slots=True)
class Options:
    """What to ask: of which file, and what instead of what it says."""

    file: Path
    fit: str | None  # the service of which copies are to fit
    share: float  # of requests that may be expected to miss
    rates: Mapping[str, float]  # requests/s by service
    millicores: int | None  # of the host


@dataclass(frozen=True, slots=True)
class Answer:
    """What is printed, either way; `quantile` is that of the upper service times."""

    outlook: Outlook
    quantile: float
    share: float
    fit: tuple[str, Fit] | None


def run(options: Options, *, as_json: bool) -> int:
    """Print the answer; 2 and one line on stderr for input that cannot be used."""
    try:
        answer = _answer(options)
    except ConfigError as error:
        print(f"sponge plan: {error}", file=sys.stderr)
        return 2
    print(json.dumps(as_object(answer)) if as_json else text(answer))
    return 0


def _answer(options: Options) -> Answer:
    """Raises ConfigError."""
    question = planfile.read(options.file, options.rates, options.millicores)
    fit = None
    if options.fit is not None:
        fit = options.fit, _fit(question, options.file, options.fit, options.share)
    outlook = whatif.foresee(question.services, question.host, question.settings)
    return Answer(outlook, question.settings.latency_quantile, options.share, fit)


def _fit(question: Question, file: Path, name: str, share: float) -> Fit:
    states = {service.name: service for service in question.services}
    if name not in states:
        raise planfile.unknown_service(file, "--fit", name, states)
    copied = states.pop(name)
    return whatif.fit(copied, list(states.values()), question.host, question.settings, share)


def text(answer: Answer) -> str:
    """The allocation of every service, and what of the host is left, for people."""
    prospects = answer.outlook.prospects
    upper = f"p{100 * answer.quantile:g} ms"
    width = max(len("service"), *(len(p.name) for p in prospects))
    lines = [
        f"{'service':<{width}}{'rate/s':>9}{'millicores':>12}{'n×t×b':>9}{'rows':>6}{'mean ms':>10}{upper:>10}"
        f"{'used':>7}{'misses/s':>10}{'share':>9}  because of"
    ]
    for p in prospects:
        c = p.configuration
        shape = f"{c.instances}×{c.threads}×{c.max_batch}"
        lines.append(
            f"{p.name:<{width}}{p.rate:>9.1f}{c.cpu_millicores:>12}{shape:>9}{p.batch_rows:>6}"
            f"{1000 * p.mean_s:>10.1f}{1000 * p.upper_s:>10.1f}{p.utilisation:>7.0%}{p.misses:>10.3f}"
            f"{p.miss_share:>9.2%}  {p.bound.value}"
        )
    lines += _host_lines(answer.outlook)
    if answer.fit is not None:
        lines.append(_fit_line(*answer.fit, answer.share))
    return "\n".join(lines)


def _host_lines(outlook: Outlook) -> Iterator[str]:
    host, left = outlook.host, outlook.left_millicores
    yield f"host: {host.millicores - left} of {host.millicores} millicores given, {_left(left)}"
    if host.memory_bytes:
        most, given = host.memory_bytes // _MIB, _given_mib(outlook)
        yield f"memory: {given} of {most} MiB given, {_left(most - given)}"
    if outlook.gap > 0:
        yield f"the solver's time ran out: up to {outlook.gap:.1%} of the cost could be saved"
    if outlook.host_full:
        yield f"the host is full: {_who(outlook.missing(_NOTHING)) or 'nobody misses'}"
    hopeless = [f"{p.name} {p.hopeless / p.rate:.2%}" for p in outlook.prospects if p.hopeless > 0]
    if hopeless:
        yield f"too late for any configuration when they arrive: {', '.join(hopeless)}"


def _left(left: int) -> str:
    return f"{left} left" if left >= 0 else f"{-left} too few"


def _given_mib(outlook: Outlook) -> int:
    return _mib(outlook.host.memory_bytes - outlook.left_memory_bytes)


def _mib(size: int) -> int:
    """Upwards: a part of one is needed whole."""
    return -(-size // _MIB)


def _who(missing: Iterable[Prospect]) -> str:
    return ", ".join(f"{name} misses {share:.2%}" for name, share in _worst(missing).items())


def _worst(missing: Iterable[Prospect]) -> dict[str, float]:
    """Each service once, with the share of the copy that misses most."""
    worst: dict[str, float] = {}
    for p in missing:
        worst[p.name] = max(p.miss_share, worst.get(p.name, 0.0))
    return worst


def _fit_line(name: str, fit: Fit, share: float) -> str:
    short = "even the least that each needs is more than the host has"
    beyond = _who(fit.beyond.missing(share)) if fit.beyond.fits else short
    return (
        f"fit: {fit.copies} of {name}, with at most {share:.2%} of each service's requests expected to miss; "
        f"with {fit.copies + 1}: {beyond}"
    )


def as_object(answer: Answer) -> dict[str, Any]:
    """The same for machines."""
    outlook = answer.outlook
    memory_mib = outlook.host.memory_bytes // _MIB
    told: dict[str, Any] = {
        "host": {
            "millicores": outlook.host.millicores,
            "left_millicores": outlook.left_millicores,
            "memory_mib": memory_mib,
            "left_memory_mib": memory_mib - _given_mib(outlook),
            "full": outlook.host_full,
        },
        "status": outlook.status.value,
        "gap": outlook.gap,
        "latency_quantile": answer.quantile,
        "services": [_service_object(p) for p in outlook.prospects],
    }
    if answer.fit is not None:
        name, fit = answer.fit
        told["fit"] = {
            "service": name,
            "share": answer.share,
            "copies": fit.copies,
            "beyond": {
                "fits": fit.beyond.fits,
                "missing": [
                    {"name": one, "miss_share": missed}
                    for one, missed in _worst(fit.beyond.missing(answer.share)).items()
                ],
            },
        }
    return told


def _service_object(p: Prospect) -> dict[str, Any]:
    c = p.configuration
    return {
        "name": p.name,
        "rate": p.rate,
        "cpu_millicores": c.cpu_millicores,
        "instances": c.instances,
        "threads": c.threads,
        "max_batch": c.max_batch,
        "memory_mib": _mib(c.memory_bytes),
        "batch_rows": p.batch_rows,
        "mean_ms": 1000 * p.mean_s,
        "upper_ms": 1000 * p.upper_s,
        "utilisation": p.utilisation,
        "misses_per_s": p.misses,
        "miss_share": p.miss_share,
        "hopeless_per_s": p.hopeless,
        "bound": p.bound.value,
    }
