"""Labelled documents for people: what the model reads, and which part of it is trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from danlu.data.template import Document

_TRAINED, _NOT_TRAINED, _HEADING, _PLAIN = "\x1b[1;32m", "\x1b[2m", "\x1b[1m", "\x1b[0m"
_OPEN, _CLOSE = "⟦", "⟧"
# What would move the cursor or colour the terminal is shown by its picture; a line break is shown and made.
_VISIBLE = {number: chr(0x2400 + number) for number in range(32)} | {127: "\u2421", 9: "⇥\t", 10: "⏎\n"}


def show_document(tokenizer: Any, document: Document, colour: bool = False) -> str:
    """The text of a document with its special tokens, line breaks as ⏎, and what is trained marked.

    Args:
        tokenizer: whose ids these are.
        document: the labelled tokens.
        colour: mark trained text in green and dim the rest, for a terminal; else trained text stands in ⟦ ⟧.
    """
    shown = []
    for trained, text in _stretches(tokenizer, document):
        visible = text.translate(_VISIBLE)
        if colour:
            shown.append(f"{_TRAINED if trained else _NOT_TRAINED}{visible}{_PLAIN}")
        else:
            shown.append(f"{_OPEN}{visible}{_CLOSE}" if trained else visible)
    return "".join(shown)


def show_rows(tokenizer: Any, documents: Sequence[Document], wheres: Sequence[str], colour: bool) -> str:
    """Several documents, each under its place and its number of tokens.

    Args:
        tokenizer: whose ids these are.
        documents: the labelled tokens.
        wheres: for each document, the place of its row, as in `data.jsonl:3`.
        colour: as in `show_document`.
    """
    blocks = []
    for where, document in zip(wheres, documents, strict=True):
        heading = f"{where}: {len(document.ids)} tokens, {document.trained} of them trained"
        heading = f"{_HEADING}{heading}{_PLAIN}" if colour else heading
        blocks.append(f"{heading}\n{show_document(tokenizer, document, colour)}")
    return "\n\n".join(blocks)


def _stretches(tokenizer: Any, document: Document) -> Iterator[tuple[bool, str]]:
    """Whether trained, and the text, of each stretch of the document, in order; empty stretches are left out."""
    ends = [place for span in document.spans for place in span]
    trained, start, before = False, 0, ""
    for end in [*ends, len(document.ids)]:
        # Decoded from the beginning: many tokenizers drop the space before the first token of what they decode.
        whole = _decode(tokenizer, document.ids[:end])
        goes_on = whole.startswith(before)  # unless the last character before ends in these tokens
        text = whole[len(before) :] if goes_on else _decode(tokenizer, document.ids[start:end])
        if end > start:
            yield trained, text
        trained, start, before = not trained, end, whole


def _decode(tokenizer: Any, ids: Sequence[int]) -> str:
    text: str = tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return text
