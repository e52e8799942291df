"""Reads the log, checks every line of it, and says what is in it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from danlu.audit.chain import FIRST, TORN, audit_path, files_of, hash_of, head_path, noted_end, parse
from danlu.errors import Fault, GateError

_HINT = "compare it with a copy of the log; from this place on it does not prove what was done"


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
    head: str = FIRST


def read_audit(path: Path, head: str | None = None) -> Audit:
    """Reads a log and checks every line of it.

    Args:
        path: of the log; none is an empty one.
        head: a hash that was given once: an entry must have it.
    """
    audit = Audit()
    torn: bytes | None = None
    torn_where = ""
    for where, line in _lines(path):
        entry = parse(line)
        if torn is not None and (entry is None or entry.get(TORN) != hashlib.sha256(torn).hexdigest()):
            audit.faults.append(Fault("this line is no entry: it was changed", torn_where, hint=_HINT))
        torn = None
        if entry is None:
            torn, torn_where = line.rstrip(b"\n"), where
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
    key = entry.get("key")
    asker = key.get("name", "") if isinstance(key, dict) else entry.get("key_name") or ""
    place = entry.get("adapter") or entry.get("run_folder") or entry.get("model") or entry.get("path") or ""
    told = (asker, *(entry.get(key) for key in ("alias", "outcome", "why", "status")))
    outcome = " ".join(str(one) for one in told if one)
    who = f"{entry.get('user', '?')}@{entry.get('host', '?')}"
    return (
        f"{entry['number']:>5}  {entry.get('time', '?')}  {who}  {entry.get('kind', '?')}  {place}  {outcome}".rstrip()
    )


def _faults_of(entry: dict[str, Any], audit: Audit, where: str) -> list[Fault]:
    """What is wrong with an entry, after those before it."""
    faults = []
    if entry["hash"] != hash_of(entry):
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
    faults, noted = [], noted_end(path)
    if noted is None and audit.entries:
        what = "the note of the last entry is missing or unreadable"
        faults.append(Fault(what, str(head_path(path)), hint=_HINT))
    hashes = {entry["hash"] for entry in audit.entries}
    if noted is not None and noted.number and noted.hash not in hashes:
        what = f"entry {noted.number} was written here, and is missing or another: lines were removed or changed"
        faults.append(Fault(what, f"{path}:{_num_lines(path) + 1}", hint=_HINT))
    if head is not None and head not in hashes:
        faults.append(Fault(f"no entry has the hash {head}: this is not the history that it was given for", str(path)))
    return faults


def _lines(path: Path) -> Iterator[tuple[str, bytes]]:
    """All lines of all files, each with its place."""
    for file in files_of(path):
        with file.open("rb") as stream:
            for place, line in enumerate(stream, 1):
                yield f"{file}:{place}", line


def _num_lines(path: Path) -> int:
    if not path.is_file():
        return 0
    with path.open("rb") as stream:
        return sum(1 for _ in stream)
