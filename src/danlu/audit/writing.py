"""Adds entries to the log."""

from __future__ import annotations

import hashlib
import os
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock

from danlu.audit.chain import (
    OWN,
    TORN,
    End,
    aside_path,
    audit_path,
    files_of,
    hash_of,
    head_path,
    line_of,
    noted_end,
    parse,
    user_name,
)
from danlu.runs import write_text

_LARGE = 64 << 20  # bytes, after which a file is put aside


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
    return append_all([(kind, fields)])


def append_all(acts: Sequence[tuple[str, dict[str, Any]]], large_bytes: int = _LARGE) -> str:
    """Adds a line for each act, in their order; all are on the disk once this ends.

    Args:
        acts: kind and fields of each, as `append` has them; at least one.
        large_bytes: a file of this size is put aside first.

    Returns:
        The last line's hash.

    Raises:
        OSError: the log can't be written.
        ValueError: a field has a name that is the log's own.
    """
    path = audit_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    about = {"user": user_name(), "host": socket.gethostname()}
    for _, fields in acts:
        if taken := OWN & fields.keys():
            raise ValueError(f"the log's own: {sorted(taken)}")
    with FileLock(f"{path}.lock"):
        if path.is_file() and path.stat().st_size >= large_bytes:
            _put_aside(path)
        end = _end(path)
        number, previous, torn = end.number, end.hash, end.torn
        lines = []
        for kind, fields in acts:
            number += 1
            now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            entry = {"number": number, "time": now, "kind": kind, **about, **fields}
            if torn:
                entry[TORN] = hashlib.sha256(torn).hexdigest()
            torn = b""
            entry["previous"] = previous
            entry["hash"] = previous = hash_of(entry)
            lines.append(line_of(entry) + b"\n")
        with path.open("ab") as stream:
            stream.write(b"\n" * end.is_open + b"".join(lines))
            stream.flush()
            os.fsync(stream.fileno())
        write_text(head_path(path), f"{number} {previous}\n")
    return previous


def rotate() -> Path | None:
    """Puts the file that is written aside, and lets the chain go on in a new one; None if it has no entry.

    Raises:
        OSError: it can't be renamed.
    """
    path = audit_path()
    if not path.is_file():
        return None
    with FileLock(f"{path}.lock"):
        return _put_aside(path)


def _put_aside(path: Path) -> Path | None:
    with path.open("rb") as stream:
        first = next((entry for entry in map(parse, stream) if entry is not None), None)
    if first is None:
        return None
    aside = aside_path(path, first["number"])
    while aside.exists():  # the numbers begin anew if someone took note and files away
        aside = aside_path(path, int(aside.stem.rpartition("-")[2]) + 1)
    path.rename(aside)
    return aside


def _end(path: Path) -> End:
    """Where the next entry goes on.

    What the note knows and the files have no more was taken away: the chain goes on behind it, so that it is missed.
    """
    found = last_of(path)
    if not found.number:
        before = next((end for file in reversed(files_of(path)) if (end := last_of(file)).number), found)
        found = End(before.number, before.hash, found.torn, found.is_open)
    noted = noted_end(path)
    if noted is not None and (noted.number > found.number or (noted.number == found.number and noted != found)):
        return End(noted.number, noted.hash, found.torn, found.is_open)
    return found


def last_of(path: Path, block: int = 1 << 16) -> End:
    """Reads a file from behind, as far as the last whole entry."""
    size = path.stat().st_size if path.is_file() else 0
    while size:
        with path.open("rb") as stream:
            stream.seek(max(0, size - block))
            lines = stream.read().split(b"\n")
        is_open, torn = bool(lines[-1]), b""
        for line in reversed(lines if block >= size else lines[1:]):
            entry = parse(line)
            if entry is not None:
                return End(entry["number"], str(entry["hash"]), torn, is_open)
            torn = torn or line
        if block >= size:
            return End(torn=torn, is_open=is_open)
        block *= 4
    return End()
