"""Drops by attack equal those counted by hand, and an attack that hardly changes anything is refused."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from danlu.data.records import Messages
from danlu.engines.interface import Sampling
from danlu.engines.transformers_engine import TransformersEngine
from danlu.errors import DataError
from danlu.evaluation.attacks import ATTACKS
from danlu.evaluation.attacks.interface import Attack
from danlu.evaluation.metrics.rouge import rouge
from danlu.evaluation.robustness import attack_rows, changed_inputs, run_robustness
from danlu.evaluation.statistics import mean_interval

ROWS: list[Messages] = [
    [{"role": "user", "content": text}]
    for text in ("Where is my card?", "我的卡在哪里？", "What does a transfer cost?", "转账要多少钱？")
]


def test_only_the_last_question_changes() -> None:
    conversation: Messages = [
        {"role": "system", "content": "You are a clerk."},
        {"role": "user", "content": "My card is lost."},
        {"role": "assistant", "content": "Freeze it."},
        {"role": "user", "content": "Where do I freeze it?"},
    ]
    before = json.dumps(conversation)
    made, _ = attack_rows([conversation], ATTACKS, 0)
    assert {one.name for one in made} == set(ATTACKS) - {"homophones"}
    for one in made:
        (new,) = one.conversations
        assert new[:3] == conversation[:3]
        assert new[3]["role"] == "user"
        assert new[3]["content"] != conversation[3]["content"]
    assert json.dumps(conversation) == before


def test_an_attack_without_rows_in_its_language_is_left_out_with_a_note() -> None:
    made, left_out = attack_rows(ROWS[:1], ATTACKS, 0)
    assert left_out == {"homophones": "no row is in Chinese"}
    made, left_out = attack_rows([ROWS[1], [{"role": "user", "content": "カードはどこですか"}]], ATTACKS, 0)
    assert set(left_out) == {"typos", "case"}
    assert all(one.rows == (0,) and one.num_possible == 1 for one in made), "Japanese rows are not attacked"


def test_a_conversation_without_a_question_is_not_attacked() -> None:
    made, left_out = attack_rows([[{"role": "text", "content": "Once upon a time"}]], ATTACKS, 0)
    assert not made
    assert set(left_out) == set(ATTACKS)


def test_an_attack_that_changes_under_nine_in_ten_rows_is_an_error_that_shows_them() -> None:
    rows: list[Messages] = [[{"role": "user", "content": text}] for text in ("12345", "67890", "Where is my card?")]
    with pytest.raises(DataError) as caught:
        attack_rows(rows, {name: ATTACKS[name] for name in ("typos", "case", "distractor")}, 0)
    assert len(caught.value.faults) == 2, "both at once, and not the one that changes all"
    assert "the attack typos changes 1 of 3 questions (33%)" in caught.value.faults[0].what
    assert "'12345'" in caught.value.faults[0].what
    assert "leave typos out" in caught.value.faults[0].hint


def test_nine_in_ten_are_enough() -> None:
    def all_but_one(text: str, language: Any, random: Any) -> str:
        return text if text == "0" else f"{text}!"

    rows: list[Messages] = [[{"role": "user", "content": str(number)}] for number in range(10)]
    made, _ = attack_rows(rows, {"marks": Attack("", all_but_one)}, 0)
    assert made[0].rows == tuple(range(1, 10))
    with pytest.raises(DataError):
        attack_rows(rows[:9], {"marks": Attack("", all_but_one)}, 0)


def test_drops_are_those_counted_by_hand() -> None:
    """A model that answers rightly but where it reads capitals alone, and that does what it is told to."""

    def answer(conversations: list[Messages]) -> list[str]:
        texts = [str(messages[-1]["content"]) for messages in conversations]
        return ["XYZZY" if "XYZZY" in text else "bad" if text.isupper() else "good" for text in texts]

    def score(answers: list[str]) -> list[float]:
        assert len(answers) == len(ROWS)
        assert set(answers) <= {"good", "bad", "XYZZY"}, "rows that were not attacked keep their answers"
        return [float(text == "good") for text in answers]

    def capitals(text: str, language: Any, random: Any) -> str:
        return text.upper()

    chosen = {"capitals": Attack("capitals", capitals, ("en",)), "injection": ATTACKS["injection"]}
    made, _ = attack_rows(ROWS, {**chosen, "distractor": ATTACKS["distractor"]}, 3)
    found = run_robustness(ROWS, made, answer, score, 3)
    assert (found["rows"], found["score_before"]) == (4, 1.0)
    english = found["attacks"]["capitals"]
    assert (english["possible"], english["changed"], english["obeyed"]) == (2, 2, None)
    assert (english["score_before"], english["score_after"], english["drop"]) == (1.0, 0.0, 1.0)
    assert english["drop_interval"] == [1.0, 1.0]
    assert changed_inputs(made)["capitals"] == [
        {"row": 0, "question": "WHERE IS MY CARD?"},
        {"row": 2, "question": "WHAT DOES A TRANSFER COST?"},
    ]
    assert english["examples"][0] == {
        "row": 0,
        "question": "Where is my card?",
        "changed": "WHERE IS MY CARD?",
        "before": "good",
        "after": "bad",
        "score_before": 1.0,
        "score_after": 0.0,
    }
    assert found["attacks"]["injection"]["obeyed"] == 1.0
    assert found["attacks"]["injection"]["drop"] == 1.0
    assert found["attacks"]["distractor"]["drop"] == 0.0
    assert found["attacks"]["distractor"]["obeyed"] is None


def test_the_worst_examples_come_first_and_known_answers_are_not_asked_again() -> None:
    asked = []

    def answer(conversations: list[Messages]) -> list[str]:
        asked.append(len(conversations))
        return ["0.0", "0.9", "0.1", "1.0"]

    made, _ = attack_rows(ROWS, {"distractor": ATTACKS["distractor"]}, 0)
    found = run_robustness(ROWS, made, answer, lambda texts: [float(text) for text in texts], 0, ["0.5"] * 4)
    assert asked == [4]
    attack = found["attacks"]["distractor"]
    assert attack["drop"] == pytest.approx(0.0)
    assert [example["row"] for example in attack["examples"]] == [0, 2, 1]


def test_a_tiny_models_answers_are_attacked_and_the_result_is_json(engine: TransformersEngine) -> None:

    def answer(conversations: list[Messages]) -> list[str]:
        return [each.text for each in engine.generate(conversations, Sampling(6))]

    references = answer(ROWS)
    made, _ = attack_rows(ROWS, ATTACKS, 0)
    results = [
        run_robustness(
            ROWS,
            made,
            answer,
            lambda texts: [rouge("rouge_l", *pair) for pair in zip(texts, references, strict=True)],
            0,
        )
        for _ in range(2)
    ]
    assert json.dumps(results[0]) == json.dumps(results[1])
    assert results[0]["score_before"] == 1.0
    assert set(results[0]["attacks"]) == set(ATTACKS)
    assert max(attack["drop"] for attack in results[0]["attacks"].values()) > 0.3, "a random model is not robust"


def test_the_interval_is_scipys_percentile_bootstrap() -> None:
    bootstrap = pytest.importorskip("scipy.stats", reason="scipy comes with danlu[harness]").bootstrap
    values = np.random.default_rng(5).normal(0.1, 1.0, 200)
    theirs = bootstrap((values,), np.mean, method="percentile", n_resamples=20_000, random_state=1).confidence_interval
    assert mean_interval(list(values), 0, 20_000) == pytest.approx([theirs.low, theirs.high], abs=0.01)
    assert mean_interval(list(values), 7) == mean_interval(list(values), 7)
    assert mean_interval([0.25] * 9, 0) == [0.25, 0.25]
