import pytest

from danlu.data.records import RowFault, known_formats, to_messages

SYSTEM = {"role": "system", "content": "s"}
QUESTION = {"role": "user", "content": "q"}
ANSWER = {"role": "assistant", "content": "a"}


def reason(value):
    with pytest.raises(RowFault) as caught:
        to_messages(value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("alpaca", {"instruction": "q", "output": "a"}),
        ("instruction/response", {"instruction": "q", "response": "a"}),
        ("question/answer", {"question": "q", "answer": "a"}),
        ("input_text/target_text", {"input_text": "q", "target_text": "a"}),
        ("messages", {"messages": [QUESTION, ANSWER]}),
        ("sharegpt", {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}),
    ],
)
def test_each_form_becomes_a_question_and_an_answer(name, row):
    assert to_messages({**row, "id": 3}) == (name, [QUESTION, ANSWER])
    assert name in known_formats()


def test_alpaca_input_follows_the_instruction_on_a_new_line():
    _, messages = to_messages({"instruction": "q", "input": "x", "output": "a"})
    assert messages == [{"role": "user", "content": "q\nx"}, ANSWER]


@pytest.mark.parametrize("blank", ["", "  \n", None])
def test_alpaca_input_that_is_blank_adds_nothing(blank):
    assert to_messages({"instruction": "q", "input": blank, "output": "a"})[1] == [QUESTION, ANSWER]


def test_alpaca_input_alone_is_the_question():
    assert to_messages({"instruction": "", "input": "q", "output": "a"})[1] == [QUESTION, ANSWER]


def test_alpaca_system_and_history_come_first():
    row = {"instruction": "q", "output": "a", "system": "s", "history": [["q1", "a1"], ["q2", "a2"]]}
    _, messages = to_messages(row)
    assert [message["role"] for message in messages] == ["system", *["user", "assistant"] * 3]
    assert [message["content"] for message in messages] == ["s", "q1", "a1", "q2", "a2", "q", "a"]


@pytest.mark.parametrize("history", ["q1", {"q1": "a1"}, [["q1"]], ["q1", "a1"], [["q1", "a1", "b1"]]])
def test_history_must_be_a_list_of_pairs(history):
    assert reason({"instruction": "q", "output": "a", "history": history}).startswith("`history` is not a list of")


def test_history_must_be_text():
    assert reason({"instruction": "q", "output": "a", "history": [["q1", 5]]}) == "`history` is not text but int"


@pytest.mark.parametrize(("question", "answer"), [("human", "gpt"), ("user", "assistant")])
def test_sharegpt_takes_both_spellings_of_roles(question, answer):
    turns = [{"from": question, "value": "q"}, {"from": answer, "value": "a"}]
    assert to_messages({"conversations": turns})[1] == [QUESTION, ANSWER]


def test_sharegpt_takes_both_spellings_of_keys():
    assert to_messages({"conversations": [QUESTION, ANSWER]}) == ("sharegpt", [QUESTION, ANSWER])
    turns = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
    assert to_messages({"messages": turns}) == ("messages", [QUESTION, ANSWER])


def test_sharegpt_system_stands_beside_the_turns_or_among_them():
    turns = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
    beside = to_messages({"system": "s", "conversations": turns})[1]
    among = to_messages({"conversations": [{"from": "system", "value": "s"}, *turns]})[1]
    assert beside == among == [SYSTEM, QUESTION, ANSWER]


def test_messages_keep_every_turn():
    turns = [SYSTEM, QUESTION, ANSWER, QUESTION, ANSWER]
    assert to_messages({"messages": turns})[1] == turns


def test_first_known_form_wins():
    row = {"messages": [QUESTION, ANSWER], "question": "other", "answer": "other"}
    assert to_messages(row) == ("messages", [QUESTION, ANSWER])


def test_unknown_format_lists_the_keys():
    assert reason({"prompt": "q", "completion": "a"}) == "unknown format: keys completion, prompt"
    assert reason({}) == "unknown format: keys (none)"


def test_unknown_format_with_endless_keys_stays_one_short_line():
    found = reason({"a\nb": 1, "x" * 5000: 2, **{f"k{number}": 0 for number in range(50)}})
    assert "\n" not in found
    assert len(found) < 150


@pytest.mark.parametrize(
    "row",
    [
        {"question": "q", "answer": ""},
        {"question": "q", "answer": " \n "},
        {"question": "q", "answer": None},
        {"instruction": "q", "output": ""},
        {"messages": [QUESTION]},
        {"messages": [SYSTEM]},
        {"messages": []},
        {"messages": [QUESTION, {"role": "assistant", "content": None}]},
    ],
)
def test_missing_answer_is_the_reason(row):
    assert reason(row) == "missing answer"


@pytest.mark.parametrize(
    "row",
    [
        {"question": "", "answer": "a"},
        {"question": None, "answer": "a"},
        {"instruction": " ", "input": " ", "output": "a"},
        {"messages": [{"role": "user", "content": " "}, ANSWER]},
    ],
)
def test_missing_question_is_the_reason(row):
    assert reason(row) == "missing question"


@pytest.mark.parametrize(
    ("turns", "expected"),
    [
        ([ANSWER, QUESTION], "turn 1 is assistant, expected user"),
        ([QUESTION, QUESTION, ANSWER], "turn 2 is user, expected assistant"),
        ([SYSTEM, QUESTION, ANSWER, ANSWER], "turn 3 is assistant, expected user"),
        ([QUESTION, SYSTEM, ANSWER], "turn 2 is system, expected assistant"),
        ([QUESTION, ANSWER, QUESTION], "the last turn is a question without an answer"),
    ],
)
def test_wrong_order_of_roles_names_the_turn(turns, expected):
    assert reason({"messages": turns}) == expected


def test_unknown_role_is_named():
    assert reason({"messages": [{"role": "tool", "content": "q"}, ANSWER]}) == "unknown role `tool`"


@pytest.mark.parametrize("turns", [["q", "a"], [{"role": "user"}, ANSWER], [{"content": "q"}]])
def test_turn_without_role_or_text_is_refused(turns):
    assert reason({"messages": turns}).startswith("a turn lacks `")


def test_turns_must_be_a_list():
    assert reason({"messages": {"role": "user"}}) == "`messages` is not a list"
    assert reason({"conversations": "q"}) == "`conversations` is not a list"


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"question": 5, "answer": "a"}, "`question` is not text but int"),
        ({"question": "q", "answer": ["a"]}, "`answer` is not text but list"),
        ({"question": "q", "answer": "a", "system": {}}, "`system` is not text but dict"),
        ({"instruction": "q", "input": 1.5, "output": "a"}, "`input` is not text but float"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}, ANSWER]}, "`content` is not text but list"),
    ],
)
def test_value_that_is_not_text_is_named_with_its_type(row, expected):
    assert reason(row) == expected


@pytest.mark.parametrize("value", [[], "q", 5, None, True])
def test_row_that_is_not_an_object_is_refused(value):
    assert reason(value) == f"not an object but {type(value).__name__}"


def test_half_a_character_is_a_reason_and_no_crash_later():
    assert reason({"question": "hi \ud83d", "answer": "a"}).startswith("`question` holds half a character")
    assert to_messages({"question": "hi \U0001f600", "answer": "a"})[1][0]["content"] == "hi \U0001f600"


def test_a_row_that_has_the_question_alone_lacks_its_answer():
    with pytest.raises(RowFault, match="missing answer: there is `question` but no `answer`"):
        to_messages({"question": "where is my card", "intent": "card"})
