"""Every knob of the control plane, on one page."""

import enum
from typing import Annotated

import msgspec
from msgspec import Meta

from core.config import LogLevel, Section
from core.tls import ClientTls, Tls

_NAME = "[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"  # of what lies in a Kubernetes namespace, or of one
_LABEL = r"[^=!,\s]+=[^=!,\s]*"

Positive = Annotated[int, Meta(ge=1)]
NonNegative = Annotated[int, Meta(ge=0)]
Seconds = Annotated[float, Meta(gt=0)]


class Server(Section, frozen=True, kw_only=True):
    """Where workers attach, people ask, and Prometheus scrapes."""

    listen: str = "0.0.0.0:8500"
    metrics_listen: str = "0.0.0.0:8501"  # "" for none
    # With either, every call of the admin service and of reflection needs `authorization: Bearer` and a token: of the
    # first file for what only reads, of the second for everything. One a line; files are read anew when they change.
    admin_read_token_file: str = ""
    admin_write_token_file: str = ""
    # Of `listen`; certificate, key and client_ca, see core/tls.py. Without client_ca whoever connects may attach.
    tls: Tls | None = None


class Host(Section, frozen=True, kw_only=True):
    """What there is to give to workers."""

    millicores: NonNegative = 0  # 0: 1000 × CPUs − 300, what is left beside the planes' own needs
    memory_mib: NonNegative = 0  # 0: all but 1 GiB


class Explore(enum.Enum):
    """Which services try thread counts that were never run, now and then while there is slack."""

    NEVER = "never"
    IMPOSSIBLE = "impossible"  # those most of whose deadlines seem so
    ALWAYS = "always"


class Planner(Section, frozen=True, kw_only=True):
    """The integer program and the estimates that feed it."""

    interval_s: Seconds = 1.0
    # What the program would pay to save all of a service's deadlines: 100 millicores for one in a thousand.
    miss_cost_millicores: Annotated[float, Meta(gt=0)] = 100_000.0
    # What a miss counts of a request that arrived with less than 1.5 × the time of one row on one thread. The network
    # has eaten its budget; to save it takes threads, which cost every request beside it twice the CPU and more.
    tight_weight: Annotated[float, Meta(ge=0, le=1)] = 0.1
    # A row more of batch limit, in millicores: prefers small batches where both do.
    batch_cost_millicores: Annotated[float, Meta(ge=0)] = 1.0
    # A changed shape must be worth this much.
    switch_cost_millicores: Annotated[float, Meta(ge=0)] = 20.0
    # Share of a quota, or of the slots, that the demand may use: what is believed of its rate and a deviation more.
    max_utilisation: Annotated[float, Meta(gt=0, le=1)] = 1.0
    # What runs on so much of its CPU while something waits may be asked for more than it serves. How much more nobody
    # can know, of clients that wait for answers least of all: a tenth more is planned for, again and again.
    saturated: Annotated[float, Meta(gt=0, le=1)] = 0.95
    unserved: Annotated[float, Meta(ge=1)] = 1.1
    # Of an execution's time, what is planned for: deadlines want more than the mean.
    latency_quantile: Annotated[float, Meta(gt=0.5, lt=1)] = 0.95
    explore: Explore = Explore.IMPOSSIBLE
    # CPU of gRPC and Python for one request, until measured.
    request_overhead_ms: Annotated[float, Meta(ge=0)] = 1.5
    solver_time_s: Seconds = 0.5
    # Where memory is resized, what a limit has beyond the configuration's need and the peak seen so far, as a share.
    memory_head_room: Annotated[float, Meta(ge=0)] = 0.25
    # Where memory is short, and only there: what a plan may cost more than the best, as a share, not to be sought on.
    solver_gap: Annotated[float, Meta(ge=0, lt=1)] = 0.001


