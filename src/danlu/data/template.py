"""Chat templates: what generation sends, and which tokens of a conversation are trained.

The rule: a document's tokens up to an answer are the very tokens that generation would send to get that answer,
and the trained tokens are the answer's own and the end-of-turn token after it. Spans are found by rendering the
conversation up to each turn, so any template works; nothing is looked up by token id, because many models pad
with their end token. `danlu.data.labels` applies the rule to many rows at once.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from danlu.data.records import Message, Messages, Record, RowFault
from danlu.models.tokenizer import has_encoder, tokenize, tokens_around

_MARK = "\u2063answer\u2063"  # stands in for an answer to find where a template puts it; U+2063 is in no real text
_OWN_KEYS = frozenset({"train", "tools"})
_AS_TURNS = {"prompt": "user", "completion": "assistant"}
Tools = Sequence[dict[str, Any]]


@dataclass(frozen=True)
class Document:
    """One labelled token sequence.

    Attributes:
        ids: token ids.
        spans: half-open `(start, end)` positions of trained tokens, in order; never from position 0.
    """

    ids: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]

    @property
    def trained(self) -> int:
        """Number of trained tokens."""
        return sum(end - start for start, end in self.spans)


@dataclass(frozen=True)
class AnswerText:
    """One answer as a template writes it.

    Attributes:
        before: what generation sends to get it.
        text: the answer, with what the template puts around its content.
        end: id of the token that ends it.
        lead: what the template puts between `before` and the answer's content.
        tail: what it puts after the content.
    """

    before: str
    text: str
    end: int
    lead: str
    tail: str


def render(tokenizer: Any, messages: Sequence[Message], ask: bool, tools: Tools = ()) -> str:
    """The conversation as text; with `ask`, followed by what invites the next answer.

    Tools are given, or stand as `tools` in the first message: so a stored conversation carries its own.
    Text that continues without a chat template (roles `prompt`, `completion`, `text`) is given as it is, but an
    encoder-decoder model continues nothing: there it is a question and its answer.

    Raises:
        RowFault: the template refuses the messages, or fails on them; or text alone is for an encoder-decoder model.
    """
    from jinja2 import TemplateError

    messages = as_turns(tokenizer, messages)
    if is_plain(messages):
        return "".join(message["content"] for message in messages)
    turns = [{key: value for key, value in message.items() if key not in _OWN_KEYS} for message in messages]
    try:
        text: str = tokenizer.apply_chat_template(
            turns, tools=list(tools or messages[0].get("tools", ())) or None, tokenize=False, add_generation_prompt=ask
        )
    except TemplateError as error:
        raise RowFault(f"the chat template refuses the row: {error}") from error
    # A template is a program from elsewhere: any of these can come from inside it.
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise RowFault(f"the chat template fails on the row: {type(error).__name__}: {str(error)[:120]}") from error
    return text


def is_plain(messages: Sequence[Message]) -> bool:
    """Whether these are texts that go without a chat template."""
    return bool(messages) and messages[0]["role"] in ("prompt", "text")


def as_turns(tokenizer: Any, messages: Sequence[Message]) -> Sequence[Message]:
    """A plain prompt and its completion as question and answer, if the model is an encoder-decoder one.

    Raises:
        RowFault: it is text alone.
    """
    if not is_plain(messages) or not has_encoder(tokenizer):
        return messages
    if messages[0]["role"] == "text":
        raise RowFault("text alone has no question, which an encoder-decoder model needs")
    return [{**message, "role": _AS_TURNS.get(message["role"], message["role"])} for message in messages]


def prompt_ids(tokenizer: Any, messages: Sequence[Message], tools: Tools = ()) -> list[int]:
    """The token ids that ask for the next answer. Training and every engine use this one function."""
    ids = tokenize(tokenizer, render(tokenizer, messages, ask=True, tools=tools))
    return [*tokens_around(tokenizer)[0], *ids] if is_plain(as_turns(tokenizer, messages)) else ids


def answer_start_ids(tokenizer: Any) -> list[int]:
    """The token ids that the template puts before every answer, as in BART's `<s>`; often none.

    Raises:
        RowFault: the template ends answers with no special token.
    """
    return tokenize(tokenizer, _shortest_answer(tokenizer).lead)


def end_of_turn_id(tokenizer: Any) -> int:
    """The token with which this template ends an answer; generation must stop at it.

    Raises:
        RowFault: the template ends answers with no special token.
    """
    return _shortest_answer(tokenizer).end


def _shortest_answer(tokenizer: Any) -> AnswerText:
    question = {"role": "user", "content": "a"}
    return answer_text(tokenizer, [question, {"role": "assistant", "content": "b"}], 1)


def stop_ids(tokenizer: Any, generation_config: dict[str, Any]) -> list[int]:
    """All tokens at which an answer ends: the template's, the tokenizer's and the model's own."""
    configured = generation_config.get("eos_token_id")
    known = [configured] if isinstance(configured, int) else list(configured or [])
    if tokenizer.eos_token_id is not None:
        known.append(tokenizer.eos_token_id)
    return sorted({end_of_turn_id(tokenizer), *known})


