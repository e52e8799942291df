"""Metrics of texts against sacrebleu, rouge-score, scikit-learn and SQuAD's own script, English and Chinese."""

from __future__ import annotations

import collections
import random
import re
import string

import jieba
import pytest
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU, CHRF
from sklearn.metrics import accuracy_score, f1_score

from danlu.data.questions import Question
from danlu.errors import DataError
from danlu.evaluation.combining import figure, row_scores
from danlu.evaluation.metrics import METRICS, Given
from danlu.evaluation.metrics.exact_match import exact_match, token_f1
from danlu.evaluation.metrics.refusal import refuses
from danlu.evaluation.tasks.classification import NONE, LabelsTask, label_in
from danlu.recipe.evaluation_schema import ClassificationTask

ENGLISH = [
    "the card was lost in the app and a new one is on its way .",
    "Thank you for contacting Lantern Bank about fees.",
    "1. Open the app, then choose 'Fees'.",
    "It's done!",
]
CHINESE = [
    "您好，感谢您联系明灯银行。",
    "请通过手机银行挂失银行卡，新卡三天内寄到。",
    "当年刷满6次，可免次年年费。",
    "工单编号：MD-126",
]


def corpus(texts: list[str], seed: int) -> tuple[list[str], list[str]]:
    """Random answers beside references: words of the texts shuffled, cut, repeated; some are empty or equal."""
    dice = random.Random(seed)
    answers, references = [], []
    for _ in range(40):
        reference = " ".join(dice.choices(texts, k=dice.randint(1, 3)))
        pieces = jieba.lcut(reference)
        dice.shuffle(pieces)
        made = "".join(pieces[: dice.randint(0, len(pieces))])
        answers.append(dice.choice([made, reference, reference[: len(reference) // 2]]))
        references.append(reference)
    return answers, references


def measured(name: str, answers: list[str], references: list[str]) -> float:
    one = METRICS[name]
    return figure(one.metric.kind, [one.score(Given(a), r) for a, r in zip(answers, references, strict=True)])


@pytest.mark.parametrize(("texts", "tokenize"), [(ENGLISH, "13a"), (CHINESE, "zh")], ids=["en", "zh"])
def test_bleu_equals_sacrebleu(texts: list[str], tokenize: str) -> None:
    for seed in range(5):
        answers, references = corpus(texts, seed)
        wanted = BLEU(tokenize=tokenize, force=True).corpus_score(answers, [references]).score
        assert 5 < wanted < 95
        assert measured("bleu", answers, references) == pytest.approx(wanted, abs=1e-9)


def test_bleu_of_chinese_would_be_another_with_the_english_tokens() -> None:
    answers, references = corpus(CHINESE, 0)
    assert BLEU(force=True).corpus_score(answers, [references]).score != pytest.approx(
        measured("bleu", answers, references), abs=1.0
    )


@pytest.mark.parametrize("texts", [ENGLISH, CHINESE], ids=["en", "zh"])
def test_chrf_equals_sacrebleu(texts: list[str]) -> None:
    for seed in range(5):
        answers, references = corpus(texts, seed)
        wanted = CHRF().corpus_score(answers, [references]).score
        assert measured("chrf", answers, references) == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize("name", ["rouge_1", "rouge_2", "rouge_l"])
@pytest.mark.parametrize("texts", [ENGLISH, CHINESE], ids=["en", "zh"])
def test_rouge_equals_rouge_score_on_words(texts: list[str], name: str) -> None:
    own_name = {"rouge_1": "rouge1", "rouge_2": "rouge2", "rouge_l": "rougeL"}[name]
    numbers: dict[str, int] = {}

    def in_letters(text: str) -> str:
        """Each Chinese word as a word of letters, so that rouge-score's own tokenizer finds it."""
        return re.sub(
            "[\u4e00-\u9fff]+",
            lambda run: " ".join(f" w{numbers.setdefault(word, len(numbers))} " for word in jieba.lcut(run[0])),
            text,
        )

    for seed in range(3):
        answers, references = corpus(texts, seed)
        scorer = RougeScorer([own_name])
        pairs = [(in_letters(a), in_letters(r)) for a, r in zip(answers, references, strict=True)]
        wanted = [scorer.score(reference, answer)[own_name].fmeasure for answer, reference in pairs]
        assert measured(name, answers, references) == pytest.approx(sum(wanted) / len(wanted), abs=1e-12)


def squad(answer: str, reference: str) -> tuple[float, float]:
    """Exact match and F1 as in SQuAD's evaluation script (version 1.1), word for word."""

    def normal(text: str) -> str:
        text = "".join(one for one in text.lower() if one not in set(string.punctuation))
        return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())

    given, wanted = normal(answer).split(), normal(reference).split()
    same = sum((collections.Counter(given) & collections.Counter(wanted)).values())
    exact = float(normal(answer) == normal(reference))
    if same == 0:
        return exact, 0.0
    precision, recall = same / len(given), same / len(wanted)
    return exact, 2 * precision * recall / (precision + recall)


def test_exact_match_and_token_f1_equal_squads_script() -> None:
    answers, references = corpus(ENGLISH, 1)
    for answer, reference in zip(answers, references, strict=True):
        if answer.strip():  # of two empty texts the script makes 0, and version 2.0 of it makes 1
            assert (exact_match(answer, reference), token_f1(answer, reference)) == pytest.approx(
                squad(answer, reference)
            )
    assert (token_f1("", ""), token_f1("", "x")) == (1.0, 0.0)


def test_token_f1_of_chinese_is_that_of_its_characters() -> None:
    answers, references = corpus(CHINESE, 1)
    for answer, reference in zip(answers, references, strict=True):
        apart = [re.sub("([\u4e00-\u9fff])", r" \1 ", re.sub("[，。：-]", "", text)) for text in (answer, reference)]
        if apart[0].strip():
            assert token_f1(answer, reference) == pytest.approx(squad(*apart)[1])
    assert exact_match("您好！", "您好") == 1.0
    assert exact_match("您好", "你好") == 0.0


@pytest.mark.parametrize("labels", [("fees", "late fees", "card"), ("年费", "挂失", "转账")], ids=["en", "zh"])
def test_accuracy_and_macro_f1_equal_scikit_learn(labels: tuple[str, ...]) -> None:
    dice = random.Random(2)
    task = LabelsTask(ClassificationTask(type="classification", labels=labels))
    for _ in range(10):
        true = [dice.choice(labels) for _ in range(50)]
        said = [dice.choice([*labels, "?"]) for _ in range(50)]
        questions = [Question([{"role": "user", "content": "q"}], label) for label in true]
        scores = [task.score(q, Given(f"It is {a}.")) for q, a in zip(questions, said, strict=True)]
        assert figure("mean", [one["accuracy"] for one in scores]) == pytest.approx(accuracy_score(true, said))
        wanted = f1_score(true, said, labels=labels, average="macro", zero_division=0)
        assert figure("macro_f1", [one["macro_f1"] for one in scores]) == pytest.approx(wanted)
        confusion = task.details(questions, [Given(f"It is {a}.") for a in said])["confusion"]
        assert sum(map(sum, (row.values() for row in confusion.values()))) == 50
        assert confusion[labels[0]][NONE] == sum(t == labels[0] and s == "?" for t, s in zip(true, said, strict=True))


def test_a_label_is_the_whole_answer_or_the_one_in_the_first_line_that_has_one() -> None:
    labels = ("late", "late fee", "card")
    assert label_in("Late fee.", labels) == "late fee"
    assert label_in("This is a late fee\nnot a card", labels) == "late fee"
    assert label_in("card or late", labels) == NONE, "two of them are none"
    assert label_in("postcard", labels) == NONE, "a part of a word is no label"
    assert label_in("", labels) == NONE


def test_a_reference_that_is_no_label_is_told_by_its_place() -> None:
    task = LabelsTask(ClassificationTask(type="classification", labels=("a", "b")))
    with pytest.raises(DataError, match=r"none of the labels: 'c'") as raised:
        task.prepare([Question([{"role": "user", "content": "q"}], "c", "rows.jsonl:7")])
    assert raised.value.faults[0].where == "rows.jsonl:7"


def test_distinct_counts_different_runs_in_all_answers() -> None:
    assert measured("distinct_1", ["a b a"], [""]) == pytest.approx(2 / 3)
    assert measured("distinct_2", ["年费年费"], [""]) == pytest.approx(2 / 3)
    assert measured("distinct_1", [""], [""]) == 0.0
    said = ["the cat sat", "the cat sat", "", "a dog sat"]
    assert measured("distinct_1", said, [""] * 4) == pytest.approx(5 / 9), "what is said twice is not new"
    assert measured("distinct_2", said, [""] * 4) == pytest.approx(4 / 6)
    rows = [METRICS["distinct_1"].score(Given(text), "") for text in ("a b a", "", "a b")]
    assert row_scores("distinct", rows) == pytest.approx([2 / 3, 0.0, 1.0])


def test_lengths_and_refusals_are_told() -> None:
    assert METRICS["answer_tokens"].score(Given("您好", tokens=7), "") == (7.0,)
    assert METRICS["answer_characters"].score(Given("您好"), "") == (2.0,)
    assert refuses("I'm sorry, but I can't assist with that.")
    assert refuses("对不起，我无法回答这个问题。")
    assert not refuses("I'm sorry, but we cannot refund the fee.")
    assert measured("refusal_rate", ["As an AI language model, I cannot answer.", "Yes."], ["", ""]) == 0.5
