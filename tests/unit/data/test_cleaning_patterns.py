import pytest

from danlu.data.cleaning.patterns import AnswerFormat, Reject, Replace
from danlu.data.records import Record, RowFault
from danlu.errors import DataError

CHAT = Record(
    [
        {"role": "system", "content": "工号 1"},
        {"role": "user", "content": "订单 2"},
        {"role": "assistant", "content": "查到 3"},
    ]
)


def test_a_replacement_is_done_in_every_role_unless_roles_are_given():
    assert Replace(r"\d", "#")(CHAT).texts() == ["工号 #", "订单 #", "查到 #"]
    assert Replace(r"\d", "#", roles=("user",))(CHAT).texts() == ["工号 1", "订单 #", "查到 3"]


def test_plain_text_is_replaced_too():
    assert Replace("老", "新")(Record([{"role": "text", "content": "老文"}])).texts() == ["新文"]


def test_a_replacement_uses_groups():
    assert Replace(r"(\S+) (\d)", r"\2-\1", name="turn")(CHAT).texts("user") == ["2-订单"]


def test_a_replacement_with_an_unknown_group_is_refused_before_any_row():
    with pytest.raises(DataError, match="does not fit the pattern: invalid group reference 2"):
        Replace(r"(\d)", r"\2", name="turn")


def test_replace_names_itself_in_the_reason():
    with pytest.raises(RowFault, match=r"^empty after strip_order$"):
        Replace("订单 2", name="strip_order")(CHAT)


def test_a_row_with_the_pattern_is_rejected_without_its_text_in_the_reason():
    with pytest.raises(RowFault, match=r"^rejected by orders: found in a user text$"):
        Reject(r"订单 \d", name="orders")(CHAT)


def test_a_pattern_in_another_role_rejects_nothing():
    assert Reject("订单", roles=("assistant",))(CHAT) is CHAT


def test_a_pattern_in_a_tool_argument_rejects():
    call = {"type": "function", "function": {"name": "f", "arguments": {"id": ["内部"]}}}
    with pytest.raises(RowFault):
        Reject("内部")(Record([*CHAT.messages, {"role": "assistant", "content": "", "tool_calls": [call]}]))


def test_every_trained_answer_needs_the_format():
    two = [*CHAT.messages, {"role": "user", "content": "?"}, {"role": "assistant", "content": "没有"}]
    with pytest.raises(RowFault, match=r"^answer not in the format: answer 2 of 2$"):
        AnswerFormat("^查到")(Record(two))
    two[-1] = {**two[-1], "train": False}
    assert AnswerFormat("^查到")(Record(two)).messages == two


def test_the_format_is_matched_line_by_line():
    record = Record([{"role": "user", "content": "q"}, {"role": "assistant", "content": "您好！\n【结论】可以"}])
    assert AnswerFormat("^【结论】")(record) is record
