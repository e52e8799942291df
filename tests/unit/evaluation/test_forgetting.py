"""The general set's checks tell right from wrong, losses are counted by hand, perplexity is Transformers' loss."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from danlu.engines.transformers_engine import TransformersEngine
from danlu.evaluation.forgetting import pick_items, run_forgetting
from danlu.evaluation.general import KINDS, Item, Language, general_items, general_text
from danlu.evaluation.perplexity import perplexity

LANGUAGES: tuple[Language, ...] = ("en", "zh")
FOLDER = Path(__file__).parents[3] / "examples" / "general"


def examples(language: Language) -> dict[str, str]:
    """Question → an answer that is right, for those without choices."""
    rows = map(json.loads, (FOLDER / f"{language}.jsonl").read_text(encoding="utf-8").splitlines())
    return {row["question"]: row["example"] for row in rows if "choices" not in row}


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_general_set_has_thirteen_questions_of_each_kind_and_no_two_alike(language: Language) -> None:
    items = general_items(language)
    assert Counter(item.kind for item in items) == dict.fromkeys(KINDS, 13)
    assert len({item.question for item in items}) == len({item.name for item in items}) == 65
    letters = Counter(item.answer for item in items if item.choices)
    assert set(letters) == set("ABCD")
    assert max(letters.values()) - min(letters.values()) <= 2, "one letter alone wins nothing"


@pytest.mark.parametrize("language", LANGUAGES)
def test_of_the_choices_only_the_right_letter_or_its_text_is_right(language: Language) -> None:
    for item in general_items(language):
        if not item.choices:
            continue
        by_letter = [item.is_right(f"{letter}.") for letter in "ABCD"]
        assert by_letter == [letter == item.answer for letter in "ABCD"]
        assert item.is_right(f"The answer is {item.answer}")
        assert item.is_right(f"答案是{item.answer}。")
        assert item.is_right(f"({item.answer}) {item.choices['ABCD'.index(item.answer)]}")
        assert not item.is_right("")


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_free_answer_is_right_for_its_own_question_alone(language: Language) -> None:
    right = examples(language)
    free = [item for item in general_items(language) if not item.choices]
    assert {item.question for item in free} == set(right)
    for item in free:
        assert item.is_right(right[item.question]), item.name
        assert not item.is_right("")
        assert not item.is_right("I can't help with that 777 times"), item.name
    arithmetic = [item for item in free if item.kind == "arithmetic"]
    for item in arithmetic:
        assert item.is_right(f"The answer is {right[item.question]}.")
        assert not item.is_right(f"1{right[item.question]}")
        assert not item.is_right(f"{right[item.question]}.5")
        assert not item.is_right(item.question), "to repeat the question is no answer"


def test_an_article_is_no_choice_and_a_choice_in_words_counts() -> None:
    item = Item("x", "en", "facts", "?", ("a dog", "a cat", "a hen", "a cow"), "B", False)
    assert item.is_right("A cat, of course")
    assert not item.is_right("A dog")
    assert not item.is_right("a dog or a cat")
    assert item.is_right("b) no, B")
    assert not item.is_right("A\nB")


def test_capitals_that_are_asked_for_are_asked_for() -> None:
    item = next(item for item in general_items("en") if "RIVER" in item.answer)
    assert item.is_right("RIVER.")
    assert not item.is_right("river")


def test_what_was_lost_and_gained_is_that_counted_by_hand() -> None:
    items = pick_items(LANGUAGES, 10)
    assert Counter((item.language, item.kind) for item in items) == {(one, k): 2 for one in LANGUAGES for k in KINDS}
    choices = [item for item in items if item.choices]
    lost, gained = choices[0], choices[1]

    def answer(questions: list[str], tuned: bool) -> list[str]:
        by_question = {item.question: item for item in items}
        texts = []
        for question in questions:
            item = by_question[question]
            right = item.choices and (item.name != (lost if tuned else gained).name)
            texts.append(item.answer if right else "no idea")
        return texts

    found = run_forgetting(items, answer, 0)
    assert found["items"] == 20
    # Of ten English questions six have choices; each model knows five of them.
    assert found["accuracy"]["base"]["en"]["all"] == found["accuracy"]["tuned"]["en"]["all"] == 0.5
    assert found["accuracy"]["base"]["zh"]["all"] == 0.6
    assert found["accuracy"]["tuned"]["en"][lost.kind] == found["accuracy"]["base"]["en"][lost.kind]
    assert found["accuracy"]["base"]["en"]["arithmetic"] == 0.0
    assert found["change"]["zh"] == {"difference": 0.0, "interval": [0.0, 0.0]}
    low, high = found["change"]["en"]["interval"]
    assert low < 0.0 < high
    assert [each["name"] for each in found["lost"]] == [lost.name]
    assert found["gained"] == [
        {
            "name": gained.name,
            "question": gained.question,
            "expected": gained.expected(),
            "base": "no idea",
            "tuned": gained.answer,
        }
    ]
    json.dumps(found)


@pytest.mark.parametrize("language", LANGUAGES)
def test_perplexity_of_a_short_text_is_that_of_transformers_loss(
    engine: TransformersEngine, tokenizer: Any, language: Language
) -> None:
    ids = tokenizer(general_text(language)[:400])["input_ids"]
    with torch.inference_mode():
        loss = engine.model(input_ids=torch.tensor([ids]), labels=torch.tensor([ids])).loss.item()
    assert perplexity(engine, ids, window_tokens=len(ids)) == pytest.approx(math.exp(loss), rel=1e-4)


def test_perplexity_of_a_long_text_is_the_formula_in_float64(engine: TransformersEngine, tokenizer: Any) -> None:
    ids, window = tokenizer(general_text("en")[:800])["input_ids"], 32
    model = engine.model.double()
    try:
        total = 0.0
        for place in range(1, len(ids)):
            start = 1 + (place - 1) // window * window  # of the window that predicts it
            with torch.inference_mode():
                logits = model(torch.tensor([ids[max(0, start - window) : place]]), logits_to_keep=1).logits[0, -1]
            total -= logits.log_softmax(-1)[ids[place]].item()
    finally:
        model.float()
    assert len(ids) > 5 * window
    assert perplexity(engine, ids, window_tokens=window) == pytest.approx(math.exp(total / (len(ids) - 1)), rel=1e-5)


def test_texts_are_as_long_as_is_said() -> None:
    assert 1500 < len(general_text("en").split()) < 1900
    assert 2700 < len(general_text("zh").replace("\n", "")) < 3100
