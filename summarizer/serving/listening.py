"""A port to listen on, taken before the model is loaded, and the server on it."""

from __future__ import annotations

import errno
import ipaddress
import logging
import socket
from collections.abc import Sequence

import uvicorn
from starlette.types import ASGIApp

from summarizer.errors import ConfigError
from summarizer.serving.guard import AllowedHosts
from summarizer.serving.writer import Writer

LEAVE_WITHIN_S = 5
"""How long connections may take to end once the server is stopped."""

log = logging.getLogger(__name__)


def bind(host: str, port: int) -> socket.socket:
    """A socket that holds the port and does not answer yet; port 0 takes a free one.

    Raises ConfigError, naming --host or --port, where it cannot be had.
    """
    if not 0 <= port <= 65535:
        raise ConfigError.single("--port", f"{port}; at least 0 (any free one), at most 65535")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (socket.gaierror, UnicodeError) as error:
        raise ConfigError.single("--host", f"{host!r} is no address of this machine: {error}") from error
    bound = socket.socket(family, kind, protocol)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind(address)
        # Another that listens is noticed here by systems that let two bind.
        bound.listen(128)
    except OSError as error:
        bound.close()
        raise _refused(host, port, error) from error
    return bound


def _refused(host: str, port: int, error: OSError) -> ConfigError:
    if error.errno == errno.EADDRINUSE:
        free = port + 1 if port < 65535 else port - 1
        return ConfigError.single(
            "--port", f"{port} is taken by another program; name a free one, such as --port {free}"
        )
    if error.errno == errno.EACCES:
        return ConfigError.single(
            "--port", f"{port} is not for everyone to take; name one above 1023, such as --port 8000"
        )
    return ConfigError.single("--host", f"{host!r} cannot be listened on: {error.strerror}")


def is_loopback(bound: socket.socket) -> bool:
    return ipaddress.ip_address(bound.getsockname()[0]).is_loopback


def allowed_hosts(bound: socket.socket, more: Sequence[str]) -> AllowedHosts:
    """By which names the server on this socket may be asked, with those that its person named."""
    own = [] if is_loopback(bound) else [socket.gethostname()]
    names = frozenset(name.lower().rstrip(".") for name in ["localhost", *own, *more])
    return AllowedHosts(names, is_loopback(bound))


def address_of(bound: socket.socket) -> str:
    """What to type into a browser on this machine, or on another where all addresses are listened on."""
    host, port = bound.getsockname()[:2]
    address = ipaddress.ip_address(host)
    if address.is_unspecified:
        host = socket.gethostname()
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Server(uvicorn.Server):
    """Tells who waits for a summary that the server ends; without that, it would wait for them."""

    def __init__(self, app: ASGIApp, writer: Writer) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=LEAVE_WITHIN_S,
            )
        )
        self._writer = writer

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._writer.stop()
        await super().shutdown(sockets)


def serve(app: ASGIApp, writer: Writer, bound: socket.socket) -> None:
    """Answer requests until a signal ends it, which is then raised again: KeyboardInterrupt for Ctrl-C."""
    logging.getLogger("uvicorn").setLevel(logging.WARNING)  # it would say four lines where one does
    log.info("serving at %s (Ctrl-C ends it)", address_of(bound))
    try:
        Server(app, writer).run([bound])
    finally:
        writer.stop()
        writer.join()
