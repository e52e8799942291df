"""What an entry is, where the files of the log are, and how the chain ends."""

from __future__ import annotations

import getpass
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from danlu.runs import danlu_home

FIRST = "0" * 64
OWN = frozenset({"number", "time", "kind", "user", "host", "after_torn", "previous", "hash"})
TORN = "after_torn"  # key of a line that follows one that was cut off: the hash of what is left of that


@dataclass(frozen=True)
class End:
    """The end of a log: number and hash of the last whole entry, what is left of a line after it, an open line."""

    number: int = 0
    hash: str = FIRST
    torn: bytes = b""
    is_open: bool = False


def audit_path() -> Path:
    """Where the log is: `DANLU_AUDIT`, or `audit.jsonl` in Danlu's home."""
    chosen = os.environ.get("DANLU_AUDIT")
    return Path(chosen).expanduser() if chosen else danlu_home() / "audit.jsonl"


def head_path(path: Path) -> Path:
    """Where the number and the hash of the last entry are noted."""
    return path.with_name(path.name.removesuffix(".jsonl") + ".head")


def aside_path(path: Path, first_number: int) -> Path:
    """Where a file goes that has grown large."""
    return path.with_name(f"{path.name.removesuffix('.jsonl')}-{first_number:012d}.jsonl")


def files_of(path: Path) -> list[Path]:
    """The files of a log, oldest first, the one that is written last."""
    aside = sorted(path.parent.glob(path.name.removesuffix(".jsonl") + "-" + "[0-9]" * 12 + ".jsonl"))
    return [*aside, *([path] if path.is_file() else [])]


def noted_end(path: Path) -> End | None:
    """The last entry by its note; None if there is none that can be read."""
    try:
        number, known = head_path(path).read_text(encoding="ascii").split()
        return End(int(number), known)
    except (OSError, ValueError):
        return None


def parse(line: bytes) -> dict[str, Any] | None:
    """An entry; None of anything else."""
    try:
        entry = json.loads(line)
        return entry if {"number", "previous", "hash"} <= entry.keys() and isinstance(entry["number"], int) else None
    except (ValueError, AttributeError):
        return None


def line_of(entry: dict[str, Any]) -> bytes:
    """An entry in bytes, without the end of the line."""
    # Half characters, as names of files can hold, become JSON's own escapes.
    return json.dumps(entry, ensure_ascii=False, allow_nan=False).encode("utf-8", "backslashreplace")


def hash_of(entry: dict[str, Any]) -> str:
    """SHA-256 of all of an entry but its hash."""
    return hashlib.sha256(line_of({key: entry[key] for key in entry if key != "hash"})).hexdigest()


def user_name() -> str:
    """Who runs this: the name of the process' user, or the number of one without a name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return str(os.getuid())
