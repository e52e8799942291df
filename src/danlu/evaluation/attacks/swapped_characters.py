"""Two characters side by side change places."""

from __future__ import annotations

from random import Random

from danlu.evaluation.attacks.interface import Language
from danlu.evaluation.attacks.words import chinese_characters, english_words, some

_SHARE_OF_WORDS, _SHARE_OF_PAIRS = 0.2, 0.1


def change(text: str, language: Language, random: Random) -> str:
    """In English inside every fifth word, never its first letter; in Chinese about once in ten characters."""
    characters = list(text)
    for place in _chinese(text, random) if language == "zh" else _english(text, random):
        characters[place], characters[place + 1] = characters[place + 1], characters[place]
    return "".join(characters)


def _english(text: str, random: Random) -> list[int]:
    pairs = [
        [place for place in range(start + (end - start > 2), end - 1) if _differ(text, place)]
        for start, end in english_words(text)
    ]
    usable = [places for places in pairs if places]
    return [random.choice(usable[number]) for number in some([places[0] for places in usable], _SHARE_OF_WORDS, random)]


def _chinese(text: str, random: Random) -> list[int]:
    free = set(chinese_characters(text))
    pairs = [place for place in sorted(free) if place + 1 in free and _differ(text, place)]
    chosen: list[int] = []
    for number in some(pairs, _SHARE_OF_PAIRS, random):
        if all(abs(pairs[number] - other) > 1 for other in chosen):
            chosen.append(pairs[number])
    return chosen


def _differ(text: str, place: int) -> bool:
    pair = text[place : place + 2]
    return pair.isalpha() and pair[0].lower() != pair[1].lower()
