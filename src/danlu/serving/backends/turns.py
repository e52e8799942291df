"""Turns of adapters at an engine that computes one adapter at a time.

Whoever has the turn answers a few tokens for each of its questions. What began to want the engine before the turn
began takes part in it; what wants more later waits, if another adapter waits too. So none waits longer than a turn of
each other one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(eq=False)
class _Wish:
    """Somebody who waits for a turn."""

    adapter: str | None
    since: float


class Turns:
    """Who may use the engine now.

    Attributes:
        changes: how often the turn went over to another adapter.
    """

    def __init__(self) -> None:
        self.changes = 0
        self._changed = threading.Condition()
        self._wishes: list[_Wish] = []
        self._using = 0
        self._adapter: str | None = None
        self._began = 0.0

    @contextmanager
    def turn(self, adapter: str | None, given_up: Callable[[], bool]) -> Iterator[bool]:
        """Waits for a turn of the adapter's, and holds it; gives False where it was given up.

        Args:
            adapter: None is the base.
            given_up: whether nobody wants it any more; `wake` has it asked.
        """
        wish = _Wish(adapter, time.monotonic())
        with self._changed:
            self._wishes.append(wish)
            self._changed.wait_for(lambda: given_up() or self._may_begin(wish))
            self._wishes.remove(wish)
            mine = not given_up()
            if mine:
                self._begin(adapter)
            self._changed.notify_all()
        try:
            yield mine
        finally:
            with self._changed:
                self._using -= mine
                self._changed.notify_all()

    def wake(self) -> None:
        """Has all who wait look again whether they gave up."""
        with self._changed:
            self._changed.notify_all()

    def _begin(self, adapter: str | None) -> None:
        if not self._using:
            self.changes += adapter != self._adapter
            self._adapter, self._began = adapter, time.monotonic()
        self._using += 1

    def _may_begin(self, wish: _Wish) -> bool:
        if not self._using:
            return wish.adapter == min(self._wishes, key=lambda one: one.since).adapter
        if wish.adapter != self._adapter:
            return False
        return wish.since <= self._began or all(one.adapter == self._adapter for one in self._wishes)
