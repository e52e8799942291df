"""What comes before the gateway: who asks is known first, bodies are bounded in size and time, requests counted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.datastructures import Headers

from danlu.serving.access.guard import Guard
from danlu.serving.access.journal import Account
from danlu.serving.access.rights import Right, right_of
from danlu.serving.refusals import Refusal

_Receive = Callable[[], Awaitable[Any]]
_LEFT = 499  # the client left before the answer; nginx' number for it


class Intake:
    """An ASGI application around another.

    Args:
        app: the other.
        guard: lets requests in.
        max_body_bytes: a larger body is refused before it is read whole.
        requests: counter with the labels path and status.
        body_seconds: a body that takes longer is refused.
    """

    def __init__(self, app: Any, guard: Guard, max_body_bytes: int, requests: Any, body_seconds: float = 30.0) -> None:
        self.app, self.guard, self.max_body_bytes, self._requests = app, guard, max_body_bytes, requests
        self.body_seconds = body_seconds

    async def __call__(self, scope: Any, receive: _Receive, send: Any) -> None:
        """Handles a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        right, account = right_of(scope["method"], scope["path"]), Account()
        scope.setdefault("state", {})["account"] = account

        async def accounted(message: Any) -> None:
            if message["type"] == "http.response.start":
                account.status = message["status"]
                self._requests.labels(right.path, str(account.status)).inc()
            elif account.complete or not message.get("more_body", False):
                await self._enter(account, right)
            await send(message)

        try:
            await self.guard.admit(right, Headers(scope=scope), account)
            body = await self._body(scope, receive)
        except Refusal as refusal:
            await refusal.response()(scope, receive, accounted)
            return
        given = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def replayed() -> Any:
            return next(given, None) or await receive()

        try:
            await self.app(scope, replayed, accounted)
        finally:
            if not account.written:
                account.status = account.status or _LEFT
                await asyncio.shield(self._enter(account, right))

    async def _enter(self, account: Account, right: Right) -> None:
        if right.audited and self.guard.journal is not None:
            await self.guard.journal.enter(account, right.method, right.path)

    async def _body(self, scope: Any, receive: _Receive) -> bytes:
        """The whole body.

        Raises:
            Refusal: it is too large, or comes too slowly.
        """
        too_large = Refusal(413, f"the body is larger than {self.max_body_bytes} bytes")
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if length.isdigit() and int(length) > self.max_body_bytes:
            raise too_large
        body: bytes = b""
        until = time.monotonic() + self.body_seconds
        while True:
            try:
                message = await asyncio.wait_for(receive(), max(0.0, until - time.monotonic()))
            except asyncio.TimeoutError:
                raise Refusal(408, f"the body took longer than {self.body_seconds:g} s") from None
            body += message.get("body", b"")
            if len(body) > self.max_body_bytes:
                raise too_large
            if not message.get("more_body", False):
                return body
