"""Labelling rows by the batch: the rule of `danlu.data.template`, fast, and with what happens to rows too long.

Templates are rendered once per answer with and without it; how they frame an answer is learnt once for each shape of
conversation and then checked on every row. Where the check fails, the row is labelled by `answer_text`, which is the
rule itself. The texts of all rows are encoded together.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from danlu.data.encoding import encoder_of
from danlu.data.records import Message, Messages, Record, RowFault
from danlu.data.template import AnswerText, Document, answer_text, as_turns, is_plain, render
from danlu.models.tokenizer import has_encoder, tokens_around

ANY_LENGTH = sys.maxsize
Result = TypeVar("Result")
_ORDINARY = {"role", "content"}
_FAILURES = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


@dataclass(frozen=True)
class Labelled:
    """What became of one row.

    Attributes:
        documents: its token sequences; in a preference pair, one with the wanted answer.
        rejected: in a preference pair, one with the answer that is not wanted; else empty.
        cut: what was cut to make it fit, in words; empty if nothing was.
        changes: what else is not as the row has it: reason, text before, text after.
    """

    documents: list[Document]
    rejected: list[Document]
    cut: str = ""
    changes: tuple[tuple[str, str, str], ...] = ()

    @property
    def longest(self) -> int:
        """Tokens of the longest document."""
        return max(len(document.ids) for document in (*self.documents, *self.rejected))


@dataclass(frozen=True)
class _Piece:
    """An answer before it is encoded.

    Attributes:
        before: what is sent for it.
        text: the answer.
        end: the token that ends it.
        trained: whether it is.
        first: tokens before everything.
        joined: text that continues `before` without a template, encoded with it in one if that leaves the prompt's
            tokens as they are.
        content: what the row itself has as the answer.
    """

    before: str
    text: str
    end: int
    trained: bool = True
    first: tuple[int, ...] = ()
    joined: bool = False
    content: str = ""

    def texts(self) -> tuple[str, ...]:
        return (self.before, self.text, self.before + self.text) if self.joined else (self.before, self.text)

    def ids(self, encoded: Iterator[list[int]]) -> tuple[list[int], list[int]]:
        """Tokens of the prompt and of the answer with its end, taking the ids of `texts()`."""
        prompt, answer = next(encoded), next(encoded)
        if self.joined:
            whole = next(encoded)
            answer = whole[len(prompt) :] if whole[: len(prompt)] == prompt else answer
            prompt = [*self.first, *prompt]
        return prompt, [*answer, self.end]


@dataclass(frozen=True)
class _Plan:
    """A row's answers, before they are encoded.

    Attributes:
        pieces: the answers.
        rejected: in a preference pair, the one that is not wanted.
        decode: ids to text, for an encoder-decoder model: there no answer goes on in the text that asks for the next,
            so each is a document, and many a vocabulary has no line break or brace.
    """

    pieces: list[_Piece]
    rejected: Sequence[_Piece] = ()
    decode: Callable[[Sequence[int]], str] | None = None

    def texts(self) -> list[str]:
        return [text for piece in (*self.pieces, *self.rejected) for text in piece.texts()]

    def labelled(self, encoded: Iterator[list[int]]) -> Labelled:
        apart = self.decode is not None
        documents = _documents(self.pieces, encoded, apart)
        rejected = _documents(self.rejected, encoded, apart) if self.rejected else []
        return Labelled(documents, rejected, changes=tuple(self._changes(documents)))

    def _changes(self, documents: list[Document]) -> Iterator[tuple[str, str, str]]:
        if self.decode is None:
            return
        if len(documents) > 1:
            yield f"several answers: {len(documents)} documents, each with all before it as its source", "", ""
        for piece, document in zip([one for one in self.pieces if one.trained], documents, strict=True):
            written = self.decode(document.ids[document.spans[0][0] :])
            if written.strip() != piece.content.strip():
                yield "the tokenizer writes an answer otherwise", piece.content, written


def _documents(pieces: Sequence[_Piece], encoded: Iterator[list[int]], apart: bool) -> list[Document]:
    """One document if each prompt begins with all that came before it, else one for each trained answer."""
    answers = [(*piece.ids(encoded), piece.trained) for piece in pieces]
    ids: list[int] = []
    spans: list[tuple[int, int]] = []
    for prompt, answer, trained in answers:
        if apart or (ids and prompt[: len(ids)] != ids):
            return [_document([*p, *a], [(len(p), len(p) + len(a))]) for p, a, of_interest in answers if of_interest]
        ids = prompt + answer
        if trained:
            spans.append((len(prompt), len(ids)))
    return [_document(ids, spans)]


def _document(ids: list[int], spans: list[tuple[int, int]]) -> Document:
    # Nothing is seen before the first token, so it can't be learnt.
    return Document(tuple(ids), tuple([(max(start, 1), end) for start, end in spans]))


def label_records(
    tokenizer: Any, records: Sequence[Record], max_tokens: int, too_long: str
) -> list[Labelled | RowFault]:
    """Labels many rows; what the tokenizer or the template fails on becomes that row's fault.

    Args:
        tokenizer: with its chat template.
        records: the rows.
        max_tokens: longest document.
        too_long: what happens to a longer row: `drop`, `cut_prompt` (the end of its longest question, system text,
            tool result or prompt goes) or `cut_answer` (the end of its last answer goes, and no end is trained).

    Returns:
        One result for each record, in order.
    """
    from danlu.data.cutting import fit, require_hope

    labeller = _Labeller(tokenizer)
    hopes = [
        or_fault(lambda record=record: require_hope(labeller.label_last, record, max_tokens, too_long))  # type: ignore[misc]
        for record in records
    ]
    labelled = iter(labeller.label_all([record for record, fault in zip(records, hopes, strict=True) if fault is None]))

    def fitted(record: Record, labelled: Labelled | RowFault) -> Labelled | RowFault:
        if isinstance(labelled, RowFault) or labelled.longest <= max_tokens:
            return labelled
        return or_fault(lambda: fit(labeller.label_one, tokenizer, record, labelled, max_tokens, too_long))

    return [fault or fitted(record, next(labelled)) for record, fault in zip(records, hopes, strict=True)]


def or_fault(work: Callable[[], Result]) -> Result | RowFault:
    """What `work` gives, or the fault that its failure means for the row."""
    try:
        return work()
    except RowFault as fault:
        return fault
    except _FAILURES as error:
        failure: BaseException = error
    except BaseException as error:  # a Rust panic derives from nothing narrower; all else goes on
        if type(error).__name__ != "PanicException":
            raise
        failure = error
    reason = " ".join(str(failure).split())[:120]
    return RowFault(f"the tokenizer fails on the row: {type(failure).__name__}: {reason}")


class _Labeller:
    """Labels the rows of one batch, remembering what it learns about the template."""

    def __init__(self, tokenizer: Any) -> None:
        from jinja2 import TemplateError

        self._tokenizer = tokenizer
        self._encoder = encoder_of(tokenizer)
        self._frames: dict[tuple[str, ...], AnswerText] = {}
        self._around: tuple[list[int], list[int]] | None = None
        self._failures = (RowFault, TemplateError, *_FAILURES)
        try:
            self._render = _renderer(tokenizer)
        except self._failures:
            self._render = None  # the slow way says for each row why

    def label_one(self, record: Record) -> Labelled:
        """One row, of any length.

        Raises:
            RowFault: it can't be labelled.
        """
        labelled = self.label_all([record])[0]
        if isinstance(labelled, RowFault):
            raise labelled
        return labelled

    def label_last(self, record: Record) -> Labelled:
        """The document of the last answer of a conversation, of any length; quick where there are many.

        Raises:
            RowFault: it can't be labelled.
        """
        plan = _Plan(self._pieces(record.messages, record.tools, only_last=True))
        return plan.labelled(iter(self._encoder.encode(plan.texts())))

    def label_all(self, records: Sequence[Record]) -> list[Labelled | RowFault]:
        """All rows, of any length."""
        plans = [or_fault(lambda record=record: self._plan(record)) for record in records]  # type: ignore[misc]
        texts = [text for plan in plans if not isinstance(plan, RowFault) for text in plan.texts()]
        encoded = or_fault(lambda: self._encoder.encode(texts))
        if isinstance(encoded, RowFault):  # one bad text spoils the batch: now each row for itself
            return [plan if isinstance(plan, RowFault) else self._alone(plan) for plan in plans]
        ids = iter(encoded)
        return [plan if isinstance(plan, RowFault) else plan.labelled(ids) for plan in plans]

    def _alone(self, plan: _Plan) -> Labelled | RowFault:
        return or_fault(lambda: plan.labelled(iter(self._encoder.encode(plan.texts()))))

    def _plan(self, record: Record) -> _Plan:
        turns = as_turns(self._tokenizer, [*record.messages, *record.rejected])
        if is_plain(turns):
            return self._plan_of_text(record)
        decode, count = self._decode if has_encoder(self._tokenizer) else None, len(record.messages)
        record = Record(list(turns[:count]), record.tools, list(turns[count:]))
        pieces = self._pieces(record.messages, record.tools, only_last=bool(record.rejected))
        if not any(piece.trained for piece in pieces):
            raise RowFault("no answer is trained")
        if not record.rejected:
            return _Plan(pieces, decode=decode)
        other = [*record.messages[: -len(record.rejected)], *record.rejected]
        return _Plan(pieces, self._pieces(other, record.tools, only_last=True), decode)

    def _decode(self, ids: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return text

    def _pieces(self, messages: Messages, tools: list[dict[str, Any]], only_last: bool) -> list[_Piece]:
        ordinary = not tools and all(message.keys() == _ORDINARY for message in messages)
        places = [place for place, message in enumerate(messages) if message["role"] == "assistant"]
        pieces = []
        for place in places[-1:] if only_last else places:
            found = self._quick(messages, place) if ordinary else None
            if found is None:
                written = answer_text(self._tokenizer, messages, place, tools)
                found = written.before, written.text, written.end
                if ordinary:
                    self._frames.setdefault(_shape(messages, place), written)
            answer = messages[place]
            pieces.append(_Piece(*found, trained=answer.get("train", True), content=answer["content"]))
        return pieces

    def _quick(self, messages: Messages, place: int) -> tuple[str, str, int] | None:
        """The parts of `answer_text` where the template frames this answer as it did others of the same shape."""
        frame = self._frames.get(_shape(messages, place))
        if frame is None or self._render is None:
            return None
        try:
            before = self._render(messages[:place], True)
            after = self._render(messages[: place + 1], False)
        except self._failures:
            return None  # the slow way says why
        content = messages[place]["content"]
        for text in (frame.lead + content, frame.lead + content.strip()):
            if after == before + text + frame.tail:
                return before, text, frame.end
        return None

    def _plan_of_text(self, record: Record) -> _Plan:
        if self._around is None:
            self._around = tokens_around(self._tokenizer)
        first, last = self._around
        end = last[-1] if last else self._tokenizer.eos_token_id
        if end is None:
            raise RowFault("the tokenizer has no end token, so plain text could not stop")
        begun = "" if record.messages[0]["role"] == "text" else record.messages[0]["content"]

        def piece(message: Message) -> list[_Piece]:
            return [_Piece(begun, message["content"], end, first=tuple(first), joined=True)]

        rejected = piece(record.rejected[-1]) if record.rejected else []
        return _Plan(piece(record.messages[-1]), rejected)


def _shape(messages: Messages, place: int) -> tuple[str, ...]:
    return tuple([message["role"] for message in messages[: place + 1]])


def _renderer(tokenizer: Any) -> Callable[[Messages, bool], str] | None:
    """`render` for ordinary messages without what Transformers does for others, or None if it is not the same.

    Transformers copies every message three times, which takes longer than the template itself. Raises whatever the
    template raises on a question and its answer.
    """
    from transformers import PreTrainedTokenizerBase
    from transformers.utils import chat_template_utils

    compile_template = getattr(chat_template_utils, "_compile_jinja_template", None)
    own = getattr(type(tokenizer), "apply_chat_template", None) is PreTrainedTokenizerBase.apply_chat_template
    if compile_template is None or not own or not tokenizer.chat_template:
        return None
    template = compile_template(tokenizer.get_chat_template(None, None))
    special = dict(tokenizer.special_tokens_map)

    def write(messages: Messages, ask: bool) -> str:
        text: str = template.render(messages=messages, tools=None, documents=None, add_generation_prompt=ask, **special)
        return text

    trial = [{"role": "user", "content": "a"}, {"role": "assistant", "content": " b "}]
    asked = ((trial[:1], True), (trial, False))
    return write if all(write(*turns) == render(tokenizer, *turns) for turns in asked) else None
