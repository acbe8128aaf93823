"""Every knob of a worker, on one page."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from core.config import ConfigError, LogLevel, Section, load
from core.tls import ClientTls, Tls

Positive = Annotated[int, Meta(ge=1)]
PositiveMs = Annotated[float, Meta(gt=0)]
NonNegativeMs = Annotated[float, Meta(ge=0)]
Name = Annotated[str, Meta(max_length=256)]  # as the control plane takes it


class Model(Section, frozen=True, kw_only=True):
    """The model this worker serves."""

    # An ONNX file, or a directory of versions, <number>/model.onnx, of which the highest is served.
    path: str
    name: Name = ""  # default: the file's stem, or the directory's name
    version: str = ""  # of a file, default "1"; versions of a directory are named by it
    # Sizes of one row of inputs with free dimensions, to warm up with: {"image": [224, 224, 3]}. Or a list of such
    # tables, where rows differ: [{"ids": [32]}, {"ids": [128]}]. Each is warmed and timed in every batch size.
    warmup_shapes: dict[str, list[Positive]] | list[dict[str, list[Positive]]] = {}


class Service(Section, frozen=True, kw_only=True):
    """What the service promises, and how far it believes its clients."""

    name: Name = ""  # default: the model's name
    slo_ms: PositiveMs
    # A request's deadline is never later than this after its receipt, default slo_ms: clients in the
    # field carry 30 s safety timeouts, which must not send them to the back of the queue.
    max_slo_ms: PositiveMs | None = None
    trust_client_deadline: bool = False  # lifts max_slo_ms for requests that state a deadline
    # Shorter deadlines count as this in the order of service, so that nobody wins by lying.
    min_slo_ms: NonNegativeMs = 0.0
    # A late answer is not waited for any longer than this after the deadline, whatever grace a client asks for.
    max_grace_ms: NonNegativeMs = 10_000.0
    # With a control plane, what cannot make its deadline as things are waits so long for the worker to get more
    # before it is refused: a report, a plan and a resize take about 0.1 s.
    patience_ms: NonNegativeMs = 250.0
    # Kept back from every deadline for the answer's way home.
    response_margin_ms: NonNegativeMs = 5.0


class Server(Section, frozen=True, kw_only=True):
    """The listening side."""

    listen: str = "0.0.0.0:8001"
    metrics_listen: str = "0.0.0.0:8002"  # "" for none
    max_message_mib: Positive = 64
    # Of that, besides raw contents: parsing takes time, and up to 20 times the memory.
    max_typed_mib: Positive = 4
    max_queue: Positive = 1024  # requests
    # Whether clients may have the model loaded anew and unloaded (RepositoryModelLoad, RepositoryModelUnload). A copy
    # of its file is kept then, so that what is served does not depend on what becomes of that.
    allow_repository_control: bool = False
    max_stream_requests: Positive = 64  # read from one stream and not yet answered
    drain_s: PositiveMs = 10.0
    # Every call but those of health then needs `authorization: Bearer` and one of the tokens of this file, one a line,
    # read anew when it changes; "" for none.
    token_file: str = ""
    tls: Tls | None = None  # of `listen`; certificate, key and client_ca, see core/tls.py


class Engine(Section, frozen=True, kw_only=True):
    """What a worker starts with; directives of the control plane change it within the maxima."""

    instances: Positive = 1
    threads: Positive = 1
    batch: Positive = 1
    max_instances: Positive = 8
    max_threads: Positive = 8
    max_batch: Positive = 8


class Control(Section, frozen=True, kw_only=True):
    """The way to the control plane; a worker without one serves with what it started with."""

    address: str = ""  # host:port; of control planes that take over from each other each, with commas between
    report_interval_ms: Annotated[float, Meta(ge=20)] = 200.0
    # For control planes with server.tls: ca, and where they have a client_ca certificate and key, see core/tls.py.
    tls: ClientTls | None = None


class Config(Section, frozen=True, kw_only=True):
    """A whole worker.toml."""

    model: Model
    service: Service
    server: Server = msgspec.field(default_factory=Server)
    engine: Engine = msgspec.field(default_factory=Engine)
    control: Control = msgspec.field(default_factory=Control)
    log_level: LogLevel = "info"


def read(path: Path, environ: Mapping[str, str] = os.environ) -> Config:
    """Read worker.toml and fill in the defaults that depend on other keys.

    SPONGE_CONTROL_ADDRESS overrides control.address: it is what Compose files vary.
    Raises ConfigError.
    """
    config = load(path, Config)
    engine = config.engine
    for name, maximum in (
        ("instances", engine.max_instances),
        ("threads", engine.max_threads),
        ("batch", engine.max_batch),
    ):
        if getattr(engine, name) > maximum:
            raise ConfigError(f"{path}: engine.{name}: expected at most engine.max_{name} = {maximum}")
    address = environ.get("SPONGE_CONTROL_ADDRESS", config.control.address)
    if address and not all(each.strip() for each in address.split(",")):
        raise ConfigError(f"{path}: control.address: expected host:port, or several with commas between")
    # Links are not followed: to point them elsewhere is a way of bringing a new version.
    model_path = Path(os.path.abspath(path.parent / config.model.path))
    if model_path.is_dir() and config.model.version:
        raise ConfigError(
            f"{path}: model.version: expected none beside a directory of versions as model.path"
        )
    model_name = config.model.name or (model_path.name if model_path.is_dir() else model_path.stem)
    server = config.server
    replace = msgspec.structs.replace
    return replace(
        config,
        model=replace(
            config.model, path=str(model_path), name=model_name, version=config.model.version or "1"
        ),
        service=replace(
            config.service,
            name=config.service.name or model_name,
            max_slo_ms=config.service.max_slo_ms or config.service.slo_ms,
        ),
        server=replace(
            server,
            token_file=str(path.parent / server.token_file) if server.token_file else "",
            tls=server.tls and server.tls.within(path.parent),
        ),
        control=replace(
            config.control,
            address=address,
            tls=config.control.tls and config.control.tls.within(path.parent),
        ),
    )
