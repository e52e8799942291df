"""Rows that are too long are dropped or cut, and what was cut is said."""

from __future__ import annotations

from typing import Any

import pytest
from test_labels import THINKING_TOOLS, by_the_rule, fault, labelled, talk, trained_text
from test_template import with_template

from danlu.data import cutting, labels
from danlu.data.labels import Labelled, label_records
from danlu.data.records import Record, RowFault, to_record
from danlu.data.template import answer_text, tokenize


@pytest.fixture(scope="module")
def thinking(tokenizer: Any) -> Any:
    return with_template(tokenizer, THINKING_TOOLS)


def test_a_row_that_is_too_long_is_dropped_with_its_length(tokenizer: Any) -> None:
    record = Record(talk("q", "word " * 40))
    length = labelled(tokenizer, record).longest
    assert labelled(tokenizer, record, length).cut == ""
    assert fault(tokenizer, record, length - 1) == (
        f"longer than data.max_sequence_tokens = {length - 1}: {length} tokens"
    )


def test_a_rejected_answer_that_is_too_long_counts_too(tokenizer: Any) -> None:
    record = Record(talk("q", "a"), rejected=[{"role": "assistant", "content": "word " * 40}])
    assert fault(tokenizer, record, 60).startswith("longer than data.max_sequence_tokens = 60: ")
    cut = labelled(tokenizer, record, 60, "cut_answer")
    assert cut.cut.startswith("rejected answer cut from ")
    assert cut.documents == labelled(tokenizer, record).documents
    assert len(cut.rejected[0].ids) == 60


@pytest.mark.parametrize("text", ["many words and more " * 40, "天地玄黄，宇宙洪荒。" * 20, "🎉👩‍👩‍👧‍👦" * 30])
@pytest.mark.parametrize("limit", [60, 75, 100])
def test_a_cut_prompt_keeps_its_frame_and_its_answer(tokenizer: Any, text: str, limit: int) -> None:
    record = Record(talk(text, "The answer.", system="Be brief."))
    whole = labelled(tokenizer, record)
    cut = labelled(tokenizer, record, limit, "cut_prompt")
    (document,) = cut.documents
    shown = tokenizer.decode(document.ids)
    assert limit - 15 <= len(document.ids) <= limit
    assert trained_text(tokenizer, document) == ["The answer.<|im_end|>"]
    head = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n"
    assert shown.startswith(head)
    kept = shown.removeprefix(head).removesuffix("<|im_end|>\n<|im_start|>assistant\nThe answer.<|im_end|>")
    assert text.startswith(kept)
    assert "\ufffd" not in kept
    tokens, left = len(tokenize(tokenizer, text)), len(tokenize(tokenizer, kept))
    assert cut.cut == f"question cut from {tokens} to {left} tokens"
    assert by_the_rule(tokenizer, talk(kept, "The answer.", system="Be brief.")) == cut.documents
    assert whole.longest > limit


def test_the_longest_question_is_cut_first_and_then_the_next(tokenizer: Any) -> None:
    record = Record(talk("short one", "a1", "long question " * 20, "a2", system="word " * 30))
    cut = labelled(tokenizer, record, 80, "cut_prompt")
    assert cut.cut.startswith("question cut from 4")
    assert "system" not in cut.cut
    deeper = labelled(tokenizer, record, 45, "cut_prompt")
    assert deeper.cut.startswith("system text cut from 3")
    assert "; question cut from 4" in deeper.cut
    assert len(deeper.documents[0].ids) <= 45


def test_an_answer_that_does_not_fit_alone_is_a_fault_when_prompts_are_cut(tokenizer: Any) -> None:
    record = Record(talk("long question " * 20, "word " * 60))
    assert fault(tokenizer, record, 60, "cut_prompt").startswith(
        "the answer alone is longer than data.max_sequence_tokens = 60: "
    )
    assert fault(tokenizer, to_record({"text": "word " * 60})[1], 20, "cut_prompt").startswith("the answer alone")


