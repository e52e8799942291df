"""Letters hit beside the right key of a QWERTY keyboard."""

from __future__ import annotations

from random import Random

from danlu.evaluation.attacks.interface import Language
from danlu.evaluation.attacks.words import english_words, some

_SHARE_OF_WORDS = 0.2
_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")


def _neighbours() -> dict[str, str]:
    """Letter → the letters on keys that touch its own; each row is shifted by about half a key."""
    keys = {letter: (column + 0.5 * row, row) for row, line in enumerate(_ROWS) for column, letter in enumerate(line)}
    return {
        letter: "".join(
            other
            for other, (across, down) in keys.items()
            if other != letter and abs(across - keys[letter][0]) <= 1 and abs(down - keys[letter][1]) <= 1
        )
        for letter in keys
    }


NEIGHBOURS = _neighbours()


def change(text: str, language: Language, random: Random) -> str:
    """One letter in every fifth word is a neighbour's, never the word's first; numbers, codes and negations stay."""
    letters = list(text)
    words = english_words(text)
    for number in some(words, _SHARE_OF_WORDS, random):
        start, end = words[number]
        places = [place for place in range(start + 1, end) if text[place].lower() in NEIGHBOURS]
        if places:
            place = random.choice(places)
            wrong = random.choice(NEIGHBOURS[text[place].lower()])
            letters[place] = wrong.upper() if text[place].isupper() else wrong
    return "".join(letters)
