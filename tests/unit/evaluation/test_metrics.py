"""Scores against rouge-score, a longest common subsequence by hand, and hand-made cases."""

from __future__ import annotations

import random

import pytest
from rouge_score.rouge_scorer import RougeScorer

from danlu.engines.interface import Answer
from danlu.evaluation.metrics import complies, field_matches, field_value, keeps, rouge_l
from danlu.evaluation.report import metric_table, verdict
from danlu.evaluation.tasks import run_task
from danlu.pages.charts import round_ticks
from danlu.recipe.evaluation_schema import ComplianceTask, FieldTask, RougeTask, Rule

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
        assert rouge_l(a, b) == pytest.approx(scorer.score(b, a)["rougeL"].fmeasure)


def test_rouge_l_takes_single_characters_in_chinese() -> None:
    answer, reference = "请在手机银行挂失", "请通过手机银行挂失银行卡"
    common = lcs(list(answer), list(reference))
    precision, recall = common / len(answer), common / len(reference)
    assert rouge_l(answer, reference) == pytest.approx(2 * precision * recall / (precision + recall))
    assert rouge_l("", "请") == 0.0


def test_a_rule_is_searched_and_a_forbidden_one_must_be_absent() -> None:
    assert keeps(Rule(name="a", pattern="^Thank"), "first\nThank you")
    assert not keeps(Rule(name="a", pattern="^Thank"), "I Thank you")
    assert not keeps(Rule(name="a", pattern="sorry", forbidden=True), "so sorry")


def test_an_answer_complies_only_if_it_keeps_every_rule() -> None:
    task = ComplianceTask(type="compliance", rules=(Rule(name="a", pattern="x"), Rule(name="b", pattern="y")))
    assert [complies(task, text) for text in ("xy", "x", "y", "")] == [1.0, 0.0, 0.0, 0.0]


def test_a_field_must_be_there_and_equal() -> None:
    task = FieldTask(type="field", name="code", pattern=r"code: (\d+)")
    assert field_value(task, "code: 12 code: 13") == "12"
    assert field_matches(task, "code: 12", "the code: 12.") == 1.0
    assert field_matches(task, "code: 13", "code: 12") == 0.0
    assert field_matches(task, "none", "none") == 0.0, "a field that neither has is not right"


def test_a_task_gives_the_mean_and_each_rule_its_rate() -> None:
    answers = [Answer((1,), text, "stop") for text in ("xy", "x")]
    task = ComplianceTask(type="compliance", rules=(Rule(name="a", pattern="x"), Rule(name="b", pattern="y")))
    result = run_task(task, answers, ["r", "r"], 1.0)
    assert (result.value, result.scores, result.parts) == (0.5, (1.0, 0.0), {"a": 1.0, "b": 0.5})
    assert run_task(RougeTask(type="rouge_l"), answers, ["xy", "zz"], 1.0).value == 0.5


def test_the_verdict_says_better_and_worse_by_each_measures_own_direction() -> None:
    metrics = {"base": {"loss": 2.0, "rouge_l": 0.5}, "tuned": {"loss": 1.0, "rouge_l": 0.4}}
    assert "better in loss and worse in ROUGE-L" in verdict(metrics)
    assert "no different" in verdict({"base": {"loss": 2.0}, "tuned": {"loss": 2.0}})
    assert metric_table(metrics)[1]["change"] == "-10.0 points"


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
