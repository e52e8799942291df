"""What the gateway says to whom it can't answer: OpenAI's error shape, and never a 500 for a client's fault."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from danlu.engines.batching import QueueFull
from danlu.errors import DanluError, InputError
from danlu.serving.protocol import ErrorBody
from danlu.tracking.progress import say

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
    **dict.fromkeys((500, 502, 503, 504), "server_error"),
}
_CODES = {
    403: "not_allowed",
    404: "not_found",
    405: "method_not_allowed",
    408: "too_slow",
    413: "request_too_large",
    429: "queue_full",
    502: "upstream_failed",
    503: "not_ready",
    504: "upstream_timeout",
}
# For the OpenAPI document.
REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody, "description": said}
    for status, said in {
        400: "the request is wrong",
        401: "no key, or none that counts",
        403: "the key may not do this",
        404: "no such model",
        408: "the body came too slowly",
        413: "the body is too large",
        429: "too many questions wait, or the key's quota is used up",
        500: "the model failed",
        502: "the upstream failed",
        503: "not ready, or about to stop",
        504: "the upstream took too long",
    }.items()
}
# Of every route that asks for a key.
BARRED: dict[int | str, dict[str, Any]] = {status: REFUSALS[status] for status in (401, 403, 503)}


class Refusal(Exception):  # noqa: N818 - what the client is told
    """An answer other than the one that was asked for.

    Args:
        status: of HTTP.
        message: in a sentence.
        param: the field that is wrong.
        code: for programs; else by the status.
        again_seconds: after which another try has a chance.
    """

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        again_seconds: int = 1,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.again_seconds = status, message, param, again_seconds
        self.code = code or _CODES.get(status, "invalid_request")

    def body(self) -> dict[str, Any]:
        """OpenAI's error shape."""
        kind = _TYPES.get(self.status, "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> Response:
        """The whole answer."""
        headers = {"retry-after": str(self.again_seconds)} if self.status in (429, 503) else {}
        if self.status == 401:
            headers["www-authenticate"] = "Bearer"
        return json_response(self.body(), self.status, headers)


def no_model(name: str) -> Refusal:
    """There is none, or none that this key may ask."""
    return Refusal(404, f"there is no model {name[:100]!r}; see /v1/models", "model", "model_not_found")


def json_response(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """JSON in ASCII: half characters, as a client may send, are escapes."""
    return Response(json.dumps(content), status, headers, "application/json")


def refusal_of(error: DanluError) -> Refusal:
    """What a client is told of an error of the engine's or the registry's."""
    fault = error.faults[0]
    message = ". ".join(part for part in (fault.what, fault.allowed, fault.hint) if part)
    if isinstance(error, QueueFull):
        return Refusal(429, message)
    return Refusal(400 if isinstance(error, InputError) else 500, message)


def add_handlers(app: FastAPI) -> None:
    """Makes every error of the app's one in OpenAI's shape."""

    async def refused(_: Request, error: Any) -> Response:
        return (error if isinstance(error, Refusal) else refusal_of(error)).response()

    async def invalid(_: Request, error: Any) -> Response:
        return _first_fault(error).response()

    async def http(_: Request, error: Any) -> Response:
        response = Refusal(error.status_code, str(error.detail)).response()
        response.headers.update(error.headers or {})
        return response

    async def failed(_: Request, error: Exception) -> Response:
        say(f"error: {type(error).__name__}: {error}")
        return Refusal(500, "the server failed; its log says how", code="server_error").response()

    app.add_exception_handler(Refusal, refused)
    app.add_exception_handler(DanluError, refused)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(Exception, failed)


def _first_fault(error: RequestValidationError) -> Refusal:
    """All that is wrong with a body, as far as it is worth telling."""
    faults = [(".".join(map(str, fault["loc"][1:])), str(fault["msg"])) for fault in error.errors()]
    shown = "; ".join(f"{place[:80]}: {said}" if place else said for place, said in faults[:5])
    more = f"; and {len(faults) - 5} more" if len(faults) > 5 else ""
    return Refusal(400, shown + more, faults[0][0][:80] or None, "invalid_request")
