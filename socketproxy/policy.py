"""What is let through: which calls, on which containers, with which limits, and what of their answers."""

import enum
import json
import re
from dataclasses import dataclass
from typing import Annotated
from urllib.parse import quote

import msgspec
from msgspec import UNSET, Meta, UnsetType

from core.config import Section
from socketproxy.request import Refusal, Request

PROJECT = "com.docker.compose.project"

_VERSION = r"(?P<version>(?:/v1\.[0-9]{1,3})?)"
# An id, never a name: that could be another container tomorrow.
_ID = "(?P<container>[0-9a-f]{12,64})"
# Neither filters, which are the proxy's own, nor sizes, for which the engine walks through file systems.
_FLAG = r"(?:(?:all|trunc_cmd)=(?:0|1|[Tt]rue|[Ff]alse)|limit=(?:-1|[0-9]{1,6})|size=(?:0|[Ff]alse))"
_Bytes = Annotated[int, Meta(ge=1, le=(1 << 63) - 1)]


class Kind(enum.Enum):
    """The calls there are."""

    PING = "ping"
    VERSION = "version"
    LIST = "list"
    INSPECT = "inspect"
    STATS = "stats"
    UPDATE = "update"
    EVENTS = "events"


# Matched with the whole target as it came. Nothing is decoded or made canonical, so that there is only one way to spell
# what is allowed.
_ROUTES = {
    Kind.PING: ("GET", re.compile(rf"{_VERSION}/_ping")),
    Kind.VERSION: ("GET", re.compile(rf"{_VERSION}/version")),
    Kind.LIST: ("GET", re.compile(rf"{_VERSION}/containers/json(?:\?(?P<query>{_FLAG}(?:&{_FLAG})*))?")),
    Kind.INSPECT: ("GET", re.compile(rf"{_VERSION}/containers/{_ID}/json")),
    # One sample, and not a stream of them.
    Kind.STATS: (
        "GET",
        re.compile(rf"{_VERSION}/containers/{_ID}/stats\?stream=(?:0|[Ff]alse)&one-shot=(?:1|[Tt]rue)"),
    ),
    Kind.UPDATE: ("POST", re.compile(rf"{_VERSION}/containers/{_ID}/update")),
    # With filters of the proxy's own, whatever was asked for.
    Kind.EVENTS: ("GET", re.compile(rf"{_VERSION}/events(?:\?filters=[0-9A-Za-z%._~-]{{0,1024}})?")),
}


class Limits(Section, frozen=True, kw_only=True, rename="pascal"):
    """Body of an update: what may be changed of a container, and how far. A quota or a swap of −1 is none."""

    cpu_period: Annotated[int, Meta(ge=1000, le=1_000_000)] | UnsetType = UNSET
    cpu_quota: Annotated[int, Meta(ge=-1, le=10**12)] | UnsetType = UNSET
    cpu_shares: Annotated[int, Meta(ge=2, le=262_144)] | UnsetType = UNSET
    memory: _Bytes | UnsetType = UNSET
    memory_swap: Annotated[int, Meta(ge=-1, le=(1 << 63) - 1)] | UnsetType = UNSET
    cpuset_cpus: Annotated[str, Meta(pattern=r"^[0-9]{1,5}([-,][0-9]{1,5}){0,255}\Z")] | UnsetType = UNSET


@dataclass(frozen=True, slots=True)
class Call:
    """A request that is known to be one of the calls there are."""

    kind: Kind
    version: str  # "" or as in "/v1.41"
    container: str = ""  # 12 to 64 hexadecimal digits, where the call is about one
    query: str = ""
    limits: Limits | None = None  # of an update


def call(request: Request, resize_memory: bool, events: bool = False, whole_cores: bool = False) -> Call:
    """The call that `request` is. Raises Refusal if it is none of those that there are."""
    for kind, (method, route) in _ROUTES.items():
        found = route.fullmatch(request.target)
        if found is None or request.method != method:
            continue
        if kind is Kind.STATS and not resize_memory:
            raise Refusal("stats: let through only with resize_memory")
        if kind is Kind.EVENTS and not events:
            raise Refusal("events: let through only with events = true")
        if kind is not Kind.UPDATE and request.body:
            raise Refusal(f"body: expected none of {kind.value}")
        parts = found.groupdict(default="")
        limits = _limits(request.body, resize_memory, whole_cores) if kind is Kind.UPDATE else None
        return Call(kind, parts["version"], parts.get("container", ""), parts.get("query", ""), limits)
    raise Refusal("this call is not let through")


