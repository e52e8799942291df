"""The changes of a registry: each one JSON object that carries its own hash and that of the one before it."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from danlu.registry.state import Adapter, Name, Number, Sha256, State, Version


class _Event(BaseModel):
    """What all have.

    Attributes:
        number: counts from 1 without a gap.
        previous: hash of the event before.
        hash: SHA-256 of all the rest.
        operation: by which a writer knows its own event again when the answer to its writing was lost.
        time: in UTC.
        user: who.
        host: where.
        name: of the adapter.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    number: Number
    previous: Sha256
    hash: Sha256
    operation: str
    time: str
    user: str
    host: str
    name: Name


class Added(_Event):
    """A version was added; an alias may name it from now on, and older ones may go for it."""

    kind: Literal["added"] = "added"
    version: Version
    alias: Name | None = None
    removed: tuple[int, ...] = ()

    def applied(self, adapter: Adapter) -> Adapter:
        """What it makes of the name's versions."""
        if self.version.number <= adapter.last_number or self.version.name != self.name:
            raise ValueError(f"version {self.version} can't be added")
        adapter = adapter.with_version(self.version)
        return (adapter.with_alias(self.alias, self.version.number) if self.alias else adapter).without(self.removed)


class Promoted(_Event):
    """An alias names another version."""

    kind: Literal["promoted"] = "promoted"
    alias: Name
    version: int

    def applied(self, adapter: Adapter) -> Adapter:
        """What it makes of the name's versions."""
        if self.version not in adapter.versions:
            raise ValueError(f"{self.name} has no version {self.version}")
        return adapter.with_alias(self.alias, self.version)


class RolledBack(_Event):
    """An alias names what it named before: `version`."""

    kind: Literal["rolled back"] = "rolled back"
    alias: Name
    version: int

    def applied(self, adapter: Adapter) -> Adapter:
        """What it makes of the name's versions."""
        if adapter.aliases.get(self.alias, ())[-2:-1] != (self.version,):
            raise ValueError(f"{self.alias} did not name {self.version} before")
        return adapter.rolled_back(self.alias)


class Removed(_Event):
    """Versions are gone, and aliases that named them."""

    kind: Literal["removed"] = "removed"
    versions: tuple[int, ...]

    def applied(self, adapter: Adapter) -> Adapter:
        """What it makes of the name's versions."""
        return adapter.without(self.versions)


Event = Added | Promoted | RolledBack | Removed
_EVENTS: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="kind")])


def make_event(state: State, fields: dict[str, Any]) -> tuple[Event, bytes]:
    """The event that would follow a state, and how it is stored.

    Args:
        state: that it follows.
        fields: all but `number`, `previous`, `hash`.
    """
    whole = {**fields, "number": state.number + 1, "previous": state.hash}
    event = _EVENTS.validate_python({**whole, "hash": "0" * 64})
    content = event.model_dump(mode="json")
    content["hash"] = _own_hash(content)
    return event.model_copy(update={"hash": content["hash"]}), _line(content)


def read_event(data: bytes) -> Event:
    """An event as it is stored.

    Raises:
        ValueError: it was cut off, changed, or written by a Danlu that knows more.
    """
    try:
        content = json.loads(data)
        if content["hash"] != _own_hash(content):
            raise ValueError("it was changed: its hash is another")
        return _EVENTS.validate_python(content)
    except ValidationError as error:
        raise ValueError("it is no event that this version of Danlu knows") from error
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, RecursionError) as error:
        raise ValueError("it is torn or no event") from error


def fold(state: State, event: Event) -> State:
    """What an event makes of the state before it.

    Raises:
        ValueError: it does not follow that state.
    """
    if event.number != state.number + 1 or event.previous != state.hash:
        raise ValueError("it does not follow the event before it: that one was changed, or replaced")
    state = state.with_adapter(event.name, event.applied(state.adapter(event.name)))
    return state.model_copy(update={"number": event.number, "hash": event.hash})


def told(event: Event) -> dict[str, Any]:
    """What the audit log says of an event: the version, the alias that names it, the versions that are gone."""
    if isinstance(event, Removed):
        return {"adapter": ", ".join(f"{event.name}@{number}" for number in event.versions)}
    if not isinstance(event, Added):
        return {"adapter": f"{event.name}@{event.version}", "alias": event.alias}
    version = event.version
    weights = {
        path: sha256 for path, (sha256, _) in version.files.items() if path.endswith("adapter_model.safetensors")
    }
    about = {"adapter": str(version), "alias": event.alias, "removed": list(event.removed), "sha256": version.hash}
    return {**about, "trained_sha256": weights, "base_sha256": version.base_sha256}


def write_snapshot(state: State) -> bytes:
    """A state as it is stored, so that not all events need to be read."""
    content = state.model_dump(mode="json")
    return _line({"state": content, "sha256": _hash(content)})


def read_snapshot(data: bytes) -> State | None:
    """A stored state; None if it is not as it was written."""
    try:
        content = json.loads(data)
        if content["sha256"] != _hash(content["state"]):
            return None
        return State.model_validate(content["state"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _line(content: dict[str, Any]) -> bytes:
    return json.dumps(content, ensure_ascii=False, sort_keys=True).encode() + b"\n"


def _hash(content: dict[str, Any]) -> str:
    return hashlib.sha256(_line(content)).hexdigest()


def _own_hash(event: dict[str, Any]) -> str:
    return _hash({key: value for key, value in event.items() if key != "hash"})
