"""One door to each owner of CPU quotas."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from controlplane import config as settings
from controlplane.allocation import Quota
from controlplane.lease import Lease
from controlplane.scales import Scales
from core.config import ConfigError

__all__ = [
    "ActuationError",
    "Actuator",
    "Pending",
    "Quota",
    "Unreachable",
    "WorkerRef",
    "make",
    "make_lease",
    "make_scales",
]


class ActuationError(Exception):
    """The owner of a quota refused or could not be reached; the text is the owner's, fit for a log."""


class Unreachable(ActuationError):
    """The owner of a quota does not answer: of none of its workers can anything be known."""


class Pending(ActuationError):
    """The owner has accepted a quota and has yet to put it in force; the same write, repeated, tells when it has."""


@dataclass(frozen=True, slots=True)
class WorkerRef:
    """Where a worker says that it runs: not to be believed, each actuator checks what it uses.

    `container_id` is a pod's name in Kubernetes. `whole_cores`: it is to have CPUs of its own, as configured.
    """

    worker_id: str
    container_id: str = ""
    cgroup_path: str = ""
    pid: int = 0
    whole_cores: bool = False


class Actuator(Protocol):
    """Reads and writes the quota of one worker at a time; calls for different workers may overlap."""

    @property
    def kind(self) -> str:
        """Its name in configuration, logs and metrics."""

    @property
    def holds_quota(self) -> bool:
        """Whether somebody enforces what is written; if not, the worker has to pace itself."""

    async def read(self, worker: WorkerRef) -> Quota | None:
        """The quota in force; None if nobody holds one. Raises ActuationError."""

    async def write(self, worker: WorkerRef, quota: Quota) -> None:
        """Put `quota` in force, with a CPU weight in proportion; in force on return.

        But for a memory limit that is lowered: that is so no further than what is in use allows, may come later, and is
        no failure if it does not. CPU does not depend on what becomes of memory.

        Raises ActuationError, and Pending where the owner takes its time.
        """

    async def host(self, worker: WorkerRef) -> str:
        """The name of the host that a worker runs on, "" where there is only one. Raises ActuationError."""

    async def watch(self, changed: Callable[[str], None]) -> None:
        """Tell of containers whose quota somebody may have changed, by their whole id; "" stands for all of them.

        Runs until it is cancelled, and returns where nobody tells.
        """

    async def close(self) -> None:
        """Release connections; quotas stay."""


def make(config: settings.Actuator) -> Actuator:
    """Build the actuator that the configuration asks for.

    Raises ConfigError if its kind cannot work here, and FileError for a file that it names.
    """
    # Imported on demand: each needs a client that the others' users may not have installed.
    match config.kind:
        case settings.ActuatorKind.DOCKER:
            from controlplane.actuators.engines import of

            return of(config)
        case settings.ActuatorKind.KUBERNETES:
            with _official_client():
                from controlplane.actuators.kubernetes import KubernetesActuator

            return KubernetesActuator(config)
        case settings.ActuatorKind.LOCAL:
            from controlplane.actuators.local import LocalActuator

            return LocalActuator(Path(config.cgroup_root), config.period_us, config.resize_memory)
        case settings.ActuatorKind.THREADS:
            from controlplane.actuators.threads import ThreadsActuator

            return ThreadsActuator()


def make_lease(leader: settings.Leader, config: settings.Kubernetes) -> Lease:
    """Reach the Lease that `leader` names. Raises ConfigError if that cannot work here."""
    with _official_client():
        from controlplane.actuators.lease import KubernetesLease

    return KubernetesLease(leader, config)


def make_scales(config: settings.Kubernetes) -> Scales:
    """Reach what runs replicas. Raises ConfigError if that cannot work here."""
    with _official_client():
        from controlplane.actuators.scale import KubernetesScales

    return KubernetesScales(config)


@contextmanager
def _official_client() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "kubernetes":
            raise
        raise ConfigError(
            "actuator.kind: \"kubernetes\" needs the official client: pip install 'sponge-serving[kubernetes]'"
        ) from error
