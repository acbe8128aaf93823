"""`python -m socketproxy --config proxy.toml`: lets through to the Docker engine what resizing takes."""

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import structlog

from core import logs
from core.config import ConfigError
from socketproxy import config as configuration
from socketproxy.config import Config
from socketproxy.engine import Engine
from socketproxy.server import Proxy

log = structlog.get_logger()


async def serve(config: Config) -> None:
    """Answer until SIGTERM or SIGINT. Raises OSError if the socket cannot be made."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    proxy = Proxy(config, Engine(config.engine))
    before = os.umask(0o177)  # the socket is its owner's, from its first moment
    try:
        server = await asyncio.start_unix_server(proxy.serve, config.listen)
    finally:
        os.umask(before)
    log.info("listening", listen=config.listen, engine=config.engine)
    await stop.wait()
    server.close()


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 2 and one line for what the user can mend; 0 after an orderly stop."""
    parser = argparse.ArgumentParser(prog="python -m socketproxy", description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    path = parser.parse_args(arguments).config
    try:
        config = configuration.read(path)
        logs.configure(config.log_level)
        asyncio.run(serve(config))
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    except OSError as error:
        print(f"{path}: listen: expected a path where a socket can be made: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
