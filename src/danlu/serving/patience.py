"""Connections whose request does not come are closed, so that nobody holds them all by saying nothing."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

_HEAD_SECONDS = 10.0


def patient_protocol(head_seconds: float = _HEAD_SECONDS) -> Any:
    """Uvicorn's own protocol of HTTP, with a limit on the time that a request's head takes.

    Args:
        head_seconds: from the first byte, or from the connection, to the end of the headers.
    """
    base: Any = H11Protocol  # httptools, which is quicker, takes headers of any length

    class Patient(base):  # type: ignore[misc]
        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._await_head()

        def data_received(self, data: bytes) -> None:
            before = self.cycle
            super().data_received(data)
            if self.cycle is not before:
                self._forget()
            elif self._idle() and self._timer is None:
                self._await_head()

        def connection_lost(self, error: Exception | None) -> None:
            self._forget()
            super().connection_lost(error)

        def _idle(self) -> bool:
            return self.cycle is None or bool(self.cycle.response_complete)

        def _await_head(self) -> None:
            self._timer = self.loop.call_later(head_seconds, self._give_up)

        def _forget(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = None

        def _give_up(self) -> None:
            self._timer = None
            if self._idle() and not self.transport.is_closing():
                self.transport.close()

    return Patient