def test_a_cut_answer_has_no_end_and_its_prompt_stays(tokenizer: Any) -> None:
    record = Record(talk("q1", "a1", "q2", "天地玄黄，宇宙洪荒。" * 20))
    (whole,) = labelled(tokenizer, record).documents
    cut = labelled(tokenizer, record, 70, "cut_answer")
    (document,) = cut.documents
    assert document.ids == whole.ids[:70]
    (first, (start, end)), limit = document.spans, 70
    assert first == whole.spans[0]
    assert (start, end) == (whole.spans[1][0], limit)
    assert tokenizer.eos_token_id not in document.ids[start:end]
    before = whole.spans[1][1] - whole.spans[1][0] - 1
    assert cut.cut == f"answer cut from {before} to {limit - start} tokens, its end is not trained"


def test_a_cut_text_keeps_its_beginning(tokenizer: Any) -> None:
    _, record = to_record({"text": "天地玄黄，宇宙洪荒。" * 20})
    (document,) = labelled(tokenizer, record, 32, "cut_answer").documents
    assert document.spans == ((1, 32),)
    assert list(document.ids) == tokenizer(record.messages[0]["content"])["input_ids"][:32]


def test_a_prompt_that_does_not_fit_alone_is_a_fault_when_answers_are_cut(tokenizer: Any) -> None:
    record = Record(talk("long question " * 20, "a"))
    (document,) = labelled(tokenizer, record).documents
    prompt = document.spans[0][0]
    assert fault(tokenizer, record, prompt, "cut_answer") == (
        f"the prompt alone is longer than data.max_sequence_tokens = {prompt}: {prompt} tokens"
    )
    assert labelled(tokenizer, record, prompt + 1, "cut_answer").documents[0].trained == 1


@pytest.mark.parametrize("too_long", ["drop", "cut_prompt", "cut_answer"])
@pytest.mark.parametrize("last_is_trained", [True, False])
def test_of_a_row_of_many_answers_the_last_alone_tells_the_same(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch, too_long: str, last_is_trained: bool
) -> None:
    messages = talk(*(f"{word} {number} and some more" for number in range(20) for word in ("question", "answer")))
    messages[-1] = {**messages[-1], "train": last_is_trained}
    record = Record(messages)
    length = labelled(tokenizer, record).longest
    limits = (30, length // 2, length * 3 // 4, length - 30, length - 3, length - 1, length)

    def results() -> list[Labelled | str]:
        found = [label_records(tokenizer, [record], limit, too_long)[0] for limit in limits]
        return [str(result) if isinstance(result, RowFault) else result for result in found]

    quick = results()
    monkeypatch.setattr(cutting, "_MANY_ANSWERS", 1000)
    assert quick == results()
    assert {type(result) for result in quick} == {Labelled, str}


@pytest.mark.parametrize("too_long", ["drop", "cut_prompt", "cut_answer"])
def test_a_thousand_turns_that_can_not_fit_are_not_rendered_one_by_one(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch, too_long: str
) -> None:
    answers = []
    monkeypatch.setattr(labels, "answer_text", lambda *row: answers.append(row) or answer_text(*row))
    row = Record(talk(*("turn" for _ in range(1000))))
    assert isinstance(label_records(tokenizer, [row], 512, too_long)[0], RowFault)
    assert len(answers) == 1


def test_many_questions_are_cut_in_one_go(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    times = []
    label_one = labels._Labeller.label_one
    monkeypatch.setattr(labels._Labeller, "label_one", lambda *row: times.append(row) or label_one(*row))
    record = Record(talk(*(word * 5 for _ in range(12) for word in ("long question ", "a "))))
    found = labelled(tokenizer, record, labelled(tokenizer, record).longest - 70, "cut_prompt")
    assert found.cut.count("question cut from") > 5
    assert len(times) == 1


@pytest.mark.parametrize("too_long", ["cut_prompt", "cut_answer"])
def test_each_of_several_documents_fits(thinking: Any, too_long: str) -> None:
    messages = talk("long question " * 30, "a1 " * 10, "q2", "a2 " * 10)
    messages[1]["reasoning_content"], messages[3]["reasoning_content"] = "Because " * 30, "So."
    record = Record(messages)
    limit = labelled(thinking, record).longest - 10
    found = labelled(thinking, record, limit, too_long)
    assert len(found.documents) == 2
    assert max(len(document.ids) for document in found.documents) <= limit
    assert found.cut
