"""The Kubernetes API server: how to reach it, and what it says of a call that failed, in one line."""

import asyncio
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from kubernetes import client
from kubernetes.client.exceptions import ApiException
from kubernetes.config import ConfigException, load_incluster_config, load_kube_config
from urllib3.exceptions import HTTPError

from controlplane import config as settings
from core.config import ConfigError

T = TypeVar("T")

_THREADS = (
    8  # calls at a time: of a server that does not answer each takes a thread for as long as the timeout
)
SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
CONFLICT, UNPROCESSABLE, NOT_FOUND, FORBIDDEN = 409, 422, 404, 403
# All that a call of the client raises: a refusal, urllib3's, what lies below, and what is not the object asked for.
FAILURES = (ApiException, HTTPError, OSError, ValueError)

# What the API server's authorizer says: … cannot patch resource "pods/resize" in API group …
_MISSING = re.compile(r'cannot (?P<verb>\w+) resource "(?P<resource>[\w/]+)"')


class _Details(msgspec.Struct, frozen=True):
    name: str = ""


class Status(msgspec.Struct, frozen=True):
    """What an API server answers instead of what was asked for."""

    message: str = ""
    details: _Details | None = None

    def is_about(self, name: str) -> bool:
        """Whether it speaks of the object of that name, and not of what it is a part of."""
        return self.details is not None and self.details.name == name


class ApiServer:
    """A connection to it, and the one namespace that is looked at.

    Calls wait in threads of its own, so that one that is slow keeps nothing else waiting, plans least of all.
    `service_account` is where a pod finds its own. Raises ConfigError without a way to an API server.
    """

    def __init__(self, config: settings.Kubernetes, service_account: Path = SERVICE_ACCOUNT) -> None:
        self.namespace = config.namespace or _own_namespace(service_account)
        self.client = client.ApiClient(_connection(config))
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="apiserver")

    async def run(self, call: Callable[..., T], *arguments: object) -> T:
        """Call in one of its threads."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, call, *arguments)

    def close(self) -> None:
        """Return when no thread is left."""
        self._threads.shutdown(cancel_futures=True)
        self.client.close()
        self.client.rest_client.pool_manager.clear()  # which close leaves open


def timeouts(seconds: float) -> tuple[float, float]:
    """To connect and to read, in this form: older clients ignore a single one that is not a whole number."""
    return seconds, seconds


def status_of(error: ApiException) -> Status:
    """What the API server says of a failed call; what lies before it does not always speak its language."""
    try:
        status = msgspec.json.decode(error.body or b"", type=Status)
    except msgspec.DecodeError:
        status = Status()
    return status if status.message else Status(f"{error.status} {error.reason}", status.details)


def is_unreachable(error: Exception) -> bool:
    """Whether one of FAILURES is no answer of the API server at all."""
    if isinstance(error, ApiException):
        return not error.status  # as of a TLS handshake that failed
    return isinstance(error, (HTTPError, OSError))


def explained(error: Exception, wanted: str) -> str:
    """One of FAILURES as one line; `wanted` is what was asked for, as "a pod"."""
    if is_unreachable(error):
        text = status_of(error).message if isinstance(error, ApiException) else error
        return f"Kubernetes API server unreachable: {text}"
    if not isinstance(error, ApiException):
        # As a proxy may answer; its text is of many lines.
        return f"the API server answered with something else than {wanted}"
    status = status_of(error)
    if error.status == FORBIDDEN and (missing := _MISSING.search(status.message)):
        verb, resource = missing["verb"], missing["resource"]
        return f"the control plane's Role lacks the verb {verb} on {resource}: {status.message}"
    return f"Kubernetes refused: {status.message}"


def _own_namespace(service_account: Path) -> str:
    """The namespace of the pod that this process runs in. Raises ConfigError if it runs in none."""
    try:
        return (service_account / "namespace").read_text().strip()
    except OSError as error:
        raise ConfigError(
            "actuator.kubernetes.namespace: expected the workers' namespace, as the control plane does not run in a "
            "pod with a service account"
        ) from error


def _connection(config: settings.Kubernetes) -> Any:
    """How to reach the API server. Raises ConfigError."""
    connection = client.Configuration()
    try:
        if config.kubeconfig:
            load_kube_config(config.kubeconfig, client_configuration=connection)
        else:
            load_incluster_config(client_configuration=connection)
    except (ConfigException, OSError) as error:
        expected = (
            "a kubeconfig file" if config.kubeconfig else "one, outside of a pod with a service account"
        )
        raise ConfigError(f"actuator.kubernetes.kubeconfig: expected {expected}: {error}") from error
    connection.retries = False  # whoever asks repeats what failed, and knows how often
    return connection
