"""People's names in Latin letters: lists of given and family names, and the words around them.

A run of capitalised words is a name when it begins with a given name that is little else; when a given name that is
also a word or a place stands before a family name; or when a title, a label (Contact:) or "my name is" says so.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from danlu.data.privacy import names_en_cues as cues
from danlu.data.privacy.word_lists import word_lists


@lru_cache(maxsize=1)
def _lists() -> dict[str, frozenset[str]]:
    """The word lists of names_en.txt.

    given: little else than a name; given_or_word: also a word, a place or a month; family; no_person: a run that holds
    one is a place, a body, a day or a thing named after someone; leading: begins a sentence or a greeting in front of a
    name; nobody: works and places whose first word is a given name; pinyin_family; chinese_places.
    """
    return {title: frozenset(line.split()) for title, line in word_lists("names_en").items()}


def find_english(text: str) -> Iterator[tuple[int, int]]:
    """Begin and end of each name of a person in Latin letters; may overlap."""
    for match in cues.SAID.finditer(text):
        yield from _said(text, match.end())
    for match in cues.SELF.finditer(text):
        yield from _self(text, match.end())
    for match in cues.RUN.finditer(text):
        place = _name_in_run(text, match)
        if place:
            start, end = place
            suffix = cues.SUFFIX.match(text, end)
            if suffix:
                end = suffix.end()
            elif text.startswith(".", end) and text.endswith((" Jr", " Sr"), start, end):
                end += 1
            yield start, end


def _said(text: str, start: int) -> Iterator[tuple[int, int]]:
    """What follows "my name is": capitalised words, or one small one that is a given name."""
    run = cues.RUN.match(text, start)
    if run:
        yield run.span()
        return
    word = cues.SMALL.match(text, start)
    if word and any(word[0].capitalize() in _lists()[title] for title in ("given", "given_or_word", "family")):
        yield word.span()


def _self(text: str, start: int) -> Iterator[tuple[int, int]]:
    """What follows "I'm" and "this is": a given name, in small letters only if it is nothing else."""
    word, lists = cues.ANY_WORD.match(text, start), _lists()
    if not word:
        return
    name, capitalised = word[0].capitalize(), word[0][0].isupper()
    introduced = capitalised and name in lists["given_or_word"] and cues.INTRODUCED.match(text, word.end())
    if introduced or (name in lists["given"] and (capitalised or len(name) > 3)):
        following = cues.CAPITALISED.match(text, word.end()) if capitalised else None
        yield start, following.end() if following and following[1] not in lists["leading"] else word.end()


class _Around(NamedTuple):
    """What the words beside a run say about it."""

    labelled: bool
    greeted: bool
    likely: bool
    inside_line: bool


def _around(text: str, start: int, end: int) -> _Around:
    before = text[max(0, start - 40) : start]
    labelled = cues.LABEL.search(before) is not None
    return _Around(
        labelled=labelled,
        greeted=labelled and cues.GREETING.search(before) is not None,
        likely=labelled
        or cues.PERSON_BEFORE.search(before) is not None
        or cues.PERSON_AFTER.match(text, end) is not None,
        inside_line=before.endswith(" ") and not before[-4:].isspace(),
    )


def _name_in_run(text: str, match: re.Match[str]) -> tuple[int, int] | None:
    """The name within a run of capitalised words, or null."""
    lists, offset = _lists(), match.start()
    pieces = [(piece[0], offset + piece.start(), offset + piece.end()) for piece in cues.PIECE.finditer(match[0])]
    titled = cues.BEFORE_TITLE.search(text, max(0, offset - 12), offset) is not None
    while pieces and pieces[0][0].rstrip(".") in lists["leading"] and not (titled and len(pieces) == 1):
        titled = pieces[0][0].rstrip(".") in cues.TITLES
        pieces.pop(0)
    if not pieces or (_is_saint(text, offset) and not lists["no_person"].isdisjoint(piece[0] for piece in pieces)):
        return None
    pieces = _up_to_possessive(pieces)
    words = [piece[0] for piece in pieces]
    start, end = pieces[0][1], pieces[-1][2]
    if titled:
        return None if words[-1] in lists["no_person"] and len(words) > 1 else (start, end)
    around = _around(text, start, end)
    if not lists["no_person"].isdisjoint(words) and not _could_be_place_or_person(words, around):
        return None
    if not _is_person(words, around) or (len(words) == 1 and not around.labelled and _is_thing(text, words[0])):
        return None
    return start, end


def _is_thing(text: str, word: str) -> bool:
    """Whether a text says, once at least, that one word is a thing's name: Adam优化器."""
    at = text.find(word)
    while at >= 0:
        if cues.THING_AFTER.match(text, at + len(word)):
            return True
        at = text.find(word, at + 1)
    return False


def _is_saint(text: str, offset: int) -> bool:
    """Whether St. stands before: St. Mary's Hospital."""
    return text.endswith(("St. ", "St "), 0, offset)


def _up_to_possessive(pieces: list[tuple[str, int, int]]) -> list[tuple[str, int, int]]:
    """The pieces up to the first that ends with 's, without it: John Smith's Resume is about John Smith."""
    for index, (word, start, end) in enumerate(pieces):
        if word.endswith(("'s", "’s")):
            return [*pieces[:index], (word[:-2], start, end - 2)]
    return pieces


def _is_person(words: list[str], around: _Around) -> bool:
    """Whether one to five capitalised words are a person's name."""
    lists = _lists()
    first, last = words[0].split("-")[0], words[-1]
    given, either = first in lists["given"], first in lists["given_or_word"]
    if len(words) > 5 or "_".join(words[:2]) in lists["nobody"]:
        return False
    if len(words) == 1:
        return given or (either and around.greeted)
    if given or _is_pinyin(words):
        return True
    family = _is_family(last)
    if first.endswith("."):
        # "C. Spelling" is the third of a list: one letter needs to stand inside a line.
        return family and (len(words) > 2 or around.inside_line) and words[:2] != ["U.", "S."]
    second_given = last in lists["given"]
    if either and (family or second_given):
        return True
    return around.likely and (either or family or second_given)


def _could_be_place_or_person(words: list[str], around: _Around) -> bool:
    """John Hall, Kenneth Hill: a family name that is also a kind of place; Hello May: a month that is greeted."""
    if len(words) == 1:
        return around.greeted
    return around.likely and len(words) == 2 and words[0] in _lists()["given"] and _is_family(words[1])


def _is_family(word: str) -> bool:
    """A family name of the list, or one that is built like one: O'Neill, McAdam, Smith-Jones."""
    families = _lists()["family"]
    return word in families or word.split("-")[0] in families or word.startswith("Mc") or "'" in word or "’" in word


def _is_pinyin(words: list[str]) -> bool:
    """A Chinese name in Latin letters, family name first or last."""
    lists = _lists()
    if len(words) not in (2, 3) or words[-1] in lists["chinese_places"] or words[0] in ("Hong", "Feng", "Tai"):
        return False
    family_first = words[0] in lists["pinyin_family"]
    if not family_first and words[-1] not in lists["pinyin_family"]:
        return False
    return all(cues.PINYIN.fullmatch(word) for word in (words[1:] if family_first else words[:-1]))
