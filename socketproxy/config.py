"""Every knob of the socket proxy, on one page."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from core.config import LogLevel, Section, load

Positive = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(gt=0)]


class Config(Section, frozen=True, kw_only=True):
    """A whole proxy.toml; every key has a default."""

    # Made for its owner alone; what an earlier proxy left there is replaced.
    listen: str = "/run/sponge/engine.sock"
    engine: str = "/var/run/docker.sock"
    # Only containers with this label, of this Compose project, are updated or listed.
    label: Annotated[str, Meta(min_length=1)] = "sponge.worker"
    compose_project: str = ""  # default: the project of the proxy's own container
    resize_memory: bool = False  # let memory limits through, and the use of memory; as actuator.resize_memory
    whole_cores: bool = False  # let sets of CPUs through; as services.NAME.whole_cores
    # Let through when such a container is started or updated, and nothing else that happens to it.
    events: bool = False
    max_body_bytes: Positive = 4096  # an update with every limit has some 150
    max_connections: Positive = 64  # a control plane has up to 8 calls under way, and a stream of events
    request_timeout_s: Seconds = 5.0  # from the connection to the end of its request; and to take the answer
    engine_timeout_s: Seconds = 1.5  # of all that a request asks; less than actuator.docker_timeout_s
    log_level: LogLevel = "info"


def read(path: Path, environ: Mapping[str, str] = os.environ) -> Config:
    """Read proxy.toml; SPONGE_COMPOSE_PROJECT overrides compose_project unless it is empty. Raises ConfigError."""
    config = load(path, Config)
    # Compose sets it to nothing where it does not know its project.
    project = environ.get("SPONGE_COMPOSE_PROJECT") or config.compose_project
    return msgspec.structs.replace(config, compose_project=project)
