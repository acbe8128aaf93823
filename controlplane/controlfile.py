"""control.toml, read: what must fit together of its keys, and what its paths are relative to."""

import os
from collections.abc import Mapping
from pathlib import Path

from msgspec.structs import replace

from controlplane import cpuset
from controlplane.config import Actuator, ActuatorKind, Config, Host, Server, ServicePolicy
from controlplane.shape import CORE_MILLICORES
from core.config import ConfigError, load

_MIN_QUOTA_US = 1000


def read(path: Path, environ: Mapping[str, str] = os.environ) -> Config:
    """Read control.toml; SPONGE_COMPOSE_PROJECT overrides actuator.compose_project unless it is empty.

    Raises ConfigError, also for a service whose floor lies above its ceiling, or below what kernels take, or whose
    ceiling is less than the one whole core it is to have; for what the Kubernetes actuator, or one of several engines,
    cannot do without; and for what needs another actuator.
    """
    config = load(path, Config)
    # Compose sets it to nothing where it does not know its project.
    project = environ.get("SPONGE_COMPOSE_PROJECT") or config.actuator.compose_project
    config = replace(config, actuator=replace(config.actuator, compose_project=project))
    _check_docker(path, config)
    _check_kubernetes(path, config.actuator)
    _check_leader(path, config)
    _check_services(path, config)
    _check_period(path, config)
    _check_engines(path, config)
    return replace(
        config,
        server=_server_within(path.parent, config.server),
        actuator=_actuator_within(path.parent, config.actuator),
        services={name: _policy_within(path.parent, policy) for name, policy in config.services.items()},
    )


def _server_within(folder: Path, server: Server) -> Server:
    """The same, with paths that are relative taken as of `folder`."""
    read, write = server.admin_read_token_file, server.admin_write_token_file
    return replace(
        server,
        admin_read_token_file=str(folder / read) if read else "",
        admin_write_token_file=str(folder / write) if write else "",
        tls=server.tls and server.tls.within(folder),
    )


def _actuator_within(folder: Path, actuator: Actuator) -> Actuator:
    engines = {
        name: replace(engine, tls=engine.tls and engine.tls.within(folder))
        for name, engine in actuator.engines.items()
    }
    kubernetes = actuator.kubernetes
    if kubernetes.kubeconfig:
        kubernetes = replace(kubernetes, kubeconfig=str(folder / kubernetes.kubeconfig))
    return replace(actuator, engines=engines, kubernetes=kubernetes)


def _policy_within(folder: Path, policy: ServicePolicy) -> ServicePolicy:
    return replace(policy, profile=str(folder / policy.profile)) if policy.profile else policy


def _check_docker(path: Path, config: Config) -> None:
    actuator = config.actuator
    try:
        cpuset.parse(actuator.whole_cores_cpus)
    except ValueError as error:
        raise ConfigError(f"{path}: actuator.whole_cores_cpus: {error}") from error
    if actuator.kind is ActuatorKind.DOCKER:
        return
    pinned = [
        f"services.{name}.whole_cores" for name, policy in config.services.items() if policy.whole_cores
    ]
    for key in [*(["actuator.cgroup_write"] if actuator.cgroup_write else []), *pinned]:
        raise ConfigError(f'{path}: {key}: expected false with actuator.kind = "{actuator.kind.value}"')


def _check_kubernetes(path: Path, actuator: Actuator) -> None:
    if actuator.kind is not ActuatorKind.KUBERNETES:
        return
    kubernetes = actuator.kubernetes
    if kubernetes.kubeconfig and not kubernetes.namespace:
        raise ConfigError(
            f"{path}: actuator.kubernetes.namespace: expected one beside kubeconfig, "
            "as the control plane does not run in a pod"
        )
    if actuator.resize_memory and not kubernetes.max_memory_mib:
        raise ConfigError(
            f"{path}: actuator.kubernetes.max_memory_mib: expected at least 1 with actuator.resize_memory, "
            "as a pod's memory always has a limit"
        )