class Governor(Section, frozen=True, kw_only=True):
    """When a plan is put in force: growth at once, a shrink after it held."""

    paused: bool = False  # observe and plan only, until resumed
    shrink_hold_s: Annotated[float, Meta(ge=0)] = 1.0
    dead_band_millicores: NonNegative = 100
    # How long after a plan distress may ask for the next; on a full host five times that.
    rest_s: Seconds = 0.05
    ack_timeout_s: Seconds = 2.0
    stale_s: Seconds = 3.0  # a worker silent for this long keeps what it has


class ActuatorKind(enum.Enum):
    """Who owns the workers' CPU quotas."""

    DOCKER = "docker"
    KUBERNETES = "kubernetes"
    LOCAL = "local"
    THREADS = "threads"


class Kubernetes(Section, frozen=True, kw_only=True):
    """Which pods are resized, how far, and by which API server."""

    namespace: Annotated[str, Meta(pattern=rf"^({_NAME})?$")] = ""  # default: the control plane's own
    # Only pods with all of these labels are touched: key=value, separated by commas.
    label_selector: Annotated[str, Meta(pattern=rf"^{_LABEL}(,{_LABEL})*$")] = "sponge.worker=true"
    container: Annotated[str, Meta(pattern=rf"^{_NAME}$")] = "worker"
    kubeconfig: str = ""  # relative to this file; default: the service account of the control plane's own pod
    # Of a call; and how long a resize may take that the node has not put off, before that counts as a failure.
    timeout_s: Seconds = 10.0
    # No container is asked to have more, whatever was planned.
    max_millicores: Positive = 64_000
    max_memory_mib: NonNegative = 0  # also stands for no limit; required by resize_memory


class Engine(Section, frozen=True, kw_only=True):
    """One Docker engine of several, and what its host has for workers."""

    host: Annotated[str, Meta(pattern=r"^(unix:///|tcp://[^/]+:[0-9]+$)")]  # as DOCKER_HOST
    tls: ClientTls | None = None  # of tcp; without it whoever reaches the engine is root there
    millicores: Positive
    memory_mib: NonNegative = 0  # required by resize_memory


class Actuator(Section, frozen=True, kw_only=True):
    """How quotas are changed."""

    kind: ActuatorKind = ActuatorKind.DOCKER
    # CFS period: how long a throttled worker may stand still. 20 ms costs nothing at one core or more. In Kubernetes it
    # is the kubelet's, which nobody changes from outside: 100_000 unless its cpuCFSQuotaPeriod says otherwise.
    period_us: Annotated[int, Meta(ge=1000, le=1_000_000)] = 20_000
    # How often what is in force is compared with what should be; changes that an engine tells of are seen at once.
    reconcile_interval_s: Seconds = 5.0
    # Of a call. What hangs when an engine recovers is in nobody's way for longer than that.
    docker_timeout_s: Seconds = 2.0
    # Several, by name; without any, it is the one that DOCKER_HOST says, or behind the local socket.
    engines: dict[Annotated[str, Meta(pattern=rf"^{_NAME}$")], Engine] = {}
    # Only containers with this label, of this Compose project, are touched.
    docker_label: str = "sponge.worker"
    compose_project: str = ""  # default: the project of the control plane's own container
    resize_memory: bool = False
    # Docker: the control plane writes quotas to the containers' control groups itself, of engines at a local socket and
    # where it sees them writable, and the engine's record follows.
    cgroup_write: bool = False
    # CPU numbers that may be given to services with whole_cores, as in 2-7; default: all of this host. Required by
    # whole_cores beside engines on other hosts.
    whole_cores_cpus: str = ""
    # The local actuator changes only cgroups below this directory.
    cgroup_root: str = ""
    kubernetes: Kubernetes = msgspec.field(default_factory=Kubernetes)


MOST_MILLICORES = 10_000_000  # ten thousand cores
MemoryCeiling = Annotated[int, Meta(ge=64, le=1 << 30)]  # MiB, from one step of a plan to a pebibyte


