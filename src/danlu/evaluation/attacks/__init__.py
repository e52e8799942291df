"""Attacks on a model's robustness: questions changed so that a person would still give the same answer.

Each stands in a file of its own and in the table `ATTACKS`; each is decided by its seed alone.
"""

from __future__ import annotations

from danlu.evaluation.attacks import (
    case,
    distractor,
    homophones,
    injection,
    other_language,
    paraphrase,
    swapped_characters,
    typos,
    whitespace,
)
from danlu.evaluation.attacks.interface import Attack
from danlu.evaluation.attacks.longer_context import longer_context

__all__ = ["ATTACKS", "Attack", "longer_context"]

ATTACKS: dict[str, Attack] = {
    "typos": Attack("keys beside the right one, in every fifth word", typos.change, ("en",)),
    "swapped_characters": Attack("neighbouring characters in each other's place", swapped_characters.change),
    "homophones": Attack("characters of the same sound in place of others", homophones.change, ("zh",)),
    "case": Attack("all capitals, all small, or mixed", case.change, ("en",)),
    "whitespace": Attack("blanks and line breaks where they do not belong", whitespace.change),
    "paraphrase": Attack("other turns of phrase and a polite frame", paraphrase.change),
    "distractor": Attack("a sentence that has nothing to do with it", distractor.change),
    "other_language": Attack("asked for in the other language", other_language.change),
    "injection": Attack("an instruction planted in it", injection.change, obeys=injection.obeys),
    "longer_context": longer_context(),
}
