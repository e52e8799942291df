"""Each kind of task by hand-made rows, by the model's own logits, and by a judge on a real HTTP endpoint."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from danlu.data.questions import Question
from danlu.data.records import RowFault
from danlu.data.sources import Row
from danlu.data.template import label
from danlu.engines.interface import Answer, Sampling
from danlu.engines.transformers_engine import TransformersEngine
from danlu.errors import DataError
from danlu.evaluation.combining import figure
from danlu.evaluation.metrics import Given
from danlu.evaluation.parts import make_parts
from danlu.evaluation.tasks import make_task
from danlu.evaluation.tasks.compliance import keeps
from danlu.evaluation.tasks.conversation import passes
from danlu.evaluation.tasks.multiple_choice import letter_in, option_ids, read_choices
from danlu.models.tokenizer import tokenize
from danlu.recipe.evaluation_schema import (
    AnswersTask,
    ConversationTask,
    FieldTask,
    LossTask,
    MultipleChoiceTask,
    PerplexityTask,
    Rule,
    TokenAccuracyTask,
)


class Parrot:
    """An engine that says what it was given to say, in order, and remembers what it was asked."""

    def __init__(self, *answers: str) -> None:
        self.answers, self.asked = list(answers), []

    def generate(self, conversations: Sequence[Any], sampling: Sampling, tuned: bool = True) -> list[Answer]:
        self.asked += [[dict(message) for message in one] for one in conversations]
        return [Answer((1, 2), self.answers.pop(0), "stop") for _ in conversations]


def asked(text: str, reference: str | None = None, **fields: Any) -> Question:
    return Question([{"role": "user", "content": text}], reference, "rows.jsonl:1", fields)


def row(**value: Any) -> Row:
    return Row(value, "rows.jsonl", 3)


def nats(engine: TransformersEngine, ids: Sequence[int]) -> torch.Tensor:
    """Of each token after the first, by transformers itself."""
    with torch.no_grad():
        logits = engine.model(torch.tensor([list(ids)])).logits[0].float()
    return torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(ids[1:]), reduction="none")


def test_answers_gives_each_metric_under_the_tasks_name() -> None:
    task = make_task(AnswersTask(type="answers", name="law", metrics=("exact_match", "token_f1")), 8)
    scores = task.score(asked("q", "The card."), Given("card"))
    assert scores == {"law.exact_match": (1.0,), "law.token_f1": (1.0,)}
    assert not make_task(AnswersTask(type="answers", metrics=("distinct_1", "refusal_rate")), 8).needs_reference


@pytest.mark.parametrize(
    ("rule", "kept", "broken"),
    [
        ({"pattern": r"^工单编号：MD-\d+$"}, "好的\n工单编号：MD-12", "工单编号：MD-x"),
        ({"pattern": "sorry", "forbidden": True}, "Fine", "so sorry"),
        ({"min_characters": 2, "max_characters": 4}, "您好", "您好您好您"),
        ({"forbidden_words": ("cat",)}, "concatenate", "a Cat!"),
        ({"forbidden_words": ("退款",)}, "不能退", "可以退款吗"),
        ({"json_schema": {"type": "object", "required": ["a"]}}, '{"a": 1}', '{"b": 1}'),
        ({"json_schema": {"type": "object"}}, 'Here:\n```json\n{"a": 1}\n```', 'Here: {"a": 1}'),
        ({"must_cite": r"\[\d+\]"}, "It is 3 [2].", "It is 3 [7]."),
        ({"must_cite": r"\[\d+\]"}, "[1] and [2]", "It is 3."),
    ],
)
def test_a_rule_is_kept_or_broken(rule: dict[str, Any], kept: str, broken: str) -> None:
    section, question = Rule(name="r", **rule), "Sources: [1] a law [2] a form. How many?"
    assert keeps(section, kept, question)
    assert not keeps(section, broken, question)


def test_a_rule_that_asks_nothing_or_a_schema_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="asks nothing"):
        Rule(name="r")
    with pytest.raises(ValueError, match="not a JSON Schema"):
        Rule(name="r", json_schema={"type": 7})


def test_a_field_is_the_patterns_group() -> None:
    task = make_task(FieldTask(type="field", name="code", pattern=r"编号：(\w+)"), 8)
    scores = [task.score(asked("q", "编号：A1。"), Given(text))["code"] for text in ("是编号：A1", "编号：A2", "A1")]
    assert scores == [(1.0,), (0.0,), (0.0,)]


@pytest.mark.parametrize("answer", ["B", 1, "1", "two", "b"])
def test_the_right_option_is_a_letter_a_place_or_its_text(answer: Any) -> None:
    assert read_choices({"question": "q", "choices": ["one", "two"], "answer": answer})[2] == 1
    assert read_choices({"question": "q", "A": "one", "B": "two", "answer": answer})[2] == 1


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({"choices": ["a", "b"], "answer": "a"}, "missing question"),
        ({"question": "q", "choices": ["a"], "answer": "a"}, "missing options"),
        ({"question": "q", "choices": ["a", "b"]}, "reference is missing"),
        ({"question": "q", "choices": ["a", "b"], "answer": "Z"}, "none of the options: Z"),
    ],
)
def test_a_choice_that_can_not_be_asked_says_why(value: dict[str, Any], says: str) -> None:
    with pytest.raises(RowFault, match=says):
        read_choices(value)


@pytest.mark.parametrize(
    ("answer", "place"),
    [("B", 1), ("(B) two", 1), ("**B**", 1), ("The answer is B.", 1), ("答案是B", 1), ("选C。", 2), ("Two", 1),
     ("A big house", None), ("Both", None), ("", None)],
)  # fmt: skip
def test_the_letter_in_an_answer(answer: str, place: int | None) -> None:
    assert letter_in(answer, ["one", "two", "three"]) == place


def test_multiple_choice_takes_the_option_that_transformers_finds_likeliest(engine: TransformersEngine) -> None:
    task = make_task(MultipleChoiceTask(type="multiple_choice", file="x"), 8)
    options = ["a red card", "7", "the bank in town is closed", "年费"]
    rights = []
    for place in range(len(options)):
        question = task.convert()(row(question="Which of them?", choices=options, answer=place))
        assert question.messages[0]["content"] == "Which of them?", "options are not shown where likelihood counts"
        prompt = engine.prompt_ids(question.messages)
        means = []
        for option in options:
            ids = option_ids(engine.tokenizer, question, option)
            means.append(nats(engine, [*prompt, *ids])[-len(ids) :].mean().item())
        (said,) = task.ask(engine, [question], True)
        assert said.answer.text == options[means.index(min(means))]
        rights.append(said.scores["accuracy"][0])
    assert sum(rights) == 1.0


def test_multiple_choice_by_letter_shows_letters_and_reads_one() -> None:
    task = make_task(MultipleChoiceTask(type="multiple_choice", file="x", by="letter"), 8)
    question = task.convert()(row(question="Which?", choices=["one", "two"], answer="two"))
    parrot = Parrot("B. two", "A")
    said = list(task.ask(parrot, [question, question], True))
    assert [one.scores["accuracy"] for one in said] == [(1.0,), (0.0,)]
    assert parrot.asked[0][0]["content"] == "Which?\nA. one\nB. two"


@pytest.mark.parametrize(
    ("check", "passed", "failed"),
    [
        ({"contains": ["Anna", "7"]}, "Anna, it is 7", "Anna"),
        ({"contains_any": ["安娜", "Anna"]}, "您好安娜", "您好"),
        ({"absent": "fee"}, "feet", "a fee"),
        ({"pattern": "^Hi"}, "well\nHi", "oh Hi"),
    ],
)
def test_a_check_of_a_turn(check: dict[str, Any], passed: str, failed: str) -> None:
    assert passes(check, passed)
    assert not passes(check, failed)


def test_a_talk_holds_the_models_own_answers_and_counts_its_checks() -> None:
    task = make_task(ConversationTask(type="conversation", file="x"), 8)
    turns = [{"user": "I am Anna."}, {"user": "Who?", "check": {"contains": "Anna"}},
             {"user": "And?", "check": {"contains": "Bob"}}]  # fmt: skip
    question = task.convert()(row(system="Be brief.", turns=turns))
    parrot = Parrot("Hello.", "Anna", "Anna again")
    (said,) = task.ask(parrot, [question], True)
    assert said.scores == {"checks_passed": (1.0, 2.0), "conversations_passed": (0.0,)}
    assert [message["content"] for message in parrot.asked[2]] == [
        *("Be brief.", "I am Anna.", "Hello.", "Who?", "Anna", "And?"),
    ]
    assert "Anna ✓" in said.answer.text
    assert "Anna again ✗" in said.answer.text


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({}, "no list `turns`"),
        ({"turns": [{"user": "a"}]}, "no turn has a `check`"),
        ({"turns": [{"user": "a", "check": {"contain": "x"}}]}, "unknown check of turn 1: `contain`"),
        ({"turns": [{"user": "a", "check": {"pattern": "("}}]}, "not a regular expression"),
        ({"turns": [{"check": {"contains": "x"}}]}, "turn 1 has no `user`"),
    ],
)
def test_a_talk_that_can_not_be_held_says_why(value: dict[str, Any], says: str) -> None:
    task = make_task(ConversationTask(type="conversation", file="x"), 8)
    with pytest.raises(RowFault, match=says):
        task.convert()(row(**value))


def test_loss_and_token_accuracy_are_those_of_transformers(engine: TransformersEngine) -> None:
    questions = [asked("What is 1 and 2?", "It is 3."), asked("年费多少？", "当年刷满6次，可免次年年费。")]
    questions += [asked("What is 1 and 2?", "It is 3 again."), questions[0]]
    made = [make_task(one, 8) for one in (LossTask(type="loss"), TokenAccuracyTask(type="token_accuracy"))]
    loss, accuracy = ([one.scores for one in task.ask(engine, questions, True)] for task in made)
    wanted, right, count = 0.0, 0, 0
    for question, row in zip(questions, loss, strict=True):
        (document,) = label(engine.tokenizer, question.conversation)
        each = nats(engine, document.ids)
        with torch.no_grad():
            likeliest = engine.model(torch.tensor([document.ids])).logits[0].argmax(-1)
        own = sum(each[begin - 1 : end - 1].sum().item() for begin, end in document.spans)
        assert row["loss"] == pytest.approx((own, document.trained), rel=1e-5)
        wanted += own
        for begin, end in document.spans:
            right += sum(likeliest[place - 1].item() == document.ids[place] for place in range(begin, end))
            count += end - begin
    assert figure("ratio", [one["loss"] for one in loss]) == pytest.approx(wanted / count, rel=1e-5)
    assert figure("ratio", [one["token_accuracy"] for one in accuracy]) == pytest.approx(right / count)


def test_token_accuracy_of_what_the_model_says_itself_is_1(engine: TransformersEngine) -> None:
    task = make_task(TokenAccuracyTask(type="token_accuracy"), 8)
    (document,) = label(engine.tokenizer, asked("Go", "x").conversation)
    start = document.spans[0][0]
    ids = list(document.ids[:start])
    with torch.no_grad():
        ids.append(int(engine.model(torch.tensor([ids])).logits[0, -1].argmax()))
    said = engine.tokenizer.decode(ids[start:])
    (found,) = task.ask(engine, [asked("Go", said)], True)
    assert found.scores["token_accuracy"][0] >= 1.0


@pytest.mark.parametrize("window", [8, 512])
def test_perplexity_is_that_of_transformers_in_windows(engine: TransformersEngine, window: int) -> None:
    task = make_task(PerplexityTask(type="perplexity", file="x", window_tokens=window), 8)
    texts = ["The card was lost in the app, and a new one is on its way to you.", "请通过手机银行挂失银行卡。"]
    questions = [task.convert()(row(text=text)) for text in texts]
    found = figure("perplexity", [one.scores["perplexity"] for one in task.ask(engine, questions, True)])
    losses: list[float] = []
    for text in texts:
        ids = tokenize(engine.tokenizer, text)
        for start in range(1, len(ids), window):
            read = ids[max(0, start - window) : start + window]
            losses += nats(engine, read)[-len(ids[start : start + window]) :].tolist()
    assert len(losses) == sum(len(tokenize(engine.tokenizer, text)) - 1 for text in texts)
    assert found == pytest.approx(math.exp(sum(losses) / len(losses)), rel=1e-5)


def test_tasks_on_one_file_share_its_rows_and_missing_references_are_told_by_place(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"question": f"q {n}", "answer": "a" * (n != 3)}) + "\n" for n in range(6)))
    lengths = AnswersTask(type="answers", metrics=("answer_characters",), file=str(path))
    parts = make_parts([lengths, lengths.model_copy(update={"name": "b", "max_rows": 3})], [], Path, 8)
    assert [len(part.rows) for part in parts] == [6, 3]
    assert parts[0].of is parts[1].of
    with pytest.raises(DataError, match="the reference is missing") as raised:
        make_parts([AnswersTask(type="answers", metrics=("bleu",), file=str(path))], [], Path, 8)
    assert raised.value.faults[0].where.endswith("rows.jsonl:4")
