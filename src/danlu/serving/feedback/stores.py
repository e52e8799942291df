"""Where feedback is kept: a file of JSON lines, or PostgreSQL."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock

from danlu.errors import DataError, Fault
from danlu.runs import danlu_home

_DATABASES = ("postgresql://", "postgres://")


class FeedbackStore(Protocol):
    """Keeps feedback."""

    def start(self) -> None:
        """Takes up what an earlier process left undone."""
        ...

    def add(self, record: dict[str, Any]) -> None:
        """Keeps one; once this ends it can't be lost any more.

        Raises:
            OSError: it can't be kept.
        """
        ...

    def records(self) -> Iterator[dict[str, Any]]:
        """All that was kept, oldest first.

        Raises:
            DataError: something is no feedback.
        """
        ...

    def close(self) -> None:
        """Nothing more will be added."""
        ...


class JsonLines:
    """A file with a line for each; several processes may write it.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def start(self) -> None:
        """Nothing is ever left undone."""

    def add(self, record: dict[str, Any]) -> None:
        """Appends a line, and waits for the disk."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps(record, ensure_ascii=False).encode("utf-8", "backslashreplace")
        with FileLock(f"{self.path}.lock"), self.path.open("ab+") as stream:
            stream.seek(0, os.SEEK_END)
            if stream.tell():
                stream.seek(-1, os.SEEK_END)
                if stream.read(1) != b"\n":  # a writer was cut off
                    line = b"\n" + line
            stream.write(line + b"\n")
            stream.flush()
            os.fsync(stream.fileno())

    def records(self) -> Iterator[dict[str, Any]]:
        """The lines; one that was cut off was never promised to anybody, and is left out."""
        try:
            with self.path.open("rb") as stream:
                for number, line in enumerate(stream, 1):
                    try:
                        record = json.loads(line)
                    except ValueError:
                        record = None if line.strip() else {}
                    if record is None:
                        continue
                    yield _required(record, f"{self.path}:{number}")
        except OSError as error:
            hint = "name the file or the database that `danlu serve --feedback` was given"
            raise DataError(Fault(f"no feedback can be read: {error.strerror}", str(self.path), hint=hint)) from error

    def close(self) -> None:
        """There is nothing to close."""


def open_store(where: str | None) -> FeedbackStore:
    """A store by its name.

    Args:
        where: a file, or `postgresql://USER@HOST/DATABASE`; None: `feedback.jsonl` in Danlu's home.

    Raises:
        InputError: the name is none of a database.
        ResourceError: the library for PostgreSQL is not installed.
    """
    if where is not None and where.startswith(_DATABASES):
        from danlu.serving.feedback.postgres import Postgres

        return Postgres(where, danlu_home() / "feedback-waiting")
    return JsonLines(Path(where).expanduser() if where else danlu_home() / "feedback.jsonl")


def _required(record: Any, where: str) -> dict[str, Any]:
    if not isinstance(record, dict) or not {"id", "answer", "messages", "said"} <= record.keys():
        raise DataError(Fault("this line is no feedback", where, hint="take the line out; nothing else wrote it"))
    return record
