"""The page and the HTTP API.

GET  /                  the page
GET  /api/health        whether the model's thread lives, and how many requests wait
GET  /api/runs          what can be chosen, and the bounds of what can be set
POST /api/summaries     {"article", "reference"?, "runs"?, "settings"?}, answered by one JSON object a line
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from summarizer.errors import ConfigError
from summarizer.runs.loaded_run import LoadedRun
from summarizer.serving.answer import Event
from summarizer.serving.http import body_of, page_file, require_json, say_error
from summarizer.serving.listening import AllowedHosts, Guard
from summarizer.serving.request import (
    MOST_ARTICLE_CHARACTERS,
    MOST_BODY_BYTES,
    MOST_REFERENCE_CHARACTERS,
    BadRequestError,
    base_name,
    read_request,
    settings_of,
    variants_of,
)
from summarizer.serving.writer import LineFullError, StoppingError, Ticket, Writer

FILES = {
    "/": ("index.html", "text/html"),
    "/style.css": ("style.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/favicon.svg": ("favicon.svg", "image/svg+xml"),
}
"""Address -> file and media type: nothing else of this machine can be asked for."""


class Lines(StreamingResponse):
    """A ticket's events as lines; the ticket is dropped when the client leaves, however it leaves."""

    def __init__(self, writer: Writer, ticket: Ticket, events: asyncio.Queue[Event]) -> None:
        super().__init__(_lines(events), media_type="application/x-ndjson")
        self._writer, self._ticket = writer, ticket

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._writer.drop(self._ticket)


def build_application(loaded: LoadedRun, writer: Writer, hosts: AllowedHosts) -> ASGIApp:
    """The application over loaded runs. Its start starts `writer`."""
    variants = variants_of(loaded.runs)
    generation = loaded.spec.generation
    settings = settings_of(generation, loaded.prompt)
    about = {
        "base": base_name(loaded.spec.model),
        "quantization": loaded.spec.quantization.name,
        "device": str(loaded.processes.device),
        "prompt_tokens": loaded.prompt.max_tokens,
        "runs": [
            {"id": variant.id, "name": variant.name, "detail": variant.detail}
            for variant in variants.values()
        ],
        "settings": {key: asdict(setting) for key, setting in settings.items()},
        "article_characters": MOST_ARTICLE_CHARACTERS,
        "reference_characters": MOST_REFERENCE_CHARACTERS,
    }

    async def health(_: Request) -> Response:
        status = {
            "status": "ok" if writer.alive else "failed",
            "busy": writer.busy,
            "waiting": writer.waiting,
        }
        return JSONResponse(status, 200 if writer.alive else 503)

    async def runs(_: Request) -> Response:
        return JSONResponse(about)

    async def summaries(request: Request) -> Response:
        require_json(request)
        body = await body_of(request, MOST_BODY_BYTES)
        try:
            wanted = read_request(body, variants, settings, generation)
        except BadRequestError as error:
            raise HTTPException(400, str(error)) from error
        except ConfigError as error:
            issues = [{"key": issue.key, "message": issue.message} for issue in error.issues]
            return JSONResponse({"error": "; ".join(map(str, error.issues)), "issues": issues}, 422)
        loop, events = asyncio.get_running_loop(), asyncio.Queue[Event]()
        ticket = Ticket(wanted, lambda event: _hand_over(loop, events, event))
        try:
            writer.submit(ticket)
        except LineFullError as error:
            raise HTTPException(503, str(error), {"Retry-After": str(error.retry_after_s)}) from error
        except StoppingError as error:
            raise HTTPException(503, "the server is being stopped") from error
        return Lines(writer, ticket, events)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        writer.start()
        yield

    app = Starlette(
        routes=[
            *(Route(address, page_file(*file)) for address, file in FILES.items()),
            Route("/api/health", health),
            Route("/api/runs", runs),
            Route("/api/summaries", summaries, methods=["POST"]),
        ],
        exception_handlers={HTTPException: say_error},
        lifespan=lifespan,
    )
    return Guard(app, hosts)


def _hand_over(loop: asyncio.AbstractEventLoop, events: asyncio.Queue[Event], event: Event) -> None:
    """Give an event to the loop of the client's connection; the writer's thread may do so too."""
    # A loop that has ended raises, and has nobody left to tell.
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(events.put_nowait, event)


async def _lines(events: asyncio.Queue[Event]) -> AsyncIterator[bytes]:
    while True:
        event = await events.get()
        yield json.dumps(event, ensure_ascii=False).encode() + b"\n"
        if event["event"] in ("done", "error"):
            return
