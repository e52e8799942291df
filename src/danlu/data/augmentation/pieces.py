"""A text cut into words that may change and pieces that must not.

Joined again, the pieces are the text, character by character. What must never change: numbers, amounts, dates, codes,
links, addresses, placeholders, code, quotations, names, negations and the words next to them, words that ask, count
or compare. Text in other languages than Chinese and English stays whole.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from danlu.data.augmentation.locks import (
    CHINESE_LOCKED,
    CHINESE_LOCKED_CHARACTERS,
    CHINESE_NEGATIONS,
    ENGLISH_LOCKED,
    NEGATIONS,
)

Kind = Literal["chinese", "english", "fixed", "gap"]

_HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WHOLE = re.compile(
    r"```.*?(?:```|\Z)|~~~.*?(?:~~~|\Z)"  # code in fences
    r"|^(?: {4}|\t)[^\n]*$|^(?:def|class|for|while|if|return|import|from|function|var|let|const|public|private|#include"
    r"|SELECT|INSERT|UPDATE|DELETE)\b[^\n]*[:;{}()=*][^\n]*$"  # lines of code without fences
    r"|`[^`\n]{1,300}`|\$[^$\n]{1,300}\$|\{\{?[^{}\n]{1,80}\}?\}"  # code in a line, formulas, template fields
    r"|<[^<>\s]{1,80}>"  # placeholders and tags
    r"|“[^”\n]{1,300}”|‘[^’\n]{1,300}’|「[^」\n]{1,300}」|『[^』\n]{1,300}』|《[^》\n]{1,300}》"
    r"|\"[^\"\n]{1,300}\"|(?<![A-Za-z])'[^'\n]{1,200}'(?![A-Za-z])",
    re.DOTALL | re.MULTILINE,
)
_RUN = re.compile(rf"(?P<han>[{_HAN}]+)|(?P<gap>[\s\u3000-\u303f\uff00-\uff0f\uff1a-\uff20\u2026\u2014]+)|[^\s{_HAN}]")
_CHUNK = re.compile(rf"[^\s{_HAN}\u3000-\u303f\uff00-\uff0f\uff1a-\uff20\u2026\u2014]+")
_WORD_CHARACTER = re.compile(r"\w")
_ENGLISH = re.compile(r"[A-Za-z]+(?:['’][A-Za-z]+)*")
_KANA_OR_HANGUL = re.compile("[\u3041-\u30ff\uac00-\ud7af\u1100-\u11ff]")
_CLAUSE_END = re.compile("[.!?;。！？；\n]")


@dataclass(slots=True)
class Piece:
    """One piece of a text.

    Attributes:
        text: its characters.
        kind: a Chinese or English word; `fixed` for what isn't a word; `gap` for blanks and punctuation.
        locked: it stays as it is, where it is.
        begins: an English word at the start of a sentence, whose capital letter tells nothing.
    """

    text: str
    kind: Kind
    locked: bool = False
    begins: bool = False

    @property
    def is_word(self) -> bool:
        """A word of Chinese or English, locked or not."""
        return self.kind in ("chinese", "english")

    @property
    def is_free(self) -> bool:
        """A word that may change."""
        return self.is_word and not self.locked


def cut(text: str) -> list[Piece]:
    """The pieces of a text, with locks set; joined they are the text."""
    pieces: list[Piece] = []
    has_other_script = _KANA_OR_HANGUL.search(text) is not None
    end = 0
    for whole in _WHOLE.finditer(text):
        pieces += _plain(text[end : whole.start()])
        pieces.append(Piece(whole.group(), "fixed", locked=True))
        end = whole.end()
    pieces += _plain(text[end:])
    _mark_beginnings(pieces)
    _lock_words(pieces)
    _lock_beside(pieces)
    _lock_the_lesser_language(pieces)
    if has_other_script:
        for piece in pieces:
            piece.locked = True
    return pieces


def join(pieces: list[Piece]) -> str:
    """The text of the pieces."""
    return "".join(piece.text for piece in pieces)


def _plain(text: str) -> Iterator[Piece]:
    """Pieces of a stretch without quotations and code: runs of Chinese, blanks, chunks of everything else."""
    position = 0
    while position < len(text):
        run = _RUN.match(text, position)
        assert run is not None, "every character is Han, a gap or neither"
        if run["han"]:
            from danlu.data.augmentation.chinese import segment

            yield from (Piece(word, "chinese") for word in segment(run["han"]))
        elif run["gap"]:
            yield Piece(run["gap"], "gap")
        else:
            run = _CHUNK.match(text, position)
            assert run is not None, "the character began a chunk"
            yield from _chunk(run.group())
        position = run.end()


def _chunk(text: str) -> Iterator[Piece]:
    """A stretch without blanks and Chinese: an English word between punctuation, or something fixed."""
    first = _WORD_CHARACTER.search(text)
    start = first.start() if first else len(text)
    end = len(text)
    while end > start and not _WORD_CHARACTER.match(text, end - 1):
        end -= 1
    before, core, after = text[:start], text[start:end], text[end:]
    if _ENGLISH.fullmatch(core):
        # A sign that belongs to the word (<NAME, @name, #tag, $HOME, 'quoted) makes a name of it.
        named = bool(set(before) & set("<@#$/\\%&{[~-'")) or bool(set(after) & set(">/\\=%&}]~-"))
        yield from _gap(before)
        yield Piece(core, "english", locked=named)
        yield from _gap(after)
    elif core:
        yield Piece(text, "fixed", locked=True)
    else:
        yield from _gap(text)


def _gap(text: str) -> Iterator[Piece]:
    if text:
        yield Piece(text, "gap")


def _mark_beginnings(pieces: list[Piece]) -> None:
    begins = True
    for piece in pieces:
        if piece.kind == "english":
            piece.begins = begins
        begins = (begins and piece.kind == "gap") or (piece.kind == "gap" and bool(_CLAUSE_END.search(piece.text)))


def _lock_words(pieces: list[Piece]) -> None:
    for piece in pieces:
        if piece.kind == "english":
            lower = piece.text.lower().replace("’", "'")
            # ATM, iPhone and a capital letter inside a sentence are names; `I` is not.
            capital = piece.text != "I" and (
                piece.text[1:] != piece.text[1:].lower() or (piece.text[0] != lower[0] and not piece.begins)
            )
            piece.locked = piece.locked or capital or lower in ENGLISH_LOCKED or is_negation(piece)
        elif piece.kind == "chinese":
            characters = CHINESE_LOCKED_CHARACTERS.intersection(piece.text)
            piece.locked = bool(characters) or piece.text in CHINESE_LOCKED or any(map(str.isnumeric, piece.text))


def is_negation(piece: Piece) -> bool:
    """Whether the piece says no, in whole or in part; Chinese words that merely hold such a character count too."""
    if piece.kind == "chinese":
        return bool(CHINESE_NEGATIONS.intersection(piece.text))
    lower = piece.text.lower().replace("’", "'")
    return piece.kind == "english" and (lower in NEGATIONS or lower.endswith("n't"))


def _lock_beside(pieces: list[Piece]) -> None:
    """The word after a negation, and both words beside something fixed, belong to it: `not open`, `满 100 减 20`."""
    solid = [index for index, piece in enumerate(pieces) if piece.kind != "gap"]
    numeric = [any(map(str.isnumeric, piece.text)) or piece.kind == "fixed" for piece in pieces]
    negating = [is_negation(piece) for piece in pieces]
    for left, right in itertools.pairwise(solid):
        if numeric[left] or negating[left]:
            pieces[right].locked = True
        if numeric[right]:
            pieces[left].locked = True


def _lock_the_lesser_language(pieces: list[Piece]) -> None:
    """English words in a Chinese text (and the reverse) are names or subjects of the question."""
    num_chinese = sum(len(piece.text) for piece in pieces if piece.kind == "chinese")
    num_english = sum(piece.kind == "english" for piece in pieces)
    lesser = "english" if num_chinese >= 2 * num_english else "chinese"
    for piece in pieces:
        if piece.kind == lesser:
            piece.locked = True
