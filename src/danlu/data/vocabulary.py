"""What a byte-level vocabulary says about where a text may be cut without changing its tokens.

Byte-pair encoding only ever joins two tokens into one that is in the vocabulary. So where no token of the vocabulary
reaches over the place between two characters, the tokens on its left and right do not depend on each other.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from operator import add

_FIRST, _LAST = 0x4E00, 0x9FA5  # ideographs that are letters in every Unicode version
_IDEOGRAPH = f"{chr(_FIRST)}-{chr(_LAST)}"
_SIGNS = "，。；：！？、（）《》“”‘’…—"
_LONG_UNIT = 4  # characters


def byte_letters() -> dict[int, str]:
    """The letter that byte-level tokenizers write for each byte (as in GPT-2's `bytes_to_unicode`)."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in set(shown)]
    return {**{byte: chr(byte) for byte in shown}, **{byte: chr(256 + n) for n, byte in enumerate(hidden)}}


class IdeographCuts:
    """Cuts Chinese text into the smallest parts that no token reaches over.

    Args:
        tokens: the vocabulary, written in byte letters.
        after_signs: whether the tokenizer never joins a sign and the letter after it.
    """

    def __init__(self, tokens: Iterable[str], after_signs: bool) -> None:
        self._joined: dict[str, bool] = {}
        self._bridges = _bridges(tokens)
        self._units = re.compile(_unit_pattern(self._bridges, after_signs))

    def parts(self, text: str) -> list[str]:
        """The text in parts, to be encoded each for itself."""
        parts: list[str] = []
        for unit in self._units.findall(text):
            if len(unit) < _LONG_UNIT:
                parts.append(unit)
            else:
                parts += self._finer(unit)
        return parts

    def _finer(self, text: str) -> list[str]:
        """Cuts by pairs of characters what can't be cut by single ones."""
        parts = []
        start = 0
        joined = self._joined
        for place, pair in enumerate(map(add, text, text[1:]), 1):
            held = joined.get(pair)
            if held is None:
                held = joined[pair] = self._is_held(pair)
            if not held:
                parts.append(text[start:place])
                start = place
        parts.append(text[start:])
        return parts

    def _is_held(self, pair: str) -> bool:
        if any(not _FIRST <= ord(character) <= _LAST for character in pair):
            return True
        left, right = pair[0].encode(), pair[1].encode()
        return any((left[skip:], right[:take]) in self._bridges for skip in range(3) for take in range(1, 4))


def _unit_pattern(bridges: set[tuple[bytes, bytes]], after_signs: bool) -> str:
    """Finds what lies between cuts, as far as single characters tell.

    Cuts are between two ideographs unless a token reaches beyond the first and one reaches into the second, before a
    sign that follows an ideograph, and, with `after_signs`, before an ideograph that follows a sign.
    """
    ends, starts = {left for left, _ in bridges}, {right for _, right in bridges}
    reached_from, reached_into = [], []
    for number in range(_FIRST, _LAST + 1) if bridges else ():
        raw = chr(number).encode()
        if raw in ends or raw[1:] in ends or raw[2:] in ends:
            reached_from.append(chr(number))
        if raw in starts or raw[:2] in starts or raw[:1] in starts:
            reached_into.append(chr(number))
    held = f"(?:(?<=[{''.join(reached_from)}])[{''.join(reached_into)}])*" if reached_from and reached_into else ""
    ideographs = f"[{_IDEOGRAPH}]{held}"
    loose = f"(?<![{_SIGNS}])" if after_signs else ""
    rest = f"[^{_IDEOGRAPH}]"
    return f"(?:{rest}+{loose})?{ideographs}(?:[^{_IDEOGRAPH}{_SIGNS}]{rest}*(?:{loose}{ideographs})?)*|{rest}+"


def _bridges(tokens: Iterable[str]) -> set[tuple[bytes, bytes]]:
    """For each token that reaches from one character into an ideograph: its bytes of the two beside the edge."""
    letters = byte_letters()
    to_byte = {letter: byte for byte, letter in letters.items()}
    follows = "".join(letters[byte] for byte in range(0x80, 0xC0))
    begins = "".join(letters[byte] for byte in range(0xE4, 0xEA))
    edge = re.compile(f"(?<=[{re.escape(follows)}])(?=[{re.escape(begins)}])")
    found = set()
    for token in tokens:
        for match in edge.finditer(token):
            raw = bytes(to_byte.get(letter, 0) for letter in token)
            place = match.start()
            start = place - 1
            while start > 0 and 0x80 <= raw[start] < 0xC0:
                start -= 1
            found.add((raw[max(start, place - 3) : place], raw[place : place + 3]))
    return found
