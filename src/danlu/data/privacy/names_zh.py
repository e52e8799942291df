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
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from danlu.data.privacy import names_zh_words as words
from danlu.data.privacy.names_zh_foreign import Transliterations, count_transliteration, has_dot
from danlu.errors import DataError, Fault

_LONGEST_WORD = 5
_LONGEST_CLAUSE = 40
_CLAUSE = re.compile("[\u4e00-\u9fff]{2,}")
_LABELS = (
    "姓名|名字|联系人|收件人|收货人|寄件人|发件人|持卡人|开户人|户名|经办人|负责人|"
    "法定代表人|法人|代理人|受益人|投保人|申请人"
)
# Natural logarithms; set on the development half of the planted sentences and the Chinese rows of open data sets.
_NAME = 5.5
_ONE_CHARACTER, _TWO_CHARACTERS = 2.0, 0.35
_UNKNOWN = 17.5
_STRONG = 4.5
_MOST_AFTER = 5.5  # the highest [after] of the word list
_LONGEST_NAME = 3
_COST_OF_PLACE = 4.0
_FAME = 300
_COUNT_OF_MODERN = 500

# Where a name or foreign word could begin: where it could end, its cost, and whether a foreign word is a person's name.
_Names = dict[int, list[tuple[int, float]]]
_Foreign = dict[int, list[tuple[int, float, bool]]]


def find_chinese(text: str) -> Iterator[tuple[int, int]]:
    """Begin and end of each name in Chinese characters; may overlap.

    Raises:
        DataError: jieba, whose word list is needed, is not installed.
    """
    known: list[tuple[int, int]] = []
    if has_dot(text):
        for start, end in _dictionary().foreign.dotted(text):
            if words.is_well_known(text[start:end]):
                known.append((start, end))
            else:
                yield start, end
    for start, end in _without_dots(text):
        if not any(first < end and start < last for first, last in known):
            yield start, end


def _without_dots(text: str) -> Iterator[tuple[int, int]]:
    for match in _patterns()["labelled"].finditer(text):
        yield match.span(1)
    for match in _CLAUSE.finditer(text):
        for start in range(match.start(), match.end(), _LONGEST_CLAUSE):
            yield from _names_in_clause(text, start, min(match.end(), start + _LONGEST_CLAUSE))


@lru_cache(maxsize=1)
def _patterns() -> dict[str, re.Pattern[str]]:
    """family: where a name could begin; labelled: behind 姓名 and the like."""
    family = f"(?:[{''.join(words.family_costs())}]|{'|'.join(words.double_families())})"
    return {
        "family": re.compile(family),
        "labelled": re.compile(rf"(?:{_LABELS})[:：是为]?\s*({family}\s?[\u4e00-\u9fff]{{1,2}})(?![\u4e00-\u9fff])"),
    }


class _Dictionary(NamedTuple):
    """Cost of each word of jieba's dictionary up to five characters, and what foreign words cost."""

    costs: dict[str, float]
    foreign: Transliterations


@lru_cache(maxsize=1)
def _dictionary() -> _Dictionary:
    try:
        import jieba
    except ImportError as error:
        raise DataError(
            Fault(
                "masking Chinese names needs jieba, which is not installed",
                "data.masking.names",
                hint="pip install 'danlu[privacy]', or set data.masking.names=false",
            )
        ) from error
    counts: dict[str, int] = {}
    seen: Counter[str] = Counter()
    with jieba.get_dict_file() as file:
        for line in file:
            word, count, tag = line.decode("utf-8").split()
            count_transliteration(word, tag, seen)
            # People known to few readers are no words: whoever shares their name is masked.
            if len(word) <= _LONGEST_WORD and not (tag == "nr" and int(count) < _FAME and _is_like_a_name(word)):
                counts[word] = int(count)
    counts.update(dict.fromkeys(words.modern_words(), _COUNT_OF_MODERN))
    total = math.log(sum(counts.values()))
    costs = {word: total - math.log(max(count, 1)) for word, count in counts.items()}
    return _Dictionary(costs, Transliterations(costs, seen))


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
    if not names or not _cheapest_way(text, start, end, names, {}):
        return
    # Most clauses hold no name even so: foreign words are looked for in the few that do.
    for first, last in _cheapest_way(text, start, end, names, _foreign_candidates(text, start, end, names)):
        if not _is_part_of_foreign(text, first, last):
            yield first, last


