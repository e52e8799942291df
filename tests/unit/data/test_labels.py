"""Labelling by the batch: the quick way gives what the rule gives, and nothing is lost or cut in silence."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from labelled_rows import fault, labelled, talk
from test_template import FAMILIES, of_family, with_template  # noqa: F401 - a fixture

from danlu.data.labels import ANY_LENGTH, Labelled, label_records
from danlu.data.prepared import read_conversations
from danlu.data.records import Messages, Record, RowFault, to_record
from danlu.data.template import Document, answer_text, label, prompt_ids, tokenize

TEMPLATES = Path(__file__).parents[2] / "chat_templates"
THINKING_TOOLS = (TEMPLATES / "thinking_tools.jinja").read_text(encoding="utf-8")
WITH_MARKERS = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{{ '<|im_start|>assistant\n' }}{% generation %}"
    "{{ m.content + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}{% else %}"
    "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SEARCH = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "Finds a page.",
        "parameters": {"type": "object", "properties": {"about": {"type": "string"}}},
    },
}
CALL = {"type": "function", "function": {"name": "look_up", "arguments": {"about": "丹炉"}}}
CALLING: Messages = [
    {"role": "user", "content": "What is a danlu?"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "A furnace."},
    {"role": "assistant", "content": "It is a furnace."},
]
ODD_CONTENTS = [
    "x<|im_end|>\n",
    "<|im_end|>",
    "<|im_start|>assistant\n",
    " leading and trailing ",
    "\u2063",
    "\u2063answer\u2063",
    "<think>\nwhy\n</think>\n\nso",
    "</think>",
    "[/INST] </s><s>",
    "你好，世界。\n\n- 一\n- 二",
    "{{ messages }}{% for %}",
    "\n",
]
CONTENTS = st.one_of(
    st.sampled_from(ODD_CONTENTS), st.text(min_size=1, max_size=20), st.sampled_from(["yes", "Is it so?"])
)


def by_the_rule(tokenizer: Any, messages: Messages) -> list[Document] | str:
    """The rule turn by turn, without anything that makes it quick."""
    answers = []
    for index, message in enumerate(messages):
        if message["role"] == "assistant":
            try:
                found = answer_text(tokenizer, messages, index)
            except RowFault as fault:
                return str(fault)
            answers.append((tokenize(tokenizer, found.before), [*tokenize(tokenizer, found.text), found.end]))
    ids: list[int] = []
    spans = []
    for prompt, answer in answers:
        if prompt[: len(ids)] != ids:
            return [Document((*p, *a), ((len(p), len(p) + len(a)),)) for p, a in answers]
        spans.append((len(prompt), len(prompt) + len(answer)))
        ids = [*prompt, *answer]
    return [Document(tuple(ids), tuple(spans))]


def outcome(result: Labelled | RowFault) -> list[Document] | str:
    return str(result) if isinstance(result, RowFault) else result.documents


def trained_text(tokenizer: Any, document: Document) -> list[str]:
    return [tokenizer.decode(document.ids[start:end]) for start, end in document.spans]


@pytest.fixture(scope="module")
def thinking(tokenizer: Any) -> Any:
    return with_template(tokenizer, THINKING_TOOLS)


# The quick way


@pytest.mark.parametrize("name", FAMILIES)
def test_odd_contents_are_labelled_as_by_the_rule(of_family: Callable[[str], Any], name: str) -> None:  # noqa: F811
    chosen = of_family(name)
    talks = [talk("Hi", "Hello."), talk("Hi", "Hello.", "More", "Yes."), talk("Hi", "Hello.", system="s")]
    for odd in ODD_CONTENTS:
        talks += [talk(odd, odd), talk("q", odd, odd, "a"), talk("q", "a", system=odd), talk(odd, "a", "q", odd)]
    talks.append(talk("q", "a", system=""))
    found = label_records(chosen, [Record(messages) for messages in talks], ANY_LENGTH, "drop")
    assert [outcome(result) for result in found] == [by_the_rule(chosen, messages) for messages in talks]
    assert isinstance(found[0], Labelled)


@pytest.mark.parametrize("name", FAMILIES)
@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    talks=st.lists(
        st.lists(st.tuples(CONTENTS, CONTENTS), min_size=1, max_size=3).map(lambda pairs: sum(pairs, ())),
        min_size=1,
        max_size=5,
    )
)
def test_any_conversations_are_labelled_as_by_the_rule(
    of_family: Callable[[str], Any],  # noqa: F811
    name: str,
    talks: list[tuple[str, ...]],
) -> None:
    chosen, all_talks = of_family(name), [talk("q", "a"), *(talk(*texts) for texts in talks)]
    found = label_records(chosen, [Record(messages) for messages in all_talks], ANY_LENGTH, "drop")
    assert [outcome(result) for result in found] == [by_the_rule(chosen, messages) for messages in all_talks]


def test_a_template_that_frames_rows_differently_by_their_words_is_followed(tokenizer: Any) -> None:
    moody = with_template(
        tokenizer,
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
        "{% if m.role == 'assistant' and 'please' in messages[0].content %}{{ 'Gladly: ' }}{% endif %}"
        "{{ m.content + '<|im_end|>' }}{{ '\n' if messages[0].content|length < 9 else '\n\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    )
    talks = [talk("Hi", "a"), talk("Hi please", "a"), talk("A long question", "a"), talk("A long one, please", "a\n")]
    found = label_records(moody, [Record(messages) for messages in talks], ANY_LENGTH, "drop")
    assert [outcome(result) for result in found] == [by_the_rule(moody, messages) for messages in talks]
    assert trained_text(moody, found[1].documents[0]) == ["Gladly: a<|im_end|>"]


def test_trained_tokens_are_those_that_transformers_masks_by_generation_markers(tokenizer: Any) -> None:
    chosen = with_template(tokenizer, WITH_MARKERS)
    for messages in (
        talk("Hi", "Hello there."),
        talk("你好", "你好，世界。", "再见", "再见！\n", system="系统"),
        talk("a", " b ", "c", "d\n\ne", "f", "g"),
    ):
        referee = chosen.apply_chat_template(
            messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
        )
        (document,) = labelled(chosen, Record(messages)).documents
        mask = [0] * len(referee["input_ids"])
        for start, end in document.spans:
            mask[start:end] = [1] * (end - start)
        assert list(document.ids) == referee["input_ids"][: len(document.ids)]
        assert mask == referee["assistant_masks"]


# Faults


def test_a_bad_row_is_a_fault_and_its_neighbours_are_labelled(tokenizer: Any) -> None:
    rows = [talk("q", "a"), talk("q", "half \ud83d"), talk("\udc00", "a"), talk("q", "b")]
    found = label_records(tokenizer, [Record(messages) for messages in rows], ANY_LENGTH, "drop")
    assert [isinstance(result, RowFault) for result in found] == [False, True, True, False]
    assert str(found[1]).startswith("the tokenizer fails on the row: ")
    assert outcome(found[3]) == by_the_rule(tokenizer, rows[3])


@pytest.mark.parametrize(
    ("trap", "reason"),
    [
        ("{{ raise_exception('no such role') }}", "the chat template refuses the row: no such role"),
        ("{{ nothing.at.all }}", "the chat template refuses the row"),
        ("{{ 1 / 0 }}", "the chat template fails on the row: ZeroDivisionError"),
        ("{{ 'a' + 1 }}", "the chat template fails on the row: TypeError"),
        ("{{ 2.0 ** 9999 }}", "the chat template fails on the row: OverflowError"),
        ("{{ [1].index(2) }}", "the chat template fails on the row: ValueError"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "the chat template fails on the row: RecursionError"),
    ],
)
def test_whatever_a_template_throws_is_the_rows_fault_alone(tokenizer: Any, trap: str, reason: str) -> None:
    trapped = with_template(
        tokenizer, "{% if 'TRAP' in messages[0].content %}" + trap + "{% endif %}" + str(tokenizer.chat_template)
    )
    rows = [Record(talk("q", "a")), Record(talk("TRAP", "a")), Record(talk("q", "b"))]
    found = label_records(trapped, rows, ANY_LENGTH, "drop")
    assert str(found[1]).startswith(reason)
    assert isinstance(found[0], Labelled)
    assert isinstance(found[2], Labelled)


@pytest.mark.parametrize("trap", ["{{ nothing.at.all }}", "{{ raise_exception('never') }}", "{{ ''.__class__.mro() }}"])
def test_a_template_that_throws_at_every_row_makes_every_row_a_fault(tokenizer: Any, trap: str) -> None:
    rows = [Record(talk("q", "a")), Record(talk("q", "b"))]
    found = label_records(with_template(tokenizer, trap + str(tokenizer.chat_template)), rows, ANY_LENGTH, "drop")
    assert all(str(result).startswith("the chat template ") for result in found)


def test_a_panic_in_the_tokenizer_is_a_fault_and_an_interrupt_is_none(tokenizer: Any) -> None:
    panic = type("PanicException", (BaseException,), {"__module__": "pyo3_runtime"})

    class Fragile(type(tokenizer)):  # type: ignore[misc]
        raises: type[BaseException] = panic

        def __call__(self, text: Any, **options: Any) -> Any:
            if any("boom" in part for part in ([text] if isinstance(text, str) else text)):
                raise self.raises("index out of bounds")
            return super().__call__(text, **options)

    fragile = copy.deepcopy(tokenizer)
    fragile.__class__ = Fragile
    # Words of ASCII go past `__call__`; with an odd sign they don't.
    found = label_records(fragile, [Record(talk("q", "a")), Record(talk("boomé", "a"))], ANY_LENGTH, "drop")
    assert isinstance(found[0], Labelled)
    assert str(found[1]) == "the tokenizer fails on the row: PanicException: index out of bounds"
    Fragile.raises = KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        label_records(fragile, [Record(talk("boomé", "a"))], ANY_LENGTH, "drop")


def test_no_records_give_no_results(tokenizer: Any) -> None:
    assert label_records(tokenizer, [], 512, "drop") == []


# Tools and reasoning


def test_answers_that_call_tools_are_trained_after_what_generation_sends(thinking: Any) -> None:
    found = labelled(thinking, Record(CALLING, [SEARCH]))
    for document, index in zip(found.documents, (1, 3), strict=True):
        start, end = document.spans[-1]
        sent = thinking.apply_chat_template(
            CALLING[:index], tools=[SEARCH], add_generation_prompt=True, return_dict=False
        )
        assert list(document.ids[:start]) == list(sent) == prompt_ids(thinking, CALLING[:index], [SEARCH])
        assert end == len(document.ids)
    assert "look_up" in thinking.decode(found.documents[0].ids[: found.documents[0].spans[0][0]])
    call = '{"name": "look_up", "arguments": {"about": "丹炉"}}'
    assert trained_text(thinking, found.documents[0]) == [
        f"<think>\n\n</think>\n\n\n<tool_call>\n{call}\n</tool_call><|im_end|>"
    ]
    assert trained_text(thinking, found.documents[1]) == ["<think>\n\n</think>\n\nIt is a furnace.<|im_end|>"]


def test_a_call_that_ends_with_a_token_of_its_own_is_trained_to_that_token(tokenizer: Any) -> None:
    own_end = str(tokenizer.chat_template).replace(
        "message['content'] + '<|im_end|>'",
        "(message.tool_calls[0].function | tojson + '<file_sep>' if message.tool_calls"
        " else message['content'] + '<|im_end|>')",
    )
    found = labelled(with_template(tokenizer, own_end), Record(CALLING))
    assert trained_text(tokenizer, found.documents[0])[0].endswith('{"about": "丹炉"}}<file_sep>')
    assert trained_text(tokenizer, found.documents[-1])[-1] == "It is a furnace.<|im_end|>"


def test_a_stored_conversation_is_asked_with_its_own_tools(thinking: Any, tmp_path: Path) -> None:
    row = Record(CALLING, [SEARCH])
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"where": "x:1", **row.to_json()}) + "\n", encoding="utf-8")
    (messages,) = read_conversations(path)
    asked = prompt_ids(thinking, CALLING[:1], [SEARCH])
    assert prompt_ids(thinking, messages[:1]) == asked != prompt_ids(thinking, CALLING[:1])
    assert label(thinking, messages) == labelled(thinking, row).documents


def test_tools_calls_and_results_that_the_template_leaves_out_are_faults(tokenizer: Any) -> None:
    # This model's template knows roles and contents alone.
    assert fault(tokenizer, Record(talk("q", "a"), [SEARCH])) == "the chat template leaves out the tools"
    assert fault(tokenizer, Record(talk("look_up", "a"), [SEARCH])) == "the chat template leaves out the tools"
    assert fault(tokenizer, Record(CALLING)) == "the chat template leaves out a tool call"
    deaf = with_template(
        tokenizer, THINKING_TOOLS.replace("message.content + '\\n</tool_response>", "'</tool_response>")
    )
    assert fault(deaf, Record(CALLING, [SEARCH])) == "the chat template leaves out a tool's result"


def test_reasoning_is_trained_where_the_template_writes_it(thinking: Any) -> None:
    messages = talk("q1", "a1", "q2", "a2")
    messages[1]["reasoning_content"], messages[3]["reasoning_content"] = "Because\none.", "Because two."
    found = labelled(thinking, Record(messages))
    assert [trained_text(thinking, document) for document in found.documents] == [
        ["<think>\nBecause\none.\n</think>\n\na1<|im_end|>"],
        ["<think>\nBecause two.\n</think>\n\na2<|im_end|>"],
    ]
    assert "Because\none." not in thinking.decode(found.documents[1].ids)


def test_reasoning_that_the_template_leaves_out_is_a_fault(tokenizer: Any) -> None:
    messages = talk("q", "because")
    messages[1]["reasoning_content"] = "because"
    assert fault(tokenizer, Record(messages)) == "the chat template leaves out the reasoning"
    messages[1]["train"] = False
    assert fault(tokenizer, Record(messages)) == "no answer is trained"


# What is not trained


def test_an_answer_that_is_not_to_be_trained_is_read_but_not_trained(tokenizer: Any) -> None:
    messages = talk("q1", "a1", "q2", "a2", "q3", "a3")
    plain = labelled(tokenizer, Record(messages)).documents[0]
    for place in (1, 3, 5):
        changed = copy.deepcopy(messages)
        changed[place]["train"] = False
        document = labelled(tokenizer, Record(changed)).documents[0]
        assert document.ids == plain.ids
        assert document.spans == tuple(span for number, span in enumerate(plain.spans) if place != 2 * number + 1)


def test_a_row_without_a_trained_answer_is_a_fault(tokenizer: Any) -> None:
    _, record = to_record(
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "weight": 0}]}
    )
    assert fault(tokenizer, record) == "no answer is trained"


def test_where_each_answer_has_a_document_those_not_trained_have_none(thinking: Any) -> None:
    messages = talk("q1", "a1", "q2", "a2")
    messages[1]["train"] = False
    found = labelled(thinking, Record(messages))
    assert [trained_text(thinking, document) for document in found.documents] == [
        ["<think>\n\n</think>\n\na2<|im_end|>"]
    ]


# Without a template


def test_text_is_trained_from_its_second_token_to_the_end_token(tokenizer: Any) -> None:
    _, record = to_record({"text": "床前明月光 and moonlight"})
    (document,) = labelled(tokenizer, record).documents
    assert list(document.ids) == [*tokenizer(record.messages[0]["content"])["input_ids"], tokenizer.eos_token_id]
    assert document.spans == ((1, len(document.ids)),)


def with_bos(tokenizer: Any) -> Any:
    from tokenizers.processors import TemplateProcessing

    changed = copy.deepcopy(tokenizer)
    changed.backend_tokenizer.post_processor = TemplateProcessing(
        single="<file_sep> $A", special_tokens=[("<file_sep>", tokenizer.convert_tokens_to_ids("<file_sep>"))]
    )
    return changed


def test_text_and_prompts_have_the_tokenizers_own_first_token(tokenizer: Any) -> None:
    chosen, first = with_bos(tokenizer), tokenizer.convert_tokens_to_ids("<file_sep>")
    _, text = to_record({"text": "moonlight"})
    (document,) = labelled(chosen, text).documents
    assert list(document.ids) == [*chosen("moonlight")["input_ids"], chosen.eos_token_id]
    assert document.ids[0] == first
    assert document.spans == ((1, len(document.ids)),)
    _, pair = to_record({"prompt": "The moon", "completion": " is bright"})
    (document,) = labelled(chosen, pair).documents
    assert list(document.ids) == [*chosen("The moon is bright")["input_ids"], chosen.eos_token_id]
    assert list(document.ids[: document.spans[0][0]]) == prompt_ids(chosen, pair.messages[:1])
    assert trained_text(chosen, document) == [" is bright<|im_end|>"]


def test_a_completion_that_would_join_the_prompts_last_token_leaves_the_prompt_as_it_is(tokenizer: Any) -> None:
    assert len(tokenizer("moonlight")["input_ids"]) < len(
        tokenizer("moonli")["input_ids"] + tokenizer("ght")["input_ids"]
    )
    _, record = to_record({"prompt": "moonli", "completion": "ght"})
    (document,) = labelled(tokenizer, record).documents
    ((start, end),) = document.spans
    assert list(document.ids[:start]) == prompt_ids(tokenizer, [{"role": "prompt", "content": "moonli"}])
    assert tokenizer.decode(document.ids[start:end]) == "ght<|im_end|>"


def test_text_needs_no_chat_template(tokenizer: Any) -> None:
    bare = copy.deepcopy(tokenizer)
    bare.chat_template = None
    _, record = to_record({"text": "moonlight"})
    assert labelled(bare, record) == labelled(tokenizer, record)
    assert fault(bare, Record(talk("q", "a"))).startswith("the chat template fails on the row: ValueError")


def test_text_needs_an_end_token(tokenizer: Any) -> None:
    endless = copy.deepcopy(tokenizer)
    endless.eos_token = None
    assert fault(endless, to_record({"text": "on and on"})[1]).startswith("the tokenizer has no end token")


# Preference pairs


@pytest.mark.parametrize(
    "row",
    [
        {"messages": talk("q1", "a1", "q2"), "chosen": "good", "rejected": "bad"},
        {"prompt": "Two and two", "chosen": " are four", "rejected": " are five"},
    ],
)
def test_a_pair_has_one_prompt_and_two_answers(tokenizer: Any, row: dict[str, Any]) -> None:
    _, record = to_record(row)
    found = labelled(tokenizer, record)
    (chosen,), (rejected,) = found.documents, found.rejected
    ((start, end),), ((other_start, other_end),) = chosen.spans, rejected.spans
    assert list(chosen.ids[:start]) == list(rejected.ids[:other_start]) == prompt_ids(tokenizer, record.messages[:-1])
    assert tokenizer.decode(chosen.ids[start:end]) == f"{row['chosen']}<|im_end|>"
    assert tokenizer.decode(rejected.ids[other_start:other_end]) == f"{row['rejected']}<|im_end|>"
    assert (end, other_end) == (len(chosen.ids), len(rejected.ids))
