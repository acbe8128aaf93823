"""A Lease of coordination.k8s.io, read and written through the API server."""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

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
from controlplane.election import RENEW_EVERY, Claim
from controlplane.lease import LeaseConflictError, LeaseError

T = TypeVar("T")


class KubernetesLease:
    """The Lease that the configuration names. Raises ConfigError without a way to an API server.

    Its server is one of its own, with threads and a connection: quotas that are slow to write must not keep it waiting.
    """

    def __init__(
        self, leader: settings.Leader, server: settings.Kubernetes, service_account: Path = SERVICE_ACCOUNT
    ) -> None:
        self._name = leader.lease
        self._server = ApiServer(server, service_account)
        self._api = client.CoordinationV1Api(self._server.client)
        self._timeouts_s = timeouts(RENEW_EVERY * leader.lease_s)

    async def read(self) -> tuple[Claim, str]:
        return await self._calling(self._read)

    async def write(self, claim: Claim, version: str) -> str:
        spec = {
            "holderIdentity": claim.holder,
            "leaseDurationSeconds": claim.duration_s,
            "leaseTransitions": claim.transitions,
            "renewTime": claim.renewed,
        }
        return await self._calling(lambda: self._patch(spec, version))

    async def release(self, version: str) -> None:
        await self._calling(lambda: self._patch({"holderIdentity": None}, version))

    def close(self) -> None:
        self._server.close()

    def _read(self) -> tuple[Claim, str]:
        return _told(
            self._api.read_namespaced_lease(
                self._name, self._server.namespace, _request_timeout=self._timeouts_s
            )
        )

    def _patch(self, spec: dict[str, Any], version: str) -> str:
        # Of the version that was looked at, and no other: of two that find it free one gets it.
        patch = {"metadata": {"resourceVersion": version}, "spec": spec}
        patched = self._api.patch_namespaced_lease(
            self._name, self._server.namespace, patch, _request_timeout=self._timeouts_s
        )
        return _told(patched)[1]

    async def _calling(self, call: Callable[[], T]) -> T:
        try:
            return await self._server.run(call)
        except FAILURES as error:
            raise self._explained(error) from error

    def _explained(self, error: Exception) -> LeaseError:
        if isinstance(error, ApiException):
            text = status_of(error).message
            if error.status == CONFLICT:
                return LeaseConflictError(text)
            if error.status == NOT_FOUND:
                return LeaseError(
                    f"leader.lease: expected a Lease {self._name}, as the manifests have: {text}"
                )
        return LeaseError(explained(error, "a Lease"))


def _told(lease: Any) -> tuple[Claim, str]:
    """What a V1Lease says, and its version. Raises ValueError of what is none."""
    if lease is None or lease.metadata is None or not lease.metadata.resource_version:
        raise ValueError("expected a Lease")
    spec, version = lease.spec, lease.metadata.resource_version
    if spec is None:  # as it is applied
        return Claim(), version
    renewed = spec.renew_time.isoformat() if isinstance(spec.renew_time, datetime) else ""
    claim = Claim(
        spec.holder_identity or "", renewed, spec.lease_duration_seconds or 0, spec.lease_transitions or 0
    )
    return claim, version
