"""Chat templates: prompts are those of generation, and only answers with their end token are trained."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken

from danlu.data.records import Messages, RowFault, to_record
from danlu.data.template import Document, end_of_turn_id, label, prompt_ids, stop_ids

TEMPLATES = Path(__file__).parents[2] / "chat_templates"
EMPTY_THOUGHT = "<think>\n\n</think>\n\n"


@dataclass(frozen=True)
class Family:
    """A model family's special tokens, and how its template writes an answer."""

    special: tuple[str, ...]
    bos: str
    eos: str
    end: str
    written: Callable[[str], str]
    ordinary: tuple[str, ...] = ()
    swallows_space: bool = False


FAMILIES = {
    "chatml": Family(("<|im_start|>", "<|im_end|>"), "<|im_start|>", "<|im_end|>", "<|im_end|>", lambda a: a),
    "llama3": Family(
        ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        "<|begin_of_text|>",
        "<|end_of_text|>",
        "<|eot_id|>",
        str.strip,
    ),
    "mistral": Family(("<s>", "</s>", "[INST]", "[/INST]"), "<s>", "</s>", "</s>", lambda a: f" {a}"),
    "gemma": Family(
        ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"), "<bos>", "<eos>", "<end_of_turn>", str.strip
    ),
    "phi": Family(
        ("<s>", "<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
        "<s>",
        "<|endoftext|>",
        "<|end|>",
        lambda a: a,
        swallows_space=True,
    ),
    "qwen": Family(
        ("<|im_start|>", "<|im_end|>"),
        "<|endoftext|>",
        "<|im_end|>",
        "<|im_end|>",
        lambda a: EMPTY_THOUGHT + a.lstrip("\n"),
        ordinary=("<think>", "</think>"),
    ),
}

FORMS: dict[str, dict[str, Any]] = {
    "alpaca": {"instruction": "Name a colour.", "output": "Blue."},
    "alpaca with input": {"instruction": "Translate.", "input": "guten Tag", "output": "good day"},
    "instruction/response": {"instruction": "Add 2 and 2.", "response": "4"},
    "question/answer": {"question": "Who wrote Faust?", "answer": "Goethe wrote it."},
    "input_text/target_text": {"input_text": "a b c", "target_text": "d e f"},
    "sharegpt": {
        "conversations": [
            {"from": "human", "value": "Hello"},
            {"from": "gpt", "value": "Hi! How can I help?"},
            {"from": "human", "value": "Count to three."},
            {"from": "gpt", "value": "1, 2, 3"},
        ]
    },
    "messages": {
        "messages": [
            {"role": "system", "content": "You are terse."},
            {"role": "user", "content": "Is the sky blue?"},
            {"role": "assistant", "content": "Yes."},
            {"role": "user", "content": "And at night?"},
            {"role": "assistant", "content": "Black."},
            {"role": "user", "content": "Why?"},
            {"role": "assistant", "content": "No sun."},
        ]
    },
}

ODD_ANSWERS = [
    "\n\nafter two newlines",
    "  after two spaces",
    "\tafter a tab, and two at the end  ",
    "one\r\n\r\n   two\u00a0three\u2003four\u200bfive\n\n\n",
    "你好，世界。今天天气怎么样？",
    "👩‍👩‍👧‍👦 and 🇩🇪 and e\u0301",
    "日本語\n\n  - 中文 🎉",
    "x",
]


@pytest.fixture(scope="session")
def of_family(tokenizer: Any) -> Callable[[str], Any]:
    """A copy of the real tokenizer with a family's special tokens and chat template."""
    made: dict[str, Any] = {}

    def make(name: str) -> Any:
        if name not in made:
            family, chosen = FAMILIES[name], copy.deepcopy(tokenizer)
            known = chosen.get_vocab()
            # Phi's published tokenizer takes the whitespace after a special token into it.
            new = [AddedToken(t, rstrip=family.swallows_space, special=True) for t in family.special if t not in known]
            chosen.add_tokens(new, special_tokens=True)
            chosen.add_tokens([AddedToken(text, special=False) for text in family.ordinary])
            chosen.bos_token, chosen.eos_token, chosen.pad_token = family.bos, family.eos, family.eos
            chosen.chat_template = (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")
            made[name] = chosen
        return made[name]

    return make


def with_template(tokenizer: Any, template: str) -> Any:
    changed = copy.deepcopy(tokenizer)
    changed.chat_template = template
    return changed


def spans_of(documents: list[Document]) -> list[tuple[list[int], list[int]]]:
    """Prompt ids and trained ids of each span, in order."""
    return [(list(d.ids[:start]), list(d.ids[start:end])) for d in documents for start, end in d.spans]


def check_against_generation(tokenizer: Any, messages: Messages, expected: Callable[[str], str], end: str) -> None:
    turns = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
    spans = spans_of(label(tokenizer, messages))
    assert len(spans) == len(turns)
    for index, (prompt, trained) in zip(turns, spans, strict=True):
        sent = tokenizer.apply_chat_template(
            messages[:index], add_generation_prompt=True, tokenize=True, return_dict=False
        )
        assert prompt == list(sent)
        assert prompt == prompt_ids(tokenizer, messages[:index])
        text = tokenizer.decode(trained[:-1], clean_up_tokenization_spaces=False)
        assert text == expected(messages[index]["content"])
        assert trained[-1] == tokenizer.convert_tokens_to_ids(end)


def question_and(answer: str) -> Messages:
    return [{"role": "user", "content": "Tell me."}, {"role": "assistant", "content": answer}]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_trained_is_the_answer_after_the_prompt_of_generation(
    of_family: Callable[[str], Any], name: str, form: str
) -> None:
    family = FAMILIES[name]
    messages = to_record(FORMS[form])[1].messages
    check_against_generation(of_family(name), messages, family.written, family.end)


@pytest.mark.parametrize("answer", ODD_ANSWERS)
@pytest.mark.parametrize("name", FAMILIES)
def test_odd_answers_stay_whole_in_first_and_later_turns(
    of_family: Callable[[str], Any], name: str, answer: str
) -> None:
    family = FAMILIES[name]
    messages = [*question_and(answer), *question_and("fine"), *question_and(answer)]
    check_against_generation(of_family(name), messages, family.written, family.end)


@pytest.mark.parametrize("name", FAMILIES)
def test_each_family_ends_its_answers_with_its_own_token(of_family: Callable[[str], Any], name: str) -> None:
    chosen = of_family(name)
    assert end_of_turn_id(chosen) == chosen.convert_tokens_to_ids(FAMILIES[name].end)


@pytest.mark.parametrize("name", FAMILIES)
def test_generation_stops_at_the_tokens_of_template_tokenizer_and_model(
    of_family: Callable[[str], Any], name: str
) -> None:
    chosen, family = of_family(name), FAMILIES[name]
    own = {chosen.convert_tokens_to_ids(token) for token in (family.eos, family.end)}
    assert stop_ids(chosen, {}) == sorted(own)
    assert stop_ids(chosen, {"eos_token_id": 7}) == sorted(own | {7})
    assert stop_ids(chosen, {"eos_token_id": [7, 9]}) == sorted(own | {7, 9})


@pytest.mark.parametrize("name", FAMILIES)
def test_the_padding_token_has_no_say_in_what_is_trained(of_family: Callable[[str], Any], name: str) -> None:
    messages = to_record(FORMS["messages"])[1].messages
    pads_with_end, pads_otherwise = copy.deepcopy(of_family(name)), copy.deepcopy(of_family(name))
    pads_with_end.pad_token = FAMILIES[name].end
    pads_otherwise.pad_token = "<empty_output>"
    assert pads_with_end.pad_token_id == end_of_turn_id(pads_with_end)
    assert pads_otherwise.pad_token_id != end_of_turn_id(pads_otherwise)
    documents = label(pads_with_end, messages)
    assert documents == label(pads_otherwise, messages)
    assert all(trained[-1] == pads_with_end.pad_token_id for _, trained in spans_of(documents))


@pytest.mark.parametrize("name", ["chatml", "mistral", "gemma", "phi"])
def test_a_conversation_that_reads_the_same_later_is_one_document(of_family: Callable[[str], Any], name: str) -> None:
    messages = to_record(FORMS["messages"])[1].messages
    documents = label(of_family(name), messages)
    assert len(documents) == 1
    assert len(documents[0].spans) == 3


def test_tokens_that_join_over_the_edge_of_an_answer_give_a_document_for_each_answer(
    of_family: Callable[[str], Any],
) -> None:
    # This vocabulary has one token for the two newlines that end Llama 3's prompt, but two where text follows them.
    chosen = of_family("llama3")
    messages = to_record(FORMS["messages"])[1].messages
    documents = label(chosen, messages)
    assert len(documents) == 3
    whole = prompt_ids(chosen, messages)
    assert tuple(whole[: len(documents[0].ids)]) != documents[0].ids
    assert chosen.decode(whole).startswith(chosen.decode(documents[0].ids))


def test_a_template_that_drops_earlier_reasoning_gives_a_document_for_each_answer(
    of_family: Callable[[str], Any],
) -> None:
    chosen = of_family("qwen")
    thoughts = [f"<think>\nBecause of {n}.\n</think>\n\nIt is {n}." for n in ("one", "two")]
    messages = [*question_and(thoughts[0]), *question_and(thoughts[1])]
    documents = label(chosen, messages)
    assert len(documents) == 2
    check_against_generation(chosen, messages, lambda answer: answer, "<|im_end|>")
    last = chosen.decode(documents[1].ids)
    assert "It is one." in last
    assert "Because of one." not in last


def test_an_empty_think_block_that_the_row_brings_is_not_written_twice(of_family: Callable[[str], Any]) -> None:
    check_against_generation(
        of_family("qwen"), question_and(f"{EMPTY_THOUGHT}Yes."), lambda answer: answer, "<|im_end|>"
    )


def test_an_answer_that_the_template_rewrites_is_refused(tokenizer: Any) -> None:
    rewriting = with_template(
        tokenizer,
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content.replace('q', 'Q') }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    )
    with pytest.raises(RowFault, match="changes the answer's text"):
        label(rewriting, question_and("quiet"))


def test_a_template_without_an_end_token_is_refused(tokenizer: Any) -> None:
    endless = with_template(
        tokenizer,
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}",
    )
    with pytest.raises(RowFault, match="no special token"):
        label(endless, question_and("on and on"))
    with pytest.raises(RowFault, match="no special token"):
        end_of_turn_id(endless)


def test_a_template_that_asks_otherwise_than_it_writes_is_refused(tokenizer: Any) -> None:
    forked = with_template(
        tokenizer,
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>model\n{% endif %}",
    )
    with pytest.raises(RowFault, match="differently"):
        label(forked, question_and("a"))


def test_a_row_that_the_template_raises_on_is_refused_with_its_words(tokenizer: Any) -> None:
    picky = with_template(
        tokenizer,
        "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}",
    )
    with pytest.raises(RowFault, match="System role not supported"):
        label(picky, [{"role": "system", "content": "s"}, *question_and("a")])
