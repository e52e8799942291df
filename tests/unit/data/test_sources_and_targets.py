"""Rows for encoder-decoder models: the source is what generation sends to the encoder, the target is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from labelled_rows import fault, labelled, talk
from sequence_models import bart_tokenizer, t5_tokenizer

from danlu.data.item import Item
from danlu.data.labels import ANY_LENGTH, label_records
from danlu.data.records import Record, RowFault, to_record
from danlu.data.sources import Row
from danlu.data.stages import LabelPlan, RowStage, SourcePlan
from danlu.data.template import Document, label, prompt_ids
from danlu.models.tokenizer import load_tokenizer

CONFIG = '{"model_type": "%s", "is_encoder_decoder": true}'
TEXTS = st.one_of(
    st.text(min_size=1, max_size=20),
    st.sampled_from(["</s>", "a</s>", "<pad>", " two  words ", "\n", "<s>a", "\u2063answer\u2063", "the moon\n"]),
)


def folder_of(folder: Path, name: str) -> Path:
    (t5_tokenizer if name == "t5" else bart_tokenizer)().save_pretrained(folder)
    (folder / "config.json").write_text(CONFIG % name)
    return folder


@pytest.fixture(scope="module", params=["t5", "bart"])
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_tokenizer(folder_of(tmp_path_factory.mktemp(request.param), request.param))


def require_parts(tokenizer: Any, document: Document, source: str, target: str) -> None:
    """The document is the tokenizer's own source and target, and the target is all that is trained."""
    expected = tokenizer(source)["input_ids"]
    assert list(document.ids) == [*expected, *tokenizer(text_target=target)["input_ids"]]
    assert document.spans == ((len(expected), len(document.ids)),)


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "what is the moon", "completion": "stone"},
        {"input_text": "what is the moon", "target_text": "stone"},
        {"question": "what is the moon", "answer": "stone"},
        {"messages": talk("what is the moon", "stone")},
        {"instruction": "what is", "input": "the moon", "output": "stone"},
    ],
    ids=lambda row: "/".join(row),
)
def test_a_row_of_any_form_is_one_source_and_one_target(tokenizer: Any, row: dict[str, Any]) -> None:
    _, record = to_record(row)
    found = labelled(tokenizer, record)
    (document,) = found.documents
    require_parts(tokenizer, document, "what is\nthe moon" if "input" in row else "what is the moon", "stone")
    assert list(document.ids[: document.spans[0][0]]) == prompt_ids(tokenizer, record.messages[:-1])
    assert (found.cut, found.changes) == ("", ())


def test_each_answer_of_a_conversation_has_all_before_it_as_its_source(tokenizer: Any) -> None:
    messages = talk("the sun?", "fire.", "the moon?", "stone.", system="is it so")
    found = labelled(tokenizer, Record(messages))
    first, second = found.documents
    require_parts(tokenizer, first, "is it so\nthe sun?", "fire.")
    require_parts(tokenizer, second, "is it so\nthe sun?\nfire.\nthe moon?", "stone.")
    assert found.changes == (("several answers: 2 documents, each with all before it as its source", "", ""),)
    assert label(tokenizer, messages) == [first, second]


def test_an_answer_that_is_not_trained_is_only_read(tokenizer: Any) -> None:
    messages = talk("the sun?", "fire.", "the moon?", "stone.")
    messages[1]["train"] = False
    (document,) = labelled(tokenizer, Record(messages)).documents
    require_parts(tokenizer, document, "the sun?\nfire.\nthe moon?", "stone.")


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(texts=["a", "</s>", "</s>", "b"])  # whose second source begins with all of the first document
@given(texts=st.lists(TEXTS, min_size=2, max_size=6))
def test_whatever_a_conversation_says_each_document_is_a_question_as_it_is_sent_and_one_answer(
    tokenizer: Any, texts: list[str]
) -> None:
    texts = texts[: len(texts) // 2 * 2]
    result = label_records(tokenizer, [Record(talk(*texts))], ANY_LENGTH, "drop")[0]
    if isinstance(result, RowFault):
        assert any(not text.strip() for text in texts), result
        return
    assert len(result.documents) == len(texts) // 2
    for number, document in enumerate(result.documents):
        ((start, end),) = document.spans
        assert list(document.ids[:start]) == prompt_ids(tokenizer, talk(*texts[: 2 * number + 1]))
        assert end == len(document.ids)
        assert document.ids[-1] == tokenizer.eos_token_id


def test_what_the_vocabulary_can_t_write_is_said_with_what_it_writes_instead(tmp_path: Path) -> None:
    t5, bart = (load_tokenizer(folder_of(tmp_path / name, name)) for name in ("t5", "bart"))
    answer = "1. the {moon}\n2. the sun"
    record = to_record({"prompt": "what is it", "completion": answer})[1]
    ((reason, before, after),) = labelled(t5, record).changes
    assert reason == "the tokenizer writes an answer otherwise"
    assert (before, after) == (answer, "1. the moon 2. the sun")
    assert labelled(bart, record).changes == (), "bytes write everything"
    assert label_records(t5, [Record(talk("what is {it}\n", "the sun"))], ANY_LENGTH, "drop")[0].changes == ()  # type: ignore[union-attr]


def test_a_pair_has_one_source_and_two_targets(tokenizer: Any) -> None:
    for row in (
        {"prompt": "the moon?", "chosen": "stone", "rejected": "fire"},
        {"messages": talk("the moon?"), "chosen": "stone", "rejected": "fire"},
    ):
        found = labelled(tokenizer, to_record(row)[1])
        (chosen,), (rejected,) = found.documents, found.rejected
        require_parts(tokenizer, chosen, "the moon?", "stone")
        require_parts(tokenizer, rejected, "the moon?", "fire")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"text": "the moon is made of stone"}, "text alone has no question"),
        (
            {"messages": talk("the moon?", "stone"), "tools": [{"name": "look", "parameters": {}}]},
            "leaves out the tools",
        ),
        (
            {
                "messages": [
                    *talk("the moon?"),
                    {"role": "assistant", "content": "stone", "reasoning_content": "it is a stone"},
                ]
            },
            "leaves out the reasoning",
        ),
    ],
    ids=["text", "tools", "reasoning"],
)
def test_what_the_source_has_no_place_for_is_said(tokenizer: Any, row: dict[str, Any], reason: str) -> None:
    assert reason in fault(tokenizer, to_record(row)[1])


