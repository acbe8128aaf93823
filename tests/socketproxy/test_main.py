"""The proxy as a process: what it makes, how it ends, and mistakes in one line."""

import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def configured(directory: Path, listen: Path) -> Path:
    """A proxy.toml that listens at `listen`."""
    path = directory / "proxy.toml"
    path.write_text(f'listen = "{listen}"\nengine = "{directory / "docker.sock"}"\n')
    return path


def answer(path: Path, target: str) -> bytes:
    """All that comes back for `target`."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        connection.sendall(f"GET {target} HTTP/1.1\r\nHost: docker\r\n\r\n".encode())
        return connection.makefile("rb").read()


def test_a_process_answers_its_owner_until_it_is_told_to_stop(tmp_path: Path) -> None:
    listen = tmp_path / "engine.sock"
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(listen))  # and leaves its socket behind
    command = [sys.executable, "-m", "socketproxy", "--config", str(configured(tmp_path, listen))]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as proxy:
        assert proxy.stderr is not None
        assert '"event": "listening"' in proxy.stderr.readline()
        assert stat.S_IMODE(listen.stat().st_mode) == 0o600
        assert answer(listen, "/info").startswith(b"HTTP/1.1 403 Forbidden\r\n")
        assert answer(listen, "/version").startswith(b"HTTP/1.1 502 Bad Gateway\r\n")
        proxy.send_signal(signal.SIGTERM)
        written = proxy.stderr.read().splitlines()
    assert proxy.returncode == 0
    assert len(written) == 1
    assert "GET /info HTTP/1.1" in written[0]


def run(config: Path) -> tuple[int, str]:
    """Exit code and standard error of a proxy that ends by itself."""
    command = [sys.executable, "-m", "socketproxy", "--config", str(config)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return ended.returncode, ended.stderr


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    config = configured(tmp_path, tmp_path / "nowhere" / "engine.sock")
    code, written = run(config)
    assert code == 2
    assert written.startswith(f"{config}: listen: expected a path where a socket can be made")
    assert written.count("\n") == 1
    config.write_text("labels = 'x'")
    code, written = run(config)
    assert code == 2
    assert "labels" in written
    assert written.count("\n") == 1
