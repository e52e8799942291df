"""Chinese people's names in running text.

A clause is cut into the cheapest words (a word costs the negative logarithm of its probability, as jieba counted
them; dynamic programming over the clause), where a name is one more kind of word: its cost comes from how common the
family name is, how often its characters stand in given names, and the words beside it. The idea is that of role-based
name recognition in Chinese word segmentation (Zhang and Liu 2002, ICTCLAS). Well-known people who stand in jieba's
dictionary as words are cut as words, and stay.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from functools import lru_cache

from danlu.data.privacy import names_zh_words as words
from danlu.errors import DataError, Fault

_LONGEST_WORD = 5
_LONGEST_CLAUSE = 40
_CLAUSE = re.compile("[\u4e00-\u9fff]{2,}")
_TITLE = re.compile("(?<!·)(?:女士|先生|小姐|夫人|教授|博士|医生|老师|队长|侦探|爵士|[曾说在于和为及与])[^·•‧]*$")
_LABELS = (
    "姓名|名字|联系人|收件人|收货人|寄件人|发件人|持卡人|开户人|户名|经办人|负责人|"
    "法定代表人|法人|代理人|受益人|投保人|申请人"
)
# Natural logarithms; set on the development half of the planted sentences and the Chinese rows of open data sets.
_NAME = 5.5
_ONE_CHARACTER, _TWO_CHARACTERS = 2.0, 0.35
_UNKNOWN = 17.5
_FAME = 300
_COUNT_OF_MODERN = 500


def find_chinese(text: str) -> Iterator[tuple[int, int]]:
    """Begin and end of each name in Chinese characters; may overlap.

    Raises:
        DataError: jieba, whose word list is needed, is not installed.
    """
    if "·" in text or "•" in text or "‧" in text:
        for match in _patterns()["dotted"].finditer(text):
            title = _TITLE.search(match[0])
            yield match.start(), match.start() + title.start() if title else match.end()
    for match in _patterns()["labelled"].finditer(text):
        yield match.span(1)
    for match in _CLAUSE.finditer(text):
        for start in range(match.start(), match.end(), _LONGEST_CLAUSE):
            yield from _names_in_clause(text, start, min(match.end(), start + _LONGEST_CLAUSE))


@lru_cache(maxsize=1)
def _patterns() -> dict[str, re.Pattern[str]]:
    """family: where a name could begin; labelled: behind 姓名 and the like; dotted: 阿尔伯特·爱因斯坦."""
    family = f"(?:[{''.join(words.family_costs())}]|{'|'.join(words.double_families())})"
    foreign = words.foreign()
    return {
        "family": re.compile(family),
        "labelled": re.compile(rf"(?:{_LABELS})[:：是为]?\s*({family}\s?[\u4e00-\u9fff]{{1,2}})(?![\u4e00-\u9fff])"),
        "dotted": re.compile(rf"[{foreign}]{{1,7}}(?:[·•‧][{foreign}]{{1,8}}){{1,3}}"),
    }


@lru_cache(maxsize=1)
def _costs() -> dict[str, float]:
    """Cost of each word of jieba's dictionary up to five characters."""
    try:
        import jieba  # type: ignore[import-untyped]
    except ImportError as error:
        raise DataError(
            Fault(
                "masking Chinese names needs jieba, which is not installed",
                "data.masking.names",
                hint="pip install 'danlu[privacy]', or set data.masking.names=false",
            )
        ) from error
    counts: dict[str, int] = {}
    with jieba.get_dict_file() as file:
        for line in file:
            word, count, tag = line.decode("utf-8").split()
            # People known to few readers are no words: whoever shares their name is masked.
            if len(word) <= _LONGEST_WORD and not (tag == "nr" and int(count) < _FAME and _is_like_a_name(word)):
                counts[word] = int(count)
    counts.update(dict.fromkeys(words.modern_words(), _COUNT_OF_MODERN))
    total = math.log(sum(counts.values()))
    return {word: total - math.log(max(count, 1)) for word, count in counts.items()}


def _is_like_a_name(word: str) -> bool:
    return (
        len(word) == 3
        and word[0] in words.family_costs()
        and word[2] not in words.no_end_of_name()
        and _given_cost(word[1:]) is not None
    )