def _limits(body: bytes, resize_memory: bool, whole_cores: bool) -> Limits:
    try:
        limits = msgspec.json.decode(body, type=Limits)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Refusal(f"body: {error}") from error
    if not resize_memory and (limits.memory is not UNSET or limits.memory_swap is not UNSET):
        raise Refusal("body: memory limits are let through only with resize_memory")
    if not whole_cores and limits.cpuset_cpus is not UNSET:
        raise Refusal("body: sets of CPUs are let through only with whole_cores")
    return limits


class Configured(msgspec.Struct, frozen=True, rename="pascal"):
    """What is told of a container's configuration; its environment is full of secrets."""

    labels: dict[str, str] | None = None


class Held(msgspec.Struct, frozen=True, rename="pascal"):
    """What a container is limited to."""

    cpu_quota: int = 0
    cpu_period: int = 0
    cpu_shares: int = 0
    nano_cpus: int = 0
    memory: int = 0
    memory_swap: int = 0
    cpuset_cpus: str = ""


class Inspected(msgspec.Struct, frozen=True, rename="pascal"):
    """What is told of a container."""

    id: str
    name: str
    config: Configured
    host_config: Held

    @property
    def project(self) -> str:
        """Its Compose project; "" for none."""
        return (self.config.labels or {}).get(PROJECT, "")


class Listed(msgspec.Struct, frozen=True, rename="pascal"):
    """What is told of a container in a list."""

    id: str
    names: list[str]
    state: str
    labels: dict[str, str] | None = None


class Stats(msgspec.Struct, frozen=True):
    """What is told of a container's use: its memory."""

    memory_stats: msgspec.Raw = msgspec.Raw(b"{}")


class Actor(msgspec.Struct, frozen=True, rename="pascal"):
    """What is told of the container that something happened to."""

    id: str = msgspec.field(name="ID")


class Event(msgspec.Struct, frozen=True, rename="pascal"):
    """What is told of an event."""

    type: str
    action: str
    actor: Actor


def is_id(text: str) -> bool:
    """Whether `text` can be the id of a container, short or whole."""
    return re.fullmatch(_ID, text) is not None


def told(labels: dict[str, str] | None, label: str) -> dict[str, str]:
    """Of `labels` the two that decide; others may hold anything."""
    return {name: value for name, value in (labels or {}).items() if name in (label, PROJECT)}


def check(container: Inspected, asked: str, label: str, project: str) -> None:
    """Raise Refusal unless `container`, found by the id `asked`, is one of Sponge's in that Compose project."""
    if not container.id.startswith(asked):  # names may look like ids
        raise Refusal(f"no container has the id {asked}")
    if label not in (container.config.labels or {}):
        raise Refusal(f"container {container.name.lstrip('/')}: expected the label {label}")
    expect(project)
    if container.project != project:
        raise Refusal(f"container {container.name.lstrip('/')}: expected the label {PROJECT}={project}")


def expect(project: str) -> None:
    """Raise Refusal where it is not known which containers are Sponge's."""
    if not project:
        raise Refusal(
            "compose_project: expected the project whose containers may be updated, "
            "as the proxy does not run in a container of one"
        )


def only(label: str, project: str) -> str:
    """The filter of a list that leaves Sponge's containers of that Compose project, as part of a query."""
    return _filters({"label": [label, f"{PROJECT}={project}"]})


def changes(label: str, project: str) -> str:
    """As `only`, of events: those after which a container's limits may be others."""
    those = {"label": [label, f"{PROJECT}={project}"], "type": ["container"], "event": ["start", "update"]}
    return _filters(those)


def _filters(those: dict[str, list[str]]) -> str:
    return "filters=" + quote(json.dumps(those), safe="")
