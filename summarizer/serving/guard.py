"""What stands before every request: whose page may ask, how much, and what a browser is told to allow."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

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


@dataclass(frozen=True)
class AllowedHosts:
    """Names by which this server may be asked.

    A page elsewhere can make its own name stand for this machine's address (DNS rebinding) and would then be
    of the same origin as this server; what it cannot do is send another Host than that name. An address written
    in numbers is no name, so it is safe; on loopback only loopback's own are expected.
    """

    names: Collection[str]
    """In lower case."""
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
