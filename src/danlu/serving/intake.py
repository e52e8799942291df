"""What comes before the gateway: bodies are bounded, requests counted."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from danlu.serving.refusals import Refusal

_Receive = Callable[[], Awaitable[Any]]


class Intake:
    """An ASGI application around another.

    Args:
        app: the other.
        max_body_bytes: a larger body is refused before it is read whole.
        requests: counter with the labels path and status.
    """

    def __init__(self, app: Any, max_body_bytes: int, requests: Any) -> None:
        self.app, self.max_body_bytes, self._requests = app, max_body_bytes, requests

    async def __call__(self, scope: Any, receive: _Receive, send: Any) -> None:
        """Handles a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def counted(message: Any) -> None:
            if message["type"] == "http.response.start":
                path = getattr(scope.get("route"), "path", "other")
                self._requests.labels(path, str(message["status"])).inc()
            await send(message)

        body = await self._body(scope, receive)
        if body is None:
            refusal = Refusal(413, f"the body is larger than {self.max_body_bytes} bytes")
            await refusal.response()(scope, receive, counted)
            return
        given = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def replayed() -> Any:
            return next(given, None) or await receive()

        await self.app(scope, replayed, counted)

    async def _body(self, scope: Any, receive: _Receive) -> bytes | None:
        """The whole body; None if it is too large."""
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if length.isdigit() and int(length) > self.max_body_bytes:
            return None
        body: bytes = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if len(body) > self.max_body_bytes:
                return None
            if not message.get("more_body", False):
                return body