class ServicePolicy(Section, frozen=True, kw_only=True):
    """What one service may have, and what its deadlines are worth."""

    weight: Annotated[float, Meta(gt=0, le=1e6)] = 1.0
    # For what nobody foresees: so much more than the believed rate is planned for, as a share of it.
    reserve: Annotated[float, Meta(ge=0, le=10)] = 0.0
    min_millicores: Annotated[int, Meta(ge=100, le=MOST_MILLICORES)] = 500
    max_millicores: Annotated[int, Meta(ge=1, le=MOST_MILLICORES)] = 64_000
    max_batch: Positive = 64
    memory_mib_per_row: Annotated[float, Meta(ge=0)] = 32.0
    # With resize_memory: no limit is planned above that, rounded down to steps of 64. None: as much as the host has.
    max_memory_mib: MemoryCeiling | None = None
    # Docker: its quotas are whole cores, each a CPU that no other service with whole_cores has.
    whole_cores: bool = False
    # File of `sponge profile`, relative to this one: what executions are believed to take until there have been some.
    profile: str = ""
    # What runs all of its workers: deployment/NAME or statefulset/NAME, in the namespace of the Kubernetes actuator.
    scale: Annotated[str, Meta(pattern=rf"^((deployment|statefulset)/{_NAME})?$")] = ""
    # No fewer and no more are asked for; a number found beyond is left alone. With a maximum of 0 none is asked for.
    min_replicas: Positive = 1
    max_replicas: Annotated[int, Meta(ge=0, le=1000)] = 0


class Replicas(Section, frozen=True, kw_only=True):
    """When the replicas follow, of services that have max_replicas: where CPU alone does not do, or does with fewer."""

    interval_s: Seconds = 2.0
    # A replica is worth having while it saves more than this share of the requests from missing their deadlines.
    miss_share: Annotated[float, Meta(gt=0, lt=1)] = 0.01
    # One goes only if the others would do for so many times the demand.
    shrink_margin: Annotated[float, Meta(ge=1)] = 1.25
    # How long either must be so. Whoever else changes the number is given way for the longer.
    grow_hold_s: Annotated[float, Meta(ge=0)] = 5.0
    shrink_hold_s: Annotated[float, Meta(ge=0)] = 300.0


class Store(Section, frozen=True, kw_only=True):
    """What survives a restart: decisions, and the executions that latency models are made of."""

    path: str = ""  # SQLite file; "": nothing survives, decisions are kept in memory
    # How often what was learned is written: a process that is killed loses so much of it.
    latency_interval_s: Annotated[float, Meta(ge=1)] = 10.0
    # Most pairs of rows and threads of 3 KiB each, of all models, that are kept; those not executed for longest go.
    latency_cells: NonNegative = 4096


class Leader(Section, frozen=True, kw_only=True):
    """Which of several control planes acts; the others stand by."""

    # File that the one that leads has locked. "": store.path and `.lock`; without a path either, each that runs leads.
    lock: str = ""
    # Instead, on several nodes: name of a Lease in the namespace of the Kubernetes actuator.
    lease: Annotated[str, Meta(pattern=rf"^({_NAME})?$")] = ""
    # One that is killed is succeeded so long after it has last renewed it, which it does four times as often. One that
    # cannot renew it for three quarters of that ends.
    lease_s: Annotated[int, Meta(ge=2, le=3600)] = 4


class Config(Section, frozen=True, kw_only=True):
    """A whole control.toml; every key has a default."""

    server: Server = msgspec.field(default_factory=Server)
    host: Host = msgspec.field(default_factory=Host)
    planner: Planner = msgspec.field(default_factory=Planner)
    governor: Governor = msgspec.field(default_factory=Governor)
    actuator: Actuator = msgspec.field(default_factory=Actuator)
    store: Store = msgspec.field(default_factory=Store)
    leader: Leader = msgspec.field(default_factory=Leader)
    replicas: Replicas = msgspec.field(default_factory=Replicas)
    services: dict[str, ServicePolicy] = {}
    log_level: LogLevel = "info"
