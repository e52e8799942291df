"""Text to token ids, the tokenizer's own and nothing else, but quickly: what was met before is not encoded again.

Nearly all of the time goes into words that the tokenizer has met a thousand times. For byte-level tokenizers whose
way of cutting words is known here, a text may be cut before a space that follows a letter, digit or sign: no token
reaches over such a place and none depends on what lies beyond. So texts are taken apart there and at special tokens,
and each piece is encoded once. Any other tokenizer gets whole texts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any
from weakref import WeakKeyDictionary, proxy

from danlu.data.vocabulary import IdeographCuts, byte_letters
from danlu.data.words import GPT2_WORDS, SPACE, ascii_pattern, word_pattern

_PRINTABLE = re.compile(r"[\t\n\r -~]*")
_BYTE_LETTERS = {number: byte_letters()[number] for number in (9, 10, 13, 32)}
_IDEOGRAPH = re.compile("[\u4e00-\u9fa5]")

# ASCII text is cut before all its spaces unless one follows white space; this is quicker than the whole pattern.
_SPACED = re.compile(" ?[^ ]+| ")
_NOT_CUT_BY_SPACES = ("  ", "\n ", "\t ", "\r ", "\x0b ", "\x0c ")

_JOINED_WORDS = 256
_LONGEST_KEPT = 48  # characters; longer words hardly come again
_MOST_KEPT = 200_000  # words, about 50 MB

_SAMPLE = (
    "Hello  world,\n\n it's 12 345.67\t(ok)\r\n\n  x\u00a0y 你好，世界。 第2章\u3000a b\n- c\n\n\n# d!\n e 's  \n"
    " \u200b z\u2028q ,;  . \n.\n/ \ufeffé e\u0301 🎉🎉 end \n"
)


class Encoder:
    """Encodes as `tokenizer(text, add_special_tokens=False)["input_ids"]` does.

    Args:
        tokenizer: a tokenizer of Transformers'; it must not be changed while this lives (see `encoder_of`).
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._ids: dict[str, tuple[int, ...]] = {}  # tuples of numbers cost the garbage collector nothing
        self._parts: dict[str, tuple[int, ...]] = {}
        self._words: re.Pattern[str] | None = None
        pattern = word_pattern(tokenizer)
        if pattern is None:
            return
        added = list(tokenizer.added_tokens_decoder.items())
        clean = _clean_tokens(added)
        self._separator, self._separator_id = next(iter(clean.items()), ("", -1))
        if not clean or any(self._whole([content])[0] != [number] for content, number in clean.items()):
            return
        self._troubling = _any_of([token.content for _, token in added if _reaches_out(token)])
        self._added = _any_of([token.content for _, token in added])
        self._special = re.compile("(" + "|".join(map(re.escape, sorted(clean, key=len, reverse=True))) + ")")
        self._short = re.compile(ascii_pattern(tokenizer), re.ASCII)
        self._ideographs: IdeographCuts | None = None
        self._words = re.compile(pattern)
        if self.encode([_SAMPLE]) != self._whole([_SAMPLE]):
            self._words = None

    @property
    def cuts(self) -> bool:
        """Whether texts are taken apart; else they are encoded whole."""
        return self._words is not None

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, without the tokens that a tokenizer adds around a text.

        Raises:
            TypeError: a text holds a lone surrogate.
        """
        if self._words is None:
            return self._whole(texts)
        if len(self._ids) + len(self._parts) > _MOST_KEPT:
            self._ids.clear()
            self._parts.clear()
        cut: dict[str, list[str]] = {}
        words = [self._cut(text, cut) for text in texts]
        known = self._ids.__getitem__
        encoded: list[list[int]] = []
        late = []
        for number, of_text in enumerate(words):
            try:
                encoded.append(list(chain.from_iterable(map(known, of_text))))
            except KeyError:
                encoded.append([])
                late.append(number)
        of_late = dict.fromkeys(chain.from_iterable([words[number] for number in late]))
        new = [word for word in of_late if word not in self._ids]
        self._learn(new)
        for number in late:
            encoded[number] = list(chain.from_iterable(map(known, words[number])))
        for word in new:
            if len(word) > _LONGEST_KEPT:
                del self._ids[word]
        return encoded

    def _cut(self, text: str, cut: dict[str, list[str]]) -> list[str]:
        """The words of a text, with the space before them; `cut` remembers the parts between special tokens."""
        assert self._words is not None
        if self._troubling and self._troubling.search(text):
            return [text]
        words: list[str] = []
        for part in self._special.split(text):
            found = cut.get(part)
            if found is None:
                if part.isascii() and not any(joined in part for joined in _NOT_CUT_BY_SPACES):
                    found = _SPACED.findall(part)
                else:
                    found = self._words.findall(part)
                cut[part] = found
            words += found
        return words

    def _learn(self, words: list[str]) -> None:
        """Finds the ids of new words, from smaller parts where it is known how the tokenizer cuts those."""
        made: list[tuple[str, list[str]]] = []
        model = self._tokenizer.backend_tokenizer.model
        for word in words:
            if self._added and self._added.search(word):
                made.append((word, [word]))
            elif _PRINTABLE.fullmatch(word):
                self._ids[word] = self._of_ascii(word, model)
            elif _IDEOGRAPH.search(word):
                made.append((word, self._ideograph_cuts().parts(word)))
            else:
                made.append((word, [word]))
        known = self._parts
        new = [part for part in dict.fromkeys(chain.from_iterable([p for _, p in made])) if part not in known]
        self._learn_whole(new)
        for word, parts in made:
            self._ids[word] = tuple(chain.from_iterable(map(known.__getitem__, parts)))
        for part in new:
            if len(part) > _LONGEST_KEPT:
                del known[part]

    def _of_ascii(self, word: str, model: Any) -> tuple[int, ...]:
        """The ids of a word of ASCII letters, digits, signs and white space."""
        parts = []
        for part in self._short.findall(word):
            found = self._parts.get(part)
            if found is None:
                tokens = model.tokenize(part.translate(_BYTE_LETTERS))
                found = self._parts[part] = tuple([token.id for token in tokens])
            parts.append(found)
        return tuple(chain.from_iterable(parts))

    def _ideograph_cuts(self) -> IdeographCuts:
        if self._ideographs is None:
            after_signs = self._words is not None and self._words.pattern == GPT2_WORDS
            self._ideographs = IdeographCuts(self._tokenizer.get_vocab(), after_signs)
        return self._ideographs

    def _learn_whole(self, words: list[str]) -> None:
        """Encodes new words many at once, a special token between them; it is a hard edge to any tokenizer."""
        plain = [word for word in words if not (self._added and self._added.search(word))]
        batches = [plain[start : start + _JOINED_WORDS] for start in range(0, len(plain), _JOINED_WORDS)]
        for batch, ids in zip(batches, self._whole([self._separator.join(batch) for batch in batches]), strict=True):
            start = 0
            ids.append(self._separator_id)
            for word in batch:
                end = ids.index(self._separator_id, start)
                self._parts[word] = tuple(ids[start:end])
                start = end + 1
        rest = [word for word in words if word not in self._parts]
        self._parts.update(zip(rest, map(tuple, self._whole(rest)), strict=True))

    def _whole(self, texts: Sequence[str]) -> list[list[int]]:
        if not texts:
            return []
        ids: list[list[int]] = self._tokenizer(
            list(texts),
            add_special_tokens=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )["input_ids"]
        return ids


_ENCODERS: WeakKeyDictionary[Any, tuple[Any, Encoder]] = WeakKeyDictionary()


def encoder_of(tokenizer: Any) -> Encoder:
    """The encoder of a tokenizer, kept as long as the tokenizer lives and its added tokens stay the same."""
    state = dict(tokenizer.added_tokens_decoder)
    kept = _ENCODERS.get(tokenizer)
    if kept is None or kept[0] != state:
        # The encoder must not keep its tokenizer alive, or the entry would never go.
        kept = _ENCODERS[tokenizer] = (state, Encoder(proxy(tokenizer)))
    return kept[1]


def _any_of(texts: list[str]) -> re.Pattern[str] | None:
    return re.compile("|".join(map(re.escape, texts))) if texts else None


def _reaches_out(token: Any) -> bool:
    """Whether an added token looks at, or takes in, what stands beside it, or has white space inside."""
    return bool(token.lstrip or token.rstrip or token.single_word or re.search(rf"[{SPACE}]", token.content))


def _clean_tokens(added: Iterable[tuple[int, Any]]) -> dict[str, int]:
    """Special tokens that are found wherever their text stands: no other added token can overlap them."""
    added = list(added)
    clean = {
        token.content: number
        for number, token in added
        if token.special and not token.normalized and not _reaches_out(token)
    }
    lengths = sorted({len(content) for content in clean})
    starts: dict[str, set[str]] = {}
    for content in clean:
        for length in range(1, len(content) + 1):
            starts.setdefault(content[:length], set()).add(content)
    for _, token in added:
        other = token.content
        for place in range(len(other)):
            rest = other[place:]
            overlapped = starts.get(rest, set()) if place else set()
            inside = {rest[:length] for length in lengths if length <= len(rest) and rest[:length] in clean} - {other}
            for content in overlapped | inside:
                clean.pop(content, None)
    return clean
