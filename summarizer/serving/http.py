"""What the servers share: their pages' files, and requests' bodies, no longer and no slower than may be."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response

PAGE = Path(__file__).parent / "page"
BODY_WITHIN_S = 30.0
"""A client that sends its request more slowly than this holds a connection for nothing."""


def page_file(name: str, media_type: str) -> Callable[[Request], Awaitable[Response]]:
    async def send_file(_: Request) -> Response:
        return FileResponse(PAGE / name, media_type=media_type)

    return send_file


async def say_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


def require_json(request: Request) -> None:
    """Raises HTTPException 415: a form of another site can send any body, but not of this kind."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise HTTPException(415, "send the request as Content-Type: application/json")


async def json_object(request: Request, most_bytes: int) -> dict[str, object]:
    """A small request's JSON object. Raises HTTPException where it is none."""
    require_json(request)
    try:
        found = json.loads(await body_of(request, most_bytes))
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, f"the body is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise HTTPException(400, "the body is no JSON object")
    return found


async def body_of(request: Request, most_bytes: int) -> bytes:
    """A request's body. Raises HTTPException 413 where it is too long, 408 where it takes too long."""
    too_long = HTTPException(413, f"the request has over {most_bytes:,} bytes; send a shorter one")
    declared = request.headers.get("content-length", "0")
    if not declared.isdecimal() or int(declared) > most_bytes:
        raise too_long
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_WITHIN_S):
            async for part in request.stream():
                body += part
                if len(body) > most_bytes:
                    raise too_long
    except TimeoutError as error:
        raise HTTPException(408, f"the request took over {BODY_WITHIN_S:.0f} s to arrive") from error
    except ClientDisconnect as error:
        raise HTTPException(400, "the client left while it sent its request") from error
    return bytes(body)
