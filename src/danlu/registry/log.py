"""The log of a registry: reading what is new, and adding an event after exactly the state that it was decided on.

Event 12 is `events/000000/000000012.json`, made only if it is not there. Who comes second reads it, and decides again
on what it made of the state: so no change is lost, and none is made to a state that its writer did not see. Every
`EVENTS_PER_SNAPSHOT` events the state is stored too, and who opens the registry reads on from there.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import random
import socket
import threading
import time
import uuid
from typing import Any

from danlu.audit import user_name
from danlu.errors import DamagedError, Fault, RegistryError
from danlu.registry.decisions import Decide
from danlu.registry.events import Event, fold, make_event, read_event, read_snapshot, write_snapshot
from danlu.registry.state import State
from danlu.registry.store import Store

EVENTS_PER_SNAPSHOT = 25
FORMAT = 1
_MARKER = "registry.json"
_SNAPSHOTS_KEPT = 2
_EVENTS_PER_FOLDER = 1000
_LONGEST_PAUSE_SECONDS = 0.5


class Log:
    """The events at a store, and the state that they come to; safe to use from several threads."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.RLock()
        self._state: State | None = None
        self._is_marked = False

    def state(self) -> State:
        """The state after all events so far; asks the store only for what came since the last time.

        Raises:
            RegistryError: the store can't be reached.
            DamagedError: an event is missing, torn, or not the one that was written.
        """
        with self._lock:
            state = self._state if self._state is not None else self._open()
            while (data := self._store.read(event_path(state.number + 1))) is not None:
                state = self._state = self._after(state, data)
            self._state = state
            return state

    def commit(self, decide: Decide) -> tuple[Event, State, State] | None:
        """Adds the event that `decide` makes of the state before it.

        Args:
            decide: is given a state, and gives the event's own fields, or None if nothing is to be done. It is called
                again if another writer was faster, and may raise what is to be told to the user.

        Returns:
            The event, the state before it and the one after it; None if there was nothing to do.

        Raises:
            RegistryError: the store can't be reached, or can't keep writers apart.
            DamagedError: as `state` does.
        """
        self.require_writable()
        operation = uuid.uuid4().hex
        for attempt in itertools.count():
            before = self.state()
            fields = decide(before)
            if fields is None:
                return None
            event, data = make_event(before, {**fields, **_stamp(operation)})
            if self._create(event, data):
                after = fold(before, event)
                self._keep_snapshot(after)
                return event, before, after
            time.sleep(random.uniform(0, min(_LONGEST_PAUSE_SECONDS, 0.005 * 2 ** min(attempt, 10))))
        raise AssertionError("unreachable")

    def require_writable(self) -> None:
        """Requires that the store keeps writers apart, and marks it as a registry's.

        Raises:
            RegistryError: it can't be written to, or overwrites what is there.
        """
        if not self._is_marked:
            self._store.require_exclusive()
            self._store.create(_MARKER, json.dumps({"format": FORMAT}).encode() + b"\n")
            self._is_marked = True

    def _create(self, event: Event, data: bytes) -> bool:
        """Whether the event is in the log now, also if the answer to its writing was lost on the way."""
        try:
            if self._store.create(event_path(event.number), data):
                return True
        except RegistryError:
            with contextlib.suppress(RegistryError):
                if self._store.read(event_path(event.number)) == data:
                    return True
            raise
        return self._store.read(event_path(event.number)) == data

    def _open(self) -> State:
        self._require_format()
        state = self._newest_snapshot()
        folder = event_path(state.number + 1).rpartition("/")[0]
        there = {int(number) for path in self._store.find(folder) if (number := _stem(path)).isdigit()}
        missing = set(range(state.number + 1, max(there, default=0))) - there
        if missing:
            raise _damaged(event_path(min(missing)), self._store, "it is missing, and later ones are there")
        return state

    def _newest_snapshot(self) -> State:
        paths = sorted(path for path in self._store.find("snapshots") if _stem(path).isdigit())
        for path in reversed(paths):
            state = read_snapshot(self._store.read(path) or b"")
            if state is not None:
                return state
        return State()

    def _after(self, state: State, data: bytes) -> State:
        try:
            return fold(state, read_event(data))
        except ValueError as error:
            raise _damaged(event_path(state.number + 1), self._store, str(error)) from error

    def _keep_snapshot(self, state: State) -> None:
        """Stores every 25th state; the event stands whether that succeeds or not."""
        if state.number % EVENTS_PER_SNAPSHOT:
            return
        with contextlib.suppress(RegistryError):
            self._store.replace(f"snapshots/{state.number:09d}.json", write_snapshot(state))
            paths = sorted(path for path in self._store.find("snapshots") if _stem(path).isdigit())
            self._store.remove(path for path in paths[:-_SNAPSHOTS_KEPT] if int(_stem(path)) < state.number)

    def _require_format(self) -> None:
        data = self._store.read(_MARKER)
        try:
            known = data is None or json.loads(data)["format"] == FORMAT
        except (ValueError, KeyError, TypeError):
            known = False
        if not known:
            what, allowed = "this is no registry that this version of Danlu knows", f'{{"format": {FORMAT}}}'
            raise RegistryError(Fault(what, f"{self._store.url}/{_MARKER}", allowed, "update Danlu, or name another"))


def event_path(number: int) -> str:
    """Where an event is stored: a thousand in each folder."""
    return f"events/{number // _EVENTS_PER_FOLDER:06d}/{number:09d}.json"


def _stem(path: str) -> str:
    return path.rpartition("/")[2].removesuffix(".json")


def _stamp(operation: str) -> dict[str, Any]:
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return {"operation": operation, "time": now, "user": user_name(), "host": socket.gethostname()}


def _damaged(path: str, store: Store, why: str) -> DamagedError:
    hint = "put this file back from a copy; until then nothing is read past it and nothing is written"
    return DamagedError(Fault(f"the registry's log is damaged: {why}", f"{store.url}/{path}", hint=hint))
