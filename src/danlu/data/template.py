"""Chat templates: what generation sends, and which tokens of a conversation are trained.

The rule: a document's tokens up to an answer are the very tokens that generation would send to get that answer,
and the trained tokens are the answer's own and the end-of-turn token after it. Spans are found by rendering the
conversation up to each turn, so any template works; nothing is looked up by token id, because many models pad
with their end token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from danlu.data.records import Message, Messages, RowFault

_MARK = "\u2063answer\u2063"  # stands in for an answer to find where a template puts it; U+2063 is in no real text


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


def render(tokenizer: Any, messages: Sequence[Message], ask: bool) -> str:
    """The conversation as text; with `ask`, followed by what invites the next answer.

    Raises:
        RowFault: the template refuses the messages.
    """
    from jinja2 import TemplateError

    try:
        text: str = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=ask)
    except TemplateError as error:
        raise RowFault(f"the chat template refuses the row: {error}") from error
    return text


def prompt_ids(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    """The token ids that ask for the next answer. Training and every engine use this one function."""
    return _tokenize(tokenizer, render(tokenizer, messages, ask=True))


def end_of_turn_id(tokenizer: Any) -> int:
    """The token with which this template ends an answer; generation must stop at it.

    Raises:
        RowFault: the template ends answers with no special token.
    """
    question = {"role": "user", "content": "a"}
    _, ids = _answer(tokenizer, [question, {"role": "assistant", "content": "b"}], 1)
    return ids[-1]


def stop_ids(tokenizer: Any, generation_config: dict[str, Any]) -> list[int]:
    """All tokens at which an answer ends: the template's, the tokenizer's and the model's own."""
    configured = generation_config.get("eos_token_id")
    known = [configured] if isinstance(configured, int) else list(configured or [])
    if tokenizer.eos_token_id is not None:
        known.append(tokenizer.eos_token_id)
    return sorted({end_of_turn_id(tokenizer), *known})


def label(tokenizer: Any, messages: Messages) -> list[Document]:
    """The labelled documents of one conversation.

    One document if every earlier turn reads the same in the whole conversation as when it was asked for; else
    (templates that drop earlier reasoning, say) one document for each answer, so that prompts stay exact.

    Raises:
        RowFault: the template refuses the row, or ends answers with no special token.
    """
    turns = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
    answers = [_answer(tokenizer, messages, index) for index in turns]
    ids: list[int] = []
    spans: list[tuple[int, int]] = []
    for prompt, answer in answers:
        if prompt[: len(ids)] != ids:
            return [
                Document((*prompt, *answer), ((len(prompt), len(prompt) + len(answer)),)) for prompt, answer in answers
            ]
        ids = [*prompt, *answer]
        spans.append((len(prompt), len(ids)))
    return [Document(tuple(ids), tuple(spans))]


def _answer(tokenizer: Any, messages: Messages, index: int) -> tuple[list[int], list[int]]:
    """Token ids of the prompt before message `index`, and of that answer with its end-of-turn token."""
    before = render(tokenizer, messages[:index], ask=True)
    after = render(tokenizer, messages[: index + 1], ask=False)
    marked = render(tokenizer, [*messages[:index], {"role": "assistant", "content": _MARK}], ask=False)
    head, found, tail = marked.partition(_MARK)
    if not found or not head.startswith(before) or not after.startswith(before):
        raise RowFault("the chat template writes an asked-for answer differently from a given one")
    lead = head[len(before) :]  # what the template puts before an answer: a space, or a think block if there is none
    text = after[len(before) : len(after) - len(tail)]
    content = messages[index]["content"].strip()
    if not after.endswith(tail) or content not in (text.strip(), text.removeprefix(lead).strip()):
        raise RowFault("the chat template changes the answer's text")
    special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    end = next((token for token in _tokenize(tokenizer, tail) if token in special), None)
    if end is None:
        raise RowFault("the chat template ends answers with no special token, so generation could not stop")
    return _tokenize(tokenizer, before), [*_tokenize(tokenizer, text), end]


def _tokenize(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids
