"""Scales of Deployments and StatefulSets, read and changed through the API server."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from kubernetes import client
from kubernetes.client.exceptions import ApiException

from controlplane import config as settings
from controlplane.actuators.apiserver import (
    CONFLICT,
    FAILURES,
    NOT_FOUND,
    SERVICE_ACCOUNT,
    ApiServer,
    explained,
    status_of,
    timeouts,
)
from controlplane.scales import Scale, ScaleConflictError, ScaleError

T = TypeVar("T")


class KubernetesScales:
    """Touches the `scale` subresource of what it is told the name of, in one namespace, and nothing else.

    Raises ConfigError without a way to an API server.
    """

    def __init__(self, config: settings.Kubernetes, service_account: Path = SERVICE_ACCOUNT) -> None:
        self._server = ApiServer(config, service_account)
        api = client.AppsV1Api(self._server.client)
        self._calls = {
            "deployment": (api.read_namespaced_deployment_scale, api.patch_namespaced_deployment_scale),
            "statefulset": (api.read_namespaced_stateful_set_scale, api.patch_namespaced_stateful_set_scale),
        }
        self._timeouts_s = timeouts(config.timeout_s)

    async def read(self, name: str) -> Scale:
        return await self._calling(name, lambda: self._read(name))

    async def write(self, name: str, replicas: int, version: str) -> None:
        await self._calling(name, lambda: self._patch(name, replicas, version))

    async def close(self) -> None:
        await asyncio.to_thread(self._server.close)

    def _read(self, name: str) -> Scale:
        kind, _, own = name.partition("/")
        found = self._calls[kind][0](own, self._server.namespace, _request_timeout=self._timeouts_s)
        if found is None or found.metadata is None or not found.metadata.resource_version:
            raise ValueError("expected a Scale")
        # Left out where it is 0.
        return Scale((found.spec and found.spec.replicas) or 0, found.metadata.resource_version)

    def _patch(self, name: str, replicas: int, version: str) -> None:
        kind, _, own = name.partition("/")
        # Of what was looked at: whoever has changed it meanwhile meant something by it.
        patch = {"metadata": {"resourceVersion": version}, "spec": {"replicas": replicas}}
        self._calls[kind][1](own, self._server.namespace, patch, _request_timeout=self._timeouts_s)

    async def _calling(self, name: str, call: Callable[[], T]) -> T:
        try:
            return await self._server.run(call)
        except FAILURES as error:
            raise _explained(error, name) from error


def _explained(error: Exception, name: str) -> ScaleError:
    if isinstance(error, ApiException):
        text = status_of(error).message
        if error.status == CONFLICT:
            return ScaleConflictError(f"{name}: {text}")
        if error.status == NOT_FOUND:
            return ScaleError(f"{name}: expected one in the workers' namespace: {text}")
    return ScaleError(f"{name}: {explained(error, 'a scale')}")
