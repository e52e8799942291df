"""The text of an answer while its tokens come: what is certain is given out, stop strings end it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_TORN = "\ufffd"  # what a tokenizer writes for a character whose bytes are not all there yet


class AnswerText:
    """One answer's text.

    Args:
        tokenizer: of the model.
        stop: texts that end the answer, and are no part of it.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str] = ()) -> None:
        self._tokenizer, self._stop = tokenizer, tuple(stop)
        self._ids: list[int] = []
        self.text = ""  # what was given out

    def add(self, token: int) -> tuple[str, bool]:
        """The piece that is certain now, and whether a stop string has come."""
        self._ids.append(token)
        whole = self._decoded()
        place = self._stopped(whole)
        if place is not None:
            return self._give(whole[:place]), True
        certain = whole.rstrip(_TORN)
        return self._give(certain[: len(certain) - self._held_back(certain)]), False

    def end(self) -> str:
        """What is left when no token follows."""
        return self._give(self._decoded())

    def _decoded(self) -> str:
        text: str = self._tokenizer.decode(self._ids, skip_special_tokens=True)
        return text

    def _give(self, upto: str) -> str:
        piece = upto[len(self.text) :]
        self.text += piece
        return piece

    def _stopped(self, whole: str) -> int | None:
        """Where the first stop string begins."""
        places = [place for stop in self._stop if (place := whole.find(stop, len(self.text))) >= 0]
        return min(places, default=None)

    def _held_back(self, certain: str) -> int:
        """Characters at the end that may be the beginning of a stop string."""
        longest = max((len(stop) for stop in self._stop), default=0)
        for count in range(min(longest - 1, len(certain) - len(self.text)), 0, -1):
            if any(stop.startswith(certain[-count:]) for stop in self._stop):
                return count
        return 0
