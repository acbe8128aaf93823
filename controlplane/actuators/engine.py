"""One Docker engine: where it is, and a client and threads for it alone."""

import asyncio
import ssl
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

import docker
from docker.constants import DEFAULT_DOCKER_API_VERSION
from docker.errors import DockerException
from docker.tls import TLSConfig
from docker.utils import kwargs_from_env, parse_host

from controlplane import config as settings
from core.tls import client_context

T = TypeVar("T")

# Calls at a time: of an engine that does not answer each takes a thread for as long as the timeout.
_THREADS = 8


@dataclass(frozen=True, slots=True)
class Address:
    """Where an engine is, and by which certificates it is reached, if by any."""

    url: str  # http+unix://, http:// or https://, as the client understands it
    tls: TLSConfig | None = None
    context: Callable[[], ssl.SSLContext] | None = None  # the same for other connections

    @property
    def is_local(self) -> bool:
        """Whether it is at a socket of this host, which its containers then run on."""
        return self.url.startswith("http+unix:")

    @classmethod
    def from_env(cls, base_url: str | None = None) -> Self:
        """What DOCKER_HOST and its like say, or else the local socket; `base_url` takes the place of DOCKER_HOST."""
        given: Mapping[str, Any] = dict(kwargs_from_env())
        tls = given.get("tls")
        url = parse_host(base_url or given.get("base_url"), tls=tls is not None)
        return cls(str(url), tls, tls and (lambda: _context(tls)))

    @classmethod
    def configured(cls, name: str, engine: settings.Engine) -> Self:
        """What the configuration says of one of several. Raises FileError for files that cannot be used."""
        files = engine.tls
        if files is None:
            return cls(str(parse_host(engine.host)))

        def context() -> ssl.SSLContext:
            return client_context(files, f"actuator.engines.{name}.tls.")

        context()
        identity = (files.certificate, files.key) if files.certificate else None
        tls = TLSConfig(client_cert=identity, ca_cert=files.ca or None, verify=True)
        return cls(str(parse_host(engine.host, tls=True)), tls, context)


class Engine:
    """An engine, which may come and go: a client connects when it is needed, and anew after `disconnect`.

    Calls wait in threads of its own, so that one that does not answer is in nobody else's way.
    """

    def __init__(self, address: Address, timeout_s: float) -> None:
        self._address = address
        self._timeout_s = timeout_s
        self._client: docker.APIClient | None = None
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="engine")

    async def run(self, call: Callable[..., T], *arguments: object) -> T:
        """Call in one of its threads."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, call, *arguments)

    def client(self) -> docker.APIClient:
        """A client that is connected; to connect is to ask for the version of its protocol."""
        with self._lock:
            if self._client is not None:
                return self._client
        made = self._connect()  # without the lock: what hangs keeps no other call from finding out
        with self._lock:
            kept = self._client = self._client or made
        if kept is not made:
            made.close()
        return kept

    def disconnect(self) -> None:
        """Let the next call connect anew."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    def _connect(self) -> docker.APIClient:
        asking = self._client_of(DEFAULT_DOCKER_API_VERSION)
        try:
            version = asking.version(api_version=False).get("ApiVersion")
        finally:
            asking.close()
        if not version:
            raise DockerException("expected an engine that tells the version of its protocol")
        return self._client_of(version)

    def _client_of(self, version: str) -> docker.APIClient:
        client = docker.APIClient(
            base_url=self._address.url,
            version=version,
            timeout=self._timeout_s,  # type: ignore[arg-type]  # the stub knows no fractions
            tls=self._address.tls or False,
        )
        # The environment's authorities (REQUESTS_CA_BUNDLE) would count before those that are configured.
        client.trust_env = False
        return client

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection of one's own. Raises OSError, also where none comes about in the time of a call."""
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._opened()
        except TimeoutError as error:
            raise OSError(f"no connection within {self._timeout_s} s") from error

    async def _opened(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        url = urlsplit(self._address.url)
        if url.scheme == "http+unix":
            return await asyncio.open_unix_connection(url.path)
        if url.scheme not in ("http", "https"):
            raise OSError(f"expected an engine at a socket, got {self._address.url}")
        context = self._address.context
        return await asyncio.open_connection(url.hostname, url.port, ssl=context and context())

    async def close(self) -> None:
        """Return when no thread is left."""
        await asyncio.to_thread(self._threads.shutdown, cancel_futures=True)
        await asyncio.to_thread(self.disconnect)


def _context(tls: TLSConfig) -> ssl.SSLContext:
    """What the client makes of DOCKER_TLS_VERIFY and DOCKER_CERT_PATH."""
    context = ssl.create_default_context(cafile=tls.ca_cert)
    if not tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if tls.cert:
        context.load_cert_chain(*tls.cert)
    return context
