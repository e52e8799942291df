"""Preference pairs: every form of them is one question and two answers."""

import pytest

from danlu.data.records import Record, RowFault, to_record

SYSTEM = {"role": "system", "content": "s"}
QUESTION = {"role": "user", "content": "q"}
ANSWER = {"role": "assistant", "content": "a"}
OTHER = {"role": "assistant", "content": "b"}
HUMAN, GPT = {"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}


def reason(value):
    with pytest.raises(RowFault) as caught:
        to_record(value)
    return str(caught.value)


@pytest.mark.parametrize(
    "row",
    [
        {"conversations": [HUMAN], "chosen": GPT, "rejected": {"from": "gpt", "value": "b"}},
        {"conversations": [QUESTION], "chosen": ANSWER, "rejected": OTHER},
        {"conversations": [HUMAN], "chosen": "a", "rejected": "b"},
        {"messages": [QUESTION], "chosen": [ANSWER], "rejected": [OTHER]},
        {"prompt": [QUESTION], "chosen": [ANSWER], "rejected": [OTHER]},
        {"prompt": "q", "chosen": ANSWER, "rejected": OTHER},
        {"prompt": "q", "chosen": [QUESTION, ANSWER], "rejected": [QUESTION, OTHER]},
        {"chosen": [QUESTION, ANSWER], "rejected": [QUESTION, OTHER]},
        {"instruction": "q", "input": "", "chosen": "a", "rejected": "b"},
        {"question": "q", "chosen": "a", "rejected": "b"},
    ],
)
def test_each_form_of_a_pair_becomes_a_question_and_two_answers(row):
    assert to_record(row) == ("preference", Record([QUESTION, ANSWER], rejected=[OTHER]))
    assert to_record({"system": "s", **row})[1].messages == [SYSTEM, QUESTION, ANSWER]


def test_a_pair_of_texts_continues_its_prompt_without_a_template():
    _, record = to_record({"prompt": "q", "chosen": " a", "rejected": " b"})
    assert record.messages == [{"role": "prompt", "content": "q"}, {"role": "completion", "content": " a"}]
    assert record.rejected == [{"role": "completion", "content": " b"}]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"instruction": "q", "chosen": "a", "rejected": "a"}, "chosen and rejected are equal"),
        ({"chosen": [QUESTION, ANSWER], "rejected": [QUESTION, ANSWER]}, "chosen and rejected are equal"),
        ({"instruction": "q", "chosen": "a", "rejected": " "}, "missing answer"),
        ({"instruction": "q", "chosen": None, "rejected": "b"}, "missing answer"),
        ({"prompt": " ", "chosen": "a", "rejected": "b"}, "missing question"),
        ({"prompt": "q", "chosen": [], "rejected": "b"}, "missing answer"),
        ({"conversations": [HUMAN, GPT], "chosen": GPT, "rejected": "b"}, "turns out of order: turn 3 is assistant"),
        (
            {"chosen": [QUESTION, ANSWER, QUESTION, ANSWER], "rejected": [QUESTION, OTHER, QUESTION, ANSWER]},
            "chosen and rejected differ before their last answer",
        ),
        (
            {"prompt": "x", "chosen": [QUESTION, ANSWER], "rejected": [QUESTION, OTHER]},
            "the prompt is not in chosen and rejected",
        ),
        ({"chosen": [QUESTION, ANSWER], "rejected": [QUESTION]}, "chosen and rejected differ before their last answer"),
        ({"instruction": "q", "chosen": [ANSWER, QUESTION, ANSWER], "rejected": "b"}, "not one answer: `chosen`"),
    ],
)
def test_a_pair_that_is_none_is_refused(row, expected):
    found = reason(row)
    assert found.startswith(expected), found
