"""English synonyms from WordNet, in the form of the word that they replace.

WordNet lists every meaning of a word, most of them rare, so a word is replaced only where counts in tagged text leave
little doubt: nearly all of its occurrences are one part of speech, most of those have one meaning, and the synonym too
is mostly used with that meaning.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

from danlu.data.augmentation.locks import ENGLISH_LIGHT, ENGLISH_LOCKED, NEGATIONS
from danlu.data.augmentation.wordnet import PARTS_OF_SPEECH, PartOfSpeech, WordNet, wordnet

Form = Literal["base", "s", "ing", "ed"]

_LEAST_PART_SHARE = 0.9
_LEAST_SENSE_SHARE = 0.7
_LEAST_SYNONYM_SHARE = 0.6
_MOST_TIMES_RARER = 10
_LEAST_COUNT = 4  # rarer words are mostly terms, whose WordNet neighbours read badly (fiat, decree)
_VOWELS = "aeiou"


@lru_cache(maxsize=65536)
def synonyms(word: str) -> tuple[str, ...]:
    """Words that can stand in the place of a word in small letters, most common first; empty if there is none.

    Raises:
        DataError: WordNet is not on this machine.
    """
    if word in ENGLISH_LOCKED or word in ENGLISH_LIGHT or word in NEGATIONS or len(word) < 3:
        return ()
    net = wordnet()
    reading = _likely_reading(net, word)
    if reading is None:
        return ()
    lemma, part, form = reading
    offset = _likely_sense(net, lemma, part, _LEAST_SENSE_SHARE)
    if offset is None:
        return ()
    own_count = net.count(lemma, part)
    if own_count < _LEAST_COUNT:
        return ()
    found: dict[str, int] = {}
    for other in net.words_at(part, offset):
        count = net.count(other, part)
        if (
            _is_usable(other, lemma, part)
            and count >= _LEAST_COUNT
            and count * _MOST_TIMES_RARER >= own_count
            and _means(net, other, part, offset)
        ):
            inflected = inflect(net, other, part, form)
            if inflected and inflected != word:
                found[inflected] = count
    return tuple(sorted(found, key=lambda other: (-found[other], other)))


def starts_with_vowel_sound(word: str) -> bool | None:
    """Whether `an` stands before the word; None where the letters don't tell (hour, user, one, European)."""
    lower = word.lower()
    return None if lower.startswith(("h", "u", "eu", "one")) else lower[:1] in _VOWELS


def _is_usable(other: str, lemma: str, part: PartOfSpeech) -> bool:
    # A noun in -ing names the act, where the word beside it in WordNet often names the thing (delivery, bringing) or
    # a trade (computing, calculating).
    is_gerund = part == "noun" and other.endswith("ing")
    return (
        other != lemma
        and len(other) >= 3
        and not is_gerund
        and other not in NEGATIONS
        and other not in ENGLISH_LOCKED
        and other not in ENGLISH_LIGHT
    )


def _means(net: WordNet, lemma: str, part: PartOfSpeech, offset: int) -> bool:
    """Whether the lemma is mostly this part of speech with this meaning."""
    total = sum(net.count(lemma, each) for each in PARTS_OF_SPEECH)
    return total > 0 and net.sense_count(lemma, part, offset) >= _LEAST_SYNONYM_SHARE * total


def _likely_sense(net: WordNet, lemma: str, part: PartOfSpeech, least_share: float) -> int | None:
    """The offset of the meaning that the lemma mostly has; a sole meaning needs no counts."""
    offsets = net.senses[lemma, part]
    if len(offsets) == 1:
        return offsets[0]
    counts = net.counts.get((lemma, part), {})
    return offsets[0] if counts and counts.get(1, 0) >= least_share * sum(counts.values()) else None


def _likely_reading(net: WordNet, word: str) -> tuple[str, PartOfSpeech, Form] | None:
    """Lemma, part of speech and form of a word, if one part of speech is likely enough."""
    readings = [reading for part in PARTS_OF_SPEECH for reading in _readings(net, word, part)]
    if len({part for _, part, _ in readings}) == 1 and len(readings) == 1:
        return readings[0]
    weights = [net.count(lemma, part) for lemma, part, _ in readings]
    if not weights or max(weights) == 0 or max(weights) < _LEAST_PART_SHARE * sum(weights):
        return None
    return readings[weights.index(max(weights))]


def _readings(net: WordNet, word: str, part: PartOfSpeech) -> list[tuple[str, PartOfSpeech, Form]]:
    """As morphy(7WN) finds lemmas, less the comparisons of adjectives."""
    found: list[tuple[str, PartOfSpeech, Form]] = []
    if (word, part) in net.senses:
        found.append((word, part, "base"))
    forms: tuple[Form, ...] = {"noun": ("s",), "verb": ("s", "ing", "ed")}.get(part, ())  # type: ignore[assignment]
    for lemma in dict.fromkeys((*net.irregular.get((word, part), ()), *_stems(word))):
        if lemma != word and (lemma, part) in net.senses:
            found += [(lemma, part, form) for form in forms if inflect(net, lemma, part, form) == word]
    return found


def _stems(word: str) -> list[str]:
    """What the word may be without its ending; wrong ones fail when inflected again."""
    stems = []
    for ending, others in (
        ("s", ("",)),
        ("es", ("",)),
        ("ies", ("y",)),
        ("ing", ("", "e")),
        ("ed", ("", "e")),
        ("ied", ("y",)),
    ):
        if word.endswith(ending):
            stems += [word[: -len(ending)] + other for other in others]
    return stems


def inflect(net: WordNet, lemma: str, part: PartOfSpeech, form: Form) -> str | None:
    """A form of a lemma; None where WordNet's exceptions leave a choice (took, taken)."""
    if form == "base":
        return lemma
    exceptions = net.forms.get((lemma, part), ())
    if part == "verb":
        exceptions = tuple(each for each in exceptions if each.endswith("ing") == (form == "ing"))
        exceptions = () if form == "s" else exceptions
    if exceptions:
        return exceptions[0] if len(exceptions) == 1 else None
    return _regular(lemma, form)


def _regular(lemma: str, form: Form) -> str:
    after_consonant = lemma[-2:-1] not in tuple(_VOWELS)
    if form == "s":
        if lemma.endswith(("s", "x", "z", "ch", "sh")):
            return lemma + "es"
        return lemma[:-1] + "ies" if lemma.endswith("y") and after_consonant else lemma + "s"
    if form == "ed":
        if lemma.endswith("y") and after_consonant:
            return lemma[:-1] + "ied"
        return lemma + "d" if lemma.endswith("e") else lemma + "ed"
    if lemma.endswith("ie"):
        return lemma[:-2] + "ying"
    return (lemma[:-1] if lemma.endswith("e") and not lemma.endswith(("ee", "oe", "ye")) else lemma) + "ing"
