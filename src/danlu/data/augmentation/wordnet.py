"""A reader of WordNet 3's own files: which words share a meaning, and how common each meaning is.

The format is that of wndb(5WN), cntlist(5WN) and morphy(7WN), https://wordnet.princeton.edu/documentation. No package
on PyPI carries these files with their counts, so they come from Debian's `wordnet-base`, or from any folder that
WordNet's own variable WNSEARCHDIR names.
"""

from __future__ import annotations

import mmap
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from danlu.errors import DataError, Fault

PartOfSpeech = Literal["noun", "verb", "adj", "adv"]
PARTS_OF_SPEECH: tuple[PartOfSpeech, ...] = ("noun", "verb", "adj", "adv")
_PART_BY_SENSE_TYPE: dict[str, PartOfSpeech] = {"1": "noun", "2": "verb", "3": "adj", "4": "adv", "5": "adj"}
_PLACES = ("/usr/share/wordnet", "/usr/local/share/wordnet", "/usr/local/WordNet-3.0/dict")


@dataclass(frozen=True)
class WordNet:
    """WordNet's single words in small letters, opened for look-ups.

    Attributes:
        senses: lemma → per part of speech, the offsets of its meanings in the data file, the most common first.
        counts: (lemma, part of speech) → occurrences of each meaning in tagged text, in the same order.
        irregular: (form, part of speech) → lemmas, from the lists of exceptions.
        forms: (lemma, part of speech) → its irregular forms.
        data: part of speech → the data file.
    """

    senses: dict[tuple[str, PartOfSpeech], tuple[int, ...]]
    counts: dict[tuple[str, PartOfSpeech], dict[int, int]]
    irregular: dict[tuple[str, PartOfSpeech], tuple[str, ...]]
    forms: dict[tuple[str, PartOfSpeech], tuple[str, ...]]
    data: dict[PartOfSpeech, mmap.mmap]

    def count(self, lemma: str, part: PartOfSpeech) -> int:
        """How often the lemma occurs in tagged text as this part of speech."""
        return sum(self.counts.get((lemma, part), {}).values())

    def sense_count(self, lemma: str, part: PartOfSpeech, offset: int) -> int:
        """How often it occurs there with the meaning at this offset."""
        offsets = self.senses.get((lemma, part), ())
        return self.counts.get((lemma, part), {}).get(offsets.index(offset) + 1, 0) if offset in offsets else 0

    def words_at(self, part: PartOfSpeech, offset: int) -> list[str]:
        """The words of one meaning: single words in small letters."""
        line = self.data[part][offset : self.data[part].find(b"\n", offset)].decode("ascii", "replace")
        fields = line.split(" ")
        words = (fields[4 + 2 * index].split("(")[0] for index in range(int(fields[3], 16)))
        return [word for word in words if _is_plain(word)]


@cache
def wordnet() -> WordNet:
    """WordNet, opened once per process.

    Raises:
        DataError: its files are not on this machine, or not readable as WordNet 3.
    """
    folder = _folder()
    try:
        irregular, forms = _exceptions(folder)
        return WordNet(
            _senses(folder), _counts(folder), irregular, forms, {p: _map(folder, p) for p in PARTS_OF_SPEECH}
        )
    except (OSError, ValueError, IndexError) as error:
        raise DataError(
            Fault(f"WordNet can't be read: {error}", str(folder), "the files of WordNet 3.0 or 3.1", _hint())
        ) from error


def _folder() -> Path:
    named = os.environ.get("WNSEARCHDIR")
    places = [Path(named)] if named else [Path(place) for place in _PLACES]
    for place in places:
        if (place / "index.noun").is_file():
            return place
    looked = ", ".join(map(str, places))
    raise DataError(Fault("synonyms of English words need WordNet, which is not on this machine", looked, "", _hint()))


def _hint() -> str:
    return "apt-get install wordnet-base, or set WNSEARCHDIR to the folder with WordNet's index.noun and data.noun"


def _is_plain(lemma: str) -> bool:
    return lemma.isascii() and lemma.isalpha() and lemma.islower()


def _senses(folder: Path) -> dict[tuple[str, PartOfSpeech], tuple[int, ...]]:
    """From lines `lemma pos synset_cnt p_cnt [ptr...] sense_cnt tagsense_cnt offset [offset...]`."""
    senses = {}
    for part in PARTS_OF_SPEECH:
        for line in (folder / f"index.{part}").read_text(encoding="ascii").splitlines():
            lemma = line.split(" ", 1)[0]
            if _is_plain(lemma):
                fields = line.split()
                senses[lemma, part] = tuple(int(offset) for offset in fields[-int(fields[2]) :])
    return senses


def _counts(folder: Path) -> dict[tuple[str, PartOfSpeech], dict[int, int]]:
    """From lines `lemma%ss_type:... sense_number tag_cnt`; meanings that never occur have no line."""
    counts: dict[tuple[str, PartOfSpeech], dict[int, int]] = {}
    for line in (folder / "cntlist.rev").read_text(encoding="ascii").splitlines():
        key, number, count = line.split()
        lemma, _, rest = key.partition("%")
        if _is_plain(lemma):
            counts.setdefault((lemma, _PART_BY_SENSE_TYPE[rest[0]]), {})[int(number)] = int(count)
    return counts


def _exceptions(
    folder: Path,
) -> tuple[dict[tuple[str, PartOfSpeech], tuple[str, ...]], dict[tuple[str, PartOfSpeech], tuple[str, ...]]]:
    irregular: dict[tuple[str, PartOfSpeech], tuple[str, ...]] = {}
    forms: dict[tuple[str, PartOfSpeech], tuple[str, ...]] = {}
    for part in PARTS_OF_SPEECH:
        for line in (folder / f"{part}.exc").read_text(encoding="ascii").splitlines():
            form, *lemmas = line.split()
            irregular[form, part] = tuple(lemmas)
            for lemma in lemmas:
                forms[lemma, part] = (*forms.get((lemma, part), ()), form)
    return irregular, forms


def _map(folder: Path, part: PartOfSpeech) -> mmap.mmap:
    # Mapped, not opened for seeking: processes that are forked later would share one position.
    with (folder / f"data.{part}").open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
