"""Foreign names written in Chinese characters: taken whole or left alone, never a part of one.

Characters that transliterations are written with also stand in Chinese names and in plain words. How often each
stands in a transliteration is counted in jieba's dictionary (its words tagged nrt). From that comes the cost of reading
a run of them as one foreign word, to be set against plain words and Chinese names; and where 阿尔伯特·爱因斯坦 begins
and ends among plain words.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import lru_cache

from danlu.data.privacy import names_zh_words as words

_DOTS = words.DOTS
_DOT = re.compile(f"[{_DOTS}]")
_HYPHENS = "-－‐–"
_HYPHEN = re.escape(_HYPHENS)
_HAN = re.compile("[\u4e00-\u9fff]")
_NEXT_HAN = re.compile("[\u4e00-\u9fff]{0,6}")
_PART = re.compile(f"[^{_DOTS}{_HYPHEN}]*")
_TITLE = re.compile(
    rf"(?<![{_DOTS}])(?:女士|先生|小姐|夫人|教授|博士|医生|老师|队长|侦探|爵士|[曾说在于和为及与])[^{_DOTS}]*$"
)
# Of the characters of transliterations, those that are a word of their own in front of a name.
_FUNCTION_WORDS = "为能"
# Natural logarithms, as in names_zh; set on the development half.
_RUN = 5.0
_UNKNOWN = 17.5
_RARE_ALONE = 11.0
_A_LITTLE, _MUCH = 1.0, 3.0
_USUAL = 5.5
_FEWEST_OF_DOTTED = 2
_LONGEST_RUN = 9
_BEFORE_DOT, _BEHIND_DOT = 22, 60
_LONGEST_WORD = 4
_WINDOW = 6
_FEWEST_OF_TRANSLITERATION = 3


class Transliterations:
    """What foreign words in Chinese characters cost.

    Args:
        costs: cost of each plain word.
        seen: how often each character stands in words that are transliterations.
    """

    def __init__(self, costs: Mapping[str, float], seen: Counter[str]) -> None:
        characters = words.foreign()
        total = math.log(sum(seen.values()) + 0.5 * len(characters))
        self._words = costs
        self._costs = {character: total - math.log(seen[character] + 0.5) for character in characters}
        self._run = re.compile(f"[{characters}]{{2,}}")
        part = f"[{characters}]{{1,10}}(?:[{_HYPHEN}][{characters}]{{1,10}})?"
        initial = "[A-Z][.．]?"
        self._dotted = re.compile(
            rf"(?:{part}|(?<![A-Za-z0-9]){initial})(?:[{_DOTS}](?:{part}|{initial}(?=[{_DOTS}]))){{1,4}}"
        )

    def runs(self, text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Begin and end of the longest runs of characters that could be a foreign word."""
        for match in self._run.finditer(text, start, end):
            yield match.span()

    def ends(self, text: str, start: int, end: int) -> list[tuple[int, float]]:
        """Where a foreign word that begins at `start` within a run could end, and its cost."""
        found, cost = [], _RUN + self._costs[text[start]]
        for stop in range(start + 2, min(end, start + _LONGEST_RUN) + 1):
            cost += self._costs[text[stop - 1]]
            found.append((stop, cost))
        return found

    def is_usual(self, characters: str) -> bool:
        """Whether characters are, on average, frequent ones of transliterations."""
        return self._sum(characters) < _USUAL * len(characters)

    def dotted(self, text: str) -> Iterator[tuple[int, int]]:
        """Begin and end of each foreign name with dots between its parts: 阿尔伯特·爱因斯坦."""
        done = 0
        for dot in _DOT.finditer(text):
            # Searched from just before the dot: a search of the whole text costs as much as all the rest.
            if dot.start() < done:
                continue
            match = self._dotted.search(text, max(done, dot.start() - _BEFORE_DOT), dot.end() + _BEHIND_DOT)
            if not match:
                continue
            start, done = match.span()
            end = done
            title = _TITLE.search(match[0])
            if title:
                end = start + title.start()
            if self._is_end_of_word(text, start):
                continue
            last = start + max(match[0].rfind(sign, 0, end - start) for sign in _DOTS + _HYPHENS) + 1
            first = self._start(text, start)
            end = self._end(text, last, end)
            if len(_HAN.findall(text[first:end])) >= _FEWEST_OF_DOTTED:
                yield first, end

    def _is_end_of_word(self, text: str, start: int) -> bool:
        """Whether a word goes on up to the dot: 临江仙 is a tune, 江仙 no foreign name."""
        dot = next(at for at in range(start, len(text)) if text[at] in _DOTS + _HYPHENS)
        for at in range(max(0, dot - _LONGEST_WORD), start):
            cost = self._words.get(text[at:dot])
            if cost is not None and cost + 2 * _MUCH < self._as_words(text[at:start]) + self._sum(text[start:dot]):
                return True
        return False

    def _sum(self, characters: str) -> float:
        return sum(self._costs.get(character, _UNKNOWN) for character in characters)

    def _start(self, text: str, start: int) -> int:
        """The begin without what belongs to a word in front (总理|温斯顿), and with what was left out."""
        while start >= 3 and self._is_link(text, start - 1) and self._run.fullmatch(text, start - 3, start - 1):
            start -= 1
            while start > 0 and text[start - 1] in self._costs:
                start -= 1
        part = _PART.match(text, start)
        assert part is not None
        before = re.split("[^\u4e00-\u9fff]", text[max(0, start - _WINDOW) : start])[-1]
        if part.end() - start > 1 and text[start] in _FUNCTION_WORDS:
            return start + 1
        whole = self._as_words(before)
        for cut in range(1, min(_LONGEST_WORD, part.end() - start)):
            word_begins = [
                at
                for at in range(max(0, len(before) + cut - _LONGEST_WORD), len(before))
                if before[at:] + text[start : start + cut] in self._words
            ]
            foreign = self._sum(text[start : start + cut])
            for at in word_begins:
                plain = self._as_words(before[:at]) + self._words[before[at:] + text[start : start + cut]]
                if plain + _A_LITTLE < whole + foreign:
                    return start + cut
        return start

    def _end(self, text: str, last: int, end: int) -> int:
        """The end of a name's last part without what belongs to a word behind (巴顿|合作).

        Args:
            text: the whole text.
            last: where the last part begins.
            end: where its run of characters ends.
        """
        if end - last > 1 and text[end - 1 : end + 1] in words.titles():
            return end - 1
        after = _NEXT_HAN.match(text, end)
        assert after is not None
        whole = self._as_words(after[0])
        for cut in range(1, min(_LONGEST_WORD, end - last)):
            kept = text[end - cut : end]
            foreign = self._sum(kept)
            for length in range(1, _LONGEST_WORD - cut + 1):
                word = kept + after[0][:length]
                if length <= len(after[0]) and word in self._words:
                    plain = self._words[word] + self._as_words(after[0][length:])
                    if plain + _A_LITTLE < whole + foreign and text[last:end] not in self._words:
                        return end - cut
        # A word that begins with the part goes on: 博|世, 日喀|则.
        return end + 1 if after[0] and text[last : end + 1] in self._words else end

    def _is_link(self, text: str, at: int) -> bool:
        """Whether a character is seldom a word by itself, and none with its neighbour: 谟 in 伊拉斯谟."""
        character = text[at : at + 1]
        return (
            bool(_HAN.fullmatch(character))
            and character not in self._costs
            and self._words.get(character, _UNKNOWN) >= _RARE_ALONE
            and text[at : at + 2] not in self._words
            and text[max(0, at - 1) : at + 1] not in self._words
        )

    def _as_words(self, characters: str) -> float:
        """The cheapest way through a few characters."""
        best = [0.0] * (len(characters) + 1)
        for place in range(len(characters) - 1, -1, -1):
            best[place] = self._words.get(characters[place], _UNKNOWN) + best[place + 1]
            for stop in range(place + 2, min(place + _LONGEST_WORD, len(characters)) + 1):
                cost = self._words.get(characters[place:stop])
                if cost is not None:
                    best[place] = min(best[place], cost + best[stop])
        return best[0]


@lru_cache(maxsize=1)
def _characters() -> frozenset[str]:
    return frozenset(words.foreign())


def count_transliteration(word: str, tag: str, seen: Counter[str]) -> None:
    """Counts the characters of a word of jieba's dictionary that is a transliteration.

    Args:
        word: the word.
        tag: its part of speech; nrt: a name written by sound.
        seen: where to count.
    """
    if tag == "nrt" and len(word) >= _FEWEST_OF_TRANSLITERATION and _characters().issuperset(word):
        seen.update(word)


def has_dot(text: str) -> bool:
    """Whether a text has a dot that parts of foreign names are joined with."""
    return _DOT.search(text) is not None
