"""Other servers: a folder for each, with what to install and what serves; nothing of theirs is imported here."""

import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from evaluation.serving.recipes import Dialect, Recipe

MLSERVER, MLSERVER_BATCHING, PYTRITON = "mlserver", "mlserver-batching", "pytriton"
LITSERVE, RAY_SERVE = "litserve", "rayserve"

ENVIRONMENTS = Path(".bench")
_RECIPES = Path(__file__).parent
# Its bundled backend does not load into a Python that was built otherwise.
_DEBIANS = Path("/usr/bin/python3.11")


class Missing(Exception):
    """A peer that cannot be installed here; the text is one line."""


@dataclass(frozen=True, slots=True)
class Peer:
    """Another server under one setting; its `package` is what it is called in requirements.txt."""

    name: str
    title: str
    package: str
    dialect: Dialect
    folder: str  # of its recipe, and of its environment
    python: Path = Path(sys.executable)
    arguments: tuple[str, ...] = ()  # of its setting
    settle_s: float = 0.0  # as in Recipe

    @property
    def requirements(self) -> str:
        """What its environment holds besides ONNX Runtime, pinned."""
        return (_RECIPES / self.folder / "requirements.txt").read_text()

    @property
    def version(self) -> str:
        """Of the server itself."""
        pinned = (line.split("==") for line in self.requirements.splitlines())
        return next(number for name, number in pinned if name == self.package)

    def recipe(self, environments: Path = ENVIRONMENTS) -> Recipe:
        """Start it from the environment that `install` has made below `environments`."""
        python = (environments / self.folder / "bin/python").absolute()
        command = (str(python), str(_RECIPES / self.folder / "server.py"))
        return Recipe(
            name=self.name,
            title=self.title.format(self.version),
            dialect=self.dialect,
            command=lambda task_file: (*command, str(task_file), *self.arguments),
            settle_s=self.settle_s,
        )

    def install(self, environments: Path = ENVIRONMENTS) -> None:
        """Make its environment below `environments` unless it is there, with this one's ONNX Runtime.

        Raises Missing.
        """
        folder = environments / self.folder
        wanted = f"{self.requirements}onnxruntime=={version('onnxruntime')}\n"
        stamp, listed = folder / "installed", folder / "requirements.txt"
        if stamp.exists() and stamp.read_text() == wanted:
            return
        if not self.python.exists():
            raise Missing(f"{self.name}: needs {self.python}, which is not there")
        # Without pip of its own: Debian's Python may lack what makes one.
        self._run(str(self.python), "-m", "venv", "--clear", "--without-pip", str(folder))
        listed.write_text(wanted)
        pip = (
            sys.executable,
            "-m",
            "pip",
            "--disable-pip-version-check",
            "--python",
            str(folder / "bin/python"),
        )
        self._run(*pip, "install", "--quiet", "--requirement", str(listed))
        stamp.write_text(wanted)

    def _run(self, *command: str) -> None:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            lines = (done.stderr or done.stdout).strip().splitlines() or ["no output"]
            raise Missing(f"{self.name}: {' '.join(command[1:3])}: {lines[-1]}")


PEERS = {
    peer.name: peer
    for peer in (
        Peer(MLSERVER, "MLServer {} (custom runtime)", "mlserver", Dialect.GRPC, "mlserver"),
        Peer(
            MLSERVER_BATCHING,
            "MLServer {} (custom runtime), batching",
            "mlserver",
            Dialect.GRPC,
            "mlserver",
            arguments=("--batches",),
        ),
        Peer(
            PYTRITON,
            "PyTriton {} (Triton core, Python backend)",
            "nvidia-pytriton",
            Dialect.GRPC,
            "pytriton",
            _DEBIANS,
        ),
        Peer(LITSERVE, "LitServe {}", "litserve", Dialect.HTTP, "litserve"),
        # Its processes watch each other by the clock: for a second or two after a pause they do little else.
        Peer(RAY_SERVE, "Ray Serve {}", "ray", Dialect.HTTP, "rayserve", settle_s=3.0),
    )
}
