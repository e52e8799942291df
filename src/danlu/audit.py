"""The audit log: who did what with which data, in lines of which none can be changed, removed or moved unseen.

`audit.jsonl` has a line of JSON for each thing that was done. Each carries the SHA-256 of the line before it and, as
`hash`, its own; `audit.head` beside it has the number and the hash of the last one, so that lines missing at the end
are seen too. Whoever may write both files can write another history: the hash that `append` gives, kept elsewhere,
proves that this one is meant (`danlu audit verify --head HASH`). Texts of rows are never written.
"""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from danlu.errors import Fault, GateError
from danlu.runs import danlu_home, write_text

_FIRST = "0" * 64
_HINT = "compare it with a copy of the log; from this place on it does not prove what was done"
_OWN = frozenset({"number", "time", "kind", "user", "host", "after_torn", "previous", "hash"})
_TORN = "after_torn"  # key of a line that follows one that was cut off: the hash of what is left of that


@dataclass
class Audit:
    """What is found in a log.

    Attributes:
        entries: whole ones, in order.
        faults: a change, a removal, another order, each with its place.
        notes: what is odd and no fault: a writer that was cut off.
        head: hash of the last entry.
    """

    entries: list[dict[str, Any]] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    head: str = _FIRST


def audit_path() -> Path:
    """Where the log is: `DANLU_AUDIT`, or `audit.jsonl` in Danlu's home."""
    chosen = os.environ.get("DANLU_AUDIT")
    return Path(chosen).expanduser() if chosen else danlu_home() / "audit.jsonl"


def append(kind: str, fields: dict[str, Any]) -> str:
    """Adds a line, with the time, the user and the host; writers wait for each other.

    Args:
        kind: what was done, as in "training started".
        fields: what JSON can hold; no texts of rows.

    Returns:
        The line's hash.

    Raises:
        OSError: the log can't be written.
        ValueError: a field has a name that is the log's own.
    """
    from filelock import FileLock

    path = audit_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    about = {"kind": kind, "user": user_name(), "host": socket.gethostname()}
    if taken := _OWN & fields.keys():
        raise ValueError(f"the log's own: {sorted(taken)}")
    with FileLock(f"{path}.lock"):
        end = _end(path)
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        entry = {"number": end.number + 1, "time": now, **about, **fields}
        if end.torn:
            entry[_TORN] = hashlib.sha256(end.torn).hexdigest()
        entry["previous"] = end.hash
        entry["hash"] = _hash(entry)
        with path.open("ab") as stream:
            stream.write(b"\n" * end.is_open + _line(entry) + b"\n")
            stream.flush()
            os.fsync(stream.fileno())
        write_text(_head_path(path), f"{entry['number']} {entry['hash']}\n")
    return str(entry["hash"])


def read_audit(path: Path, head: str | None = None) -> Audit:
    """Reads a log and checks every line of it.

    Args:
        path: of the log; none is an empty one.
        head: a hash that was given once: an entry must have it.
    """
    audit = Audit()
    torn: bytes | None = None
    for place, line in _lines(path):
        where, entry = f"{path}:{place}", _parse(line)
        if torn is not None and (entry is None or entry.get(_TORN) != hashlib.sha256(torn).hexdigest()):
            audit.faults.append(Fault("this line is no entry: it was changed", f"{path}:{place - 1}", hint=_HINT))
        torn = None
        if entry is None:
            torn = line.rstrip(b"\n")
            continue
        audit.faults += _faults_of(entry, audit, where)
        audit.entries.append(entry)
        audit.head = str(entry["hash"])
    if torn is not None:
        audit.notes.append(f"{path}: the last line is torn: its writer was cut off")
    audit.faults += _missing(audit, path, head)
    return audit


def verify(head: str | None = None) -> dict[str, Any]:
    """Checks the whole log.

    Args:
        head: a hash that was given once.

    Returns:
        `path`, `entries` (their number), `head` (the last one's hash), `notes`.

    Raises:
        GateError: with a fault for each place that is not as it was written.
    """
    path = audit_path()
    audit = read_audit(path, head)
    result = {"path": str(path), "entries": len(audit.entries), "head": audit.head, "notes": audit.notes}
    if audit.faults:
        raise GateError(*audit.faults, result=result)
    return result


