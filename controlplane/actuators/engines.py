"""Several Docker engines, each the owner of the containers of its host."""

import asyncio
from collections.abc import Callable, Mapping

from controlplane import config as settings
from controlplane.actuators import ActuationError, Actuator, Quota, Unreachable, WorkerRef
from controlplane.actuators.docker import DockerActuator
from controlplane.actuators.engine import Address


class Engines:
    """Finds the one that has a worker's container, whose id no other has, and leaves the worker to it."""

    kind = "docker"
    holds_quota = True

    def __init__(self, engines: Mapping[str, DockerActuator]) -> None:
        """`engines` by name, which is that of their host."""
        self._engines = engines
        self._homes: dict[str, str] = {}  # by the id the worker gave

    async def host(self, worker: WorkerRef) -> str:
        """As of all actuators; those that do not answer keep nobody waiting whose container another has."""
        if (known := self._homes.get(worker.container_id)) is not None:
            return known
        asked = {asyncio.create_task(engine.read(worker)): name for name, engine in self._engines.items()}
        failures: dict[str, ActuationError] = {}
        try:
            pending = set(asked)
            while pending:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    try:
                        task.result()
                    except ActuationError as error:
                        failures[asked[task]] = error
                    else:
                        self._homes[worker.container_id] = asked[task]
                        return asked[task]
        finally:
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
        told = "; ".join(f"{name}: {error}" for name, error in sorted(failures.items()))
        unreachable = any(isinstance(error, Unreachable) for error in failures.values())
        raise (Unreachable if unreachable else ActuationError)(
            f"worker {worker.worker_id}: found on no engine: {told}"
        )

    async def read(self, worker: WorkerRef) -> Quota | None:
        return await (await self._of(worker)).read(worker)

    async def write(self, worker: WorkerRef, quota: Quota) -> None:
        await (await self._of(worker)).write(worker, quota)

    async def watch(self, changed: Callable[[str], None]) -> None:
        await asyncio.gather(*(engine.watch(changed) for engine in self._engines.values()))

    def forget(self, worker: WorkerRef) -> None:
        if (home := self._homes.pop(worker.container_id, None)) is not None:
            self._engines[home].forget(worker)

    async def close(self) -> None:
        await asyncio.gather(*(engine.close() for engine in self._engines.values()))

    async def _of(self, worker: WorkerRef) -> DockerActuator:
        return self._engines[await self.host(worker)]


def of(config: settings.Actuator) -> Actuator:
    """The configured engines, or the one that DOCKER_HOST says. Raises FileError for files that cannot be used."""
    if not config.engines:
        return DockerActuator(config)
    return Engines(
        {
            name: DockerActuator(config, address=Address.configured(name, one), host=name)
            for name, one in config.engines.items()
        }
    )
