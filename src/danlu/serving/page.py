"""The pages: files that a browser fetches from the gateway, and nothing from anywhere else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import FastAPI
from starlette.responses import FileResponse, RedirectResponse, Response
from starlette.staticfiles import StaticFiles

_FOLDER = Path(__file__).parent
_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


class _Files(StaticFiles):
    """The page's own files, with its headers."""

    def file_response(self, *positional: Any, **named: Any) -> Response:
        """See Starlette."""
        response = super().file_response(*positional, **named)
        response.headers.update(_HEADERS)
        return response


def add_pages(app: FastAPI) -> None:
    """Serves `/playground` and `/dashboard`. They ask the API as any client does, with the key of their user."""

    @app.get("/", include_in_schema=False)
    async def root() -> Response:
        return RedirectResponse("playground")

    for name in ("playground", "dashboard"):
        _add_page(app, name)


def _add_page(app: FastAPI, name: str) -> None:
    folder = _FOLDER / name

    @app.get(f"/{name}", include_in_schema=False)
    async def page() -> Response:
        return FileResponse(folder / "index.html", headers=_HEADERS)

    app.mount(f"/{name}", _Files(directory=folder))