def entry_line(entry: dict[str, Any]) -> str:
    """An entry for people: when, who, what, and what else is short enough."""
    place = entry.get("adapter") or entry.get("run_folder", "")
    outcome = " ".join(str(entry[key]) for key in ("alias", "outcome", "why") if entry.get(key))
    who = f"{entry.get('user', '?')}@{entry.get('host', '?')}"
    return (
        f"{entry['number']:>5}  {entry.get('time', '?')}  {who}  {entry.get('kind', '?')}  {place}  {outcome}".rstrip()
    )


def _faults_of(entry: dict[str, Any], audit: Audit, where: str) -> list[Fault]:
    """What is wrong with an entry, after those before it."""
    faults = []
    if entry["hash"] != _hash(entry):
        faults.append(Fault("this entry was changed: its hash is another", where, hint=_HINT))
    if entry["previous"] != audit.head:
        last = int(audit.entries[-1]["number"]) if audit.entries else 0
        found = int(entry["number"])
        what = f"entry {found} does not follow entry {last}: "
        if found > last + 1:
            what += f"{found - last - 1} removed before it"
        else:
            what += "it was moved, or put in" if found != last + 1 else "the one before it was changed or replaced"
        faults.append(Fault(what, where, hint=_HINT))
    return faults


def _missing(audit: Audit, path: Path, head: str | None) -> list[Fault]:
    """What is missing at the end, or of what was known once."""
    faults, kept = [], _head_path(path)
    try:
        number, known = kept.read_text(encoding="ascii").split()
        last = int(number)
    except (OSError, ValueError):
        last, known = 0, _FIRST
        if audit.entries:
            faults.append(Fault("the note of the last entry is missing or unreadable", str(kept), hint=_HINT))
    hashes = [entry["hash"] for entry in audit.entries]
    if last and known not in hashes:
        what = f"entry {last} was written here, and is missing or another: lines were removed or changed"
        faults.append(Fault(what, f"{path}:{len(hashes) + 1}", hint=_HINT))
    if head is not None and head not in hashes:
        faults.append(Fault(f"no entry has the hash {head}: this is not the history that it was given for", str(path)))
    return faults


@dataclass(frozen=True)
class _End:
    """The end of a log: number and hash of the last whole entry, what is left of a line after it, an open line."""

    number: int = 0
    hash: str = _FIRST
    torn: bytes = b""
    is_open: bool = False


def _end(path: Path, block: int = 1 << 16) -> _End:
    """Reads a log from behind, as far as the last whole entry."""
    size = path.stat().st_size if path.is_file() else 0
    while size:
        with path.open("rb") as stream:
            stream.seek(max(0, size - block))
            lines = stream.read().split(b"\n")
        is_open, torn = bool(lines[-1]), b""
        for line in reversed(lines if block >= size else lines[1:]):
            entry = _parse(line)
            if entry is not None:
                return _End(entry["number"], str(entry["hash"]), torn, is_open)
            torn = torn or line
        if block >= size:
            return _End(torn=torn, is_open=is_open)
        block *= 4
    return _End()


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    if path.is_file():
        with path.open("rb") as stream:
            yield from enumerate(stream, 1)


def _parse(line: bytes) -> dict[str, Any] | None:
    """An entry; None of anything else."""
    try:
        entry = json.loads(line)
        return entry if {"number", "previous", "hash"} <= entry.keys() and isinstance(entry["number"], int) else None
    except (ValueError, AttributeError):
        return None


def _line(entry: dict[str, Any]) -> bytes:
    # Half characters, as names of files can hold, become JSON's own escapes.
    return json.dumps(entry, ensure_ascii=False, allow_nan=False).encode("utf-8", "backslashreplace")


def _hash(entry: dict[str, Any]) -> str:
    """SHA-256 of all of an entry but its hash."""
    return hashlib.sha256(_line({key: entry[key] for key in entry if key != "hash"})).hexdigest()


def _head_path(path: Path) -> Path:
    return path.with_name(path.name.removesuffix(".jsonl") + ".head")


def user_name() -> str:
    """Who runs this: the name of the process' user, or the number of one without a name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return str(os.getuid())
