"""Keys and values of prompts and answers that were computed before, for those that begin alike."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from danlu.engines.row_cache import KeyValues, num_bytes_of

_Key = tuple[str | None, tuple[int, ...]]


class Prefixes:
    """The latest ones, by adapter and tokens.

    Args:
        max_bytes: the oldest go when there are more.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._held: OrderedDict[_Key, KeyValues] = OrderedDict()
        self.num_bytes = 0

    def longest(self, adapter: str | None, ids: Sequence[int]) -> tuple[KeyValues, int]:
        """What begins like these tokens, and how many of them are the same; the last is never among them."""
        best, most = None, 1
        for key in self._held:
            if key[0] == adapter and (same := _same(key[1], ids)) > most:
                best, most = key, same
        if best is None:
            return [], 0
        self._held.move_to_end(best)
        return self._held[best], min(most, len(ids) - 1)

    def keep(self, adapter: str | None, ids: Sequence[int], held: KeyValues) -> None:
        """Remembers; what is the beginning of it goes."""
        wanted = tuple(ids)
        for key in [key for key in self._held if key[0] == adapter and wanted[: len(key[1])] == key[1]]:
            self._drop(key)
        size = num_bytes_of(held)
        if size > self.max_bytes:
            return
        self._held[adapter, wanted] = held
        self.num_bytes += size
        while self.num_bytes > self.max_bytes:
            self._drop(next(iter(self._held)))

    def forget(self, adapter: str | None) -> None:
        """What an adapter computed that is gone."""
        for key in [key for key in self._held if key[0] == adapter]:
            self._drop(key)

    def _drop(self, key: _Key) -> None:
        self.num_bytes -= num_bytes_of(self._held.pop(key))


def _same(held: Sequence[int], ids: Sequence[int]) -> int:
    """How many tokens they begin with alike."""
    for place, (one, other) in enumerate(zip(held, ids, strict=False)):
        if one != other:
            return place
    return min(len(held), len(ids))
