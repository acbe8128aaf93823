"""A Docker engine of one's own, beside the one of this machine, that can be killed and started again."""

import asyncio
import contextlib
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
from docker.errors import DockerException

from evaluation.bench.containers import WORKER_IMAGE
from evaluation.process import Process, StartError

# A bridge of its own: without any, an engine removes docker0, whoever's that is.
_BRIDGE, _ADDRESS = "spongefaults0", "172.31.241.1/24"
_START_S = 60.0


@dataclass(slots=True)
class Dockerd:
    """An engine at `socket`, whose containers live on without it."""

    socket: Path
    _folder: Path
    _process: Process | None = None

    async def start(self) -> None:
        """Start it, again if it has ended, and wait until it answers. Raises StartError."""
        command = (shutil.which("dockerd") or "dockerd", "--config-file", str(self._folder / "dockerd.json"))
        self._process = await Process.spawn("dockerd", command, self._folder / "dockerd.log")
        give_up_at = time.monotonic() + _START_S
        while not await self._answers():
            if not await self._process.running() or time.monotonic() > give_up_at:
                raise StartError(f"dockerd: does not start: {await self._process.last_line()}")
            await asyncio.sleep(0.05)

    async def _answers(self) -> bool:
        try:
            reader, writer = await asyncio.open_unix_connection(self.socket)
        except OSError:
            return False
        try:
            writer.write(b"GET /_ping HTTP/1.0\r\n\r\n")
            status = await reader.readline()
        except OSError:
            return False
        finally:
            writer.close()
        return b" 200 " in status

    async def kill(self) -> None:
        """End it as an accident does."""
        assert self._process is not None
        await self._process.kill()

    async def stop(self) -> None:
        """Ask it to stop, and wait until it has."""
        if self._process is not None:
            await self._process.stop()


@asynccontextmanager
async def own() -> AsyncIterator[Dockerd]:
    """Run an engine that has the worker's image while the block runs. Raises StartError."""
    # A folder with a short name: the paths of its sockets may have 107 characters.
    with tempfile.TemporaryDirectory(prefix="sponge-engine-") as folder:
        async with _own(Path(folder)) as engine:
            yield engine


@asynccontextmanager
async def _own(folder: Path) -> AsyncIterator[Dockerd]:
    if shutil.which("dockerd") is None or shutil.which("ip") is None:
        raise StartError("dockerd, ip: expected both, to run an engine of one's own")
    data = folder / "data"
    engine = Dockerd(folder / "docker.sock", folder)
    settings = {
        "data-root": str(data),
        "exec-root": str(folder / "exec"),
        "pidfile": str(folder / "pid"),
        "hosts": [f"unix://{engine.socket}"],
        "bridge": _BRIDGE,
        "iptables": False,
        "ip-forward": False,
        "live-restore": True,
        "storage-driver": await asyncio.to_thread(_storage_driver),
    }
    (folder / "dockerd.json").write_text(json.dumps(settings))
    async with contextlib.AsyncExitStack() as stack:
        await _run("ip", "link", "add", "name", _BRIDGE, "type", "bridge")
        stack.push_async_callback(_run, "ip", "link", "delete", _BRIDGE)
        await _run("ip", "address", "add", _ADDRESS, "dev", _BRIDGE)
        await _run("ip", "link", "set", _BRIDGE, "up")
        stack.callback(_unmount, data)
        stack.push_async_callback(engine.stop)
        await engine.start()
        await asyncio.to_thread(_load, engine.socket)
        yield engine


def _storage_driver() -> str:
    """What the engine of this machine has found to work."""
    with contextlib.closing(docker.from_env()) as client:
        driver: str = client.info()["Driver"]
        return driver


def _load(socket: Path) -> None:
    try:
        with (
            contextlib.closing(docker.from_env(timeout=300)) as theirs,
            contextlib.closing(docker.DockerClient(base_url=f"unix://{socket}", timeout=300)) as ours,
        ):
            # By its name: by its id it would come without one.
            saved: Any = theirs.images.get(WORKER_IMAGE).save(
                named=True
            )  # in pieces, which its type leaves out
            ours.images.load(saved)
    except DockerException as error:
        raise StartError(f"image {WORKER_IMAGE}: {' '.join(str(error).split())}") from error


def _unmount(data: Path) -> None:
    """An engine that lets containers live leaves its folder mounted, on itself."""
    subprocess.run(["umount", str(data)], capture_output=True, check=False)


async def _run(*command: str) -> None:
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise StartError(f"{' '.join(command)}: {done.stderr.strip()}")
