"""The audit log for those whose work must not end because it can't be written."""

from __future__ import annotations

from typing import Any

from danlu.audit import append, audit_path
from danlu.tracking.progress import say


def record(kind: str, fields: dict[str, Any]) -> str:
    """Adds to the audit log; a log that can't be written stops nothing, but is said. Gives the entry's hash, or ""."""
    try:
        return append(kind, fields)
    except OSError as error:
        say(
            f"the audit log can't be written, and this is not in it: {kind} ({audit_path()}: {error.strerror or error})"
        )
        return ""
