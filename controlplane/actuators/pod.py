"""What a pod says of one of its containers: what was asked for, what is in force, and what became of a resize."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from kubernetes.utils import parse_quantity

_RESIZING = ("PodResizePending", "PodResizeInProgress")  # the graver first
_INFEASIBLE = "Infeasible"
GUARANTEED = "Guaranteed"


@dataclass(frozen=True, slots=True)
class Limits:
    """CPU and memory of a container: requests and limits alike, which makes its pod a guaranteed one."""

    cpu_millicores: int
    memory_bytes: int

    def __str__(self) -> str:
        return f"{self.cpu_millicores} millicores and {self.memory_bytes} bytes"

    def reaches(self, other: "Limits") -> bool:
        """Whether this is as much as `other` or more, in both."""
        return self.cpu_millicores >= other.cpu_millicores and self.memory_bytes >= other.memory_bytes


@dataclass(frozen=True, slots=True)
class Condition:
    """What the kubelet says of the newest resize: `kind` is PodResizePending or PodResizeInProgress.

    `reason` is Deferred or Infeasible of the one, Error or nothing of the other.
    """

    kind: str
    reason: str
    message: str

    def __str__(self) -> str:
        reason = f" ({self.reason})" if self.reason else ""
        return f"{self.kind}{reason}: {self.message}" if self.message else f"{self.kind}{reason}"

    @property
    def infeasible(self) -> bool:
        """Whether the node will never do it."""
        return self.reason == _INFEASIBLE


@dataclass(frozen=True, slots=True)
class Pod:
    """One container of a pod, as the API server had it at `resource_version`."""

    name: str
    resource_version: str
    node: str
    desired: Limits
    actual: Limits  # of a container that has yet to start, what it will start with
    # Of the newest resize; None if there is nothing to say of it, or nothing yet.
    condition: Condition | None
    settled: bool  # whether the kubelet is done with what is desired


def limits_of(limits: dict[str, str] | None) -> Limits | None:
    """The limits of a container; None unless both CPU and memory have one. Raises ValueError."""
    if not limits or not {"cpu", "memory"} <= limits.keys():
        return None
    return Limits(
        math.ceil(parse_quantity(limits["cpu"]) * 1000), math.ceil(parse_quantity(limits["memory"]))
    )


def pod_of(pod: Any, container: str) -> Pod:
    """What a V1Pod of the client says of its container of that name.

    Raises ValueError, fit for a log, if there is no such container, or if it has no guaranteed resources.
    """
    name, generation = pod.metadata.name, pod.metadata.generation or 0
    spec = _named(pod.spec.containers, container)
    if spec is None:
        raise ValueError(f"pod {name}: expected a container {container}")
    desired = limits_of(spec.resources and spec.resources.limits)
    if desired is None or pod.status.qos_class != GUARANTEED:
        raise ValueError(
            f"pod {name}: expected the QoS class {GUARANTEED}, got {pod.status.qos_class}: "
            "give each of its containers CPU and memory, requests equal to limits"
        )
    status = _named(pod.status.container_statuses or (), container)
    actual = limits_of(status.resources.limits) if status is not None and status.resources else None
    condition = _condition(pod.status.conditions or (), generation)
    seen = _observed(pod.status, generation)
    return Pod(
        name=name,
        resource_version=pod.metadata.resource_version,
        node=pod.spec.node_name or "",
        desired=desired,
        actual=actual or desired,
        condition=condition,
        settled=seen and condition is None and actual == desired,
    )


def _named(those: Iterable[Any], name: str) -> Any:
    return next((one for one in those if one.name == name), None)


def _condition(conditions: Iterable[Any], generation: int) -> Condition | None:
    """The gravest that is about the newest generation: older ones are about sizes no longer asked for."""
    told = {c.type: c for c in conditions if c.status == "True" and _observed(c, generation)}
    for kind in _RESIZING:
        if kind in told:
            return Condition(kind, told[kind].reason or "", told[kind].message or "")
    return None


def _observed(told: Any, generation: int) -> bool:
    """Whether it is about this generation; where nothing is said, it is taken to be."""
    return told.observed_generation is None or told.observed_generation >= generation