def _names_in_clause(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """The names on the cheapest way through a clause."""
    names = _candidates(text, start, end)
    if not names:
        return
    costs = _costs()
    length = end - start
    best = [0.0] * (length + 1)
    step: list[tuple[int, bool]] = [(0, False)] * length
    for place in range(length - 1, -1, -1):
        at = start + place
        cheapest, taken, is_name = costs.get(text[at], _UNKNOWN) + best[place + 1], place + 1, False
        for stop in range(place + 2, min(place + _LONGEST_WORD, length) + 1):
            cost = costs.get(text[at : start + stop])
            if cost is not None and cost + best[stop] < cheapest:
                cheapest, taken = cost + best[stop], stop
        for stop, cost in names.get(at, ()):
            if cost + best[stop - start] < cheapest:
                cheapest, taken, is_name = cost + best[stop - start], stop - start, True
        best[place], step[place] = cheapest, (taken, is_name)
    place = 0
    while place < length:
        taken, is_name = step[place]
        if is_name and not _is_part_of_foreign(text, start + place, start + taken):
            yield start + place, start + taken
        place = taken


def _is_part_of_foreign(text: str, start: int, end: int) -> bool:
    """Whether what stands beside belongs to a foreign name, such as 斯 behind 杜波依."""
    beside = text[max(0, start - 1) : start] + text[end : end + 1]
    return any(character in words.foreign_edge() for character in beside)


def _candidates(text: str, start: int, end: int) -> dict[int, list[tuple[int, float]]]:
    """Where names could begin: where each could end, and its cost."""
    found: dict[int, list[tuple[int, float]]] = {}
    for match in _patterns()["family"].finditer(text, start, end):
        at = match.start()
        before = _bonus_before(text, at)
        choices = [(at + 1, words.family_costs().get(text[at]))]
        if text[at : at + 2] in words.double_families():
            choices.append((at + 2, words.COST_OF_DOUBLE_FAMILY))
        for given_at, family_cost in choices:
            if family_cost is None:
                continue
            for given in (1, 2):
                stop = given_at + given
                if stop <= end:
                    cost = _given_cost(text[given_at:stop])
                    if cost is None:
                        continue
                    whole = _NAME + family_cost + cost - before - _bonus_after(text, stop)
                    # Dearer than plain words from the same place to the same place: on no cheapest way.
                    if whole < _cost_as_words(text[at:stop]):
                        found.setdefault(at, []).append((stop, whole))
    return found


def _cost_as_words(characters: str) -> float:
    """The cheapest way through two to four characters with at most one word of more than one."""
    costs = _costs()
    single = [costs.get(character, _UNKNOWN) for character in characters]
    cheapest = sum(single)
    for start in range(len(characters) - 1):
        for stop in range(start + 2, len(characters) + 1):
            word = costs.get(characters[start:stop])
            if word is not None:
                cheapest = min(cheapest, sum(single[:start]) + word + sum(single[stop:]))
    return cheapest


def _given_cost(given: str) -> float | None:
    """Cost of a given name of one or two characters; null where a character is in hardly any."""
    if given in words.titles():
        return None
    table = words.given_costs()
    costs = [table.get(character) for character in given]
    if None in costs:
        return None
    return sum(cost for cost in costs if cost is not None) + (_ONE_CHARACTER if len(given) == 1 else _TWO_CHARACTERS)


def _bonus_before(text: str, at: int) -> float:
    for length, table in words.bonuses("before"):
        bonus = table.get(text[max(0, at - length) : at])
        if bonus is not None:
            return bonus
    return _bonus_of_boundary(text[at - 1 : at])


def _bonus_after(text: str, stop: int) -> float:
    for length, table in words.bonuses("after"):
        bonus = table.get(text[stop : stop + length])
        if bonus is not None:
            return bonus
    return _bonus_of_boundary(text[stop : stop + 1])


def _bonus_of_boundary(beside: str) -> float:
    if "\u4e00" <= beside <= "\u9fff":
        return 0.0
    return words.BONUS_IN_LIST if beside == "、" else words.BONUS_OF_BOUNDARY
