"""The page for people at `/`: what a user bought, and two lists side by side.

Files of the folder `page`, which ask the server themselves; nothing is loaded from elsewhere. The page needs no key,
what it asks for does.
"""

from __future__ import annotations

from importlib.resources import files

from fastapi import FastAPI, Response

_FILES = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/page/address.js": ("address.js", "text/javascript; charset=utf-8"),
    "/page/server.js": ("server.js", "text/javascript; charset=utf-8"),
    "/page/categories.js": ("categories.js", "text/javascript; charset=utf-8"),
    "/page/view.js": ("view.js", "text/javascript; charset=utf-8"),
    "/favicon.ico": ("icon.svg", "image/svg+xml"),
}
"""Path -> file and type."""
_HEADERS = {
    # The last three do not fall back on default-src.
    "content-security-policy": ("default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    # Files of two versions of the product would not fit each other.
    "cache-control": "no-cache",
}


def add_page(app: FastAPI) -> None:
    """Adds the page and what it loads."""
    folder = files("serving.web") / "page"
    for path, (name, media_type) in _FILES.items():
        _add(app, path, (folder / name).read_bytes(), media_type)


def _add(app: FastAPI, path: str, content: bytes, media_type: str) -> None:
    @app.get(path, include_in_schema=False)
    async def file() -> Response:
        return Response(content, headers=_HEADERS, media_type=media_type)
