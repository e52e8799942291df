"""The playground: three files that a browser fetches from the gateway, and nothing from anywhere else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import FastAPI
from starlette.responses import FileResponse, RedirectResponse, Response
from starlette.staticfiles import StaticFiles

_FOLDER = Path(__file__).parent / "playground"
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


def add_playground(app: FastAPI) -> None:
    """Serves the playground at `/playground`. It asks the API as any client does, with the key that its user enters."""

    @app.get("/", include_in_schema=False)
    async def root() -> Response:
        return RedirectResponse("playground")

    @app.get("/playground", include_in_schema=False)
    async def playground() -> Response:
        return FileResponse(_FOLDER / "index.html", headers=_HEADERS)

    app.mount("/playground", _Files(directory=_FOLDER))
