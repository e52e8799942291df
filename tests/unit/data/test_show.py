"""What `danlu data RECIPE --show` prints."""

from __future__ import annotations

from typing import Any

from danlu.data.show import show_document, show_rows
from danlu.data.template import Document, label


def document_of(tokenizer: Any, *turns: str) -> Document:
    roles = ["system", *["user", "assistant"] * len(turns)]
    return label(tokenizer, [{"role": role, "content": text} for role, text in zip(roles, turns, strict=False)])[0]


def test_trained_text_stands_in_brackets_with_its_end_token(tokenizer: Any) -> None:
    shown = show_document(tokenizer, document_of(tokenizer, "s", "q", "a"))
    assert shown == (
        "<|im_start|>system⏎\ns<|im_end|>⏎\n<|im_start|>user⏎\nq<|im_end|>⏎\n<|im_start|>assistant⏎\n⟦a<|im_end|>⟧"
    )


def test_every_answer_of_a_conversation_is_marked(tokenizer: Any) -> None:
    shown = show_document(tokenizer, document_of(tokenizer, "s", "q1", "a1", "q2", "a2"))
    assert shown.count("⟦") == shown.count("⟧") == 2
    assert "⟦a1<|im_end|>⟧" in shown
    assert shown.endswith("⟦a2<|im_end|>⟧")


def test_a_character_that_spreads_over_several_tokens_is_whole(tokenizer: Any) -> None:
    assert len(tokenizer("丹炉🎉", add_special_tokens=False)["input_ids"]) > 3
    shown = show_document(tokenizer, document_of(tokenizer, "系统", "丹炉是什么？", "炼丹的炉子🎉"))
    assert "⟦炼丹的炉子🎉<|im_end|>⟧" in shown
    assert "丹炉是什么？" in shown
    assert "\ufffd" not in shown


def test_a_span_that_begins_within_a_character_is_still_marked(tokenizer: Any) -> None:
    ids = tokenizer("鼎", add_special_tokens=False)["input_ids"]
    assert len(ids) > 1
    shown = show_document(tokenizer, Document(tuple(ids), ((1, len(ids)),)))
    assert shown.startswith("\ufffd⟦")
    assert shown.endswith("⟧")


def test_colour_marks_the_same_text_and_needs_no_brackets(tokenizer: Any) -> None:
    document = document_of(tokenizer, "s", "q", "a")
    shown = show_document(tokenizer, document, colour=True)
    assert "\x1b[1;32ma<|im_end|>\x1b[0m" in shown
    assert "⟦" not in shown
    for code in ("\x1b[1;32m", "\x1b[2m", "\x1b[0m"):
        shown = shown.replace(code, "")
    assert shown == show_document(tokenizer, document).replace("⟦", "").replace("⟧", "")


def test_text_that_would_steer_the_terminal_is_shown_as_pictures(tokenizer: Any) -> None:
    shown = show_document(tokenizer, document_of(tokenizer, "s", "q", "\x1b[31mred\tend\r\n"))
    assert "⟦␛[31mred⇥\tend␍⏎\n<|im_end|>⟧" in shown
    assert "\x1b" not in shown


def test_rows_stand_under_their_place_and_number_of_tokens(tokenizer: Any) -> None:
    documents = [document_of(tokenizer, "s", "q", answer) for answer in ("a", "b")]
    lines = show_rows(tokenizer, documents, ["data.jsonl:1", "data.jsonl:7"], colour=False).split("\n\n")
    assert len(lines) == 2
    for block, where, document in zip(lines, ("data.jsonl:1", "data.jsonl:7"), documents, strict=True):
        assert block.startswith(f"{where}: {len(document.ids)} tokens, 2 of them trained\n<|im_start|>")
