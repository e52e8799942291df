"""Scores against rouge-score, a longest common subsequence by hand, and hand-made cases."""

from __future__ import annotations

import random

import jieba
import pytest
from rouge_score.rouge_scorer import RougeScorer

from danlu.data.questions import Question, question_of
from danlu.evaluation.metrics import Given
from danlu.evaluation.metrics.rouge import rouge
from danlu.evaluation.report import metric_table
from danlu.evaluation.tasks import measure_answers
from danlu.evaluation.tasks.compliance import RulesTask, keeps
from danlu.evaluation.tasks.fields import field_matches, field_value
from danlu.pages.charts import round_ticks
from danlu.recipe.evaluation_schema import ComplianceTask, LossTask, RougeTask, Rule

QUESTION = Question([{"role": "user", "content": "What?"}], None)
WORDS = ["the", "card", "was", "lost", "in", "the", "app", "and", "a", "new", "one", "is", "on", "its", "way"]


def lcs(a: list[str], b: list[str]) -> int:
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            table[i + 1][j + 1] = table[i][j] + 1 if x == y else max(table[i][j + 1], table[i + 1][j])
    return table[-1][-1]


def test_rouge_l_equals_rouge_score_on_english() -> None:
    generator, scorer = random.Random(1), RougeScorer(["rougeL"])
    for _ in range(50):
        a, b = (" ".join(generator.choices(WORDS, k=generator.randint(1, 12))) for _ in range(2))
        assert rouge("rouge_l", a, b) == pytest.approx(scorer.score(b, a)["rougeL"].fmeasure)


def test_rouge_l_takes_the_words_of_jieba_in_chinese() -> None:
    answer, reference = "请在手机银行挂失", "请通过手机银行挂失银行卡"
    given, wanted = jieba.lcut(answer), jieba.lcut(reference)
    assert len(given) < len(answer)
    common = lcs(given, wanted)
    precision, recall = common / len(given), common / len(wanted)
    assert rouge("rouge_l", answer, reference) == pytest.approx(2 * precision * recall / (precision + recall))
    assert rouge("rouge_l", "", "请") == 0.0


def test_a_rule_is_searched_and_a_forbidden_one_must_be_absent() -> None:
    assert keeps(Rule(name="a", pattern="^Thank"), "first\nThank you")
    assert not keeps(Rule(name="a", pattern="^Thank"), "I Thank you")
    assert not keeps(Rule(name="a", pattern="sorry", forbidden=True), "so sorry")


def test_a_field_must_be_there_and_equal() -> None:
    pattern = r"code: (\d+)"
    assert field_value(pattern, "code: 12 code: 13") == "12"
    assert field_matches(pattern, "code: 12", "the code: 12.") == 1.0
    assert field_matches(pattern, "code: 13", "code: 12") == 0.0
    assert field_matches(pattern, "none", "none") == 0.0, "a field that neither has is not right"


def test_an_answer_complies_only_if_it_keeps_every_rule_and_each_rule_has_its_rate() -> None:
    rules = (Rule(name="a", pattern="x"), Rule(name="b", pattern="y"))
    task = RulesTask(ComplianceTask(type="compliance", rules=rules))
    questions, answers = [QUESTION] * 4, [Given(text) for text in ("xy", "x", "y", "")]
    assert [task.score(QUESTION, answer)["compliance"] for answer in answers] == [(1.0,), (0.0,), (0.0,), (0.0,)]
    assert task.details(questions, answers) == {"rules": {"a": 0.5, "b": 0.5}}


def test_tasks_that_need_answers_alone_are_measured_of_answers_alone() -> None:
    sections = (RougeTask(type="rouge_l"), LossTask(type="loss"), RougeTask(type="rouge_l", name="other", file="x"))
    questions = [question_of([*QUESTION.messages, {"role": "assistant", "content": "xy zz"}])] * 2
    assert measure_answers(sections, questions, [Given("xy zz"), Given("no")]) == {"rouge_l": 0.5}


def test_the_table_shows_each_measure_in_its_own_unit() -> None:
    metrics = {"base": {"loss": 2.0, "rouge_l": 0.5}, "tuned": {"loss": 1.0, "rouge_l": 0.4}}
    assert [row["change"] for row in metric_table(metrics)] == ["-1.000", "-10.0 points"]


@pytest.mark.parametrize("largest", [0.003, 0.19, 0.21, 1.0, 4.32, 5.0, 9.99, 10.0, 73.0])
def test_ticks_are_round_reach_the_largest_value_and_are_few(largest: float) -> None:
    ticks = round_ticks(largest)
    assert ticks[0] == 0.0
    assert ticks[-2] < largest <= ticks[-1] + 1e-12
    assert 3 <= len(ticks) <= 6
    assert all(len(f"{tick:g}".replace("0.", "").strip("0")) <= 2 for tick in ticks)


def test_the_table_says_on_how_many_questions_the_loss_was_taken() -> None:
    metrics = {"base": {"loss": 2.0}, "tuned": {"loss": 1.0}}
    assert "48 questions" in metric_table(metrics, 48)[0]["title"]
    assert "questions" not in metric_table(metrics)[0]["title"]
