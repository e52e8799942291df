"""API keys: made once and shown once; the file has their hashes, what each may do, and until when.

A key is `danlu-ID-SECRET`. Its secret has 256 random bits, so one round of SHA-256 hides it: there is nothing to guess.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import secrets
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any, Literal

from filelock import FileLock
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from danlu.audit import append
from danlu.errors import Fault, InputError
from danlu.runs import danlu_home, write_json
from danlu.tracking.progress import say

Role = Literal["use", "feedback", "operate", "admin"]
ROLES: tuple[Role, ...] = ("use", "feedback", "operate", "admin")
_FORM = re.compile(r"danlu-([0-9a-f]{10})-([A-Za-z0-9_-]{43})")
_Positive = Annotated[int, Field(ge=1)]


class Key(BaseModel):
    """What a key may do.

    Attributes:
        id: first part of the key, no secret.
        name: of who has it.
        sha256: of its secret.
        roles: what it may do; `admin` may all.
        models: adapters' names, or the base's, that it may ask; empty: all.
        requests_per_minute: None: any number.
        tokens_per_day: of prompts and answers; None: any number.
        expires, revoked, created: in UTC, as in 2026-11-30T00:00:00Z.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    id: Annotated[str, Field(pattern=r"^[0-9a-f]{10}$")]
    name: Annotated[str, Field(min_length=1, max_length=100)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    roles: tuple[Role, ...]
    models: tuple[str, ...] = ()
    requests_per_minute: _Positive | None = None
    tokens_per_day: _Positive | None = None
    expires: str | None = None
    revoked: str | None = None
    created: str

    @property
    def may_all(self) -> bool:
        """Whether no role is missing."""
        return "admin" in self.roles

    def may(self, role: Role) -> bool:
        """Whether it may do what needs this role."""
        return self.may_all or role in self.roles

    def may_ask(self, model: str) -> bool:
        """Whether it may ask a model, whatever its version."""
        return not self.models or model in self.models or model.partition("@")[0] in self.models

    def is_over(self, now: str) -> bool:
        """Whether its time is over."""
        return self.expires is not None and now >= self.expires

    def shown(self) -> dict[str, Any]:
        """All of it but the hash."""
        return self.model_dump(mode="json", exclude={"sha256"})


class _Keys(BaseModel):
    model_config = ConfigDict(extra="forbid")
    keys: list[Key] = []


# Who asks where there are no keys: this machine's user.
ANYBODY = Key(id="0" * 10, name="anybody", sha256="0" * 64, roles=("admin",), created="")


def keys_path(chosen: str | None = None) -> Path:
    """Where the keys are: as chosen, `DANLU_KEYS`, or `keys.json` in Danlu's home."""
    chosen = chosen or os.environ.get("DANLU_KEYS")
    return Path(chosen).expanduser() if chosen else danlu_home() / "keys.json"


def now_text() -> str:
    """This moment in UTC, as it stands in the file."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def make_key(
    path: Path,
    name: str,
    roles: Sequence[str],
    models: Sequence[str] = (),
    requests_per_minute: int | None = None,
    tokens_per_day: int | None = None,
    expires: str | None = None,
    by: str | None = None,
) -> tuple[str, Key]:
    """Adds a key to a file, and to the audit log.

    Args:
        path: of the file; one that is not there is made.
        name: of who gets it.
        roles: of `ROLES`.
        models: that it may ask; empty: all.
        requests_per_minute: None: any number.
        tokens_per_day: None: any number.
        expires: a day or a moment in UTC, as in 2026-12-31 or 2026-12-31T12:00:00Z.
        by: id of the key that asks for it, over the API.

    Returns:
        The key, which is nowhere else, and what it may do.

    Raises:
        InputError: a value is wrong, or the file is no file of keys.
    """
    secret, id = secrets.token_urlsafe(32), secrets.token_hex(5)
    about = {
        "id": id,
        "name": name,
        "sha256": _hash(secret),
        "roles": list(dict.fromkeys(roles)),
        "models": list(dict.fromkeys(models)),
        "requests_per_minute": requests_per_minute,
        "tokens_per_day": tokens_per_day,
        "expires": None if expires is None else read_moment(expires),
        "created": now_text(),
    }
    try:
        key = Key.model_validate(about)
    except ValidationError as error:
        raise InputError(*(_fault(fault) for fault in error.errors())) from error
    if not key.roles:
        raise InputError(Fault("a key needs a role", "roles", ", ".join(ROLES)))
    with _locked(path):
        _write(path, [*read_keys(path, allow_none=True), key])
    append("key created", {"key": key.shown(), **({"by_key": by} if by else {})})
    return f"danlu-{id}-{secret}", key


def revoke_key(path: Path, id: str, by: str | None = None) -> Key:
    """Ends a key for good; gateways refuse it from their next request on.

    Raises:
        InputError: there is none with this id.
    """
    with _locked(path):
        keys = read_keys(path)
        found = next((key for key in keys if key.id == id), None)
        if found is None:
            raise InputError(Fault(f"no key has the id {id[:40]}", str(path), hint="see `danlu keys list`"))
        if found.revoked is None:
            found = found.model_copy(update={"revoked": now_text()})
            _write(path, [found if key.id == id else key for key in keys])
    append("key revoked", {"key": {"id": found.id, "name": found.name}, **({"by_key": by} if by else {})})
    return found


def read_keys(path: Path, allow_none: bool = False) -> list[Key]:
    """The keys of a file.

    Args:
        path: of the file.
        allow_none: a file that is not there has none.

    Raises:
        InputError: it is not there, or is no file of keys.
    """
    hint = "make one: danlu keys create --name NAME"
    try:
        return _Keys.model_validate(json.loads(path.read_bytes())).keys
    except FileNotFoundError as error:
        if allow_none:
            return []
        raise InputError(Fault("there is no file of keys", str(path), hint=hint)) from error
    except (OSError, ValueError) as error:
        what = f"this is no file of keys: {error}" if not isinstance(error, ValidationError) else "a key is malformed"
        raise InputError(
            Fault(what.splitlines()[0], str(path), hint="take it from a backup, or make keys anew")
        ) from error


class Keyring:
    """The keys of a file, as they are now: a change is seen at the next request.

    A file that is gone or broken leaves the keys as they were, and is said.

    Args:
        path: of the file.

    Raises:
        InputError: it is no file of keys.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen = self._look()
        self._keys = {key.id: key for key in read_keys(path)}

    def find(self, text: str) -> tuple[Key | None, str]:
        """The key that a request shows, or why it counts for nothing.

        Args:
            text: `danlu-ID-SECRET`.
        """
        self._refresh()
        match = _FORM.fullmatch(text)
        if match is None:
            return None, "this is no key of Danlu's; it has the form danlu-ID-SECRET"
        key = self._keys.get(match.group(1))
        if not hmac.compare_digest(_hash(match.group(2)), key.sha256 if key else "") or key is None:
            return None, "there is no such key"
        if key.revoked is not None:
            return None, f"this key was revoked at {key.revoked}"
        if key.is_over(now_text()):
            return None, f"this key was good until {key.expires}"
        return key, ""

    def _refresh(self) -> None:
        seen = self._look()
        if seen == self._seen:
            return
        self._seen = seen
        try:
            self._keys = {key.id: key for key in read_keys(self.path)}
        except InputError as error:
            say(f"warning: the keys stay as they were: {self.path}: {error.faults[0].what}")

    def _look(self) -> tuple[int, int, int] | None:
        try:
            found = os.stat(self.path)
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino


def read_moment(text: str, where: str = "expires") -> str:
    """A day or a moment, as it stands in the file.

    Args:
        text: in UTC.
        where: it was given, for the message.

    Raises:
        InputError: it is neither.
    """
    try:
        moment = datetime.fromisoformat(text.removesuffix("Z"))
    except ValueError as error:
        allowed = "a day or a moment in UTC, as in 2026-12-31 or 2026-12-31T12:00:00Z"
        raise InputError(Fault(f"{text[:40]!r} is no time", where, allowed)) from error
    if moment.tzinfo is not None:
        moment = moment.astimezone(timezone.utc)
    return moment.replace(tzinfo=None, microsecond=0).isoformat() + "Z"


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _locked(path: Path) -> FileLock:
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(f"{path}.lock")


def _write(path: Path, keys: Sequence[Key]) -> None:
    before = os.umask(0o077)  # for its owner alone
    try:
        write_json(path, {"keys": [key.model_dump(mode="json") for key in keys]})
    finally:
        os.umask(before)


def _fault(fault: Any) -> Fault:
    place = ".".join(map(str, fault["loc"]))
    allowed = ", ".join(ROLES) if place.startswith("roles") else ""
    return Fault(f"{fault['msg']}: {str(fault['input'])[:60]!r}", place, allowed)
