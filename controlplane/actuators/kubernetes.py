"""Pods, resized in place through the API server."""

import asyncio
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from kubernetes import client
from kubernetes.client.exceptions import ApiException

from controlplane import config as settings
from controlplane.actuators import ActuationError, Pending, Quota, WorkerRef
from controlplane.actuators.apiserver import (
    CONFLICT,
    FAILURES,
    NOT_FOUND,
    SERVICE_ACCOUNT,
    UNPROCESSABLE,
    ApiServer,
    explained,
    status_of,
    timeouts,
)
from controlplane.actuators.pod import Limits, Pod, pod_of
from controlplane.allocation import smallest

T = TypeVar("T")

_MIB = 1 << 20
_TRIES = 5  # of one write, each with fresh state: status changes a pod's version several times in a resize

_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class _Refusal:
    """A size that a pod cannot have on its node."""

    node: str
    limits: Limits
    text: str


class KubernetesActuator:
    """Resizes the configured container of a worker's pod, requests and limits alike, without a restart.

    Touches only pods with the configured labels, in one namespace, up to the configured ceilings. Memory is left alone,
    and read as unlimited, unless resize_memory. A write does not wait for the node: it raises Pending until the kubelet
    says that the size is in force, and ActuationError where it was put off, or takes longer than the timeout. A size
    that the node cannot give is not asked for again while the pod is on that node.
    """

    kind = "kubernetes"
    holds_quota = True

    def __init__(
        self,
        config: settings.Actuator,
        service_account: Path = SERVICE_ACCOUNT,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`service_account` is where a pod finds its own. Raises ConfigError without a way to an API server."""
        self._config = config.kubernetes
        self._resize_memory = config.resize_memory
        self._labels = dict(pair.split("=", 1) for pair in self._config.label_selector.split(","))
        self._server = ApiServer(self._config, service_account)
        self._namespace = self._server.namespace
        self._api = client.CoreV1Api(self._server.client)
        self._timeouts_s = timeouts(self._config.timeout_s)
        self._clock = clock
        self._refused: dict[str, _Refusal] = {}  # by pod
        self._asked_at: dict[str, float] = {}  # by pod: when what is not yet in force was asked for

    async def read(self, worker: WorkerRef) -> Quota | None:
        return await asyncio.to_thread(self._calling, self._read, worker)

    async def write(self, worker: WorkerRef, quota: Quota) -> None:
        await asyncio.to_thread(self._calling, lambda worker: self._write(worker, quota), worker)

    async def host(self, worker: WorkerRef) -> str:
        return ""

    async def watch(self, changed: Callable[[str], None]) -> None:
        pass

    async def close(self) -> None:
        await asyncio.to_thread(self._server.close)

    def _read(self, worker: WorkerRef) -> Quota:
        pod = self._pod(worker)
        # The smaller while a resize is under way: it may be done at any moment.
        return smallest(self._quota(limits) for limits in (pod.actual, pod.desired))

    def _quota(self, limits: Limits) -> Quota:
        memory = limits.memory_bytes if self._resize_memory else 0
        return Quota(limits.cpu_millicores, memory if memory < self._most_memory_bytes else 0)

    def _write(self, worker: WorkerRef, quota: Quota) -> None:
        for _ in range(_TRIES):
            pod = self._pod(worker)
            wanted = self._wanted(pod, quota)
            self._check_feasible(pod, wanted)
            if pod.desired == wanted:
                self._check_in_force(pod)
                return
            try:
                self._resize(pod, wanted)
            except ApiException as error:
                if error.status == CONFLICT:
                    continue
                if error.status == UNPROCESSABLE:
                    self._refused[pod.name] = _Refusal(pod.node, wanted, status_of(error).message)
                raise
            self._asked_at[pod.name] = self._clock()
            raise Pending(f"pod {pod.name}: {wanted} asked for")
        raise ActuationError(
            f"pod {worker.container_id}: changed by others each of the {_TRIES} times it was to be resized"
        )

    def _pod(self, worker: WorkerRef) -> Pod:
        """The worker's pod, if it may be touched; labels may change, and names come back, so it is asked anew."""
        if not _NAME.fullmatch(worker.container_id):
            raise ActuationError(
                f"worker {worker.worker_id}: container_id: expected the name of a pod, got {worker.container_id!r}"
            )
        found = self._api.read_namespaced_pod(
            worker.container_id, self._namespace, _request_timeout=self._timeouts_s
        )
        if found is None or None in (found.metadata, found.spec, found.status):
            raise ActuationError("the API server answered with something else than a pod")
        labels = found.metadata.labels or {}
        for label, value in self._labels.items():
            if labels.get(label) != value:
                raise ActuationError(
                    f"pod {worker.container_id}: expected the label {label}={value}, got {labels.get(label)}"
                )
        try:
            pod = pod_of(found, self._config.container)
        except ValueError as error:
            raise ActuationError(str(error)) from error
        if pod.condition is not None and pod.condition.infeasible:
            self._refused[pod.name] = _Refusal(pod.node, pod.desired, str(pod.condition))
        return pod

    @property
    def _most_memory_bytes(self) -> int:
        return self._config.max_memory_mib * _MIB

    def _wanted(self, pod: Pod, quota: Quota) -> Limits:
        """What `quota` is for this pod, within the ceilings."""
        if quota.cpu_millicores is None:
            raise ActuationError(f"pod {pod.name}: expected a CPU quota, as a guaranteed pod keeps a limit")
        if quota.cpu_millicores > self._config.max_millicores:
            raise ActuationError(
                f"pod {pod.name}: expected at most actuator.kubernetes.max_millicores = "
                f"{self._config.max_millicores}, got {quota.cpu_millicores}"
            )
        if not self._resize_memory:
            return Limits(quota.cpu_millicores, pod.desired.memory_bytes)
        # Whole MiB, as kernels keep whole pages, and what is not a multiple of one would never be in force.
        memory = -(-quota.memory_bytes // _MIB) * _MIB or self._most_memory_bytes
        if memory > self._most_memory_bytes:
            raise ActuationError(
                f"pod {pod.name}: expected at most actuator.kubernetes.max_memory_mib = "
                f"{self._config.max_memory_mib}, got {memory} bytes"
            )
        return Limits(quota.cpu_millicores, memory)

    def _check_feasible(self, pod: Pod, wanted: Limits) -> None:
        """Ask for nothing that was refused on this node before; what is in force was not."""
        refusal = self._refused.get(pod.name)
        if refusal is None or wanted == pod.actual:
            return
        if refusal.node != pod.node:
            del self._refused[pod.name]
        elif wanted.reaches(refusal.limits):
            raise ActuationError(
                f"pod {pod.name}: {wanted} not asked for, as node {pod.node} refused {refusal.limits}: {refusal.text}"
            )

    def _check_in_force(self, pod: Pod) -> None:
        """Whether what is desired is what the container has: raises if it is not."""
        if pod.settled:
            self._asked_at.pop(pod.name, None)
            return
        waited_s = self._clock() - self._asked_at.setdefault(pod.name, self._clock())
        text = (
            f"pod {pod.name}: {pod.desired} not in force: {pod.condition or 'the kubelet has yet to answer'}"
        )
        put_off = pod.condition is not None and pod.condition.reason
        if put_off or waited_s >= self._config.timeout_s:
            raise ActuationError(text)
        raise Pending(text)

    def _resize(self, pod: Pod, wanted: Limits) -> None:
        resources = {"cpu": f"{wanted.cpu_millicores}m"}
        if self._resize_memory:
            resources["memory"] = str(wanted.memory_bytes)
        container = {
            "name": self._config.container,
            "resources": {"requests": resources, "limits": resources},
        }
        patch = {
            # Of the pod that was checked, and no other: a name may come back, and a label be taken away.
            "metadata": {"resourceVersion": pod.resource_version},
            "spec": {"containers": [container]},
        }
        self._api.patch_namespaced_pod_resize(
            pod.name, self._namespace, patch, _request_timeout=self._timeouts_s
        )

    def _calling(self, call: Callable[[WorkerRef], T], worker: WorkerRef) -> T:
        """Run calls of the API server, and make every failure one line of its own text."""
        try:
            return call(worker)
        except FAILURES as error:
            raise ActuationError(self._explained(error, worker.container_id)) from error

    def _explained(self, error: Exception, pod: str) -> str:
        if isinstance(error, ApiException) and error.status == NOT_FOUND:
            status = status_of(error)
            if not status.is_about(pod):
                return f"the API server knows no pods/resize, expected Kubernetes 1.35 or newer: {status.message}"
            self._refused.pop(pod, None)
            self._asked_at.pop(pod, None)
            return f"pod {pod} is gone: {status.message}"
        return explained(error, "a pod")
