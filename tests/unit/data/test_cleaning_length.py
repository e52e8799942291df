import pytest

from danlu.data.cleaning.length import Length
from danlu.data.records import Record, RowFault


def chat(*texts, rejected=()):
    roles = ("user", "assistant") * len(texts)
    return Record(
        [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)],
        rejected=[{"role": "assistant", "content": text} for text in rejected],
    )


def test_lengths_are_characters_whatever_the_script():
    record = chat("你好吗", "很好")
    assert Length(min_question=3, max_question=3, min_answer=2, max_answer=2)(record) is record


@pytest.mark.parametrize(
    ("bounds", "reason"),
    [
        ({"min_question": 4}, "question too short: 3 characters, at least 4"),
        ({"max_question": 2}, "question too long: 3 characters, at most 2"),
        ({"min_answer": 3}, "answer too short: 2 characters, at least 3"),
        ({"max_answer": 1}, "answer too long: 2 characters, at most 1"),
    ],
)
def test_a_row_outside_the_bounds_is_dropped_with_its_length(bounds, reason):
    with pytest.raises(RowFault, match=f"^{reason}$"):
        Length(**bounds)(chat(" 你好吗 ", "很好\n"))


def test_only_the_first_question_has_a_least_length():
    record = chat("请介绍一下贷款。", "好的。", "嗯", "还有吗？")
    assert Length(min_question=5)(record) is record
    with pytest.raises(RowFault, match="question too long"):
        Length(max_question=7)(record)


def test_a_rejected_answer_counts_and_a_tool_call_does_not():
    with pytest.raises(RowFault, match="answer too long: 9"):
        Length(max_answer=5)(chat("q", "好", rejected=["一二三四五六七八九"]))
    call = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}
    record = Record([{"role": "user", "content": "q"}, call, {"role": "assistant", "content": "好"}])
    assert Length()(record) is record


def test_plain_text_and_completions_are_answers():
    with pytest.raises(RowFault, match="answer too short"):
        Length(min_answer=5)(Record([{"role": "text", "content": "短"}]))
    with pytest.raises(RowFault, match="question too long"):
        Length(max_question=1)(Record([{"role": "prompt", "content": "长长"}, {"role": "completion", "content": "短"}]))
