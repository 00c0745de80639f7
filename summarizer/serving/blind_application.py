"""The page of a blind test, and its votes over HTTP. No model is loaded for it."""

from __future__ import annotations

import logging

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from summarizer.errors import WriteError
from summarizer.serving.blind import VOTES, Ballot
from summarizer.serving.http import json_object, page_file, say_error
from summarizer.serving.listening import AllowedHosts, Guard

FILES = {
    "/": ("blind.html", "text/html"),
    "/style.css": ("style.css", "text/css"),
    "/page.js": ("blind.js", "text/javascript"),
    "/favicon.svg": ("favicon.svg", "image/svg+xml"),
}
"""Address -> file and media type."""
MOST_BODY_BYTES = 1 << 16
"""A vote names a row's id."""

log = logging.getLogger(__name__)


def build_blind_application(ballot: Ballot, hosts: AllowedHosts) -> ASGIApp:
    """The application of a blind test: a page, the pair that is asked about, and the votes.

    GET  /api/pair          the next pair, or the result once the test has ended
    POST /api/votes         {"id", "vote": left | right | tie | skip}: the pair's lengths, and the next pair
    POST /api/end           {}, which ends the test and reveals which run wrote which
    """

    async def pair(_: Request) -> Response:
        return JSONResponse(ballot.state())

    async def votes(request: Request) -> Response:
        asked = await json_object(request, MOST_BODY_BYTES)
        row_id, vote = asked.get("id"), asked.get("vote")
        if not isinstance(row_id, str) or vote not in VOTES:
            raise HTTPException(422, f"give the id of the pair and a vote: {', '.join(VOTES)}")
        words = ballot.vote(row_id, vote)
        return JSONResponse({"words": words, "next": ballot.state()})

    async def end(request: Request) -> Response:
        await json_object(request, MOST_BODY_BYTES)
        ballot.end()
        return JSONResponse(ballot.state())

    app = Starlette(
        routes=[
            *(Route(address, page_file(*file)) for address, file in FILES.items()),
            Route("/api/pair", pair),
            Route("/api/votes", votes, methods=["POST"]),
            Route("/api/end", end, methods=["POST"]),
        ],
        exception_handlers={HTTPException: say_error, WriteError: _say_full},
    )
    return Guard(app, hosts)


async def _say_full(_: Request, error: Exception) -> Response:
    log.error("a vote could not be kept: %s", error)
    return JSONResponse({"error": f"the vote could not be kept: {error}"}, 507)
