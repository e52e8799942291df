"""Rows that are too long: dropped, or cut at the question or at the answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from danlu.data.labels import Labelled
from danlu.data.records import Message, Record, RowFault
from danlu.data.template import Document
from danlu.models.tokenizer import has_encoder, tokenize

_NAMES = {"user": "question", "system": "system text", "tool": "tool result", "prompt": "prompt"}
_MANY_ANSWERS = 16
LabelOne = Callable[[Record], Labelled]


def require_hope(label_last: LabelOne, record: Record, max_tokens: int, too_long: str) -> None:
    """Requires that a row of many answers may fit, told by its last answer alone.

    All answers take a rendering of the conversation each: minutes for a thousand turns, of which few would be kept.

    Args:
        label_last: gives the document of a row's last answer.
        record: the row.
        max_tokens: longest document.
        too_long: as in `fit`.

    Raises:
        RowFault: `fit` would raise one.
    """
    if record.rejected or sum(message["role"] == "assistant" for message in record.messages) <= _MANY_ANSWERS:
        return
    if too_long == "cut_prompt":
        shortest = [
            {**message, "content": message["content"][:1]} if message["role"] in _NAMES else message
            for message in record.messages
        ]
        longest = label_last(replace(record, messages=shortest)).longest
        if longest > max_tokens:
            raise _nothing_left(max_tokens, longest)
    elif too_long == "cut_answer":
        trained = [place for place, message in enumerate(record.messages) if _is_trained(message)]
        if trained:
            _cut_answer(label_last(replace(record, messages=record.messages[: trained[-1] + 1])), max_tokens)
    else:
        longest = label_last(record).longest
        if longest > max_tokens:
            raise _longer(max_tokens, longest)


def fit(
    label_one: LabelOne, tokenizer: Any, record: Record, labelled: Labelled, max_tokens: int, too_long: str
) -> Labelled:
    """The labelled row within `max_tokens`, if `too_long` (see `label_records`) allows to cut it.

    Raises:
        RowFault: it is to be dropped, or what must stay is too long by itself.
    """
    if too_long == "cut_prompt":
        return _cut_prompt(label_one, tokenizer, record, labelled, max_tokens)
    if too_long == "cut_answer":
        return _cut_answer(labelled, max_tokens)
    raise _longer(max_tokens, labelled.longest)


def _longer(max_tokens: int, num_tokens: int) -> RowFault:
    return RowFault(f"longer than data.max_sequence_tokens = {max_tokens}: {num_tokens} tokens")


def _nothing_left(max_tokens: int, num_tokens: int) -> RowFault:
    return RowFault(
        f"the answer alone is longer than data.max_sequence_tokens = {max_tokens}: "
        f"{num_tokens} tokens with nothing left to cut"
    )


def _cut_prompt(label_one: LabelOne, tokenizer: Any, record: Record, labelled: Labelled, max_tokens: int) -> Labelled:
    """Takes from the end of the longest text that is not an answer, then from the next, until the row fits."""
    cuts: dict[int, tuple[int, int]] = {}
    while (excess := labelled.longest - max_tokens) > 0:
        counts = {
            place: len(tokenize(tokenizer, record.messages[place]["content"]))
            for place in _asked(record, labelled, apart=has_encoder(tokenizer))
        }
        messages = list(record.messages)
        # As many as it seems to take: the row is labelled again once for all of them.
        while excess > 0 and counts:
            place = max(counts, key=lambda number: (counts[number], -number))
            text = messages[place]["content"]
            shorter = _shortened(tokenizer, text, counts[place], max(counts[place] - excess, 1))
            if not shorter.strip():
                break
            after = len(tokenize(tokenizer, shorter))
            messages[place] = {**messages[place], "content": shorter}
            cuts[place] = (cuts.get(place, (counts[place], 0))[0], after)
            excess -= counts.pop(place) - after
            if after > 1:
                counts[place] = after
        if messages == record.messages:
            raise _nothing_left(max_tokens, labelled.longest)
        record = replace(record, messages=messages)
        labelled = label_one(record)
    notes = [
        f"{_NAMES[record.messages[place]['role']]} cut from {before} to {after} tokens"
        for place, (before, after) in sorted(cuts.items())
    ]
    return replace(labelled, cut="; ".join(notes))


def _is_trained(message: Message) -> bool:
    return message["role"] in ("assistant", "completion") and bool(message.get("train", True))


def _asked(record: Record, labelled: Labelled, apart: bool) -> list[int]:
    """Places of texts that are not trained, that stand in the longest document and that can lose their end."""
    last, count = len(record.messages), len(labelled.documents)
    if count > 1 or apart:  # one for each trained answer, in order; in a pair, for the last
        longest = max(range(count), key=lambda number: len(labelled.documents[number].ids))
        answers = [place for place, message in enumerate(record.messages) if _is_trained(message)]
        last = answers[-count:][longest]
    return [
        place
        for place, message in enumerate(record.messages[:last])
        if message["role"] in _NAMES and len(message["content"]) > 1
    ]


def _shortened(tokenizer: Any, text: str, count: int, keep: int) -> str:
    """The beginning of a text that has about `keep` of its `count` tokens; always shorter than the text."""
    if keep >= count:
        return text[: len(text) // 2]
    if not tokenizer.is_fast:
        return text[: len(text) * keep // count]
    offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    # The start of the first token that goes: where that is within a character, the whole character goes.
    return text[: min(offsets[keep][0], len(text) - 1)]


def _cut_answer(labelled: Labelled, max_tokens: int) -> Labelled:
    notes: dict[str, None] = {}
    documents = [_cut_document(document, max_tokens, "answer", notes) for document in labelled.documents]
    rejected = [_cut_document(document, max_tokens, "rejected answer", notes) for document in labelled.rejected]
    return replace(labelled, documents=documents, rejected=rejected, cut="; ".join(notes))


def _cut_document(document: Document, max_tokens: int, name: str, notes: dict[str, None]) -> Document:
    """The document's first tokens; its last answer then has no end."""
    if len(document.ids) <= max_tokens:
        return document
    start, end = document.spans[-1]
    if start >= max_tokens:
        raise RowFault(f"the prompt alone is longer than data.max_sequence_tokens = {max_tokens}: {start} tokens")
    if end > max_tokens:
        notes[f"{name} cut from {end - start - 1} to {max_tokens - start} tokens, its end is not trained"] = None
    else:
        notes[f"an answer that is not trained lost {len(document.ids) - max_tokens} tokens"] = None
    return Document(document.ids[:max_tokens], (*document.spans[:-1], (start, min(end, max_tokens))))