def _check_leader(path: Path, config: Config) -> None:
    if not config.leader.lease:
        return
    if config.leader.lock:
        raise ConfigError(f"{path}: leader.lease: expected none beside leader.lock, or that one left out")
    if config.actuator.kind is not ActuatorKind.KUBERNETES:
        raise ConfigError(f'{path}: leader.lease: expected actuator.kind = "kubernetes" beside it')


def _check_services(path: Path, config: Config) -> None:
    for name, policy in config.services.items():
        _check_replicas(f"{path}: services.{name}", policy, config.actuator.kind)
        if policy.max_memory_mib is not None and not config.actuator.resize_memory:
            raise ConfigError(
                f"{path}: services.{name}.max_memory_mib: expected actuator.resize_memory = true beside it, "
                "without which no memory limit is set"
            )
        if policy.min_millicores > policy.max_millicores:
            raise ConfigError(
                f"{path}: services.{name}.min_millicores: expected at most max_millicores = {policy.max_millicores}"
            )
        if policy.whole_cores and policy.max_millicores < CORE_MILLICORES:
            raise ConfigError(
                f"{path}: services.{name}.max_millicores: expected at least {CORE_MILLICORES} with whole_cores"
            )


def _check_replicas(place: str, policy: ServicePolicy, kind: ActuatorKind) -> None:
    if not policy.max_replicas:
        return
    if kind is not ActuatorKind.KUBERNETES:
        raise ConfigError(f'{place}.max_replicas: expected actuator.kind = "kubernetes" beside it')
    if not policy.scale:
        raise ConfigError(f"{place}.scale: expected deployment/NAME or statefulset/NAME beside max_replicas")
    if policy.min_replicas > policy.max_replicas:
        raise ConfigError(f"{place}.min_replicas: expected at most max_replicas = {policy.max_replicas}")


def _check_period(path: Path, config: Config) -> None:
    least = min([ServicePolicy().min_millicores, *(p.min_millicores for p in config.services.values())])
    if least * config.actuator.period_us < 1000 * _MIN_QUOTA_US:
        raise ConfigError(
            f"{path}: actuator.period_us: expected at least {-(-1000 * _MIN_QUOTA_US // least)}, with which the "
            f"least quota, of {least} millicores, is the {_MIN_QUOTA_US} µs that kernels take"
        )


def _check_engines(path: Path, config: Config) -> None:
    actuator = config.actuator
    if not actuator.engines:
        return
    if actuator.kind is not ActuatorKind.DOCKER:
        raise ConfigError(f'{path}: actuator.engines: expected none unless actuator.kind is "docker"')
    if config.host != Host():
        raise ConfigError(
            f"{path}: host: expected nothing beside actuator.engines, which have hosts of their own"
        )
    if not actuator.compose_project:
        raise ConfigError(
            f"{path}: actuator.compose_project: expected one beside actuator.engines, "
            "as the control plane's own container runs on one of them at most"
        )
    pinned = [name for name, policy in config.services.items() if policy.whole_cores]
    far = [name for name, engine in actuator.engines.items() if engine.host.startswith("tcp:")]
    if pinned and far and not actuator.whole_cores_cpus:
        raise ConfigError(
            f"{path}: actuator.whole_cores_cpus: expected CPU numbers beside services.{pinned[0]}.whole_cores, "
            f"as those of engine {far[0]} are not known here"
        )
    for name, engine in actuator.engines.items():
        if engine.tls is not None and not engine.host.startswith("tcp:"):
            raise ConfigError(f"{path}: actuator.engines.{name}.tls: expected none of a local socket")
        if actuator.resize_memory and not engine.memory_mib:
            raise ConfigError(
                f"{path}: actuator.engines.{name}.memory_mib: expected at least 1 with actuator.resize_memory"
            )