def _cheapest_way(text: str, start: int, end: int, names: _Names, foreign: _Foreign) -> list[tuple[int, int]]:
    """Begin and end of the names on the cheapest way through a clause of words, names and foreign words."""
    costs = _dictionary().costs
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
        for stop, cost, is_person in foreign.get(at, ()):
            if cost + best[stop - start] < cheapest:
                cheapest, taken, is_name = cost + best[stop - start], stop - start, is_person
        best[place], step[place] = cheapest, (taken, is_name)
    found: list[tuple[int, int]] = []
    place = 0
    while place < length:
        taken, is_name = step[place]
        if is_name:
            found.append((start + place, start + taken))
        place = taken
    return found


def _foreign_candidates(text: str, start: int, end: int, names: _Names) -> _Foreign:
    """Where foreign words could begin that a name could be a part of: where each could end, its cost, is it a person.

    Most are countries, towns and things, and stay. Where a name could begin and the words beside say that it is a
    person's, a foreign word longer than Chinese names are is one as a whole: 她叫艾莉西亚.
    """
    found: _Foreign = {}
    for first, last in _dictionary().foreign.runs(text, start, end):
        if not any(first < stop and at < last for at, choices in names.items() for stop, _ in choices):
            continue
        for at in range(first, last - 1):
            before = _bonus_before(text, at) if at in names else 0.0
            choices = found[at] = []
            for stop, cost in _dictionary().foreign.ends(text, at, last):
                after = _bonus_after(text, stop) if at in names else 0.0
                is_person = max(before, after) >= _STRONG and stop - at > _LONGEST_NAME
                choices.append((stop, cost - before - after if is_person else cost, is_person))
    return found


def _is_part_of_foreign(text: str, start: int, end: int) -> bool:
    """Whether what stands beside belongs to a foreign name, such as 斯 behind 杜波依, or J.K. before 罗琳."""
    beside = text[max(0, start - 1) : start] + text[end : end + 1]
    if any(character in words.foreign_edge() for character in beside):
        return True
    return text[max(0, start - 1) : start] == "." and text[max(0, start - 2) : start - 1].isalpha()


def _candidates(text: str, start: int, end: int) -> _Names:
    """Where names could begin: where each could end, and its cost."""
    found: _Names = {}
    for match in _patterns()["family"].finditer(text, start, end):
        at = match.start()
        before = _bonus_before(text, at)
        choices = [(at + 1, words.family_costs().get(text[at]))]
        if text[at : at + 2] in words.double_family_set():
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
                    whole = _NAME + family_cost + cost - before
                    # Dearer than plain words from the same place to the same place: on no cheapest way.
                    plain = _cost_as_words(text[at:stop])
                    if whole - _MOST_AFTER >= plain:
                        continue
                    whole -= _bonus_after(text, stop)
                    if whole < plain and given == 2 and _is_like_a_place(text[at:stop]):
                        whole += _COST_OF_PLACE
                    if whole < plain:
                        found.setdefault(at, []).append((stop, whole))
    return found


def _is_like_a_place(name: str) -> bool:
    """Whether it is a foreign word and a kind of place: 皮克|峰."""
    return name[-1] in words.place_ends() and _dictionary().foreign.is_usual(name[:-1])


def _cost_as_words(characters: str) -> float:
    """The cheapest way through two to four characters with at most one word of more than one."""
    costs = _dictionary().costs
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
