"""Attacks on a worker's socket, a good call after each."""

import random
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field

import grpc

from tests.fuzz import frames, texts
from tests.fuzz.calls import Calls
from tests.fuzz.http2 import Connection, Encoder, Ended
from tests.fuzz.target import Target

# Calls that share a connection: all they send fits the window that a connection begins with.
_BATCH = 20
# An attack on frames may leave the server waiting for the rest of one.
_GLANCE_S = 0.2
_PATIENCE_S = 60.0
# The share of calls that are attacks on frames, each on a connection of its own.
_FRAMES = 0.1
# The allocator keeps what the worst attacks of a kind have needed, a megabyte of headers among them.
_WARM_UPS = 40
_MAX_GROWTH = 0.05
_CODES = {code.value[0]: code.name for code in grpc.StatusCode}


@dataclass(slots=True)
class Findings:
    """What became of the calls, and what must not have."""

    calls: int = 0
    connections: int = 0
    good: int = 0
    seconds: float = 0.0
    statuses: Counter[str] = field(default_factory=Counter)
    shapes: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    rss_before_mib: float = 0.0
    rss_after_mib: float = 0.0
    files_before: int = 0
    files_after: int = 0
    violations: list[str] = field(default_factory=list)


def run(target: Target, calls: int, seed: int, warm_ups: int = _WARM_UPS) -> Findings:
    """So many calls at least, besides those that warm it up; stops at the tenth violation."""
    dice = random.Random(seed)
    _warm_up(target, dice, warm_ups)
    supply = Calls(seed)
    findings = Findings(rss_before_mib=target.rss_mib, files_before=target.files)
    began = time.perf_counter()
    while findings.calls < calls and len(findings.violations) < 10:
        if dice.random() < _FRAMES * _BATCH / (1 + _FRAMES * _BATCH):
            _attack_frames(target, dice, findings)
        else:
            _attack_calls(target, supply, findings)
        try:
            target.check()
        except Exception as error:  # noqa: BLE001 - whatever it is, the worker is not well
            findings.violations.append(f"a good call after it: {error!r}")
        findings.good += 1
    findings.seconds = time.perf_counter() - began
    target.settle()
    findings.rss_after_mib, findings.files_after = target.rss_mib, target.files
    if findings.rss_after_mib > findings.rss_before_mib * (1 + _MAX_GROWTH):
        findings.violations.append("memory grew")
    if findings.files_after > findings.files_before + 2:
        findings.violations.append("files were left open")
    findings.violations += target.faults()
    return findings


def _warm_up(target: Target, dice: random.Random, rounds: int) -> None:
    for attack in frames.ATTACKS * rounds:
        with Connection(target.address) as connection:
            connection.send(attack(dice))
            connection.settle(_GLANCE_S)
    target.check()
    target.settle()


def _attack_frames(target: Target, dice: random.Random, findings: Findings) -> None:
    attack = dice.choice(frames.ATTACKS)
    with Connection(target.address) as connection:
        connection.send(attack(dice))
        if dice.random() < 0.9:
            connection.settle(_GLANCE_S)
    findings.calls += 1
    findings.connections += 1
    for ended in connection.streams.values():
        _note(ended, attack.__name__, findings)
    _look_for_leaks(connection.farewell.decode(errors="replace"), attack.__name__, findings)


def _attack_calls(target: Target, supply: Calls, findings: Findings) -> None:
    encoder = Encoder()
    calls = {stream: supply.next(stream, encoder) for stream in range(1, 2 * _BATCH, 2)}
    with Connection(target.address) as connection:
        connection.greet()
        connection.send(b"".join(data for data, _ in calls.values()))
        hanging = connection.wait(
            {stream for stream, (_, answered) in calls.items() if answered}, _PATIENCE_S
        )
        if hanging:
            findings.violations.append(f"{len(hanging)} calls never ended")
    findings.calls += _BATCH
    findings.connections += 1
    for stream in calls:
        _note(connection.streams.get(stream, Ended()), "call", findings)


def _note(ended: Ended, attack: str, findings: Findings) -> None:
    status = ended.status
    if status is None:
        findings.statuses["no status: reset or closed"] += 1
        return
    name = _CODES.get(status, str(status))
    findings.statuses[name] += 1
    findings.shapes[name].add(texts.shape(ended.message))
    _look_for_leaks(ended.message, attack, findings)
    if name == "INVALID_ARGUMENT" and texts.field(ended.message) is None:
        findings.violations.append(f"{attack}: {ended.message!r} names no field")


def _look_for_leaks(text: str, attack: str, findings: Findings) -> None:
    leak = texts.leak(text)
    if leak:
        findings.violations.append(f"{attack}: {text!r} tells {leak!r}")


def report(findings: Findings) -> str:
    """What the command prints."""
    lines = [
        f"socket: {findings.calls} calls on {findings.connections} connections in {findings.seconds:.1f} s,"
        f" {findings.calls / findings.seconds:.0f}/s, and {findings.good} good ones in between",
        f"  memory {findings.rss_before_mib:.1f} MiB after warm-up, {findings.rss_after_mib:.1f} MiB at the end;"
        f" open files {findings.files_before} and {findings.files_after}",
        "  how they ended, and how many texts there are:",
    ]
    for name, count in findings.statuses.most_common():
        lines.append(f"    {count:>9}  {len(findings.shapes[name]):>3}  {name}")
    return "\n".join(lines)
