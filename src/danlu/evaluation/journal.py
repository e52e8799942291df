"""What an evaluation has been answered so far, line by line, so that one that was stopped goes on from there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

JOURNAL = "answers.partial.jsonl"


class Journal:
    """A file of lines, each with a key and a value; one cut off in the middle does not count.

    Args:
        path: the file; made if it is not there.
        asked: what the lines are answers to; those of a file about something else are not taken.
    """

    def __init__(self, path: Path, asked: str) -> None:
        self._known: dict[tuple[str, ...], Any] = {}
        lines = path.read_bytes().split(b"\n")[:-1] if path.is_file() else []
        if not lines or not self.is_about(path, asked):
            lines = [json.dumps({"asked": asked}).encode()]
        kept = []
        for line in lines:
            try:
                value = json.loads(line)
            except ValueError:
                break
            kept.append(line)
            if "key" in value:
                self._known[tuple(value["key"])] = value["value"]
        path.write_bytes(b"".join(line + b"\n" for line in kept))
        self._file = path.open("a", encoding="utf-8", errors="backslashreplace")
        self._path = path

    @staticmethod
    def is_about(path: Path, asked: str) -> bool:
        """Whether a file's lines are answers to this."""
        try:
            with path.open(encoding="utf-8") as stream:
                return bool(json.loads(stream.readline()).get("asked") == asked)
        except (OSError, ValueError, AttributeError):
            return False

    def __len__(self) -> int:
        return len(self._known)

    def get(self, *key: str) -> Any:
        """The value noted, or None."""
        return self._known.get(key)

    def put(self, values: dict[tuple[str, ...], Any]) -> None:
        """Notes values, together: all of their lines are on disk afterwards, in the order given."""
        lines = [json.dumps({"key": key, "value": value}, ensure_ascii=False) + "\n" for key, value in values.items()]
        self._file.write("".join(lines))
        self._file.flush()
        self._known |= values

    def close(self) -> None:
        """Nothing more comes."""
        self._file.close()

    def remove(self) -> None:
        """Closes and removes the file: what it held is kept elsewhere."""
        self.close()
        self._path.unlink(missing_ok=True)
