"""Blanks where none or fewer should be."""

from __future__ import annotations

import re
from random import Random

from danlu.evaluation.attacks.interface import Language
from danlu.evaluation.attacks.words import chinese_characters, some

_SHARE_OF_BLANKS, _SHARE_OF_CHARACTERS = 0.4, 0.15
_BLANK = re.compile(r"(?<=\S) (?=\S)")
_WIDER = ("  ", "   ", "    ", "\t", " \n")
_AROUND = "\n  "


def change(text: str, language: Language, random: Random) -> str:
    """Blanks grow or become line breaks; in Chinese some appear between characters.

    A text without room for that gets them around it, which a template that trims does not let through.
    """
    if language == "zh":
        free = set(chinese_characters(text))
        places = [place for place in sorted(free) if place + 1 in free]
        chosen = {places[number] for number in some(places, _SHARE_OF_CHARACTERS, random)}
        changed = "".join(
            character + random.choice((" ", "  ", "\u3000")) * (place in chosen) for place, character in enumerate(text)
        )
    else:
        blanks = [found.span() for found in _BLANK.finditer(text)]
        starts = {blanks[number][0] for number in some(blanks, _SHARE_OF_BLANKS, random)}
        changed = "".join(
            random.choice(_WIDER) if place in starts else character for place, character in enumerate(text)
        )
    return changed if changed != text else f"{_AROUND}{text}{_AROUND}"