def label(tokenizer: Any, messages: Messages) -> list[Document]:
    """The labelled documents of one conversation, of any length.

    One document if every earlier turn reads the same in the whole conversation as when it was asked for; else
    (templates that drop earlier reasoning, say) one document for each answer, so that prompts stay exact.

    Raises:
        RowFault: the template refuses the row, or ends answers with no special token.
    """
    from danlu.data.labels import ANY_LENGTH, label_records

    first, *rest = messages
    bare = {key: value for key, value in first.items() if key != "tools"}
    record = Record([bare, *rest], first.get("tools", []))
    labelled = label_records(tokenizer, [record], ANY_LENGTH, "drop")[0]
    if isinstance(labelled, RowFault):
        raise labelled
    return labelled.documents


def answer_text(tokenizer: Any, messages: Sequence[Message], index: int, tools: Tools = ()) -> AnswerText:
    """How the template writes message `index`, an answer.

    Raises:
        RowFault: the template refuses the row, changes the answer, leaves out a part of it or of what it answers,
            or ends answers with no special token.
    """
    answer = messages[index]
    before = render(tokenizer, messages[:index], ask=True, tools=tools)
    after = render(tokenizer, messages[: index + 1], ask=False, tools=tools)
    mark = _MARK
    while any(mark in str(message["content"]) for message in messages[:index]):
        mark += "\u2063"
    marked = render(tokenizer, [*messages[:index], {"role": "assistant", "content": mark}], ask=False, tools=tools)
    head, found, tail = marked.partition(mark)
    if not found or not head.startswith(before) or not after.startswith(before):
        raise RowFault("the chat template writes an asked-for answer differently from a given one")
    lead = head[len(before) :]  # what the template puts before an answer: a space, or a think block if there is none
    if answer.get("tool_calls") and not after.endswith(tail):
        tail = _tail_of_call(tokenizer, after[len(before) :])
    text = after[len(before) : len(after) - len(tail)]
    if not after.endswith(tail) or not _holds(text, lead, answer):
        raise RowFault("the chat template changes the answer's text")
    _require_nothing_left_out(tokenizer, messages[: index + 1], tools, before, text)
    return AnswerText(before, text, end_in(tokenizer, tail), lead, tail)


def end_in(tokenizer: Any, tail: str) -> int:
    """The special token in what a template writes after an answer.

    Raises:
        RowFault: there is none.
    """
    special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    end = next((token for token in tokenize(tokenizer, tail) if token in special), None)
    if end is None:
        raise RowFault("the chat template ends answers with no special token, so generation could not stop")
    return end


def _tail_of_call(tokenizer: Any, written: str) -> str:
    """The special token at the end of a tool call: some templates end calls with a token of their own."""
    added = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    for token in sorted(added.union(tokenizer.all_special_tokens), key=len, reverse=True):
        if written.rstrip().endswith(token):
            return written[written.rindex(token) :]
    return ""


def _holds(text: str, lead: str, answer: Message) -> bool:
    """Whether what the template wrote has the answer's content, whole and with nothing foreign around it."""
    content = answer["content"].strip()
    if answer.get("tool_calls"):
        return content in text
    if answer.get("reasoning_content"):
        return text.strip().endswith(content)
    return content in (text.strip(), text.removeprefix(lead).strip())


def _require_nothing_left_out(
    tokenizer: Any, messages: Sequence[Message], tools: Tools, before: str, text: str
) -> None:
    """Templates drop what they do not know, without a word; here it is a fault."""
    answer = messages[-1]
    reasoning = (answer.get("reasoning_content") or "").strip()
    if reasoning and answer.get("train", True) and reasoning not in text.removesuffix(answer["content"].strip()):
        raise RowFault("the chat template leaves out the reasoning")
    for call in answer.get("tool_calls") or ():
        function = call["function"]
        if not all(_is_in(leaf, text) for leaf in (function["name"], *_texts_of(function["arguments"]))):
            raise RowFault("the chat template leaves out a tool call")
    if any(message["role"] == "tool" and not _is_in(message["content"].strip(), before) for message in messages):
        raise RowFault("the chat template leaves out a tool's result")
    if tools and (
        not all(_is_in(tool["function"]["name"], before) for tool in tools)
        or before == render(tokenizer, messages[:-1], ask=True)
    ):
        raise RowFault("the chat template leaves out the tools")


def _is_in(text: str, written: str) -> bool:
    """Whether a text is written out, as it is or as JSON."""
    return text in written or json.dumps(text, ensure_ascii=False)[1:-1] in written or json.dumps(text)[1:-1] in written


def _texts_of(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from _texts_of(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts_of(item)
