"""A port to listen on, taken before the model is loaded, the server on it, and whose pages may ask that server."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import logging
import socket
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import uvicorn
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from summarizer.errors import ConfigError

if TYPE_CHECKING:  # it owns a model, which a blind test has none of
    from summarizer.serving.writer import Writer

HEADERS_WITHIN_S = 10.0
"""Within so long a request's first line and headers have to be here; a browser takes milliseconds."""
LEAVE_WITHIN_S = 5
"""How long connections may take to end once the server is stopped."""
SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""The page needs its own files and nothing else. Source: OWASP HTTP Headers Cheat Sheet."""

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


@dataclass(frozen=True)
class AllowedHosts:
    """Names by which this server may be asked.

    A page elsewhere can make its own name stand for this machine's address (DNS rebinding) and would then be
    of the same origin as this server; what it cannot do is send another Host than that name. An address written
    in numbers is no name, so it is safe; on loopback only loopback's own are expected.
    """

    names: Collection[str]
    """The names, in lower case."""
    loopback: bool

    def allow(self, host_header: str) -> bool:
        try:
            name = (urlsplit(f"//{host_header}").hostname or "").rstrip(".")
        except ValueError:
            return False
        if name in self.names:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return address.is_loopback or not self.loopback


class Guard:
    """Answers 403 for another site's request, and sends SECURITY_HEADERS with whatever is answered."""

    def __init__(self, app: ASGIApp, hosts: AllowedHosts) -> None:
        self._app, self._hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(SECURITY_HEADERS)
            await send(message)

        if reason := self._refusal(Headers(scope=scope)):
            await JSONResponse({"error": reason}, 403)(scope, receive, send_guarded)
        else:
            await self._app(scope, receive, send_guarded)

    def _refusal(self, headers: Headers) -> str | None:
        host = headers.get("host", "")
        if not self._hosts.allow(host):
            return (
                f"this server does not answer to the name {host[:100]!r}; "
                "start it with --allow-host NAME if that is its name"
            )
        origin = headers.get("origin")
        if origin is not None and origin.lower().partition("://")[2] != host.lower():
            return f"a page of {origin[:100]!r} may not ask this server; open its own page"
        return None


def allowed_hosts(bound: socket.socket, more: Sequence[str]) -> AllowedHosts:
    """The names by which the server on this socket may be asked, with those that were given as --allow-host."""
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


class TimedHeaders(H11Protocol):
    """A connection that is closed where a request's headers do not come to their end.

    uvicorn waits for them for ever, so that whoever opens connections and goes silent would have them all.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn narrows it too
        super().connection_made(transport)
        self._due: asyncio.TimerHandle | None = None
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._answered()

    def _watch(self) -> None:
        """Start the clock where a request has begun, or could; stop it once its headers are here."""
        if self.cycle is not None and not self.cycle.response_complete:
            self._answered()
        elif self._due is None:
            self._due = self.loop.call_later(HEADERS_WITHIN_S, self._close)

    def _answered(self) -> None:
        if self._due is not None:
            self._due.cancel()
        self._due = None

    def _close(self) -> None:
        if not self.transport.is_closing():
            self.transport.write(
                b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
            )
            self.transport.close()


class Server(uvicorn.Server):
    """Tells who waits for a summary that the server ends; without that, it would wait for them."""

    def __init__(self, app: ASGIApp, writer: Writer | None) -> None:
        """writer: None where nothing is written on request."""
        super().__init__(
            uvicorn.Config(
                app,
                http=TimedHeaders,
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=LEAVE_WITHIN_S,
            )
        )
        self._writer = writer

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._writer is not None:
            self._writer.stop()
        await super().shutdown(sockets)


def serve(app: ASGIApp, writer: Writer | None, bound: socket.socket) -> None:
    """Answer requests until a signal ends it, which is then raised again: KeyboardInterrupt for Ctrl-C."""
    logging.getLogger("uvicorn").setLevel(logging.WARNING)  # it would say four lines where one does
    log.info("serving at %s (Ctrl-C ends it)", address_of(bound))
    try:
        Server(app, writer).run([bound])
    finally:
        if writer is not None:
            writer.stop()
            writer.join()