# Rows that are too long


def test_source_and_target_count_together(tokenizer: Any) -> None:
    record = to_record({"prompt": "the moon", "completion": "stone"})[1]
    length = labelled(tokenizer, record).longest
    assert length == len(tokenizer("the moon")["input_ids"]) + len(tokenizer(text_target="stone")["input_ids"])
    assert fault(tokenizer, record, length - 1).startswith("longer than data.max_sequence_tokens")


@pytest.mark.parametrize("row", [{"prompt": "the moon " * 20, "completion": "stone"}, None], ids=["plain", "talk"])
def test_a_cut_prompt_keeps_the_source_s_end_and_the_whole_answer(tokenizer: Any, row: dict[str, Any] | None) -> None:
    record = to_record(row)[1] if row else Record(talk("the moon " * 20, "stone", system="is it so"))
    found = labelled(tokenizer, record, 30, "cut_prompt")
    (document,) = found.documents
    ((start, _),) = document.spans
    assert len(document.ids) <= 30
    assert document.ids[start - 1] == tokenizer.eos_token_id
    assert list(document.ids[start:]) == tokenizer(text_target="stone")["input_ids"]
    assert found.cut.startswith("prompt cut from " if row else "question cut from ")


def test_only_a_text_of_the_longest_source_is_cut(tokenizer: Any) -> None:
    messages = talk("the moon " * 15, "stone", "the sun " * 25, "fire")
    messages[3]["train"] = False
    # The second question is the longest text, but no source has it.
    limit = labelled(tokenizer, Record(messages)).longest - 4
    found = labelled(tokenizer, Record(messages), limit, "cut_prompt")
    (document,) = found.documents
    assert len(document.ids) <= limit
    assert found.cut.startswith("question cut from ")
    assert ";" not in found.cut


def test_a_pair_s_last_question_can_be_cut(tokenizer: Any) -> None:
    messages = talk("the sun", "fire", "the moon " * 25, "stone")
    record = Record(messages, rejected=[{"role": "assistant", "content": "fire"}])
    limit = labelled(tokenizer, record).longest - 20
    found = labelled(tokenizer, record, limit, "cut_prompt")
    (chosen,), (rejected,) = found.documents, found.rejected
    assert max(len(chosen.ids), len(rejected.ids)) <= limit
    assert list(chosen.ids[chosen.spans[0][0] :]) == tokenizer(text_target="stone")["input_ids"]
    assert chosen.ids[: chosen.spans[0][0]] == rejected.ids[: rejected.spans[0][0]]


def test_a_cut_answer_has_no_end(tokenizer: Any) -> None:
    record = to_record({"prompt": "the moon", "completion": "stone " * 30})[1]
    whole = labelled(tokenizer, record).documents[0]
    found = labelled(tokenizer, record, 20, "cut_answer")
    (document,) = found.documents
    assert document.ids == whole.ids[:20]
    assert document.spans == ((whole.spans[0][0], 20),)
    assert "its end is not trained" in found.cut


def test_a_conversation_that_is_cut_still_says_that_it_was_taken_apart(tokenizer: Any) -> None:
    record = Record(talk("the moon " * 6, "stone", "the sun", "fire " * 30))
    for way in ("cut_prompt", "cut_answer"):
        limit = labelled(tokenizer, record).longest - 3
        found = labelled(tokenizer, record, limit, way)
        assert found.cut
        assert found.changes[0][0].startswith("several answers: 2 documents")


def test_the_ledger_is_told_of_rows_that_are_taken_apart_or_written_otherwise(tmp_path: Path) -> None:
    stage = RowStage((SourcePlan(0),), labels=LabelPlan(folder_of(tmp_path, "t5"), 64, "drop"))
    rows = [
        Row({"messages": talk("the sun?", "fire.", "the moon?", "stone.")}, "rows.jsonl", 1, "line"),
        Row({"prompt": "the moon?", "completion": "stone."}, "rows.jsonl", 2, "line"),
        Row({"text": "the moon"}, "rows.jsonl", 3, "line"),
        Row({"prompt": "the moon?", "completion": "{stone}"}, "rows.jsonl", 4, "line"),
    ]
    result = stage((0, rows))
    assert result.documents == [(2, 0), (1, 0), (1, 0)]
    assert list(result.flags) == [1, 0, 1]
    assert b"several answers: 2 documents" in result.items[0]
    (change,) = Item.from_bytes(result.items[2]).changes
    assert change == {
        "step": "labels",
        "reason": "the tokenizer writes an answer otherwise",
        "before": "{stone}",
        "after": "stone",
    }
    assert [(drop.where, drop.reason) for drop in result.drops] == [
        ("rows.jsonl:3", "text alone has no question, which an encoder-decoder model needs")
    ]
    (step,) = [step for step in result.steps if step.name == "labels"]
    assert (step.rows_in, step.changed, step.dropped) == (4, 2, 1)
