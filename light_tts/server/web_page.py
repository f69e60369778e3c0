"""`/`: a page to try the server with. One static file, nothing from elsewhere, no build step (spec: server, 2.6)."""

from __future__ import annotations

from functools import cache
from importlib import resources

from fastapi import APIRouter
from fastapi.responses import HTMLResponse

router = APIRouter()

# The page's own style and script, this server's endpoints, and recordings made in the page.
_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; media-src blob:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {"Content-Security-Policy": _POLICY, "Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff"}


@router.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
async def page() -> HTMLResponse:
    """The page; it speaks through `/v1/audio/speech` and plays while audio comes."""
    return HTMLResponse(_text(), headers=_HEADERS)


@cache
def _text() -> str:
    return (resources.files("light_tts.server") / "web" / "index.html").read_text("utf-8")
