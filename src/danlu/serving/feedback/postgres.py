"""Feedback in PostgreSQL; while it is away, feedback waits in files of its own and nothing is lost.

Each record is first a file, on the disk before the user hears that it was taken; a thread brings the files to the
database and removes one only once its row is there. A row that is brought twice is one row.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from danlu.errors import DataError, Fault, InputError, ResourceError
from danlu.runs import write_json
from danlu.tracking.progress import say

_AGAIN_SECONDS, _CONNECT_SECONDS = 2.0, 5
_TABLE = """
CREATE TABLE IF NOT EXISTS danlu_feedback (
  id text PRIMARY KEY,
  number bigserial,
  made timestamptz NOT NULL,
  model text NOT NULL,
  rating text,
  record jsonb NOT NULL
)
"""
_ADD = """
INSERT INTO danlu_feedback (id, made, model, rating, record) VALUES (%s, %s, %s, %s, %s) ON CONFLICT (id) DO NOTHING
"""
_ALL = "SELECT record FROM danlu_feedback ORDER BY number"


class Postgres:
    """See `danlu.serving.feedback.stores.FeedbackStore`.

    Args:
        url: `postgresql://USER:PASSWORD@HOST:PORT/DATABASE`; the table is made.
        waiting_folder: for what is not there yet.

    Raises:
        InputError: the URL is none.
        ResourceError: psycopg is not installed.
    """

    def __init__(self, url: str, waiting_folder: Path) -> None:
        try:
            import psycopg
            from psycopg.conninfo import conninfo_to_dict
        except ImportError as error:
            raise ResourceError(Fault("psycopg is not installed", hint="pip install 'danlu[postgres]'")) from error
        try:
            about = conninfo_to_dict(url)
        except psycopg.Error as error:
            allowed = "postgresql://USER:PASSWORD@HOST:PORT/DATABASE"
            raise InputError(Fault(f"this is no address of PostgreSQL: {error}", "--feedback", allowed)) from error
        self.shown = f"{about.get('host', 'localhost')}/{about.get('dbname', '')}"
        self._psycopg, self._url, self._waiting = psycopg, url, waiting_folder
        self._come, self._ends = threading.Event(), False
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def add(self, record: dict[str, Any]) -> None:
        """Keeps a file, and lets the thread know."""
        self._waiting.mkdir(parents=True, exist_ok=True)
        write_json(self._waiting / f"{record['time'].replace(':', '')}-{record['id']}.json", record)
        self.start()

    def start(self) -> None:
        """Brings what waits; what an earlier process left, too."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, daemon=True)
                self._thread.start()
        self._come.set()

    def records(self) -> Iterator[dict[str, Any]]:
        """All rows, in the order in which they came; what waits is brought first."""
        try:
            with self._connected() as connection:
                self._bring(connection)
                rows = connection.execute(_ALL).fetchall()
        except (self._psycopg.Error, OSError) as error:
            hint = "start it, or check the address; what waits is safe"
            raise DataError(Fault(f"PostgreSQL can't be asked: {_short(error)}", self.shown, hint=hint)) from error
        yield from (row[0] for row in rows)

    def close(self) -> None:
        """Tries once more to bring what waits; what can't be brought stays for the next start."""
        self._ends = True
        self._come.set()
        if self._thread is not None:
            self._thread.join(_CONNECT_SECONDS + 1)

    def _run(self) -> None:
        away = False
        while True:
            self._come.wait(_AGAIN_SECONDS if away else None)
            self._come.clear()
            try:
                with self._connected() as connection:
                    self._bring(connection)
                if away:
                    say(f"feedback: PostgreSQL is back ({self.shown}), what waited is there")
                away = False
            except (self._psycopg.Error, OSError) as error:
                if not away:
                    waits = f"feedback waits in {self._waiting}"
                    say(f"warning: PostgreSQL is away ({self.shown}), {waits}: {_short(error)}")
                away = True
            if self._ends:
                return
            if away:
                time.sleep(0.1)

    def _connected(self) -> Any:
        return self._psycopg.connect(self._url, connect_timeout=_CONNECT_SECONDS, autocommit=True)

    def _bring(self, connection: Any) -> None:
        connection.execute(_TABLE)
        for path in sorted(self._waiting.glob("*.json")):
            try:
                record = json.loads(path.read_bytes())
            except FileNotFoundError:
                continue  # another gateway of this machine was faster
            row = (record["id"], record["time"], record["model"], record["rating"], json.dumps(record))
            connection.execute(_ADD, row)
            path.unlink(missing_ok=True)


def _short(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
