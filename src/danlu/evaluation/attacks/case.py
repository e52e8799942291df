"""Capital and small letters."""

from __future__ import annotations

from random import Random

from danlu.evaluation.attacks.interface import Language
from danlu.evaluation.attacks.words import change_parts


def change(text: str, language: Language, random: Random) -> str:
    """All capitals, all small, or every second letter a capital; codes, addresses and links stay."""
    changes = [_capitals, _small, _alternating]
    random.shuffle(changes)
    changed = (change_parts(text, one) for one in changes)
    return next((one for one in changed if one != text), text)


def _capitals(part: str) -> str:
    # Only letters with one capital: ß would become two letters.
    return "".join(letter.upper() if len(letter.upper()) == 1 else letter for letter in part)


def _small(part: str) -> str:
    return "".join(letter.lower() if len(letter.lower()) == 1 else letter for letter in part)


def _alternating(part: str) -> str:
    return "".join(_capitals(letter) if place % 2 else _small(letter) for place, letter in enumerate(part))
