"""What ships beside the code: the recipes parse, the example data keeps its promises."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from itertools import combinations
from pathlib import Path

import pytest

from danlu.recipe import load_recipe
from danlu.recipe.sweep import load_sweep
from danlu.workflows.search import make_search

ROOT = Path(__file__).parents[2]
ENGLISH = ROOT / "examples" / "customer_service.jsonl"
CHINESE = ROOT / "examples" / "customer_service_zh.jsonl"
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
SWEEPS = sorted((ROOT / "recipes" / "sweeps").glob("*.yaml"))


def rows(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def grams(text: str) -> set[str]:
    text = text.lower()
    return {text[start : start + 5] for start in range(max(1, len(text) - 4))}


def closest(questions: list[str]) -> float:
    sets = [grams(question) for question in questions]
    return max(len(a & b) / len(a | b) for a, b in combinations(sets, 2))


def test_there_are_as_many_recipes_as_we_say() -> None:
    assert len(RECIPES) == 5
    assert len(SWEEPS) == 1


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_a_shipped_recipe_parses_and_finds_its_data(path: Path) -> None:
    loaded = load_recipe(path)
    assert all(loaded.find(name).is_file() for name in loaded.recipe.data.train)


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.name)
def test_the_recipe_of_each_trial_of_a_shipped_sweep_parses(path: Path) -> None:
    sweep = load_sweep(path)
    search = make_search(sweep.sweep)
    for number, name in enumerate(search.names):
        loaded = sweep.trial(name, search.propose(number, []))
        assert loaded.recipe.data.evaluation
        assert all(loaded.find(file).is_file() for file in loaded.recipe.data.train)


@pytest.mark.parametrize(("path", "intents", "questions"), [(ENGLISH, 30, 540), (CHINESE, 30, 240)])
def test_the_example_has_enough_intents_and_questions(path: Path, intents: int, questions: int) -> None:
    by_intent = Counter(row["intent"] for row in rows(path))
    assert len(by_intent) >= intents
    assert sum(by_intent.values()) >= questions
    assert max(by_intent.values()) == min(by_intent.values())


@pytest.mark.parametrize("path", [ENGLISH, CHINESE])
def test_no_two_questions_are_alike(path: Path) -> None:
    questions = [row["question"] for row in rows(path)]
    assert closest(questions) < 0.6
    assert closest([*questions, questions[0] + "!"]) >= 0.6, "the measure has teeth"


def test_english_answers_follow_the_house_rules() -> None:
    steps = r"1\. [^\n]+\n2\. [^\n]+\n(3\. [^\n]+\n)?"
    form = rf"Thank you for contacting Lantern Bank about [^\n]+\.\n{steps}Ticket code: LB-\d{{3}}"
    assert all(re.fullmatch(form, row["answer"]) for row in rows(ENGLISH))


def test_chinese_answers_follow_the_house_rules() -> None:
    form = r"您好，感谢您联系明灯银行。\n1\. [^\n]+\n2\. [^\n]+\n(3\. [^\n]+\n)?工单编号：MD-\d{3}"
    assert all(re.fullmatch(form, row["answer"]) for row in rows(CHINESE))


@pytest.mark.parametrize("path", [ENGLISH, CHINESE])
def test_each_intent_has_its_own_answer_and_code(path: Path) -> None:
    answers = defaultdict(set)
    for row in rows(path):
        answers[row["intent"]].add(row["answer"])
    assert all(len(texts) == 1 for texts in answers.values())
    codes = [next(iter(texts)).rsplit("-", 1)[1] for texts in answers.values()]
    assert len(set(codes)) == len(codes)


def test_english_answers_have_at_most_60_tokens(model_folder: Path) -> None:
    from danlu.models.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(model_folder)
    longest = max(len(tokenizer(row["answer"])["input_ids"]) for row in rows(ENGLISH))
    assert 20 < longest <= 60
