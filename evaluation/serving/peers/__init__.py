"""Other servers: a folder for each, with what to install and what serves; nothing of theirs is imported here."""

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from evaluation.serving.recipes import Dialect, Recipe

MLSERVER, PYTRITON, LITSERVE, RAY_SERVE = "mlserver", "pytriton", "litserve", "rayserve"

ENVIRONMENTS = Path(".bench")
_RECIPES = Path(__file__).parent
_INSTALLED = "installed"
# Its bundled backend does not load into a Python that was built otherwise.
_DEBIANS = Path("/usr/bin/python3.11")


class Missing(Exception):
    """A peer that cannot be installed here; the text is one line."""


@dataclass(frozen=True, slots=True)
class Peer:
    """Another server, by the name of its folder; its `package` is what it is called in requirements.txt."""

    name: str
    title: str
    package: str
    dialect: Dialect
    python: Path = Path(sys.executable)

    @property
    def requirements(self) -> str:
        """What its environment holds besides ONNX Runtime, pinned."""
        return (_RECIPES / self.name / "requirements.txt").read_text()

    @property
    def version(self) -> str:
        """Of the server itself."""
        pinned = (line.split("==") for line in self.requirements.splitlines())
        return next(number for name, number in pinned if name == self.package)


PEERS = {
    peer.name: peer
    for peer in (
        Peer(MLSERVER, "MLServer {} (custom runtime)", "mlserver", Dialect.GRPC),
        Peer(
            PYTRITON, "PyTriton {} (Triton core, Python backend)", "nvidia-pytriton", Dialect.GRPC, _DEBIANS
        ),
        Peer(LITSERVE, "LitServe {}", "litserve", Dialect.HTTP),
        Peer(RAY_SERVE, "Ray Serve {}", "ray", Dialect.HTTP),
    )
}


def recipe(name: str, environments: Path = ENVIRONMENTS) -> Recipe:
    """Give the peer of that name, from an environment that `install` has made."""
    peer = PEERS[name]
    python = (environments / name / "bin/python").absolute()
    return Recipe(name, peer.title.format(peer.version), peer.dialect, _command(python, name))


def _command(python: Path, name: str) -> Callable[[Path], Sequence[str]]:
    return lambda task_file: (str(python), str(_RECIPES / name / "server.py"), str(task_file))


def install(name: str, environments: Path = ENVIRONMENTS) -> None:
    """Make the peer's environment below `environments` unless it is there, with this one's ONNX Runtime.

    Raises Missing.
    """
    peer, folder = PEERS[name], environments / name
    wanted = f"{peer.requirements}onnxruntime=={version('onnxruntime')}\n"
    stamp = folder / _INSTALLED
    if stamp.exists() and stamp.read_text() == wanted:
        return
    if not peer.python.exists():
        raise Missing(f"{name}: needs {peer.python}, which is not there")
    # Without pip of its own: Debian's Python may lack what makes one.
    _run(name, [str(peer.python), "-m", "venv", "--clear", "--without-pip", str(folder)])
    listed = folder / "requirements.txt"
    listed.write_text(wanted)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(folder / "bin/python")]
    _run(name, [*pip, "install", "--quiet", "--requirement", str(listed)])
    stamp.write_text(wanted)


def _run(name: str, command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no output"]
        raise Missing(f"{name}: {' '.join(command[:3])} …: {lines[-1]}")
