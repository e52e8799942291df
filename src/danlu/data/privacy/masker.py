"""Replaces personal data in the texts of one row."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from danlu.data.privacy import forms
from danlu.data.privacy.names import find_names, names_again
from danlu.data.privacy.recognisers import RECOGNISERS, find_by_form

Mode = Literal["mask", "placeholder", "reversible"]
KINDS = (*dict.fromkeys(recogniser.kind for recogniser in RECOGNISERS), "name")

Place = tuple[int, int, str]


@dataclass(frozen=True)
class Masked:
    """A row's texts after masking.

    Attributes:
        texts: as many as were given, in their order.
        counts: places replaced, by kind.
        tokens: in reversible mode, what each token in the texts stands for; else empty.
    """

    texts: list[str]
    counts: dict[str, int]
    tokens: dict[str, str] = field(default_factory=dict)


class Masker:
    """Finds personal data and replaces it; equal rows become equal in every process.

    Args:
        mode: mask (138****5678), placeholder (`<MOBILE_1>`) or reversible (`<MOBILE_K7Q2M9XD3A>`).
        kinds: what is masked, of `KINDS`; null: all.
        names: people's names too.
        keep: regular expressions; a value that one of them matches whole stays.
        secret: the key file's secret; needed in reversible mode.

    Raises:
        ValueError: an unknown mode or kind, or no secret in reversible mode.
    """

    def __init__(
        self,
        *,
        mode: Mode,
        kinds: Sequence[str] | None = None,
        names: bool = True,
        keep: Sequence[str] = (),
        secret: bytes | None = None,
    ) -> None:
        if mode not in ("mask", "placeholder", "reversible"):
            raise ValueError(f"unknown mode {mode!r}")
        unknown = sorted(set(kinds or ()) - set(KINDS))
        if unknown:
            raise ValueError(f"unknown kinds {unknown}")
        if mode == "reversible" and not secret:
            raise ValueError("reversible masking needs a secret")
        self._mode = mode
        self._kinds = frozenset(kinds or KINDS)
        self._names = names and "name" in self._kinds
        self._keep = [re.compile(pattern) for pattern in keep]
        self._secret = secret or b""

    def mask(self, texts: Sequence[str]) -> Masked:
        """Replaces what is found in all texts of one row; they share the numbers of placeholders."""
        found = [self._places(text) for text in texts]
        if self._names:
            again = names_again(texts, found)
            found = [_without_overlaps([*places, *more]) for places, more in zip(found, again, strict=True)]
        if not any(found):
            return Masked(list(texts), {})
        row = _Row(self._mode, self._secret, texts)
        changed = [row.replace(text, places) for text, places in zip(texts, found, strict=True)]
        return Masked(changed, dict(Counter(kind for places in found for _, _, kind in places)), row.tokens)

    def _places(self, text: str) -> list[Place]:
        """What is masked in a text, in order, without overlaps; nothing inside a placeholder."""
        places: list[Place] = list(find_by_form(text, self._kinds))
        if self._names:
            places.extend((start, end, "name") for start, end in find_names(text))
        if not places:
            return []
        taken = [(start, end, "") for start, end, _, _ in forms.placeholders_in(text)]
        kept = [place for place in places if not self._is_kept(text[place[0] : place[1]])]
        return [place for place in _without_overlaps([*taken, *kept]) if place[2]]

    def _is_kept(self, value: str) -> bool:
        return any(pattern.fullmatch(value) for pattern in self._keep)


class _Row:
    """The tokens given out within one row."""

    def __init__(self, mode: Mode, secret: bytes, texts: Sequence[str]) -> None:
        self.tokens: dict[str, str] = {}
        self._mode = mode
        self._secret = secret
        self._numbers: dict[tuple[str, str], int] = {}
        self._last: Counter[str] = Counter()
        # Numbers that a text uses already are not given out: <MOBILE_1> typed by a user is not our first number.
        self._used = {(kind, number) for text in texts for _, _, kind, number in forms.placeholders_in(text)}

    def replace(self, text: str, places: list[Place]) -> str:
        parts, done = [], 0
        for start, end, kind in places:
            parts += [text[done:start], self._instead(kind, text[start:end])]
            done = end
        return "".join([*parts, text[done:]])

    def _instead(self, kind: str, value: str) -> str:
        if self._mode == "mask":
            return forms.partly_hidden(kind, value)
        if self._mode == "reversible":
            token = forms.reversible_token(kind, value, self._secret)
            self.tokens[token] = value
            return token
        return forms.placeholder(kind, self._number(kind, forms.normalised(kind, value)))

    def _number(self, kind: str, value: str) -> int:
        if (kind, value) not in self._numbers:
            number = self._last[kind] + 1
            while (kind.upper(), str(number)) in self._used:
                number += 1
            self._last[kind] = self._numbers[kind, value] = number
        return self._numbers[kind, value]


def _without_overlaps(places: list[Place]) -> list[Place]:
    """The places in order, each overlapping none that stood before it in the list."""
    free: list[Place] = []
    for place in places:
        at = bisect_left(free, place)
        if (at == 0 or free[at - 1][1] <= place[0]) and (at == len(free) or place[1] <= free[at][0]):
            free.insert(at, place)
    return free
