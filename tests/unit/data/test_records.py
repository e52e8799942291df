import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from danlu.data.records import FORMATS, Record, RowFault, known_formats, to_record

SYSTEM = {"role": "system", "content": "s"}
QUESTION = {"role": "user", "content": "q"}
ANSWER = {"role": "assistant", "content": "a"}
OTHER = {"role": "assistant", "content": "b"}
HUMAN, GPT = {"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}
FUNCTION = {"name": "look_up", "description": "d", "parameters": {"type": "object", "properties": {}}}
TOOL = {"type": "function", "function": FUNCTION}
CALL = {"type": "function", "function": {"name": "look_up", "arguments": {"about": "丹炉"}}}
CALLING = {"role": "assistant", "content": "", "tool_calls": [CALL]}
RESULT = {"role": "tool", "content": "r"}


def messages_of(row, **options):
    name, record = to_record(row, **options)
    return name, record.messages


def reason(value, **options):
    with pytest.raises(RowFault) as caught:
        to_record(value, **options)
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
    assert messages_of({**row, "id": 3}) == (name, [QUESTION, ANSWER])
    assert name in known_formats()


def test_alpaca_input_follows_the_instruction_on_a_new_line():
    _, messages = messages_of({"instruction": "q", "input": "x", "output": "a"})
    assert messages == [{"role": "user", "content": "q\nx"}, ANSWER]


@pytest.mark.parametrize("blank", ["", "  \n", None])
def test_alpaca_input_that_is_blank_adds_nothing(blank):
    assert messages_of({"instruction": "q", "input": blank, "output": "a"})[1] == [QUESTION, ANSWER]


def test_alpaca_input_alone_is_the_question():
    assert messages_of({"instruction": "", "input": "q", "output": "a"})[1] == [QUESTION, ANSWER]


def test_alpaca_system_and_history_come_first():
    row = {"instruction": "q", "output": "a", "system": "s", "history": [["q1", "a1"], ["q2", "a2"]]}
    _, messages = messages_of(row)
    assert [message["role"] for message in messages] == ["system", *["user", "assistant"] * 3]
    assert [message["content"] for message in messages] == ["s", "q1", "a1", "q2", "a2", "q", "a"]


@pytest.mark.parametrize("history", ["q1", {"q1": "a1"}, [["q1"]], ["q1", "a1"], [["q1", "a1", "b1"]]])
def test_history_must_be_a_list_of_pairs(history):
    assert reason({"instruction": "q", "output": "a", "history": history}) == "not a list of pairs: `history`"


def test_history_must_be_text():
    assert reason({"instruction": "q", "output": "a", "history": [["q1", 5]]}) == "not text: `history` is int"


@pytest.mark.parametrize(("question", "answer"), [("human", "gpt"), ("user", "assistant")])
def test_sharegpt_takes_both_spellings_of_roles(question, answer):
    turns = [{"from": question, "value": "q"}, {"from": answer, "value": "a"}]
    assert messages_of({"conversations": turns})[1] == [QUESTION, ANSWER]


def test_sharegpt_takes_both_spellings_of_keys():
    assert messages_of({"conversations": [QUESTION, ANSWER]}) == ("sharegpt", [QUESTION, ANSWER])
    turns = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
    assert messages_of({"messages": turns}) == ("messages", [QUESTION, ANSWER])


def test_sharegpt_system_stands_beside_the_turns_or_among_them():
    turns = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
    beside = messages_of({"system": "s", "conversations": turns})[1]
    among = messages_of({"conversations": [{"from": "system", "value": "s"}, *turns]})[1]
    assert beside == among == [SYSTEM, QUESTION, ANSWER]


def test_messages_keep_every_turn():
    turns = [SYSTEM, QUESTION, ANSWER, QUESTION, ANSWER]
    assert messages_of({"messages": turns})[1] == turns


def test_first_known_form_wins():
    row = {"messages": [QUESTION, ANSWER], "question": "other", "answer": "other"}
    assert messages_of(row) == ("messages", [QUESTION, ANSWER])


def test_unknown_format_lists_the_keys():
    assert reason({"prompts": "q", "completions": "a"}) == "unknown format: keys completions, prompts"
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
        ([ANSWER, QUESTION], "turns out of order: turn 1 is assistant, expected user"),
        ([QUESTION, QUESTION, ANSWER], "turns out of order: turn 2 is user, expected assistant"),
        ([SYSTEM, QUESTION, ANSWER, ANSWER], "turns out of order: turn 3 is assistant, expected user"),
        ([QUESTION, SYSTEM, ANSWER], "turns out of order: turn 2 is system, expected assistant"),
        ([QUESTION, ANSWER, QUESTION], "the last turn is a question without an answer"),
    ],
)
def test_wrong_order_of_roles_names_the_turn(turns, expected):
    assert reason({"messages": turns}) == expected


def test_unknown_role_is_named():
    assert reason({"messages": [{"role": "judge", "content": "q"}, ANSWER]}) == "unknown role: `judge`"


@pytest.mark.parametrize("turns", [["q", "a"], [{"role": "user"}, ANSWER], [{"content": "q"}]])
def test_turn_without_role_or_text_is_refused(turns):
    assert reason({"messages": turns}).startswith("a turn lacks a field: `")


def test_turns_must_be_a_list():
    assert reason({"messages": {"role": "user"}}) == "not a list: `messages` is dict"
    assert reason({"conversations": "q"}) == "not a list: `conversations` is str"


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"question": 5, "answer": "a"}, "not text: `question` is int"),
        ({"question": "q", "answer": ["a"]}, "not text: `answer` is list"),
        ({"question": "q", "answer": "a", "system": {}}, "not text: `system` is dict"),
        ({"instruction": "q", "input": 1.5, "output": "a"}, "not text: `input` is float"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image"}]}, ANSWER]},
            "not text: `content` has a part of type image",
        ),
    ],
)
def test_value_that_is_not_text_is_named_with_its_type(row, expected):
    assert reason(row) == expected


@pytest.mark.parametrize("value", [[], "q", 5, None, True])
def test_row_that_is_not_an_object_is_refused(value):
    assert reason(value) == f"not an object: {type(value).__name__}"


def test_half_a_character_is_a_reason_and_no_crash_later():
    assert (
        reason({"question": "hi \ud83d", "answer": "a"})
        == "half a character (a lone surrogate): `question` at position 3"
    )
    assert messages_of({"question": "hi \U0001f600", "answer": "a"})[1][0]["content"] == "hi \U0001f600"


def test_a_row_that_has_the_question_alone_lacks_its_answer():
    found = reason({"question": "where is my card", "intent": "card"})
    assert found == "missing answer: there is `question` but no `answer`"


# OpenAI turns


def test_tool_calls_and_their_results_are_kept_as_templates_want_them():
    turns = [
        {"role": "developer", "content": "s"},
        {"role": "user", "content": [{"type": "text", "text": "q"}, {"type": "text", "text": "?"}]},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "1", "type": "function", "function": {"name": "look_up", "arguments": '{"about": "丹炉"}'}}
            ],
        },
        {"role": "tool", "tool_call_id": "1", "content": "r"},
        {"role": "tool", "name": "look_up", "content": ""},
        {"role": "assistant", "content": "a", "reasoning": "because", "tool_calls": []},
    ]
    name, record = to_record({"messages": turns, "tools": [TOOL]})
    assert name == "messages"
    assert record.tools == [TOOL]
    assert record.messages == [
        SYSTEM,
        {"role": "user", "content": "q?"},
        {"role": "assistant", "content": "", "tool_calls": [{**CALL, "id": "1"}]},
        {"role": "tool", "content": "r", "tool_call_id": "1"},
        {"role": "tool", "content": "", "name": "look_up"},
        {"role": "assistant", "content": "a", "reasoning_content": "because"},
    ]


def test_older_names_of_functions_are_read():
    turns = [
        QUESTION,
        {"role": "assistant", "content": None, "function_call": {"name": "look_up", "arguments": '{"about": "丹炉"}'}},
        {"role": "function", "name": "look_up", "content": "r"},
        ANSWER,
    ]
    _, record = to_record({"messages": turns, "functions": [FUNCTION]})
    assert record == Record([QUESTION, CALLING, {**RESULT, "name": "look_up"}, ANSWER], [TOOL])


@pytest.mark.parametrize("mark", [{"weight": 0}, {"train": False}])
def test_an_answer_can_be_kept_from_training(mark):
    assert messages_of({"messages": [QUESTION, {**ANSWER, **mark}, QUESTION, ANSWER]})[1] == [
        QUESTION,
        {**ANSWER, "train": False},
        QUESTION,
        ANSWER,
    ]


def test_an_answer_marked_for_training_is_an_ordinary_one():
    assert messages_of({"messages": [QUESTION, {**ANSWER, "weight": 1, "train": True}]})[1] == [QUESTION, ANSWER]
    assert reason({"messages": [QUESTION, {**ANSWER, "weight": 0.5}]}).startswith("unknown weight of a turn: `weight`")


def test_a_tool_call_may_be_the_answer():
    assert messages_of({"messages": [QUESTION, CALLING]})[1] == [QUESTION, CALLING]


@pytest.mark.parametrize(
    ("turns", "expected"),
    [
        ([QUESTION, CALLING, QUESTION, ANSWER], "turns out of order: turn 3 is user, expected tool"),
        ([QUESTION, CALLING, ANSWER], "turns out of order: turn 3 is assistant, expected tool"),
        ([QUESTION, RESULT, ANSWER], "turns out of order: turn 2 is tool, expected assistant"),
        ([QUESTION, CALLING, RESULT, QUESTION], "turns out of order: turn 4 is user, expected tool or assistant"),
        ([QUESTION, ANSWER, RESULT], "turns out of order: turn 3 is tool, expected user"),
        ([QUESTION, CALLING, RESULT], "the last turn is a tool's result without an answer"),
        ([SYSTEM, SYSTEM, QUESTION, ANSWER], "turns out of order: turn 1 is system, expected user"),
    ],
)
def test_tools_results_follow_calls_and_nothing_else(turns, expected):
    assert reason({"messages": turns}) == expected


@pytest.mark.parametrize(
    ("calls", "expected"),
    [
        ([{"function": {"arguments": {}}}], "not a tool call: it has no name"),
        (["look_up"], "not a tool call: it has no name"),
        (
            [{"function": {"name": "f", "arguments": "{"}}],
            "not JSON: the arguments of a tool call: Expecting property name enclosed in double quotes",
        ),
        # What recurses over a row fails at a depth of its own, which must not be reached.
        (
            [{"function": {"name": "f", "arguments": '{"x":' * 101 + "1" + "}" * 101}}],
            "not JSON: the arguments of a tool call: it is nested too deeply",
        ),
        ([{"function": {"name": "f", "arguments": '{"x": 1, "x": 2}'}}], "a key stands twice: `x`"),
        ([{"function": {"name": "f", "arguments": [1]}}], "not a tool call: its arguments are list"),
        (
            [{"function": {"name": "f", "arguments": {"x": ["\ud83d"]}}}],
            "half a character (a lone surrogate): `arguments` at position 0",
        ),
    ],
)
def test_a_broken_tool_call_is_named(calls, expected):
    assert reason({"messages": [QUESTION, {"role": "assistant", "tool_calls": calls}]}) == expected


@pytest.mark.parametrize(
    ("tools", "expected"),
    [("[", "not JSON: `tools`"), ([{}], "not a tool: an entry of `tools` has no name"), ([5], "not a tool")],
)
def test_broken_tools_are_named(tools, expected):
    assert reason({"messages": [QUESTION, ANSWER], "tools": tools}).startswith(expected)


# ShareGPT turns


def test_sharegpt_calls_observations_and_tools_are_read():
    row = {
        "conversations": [
            HUMAN,
            {"from": "function_call", "value": '{"name": "look_up", "arguments": {"about": "丹炉"}}'},
            {"from": "observation", "value": "r"},
            GPT,
        ],
        "tools": '[{"name": "look_up", "description": "d", "parameters": {"type": "object", "properties": {}}}]',
    }
    assert to_record(row) == ("sharegpt", Record([QUESTION, CALLING, RESULT, ANSWER], [TOOL]))
    assert to_record({**row, "tools": ""})[1].tools == []


# Without a template


def test_text_alone_is_running_text():
    assert messages_of({"text": "t", "id": 1}) == ("text", [{"role": "text", "content": "t"}])
    assert reason({"text": " "}) == "missing text"


def test_text_beside_a_label_is_read_as_text_only_if_the_recipe_says_so():
    row = {"text": "Where is my card?", "category": "card"}
    assert reason(row) == "unknown format: keys category, text"
    assert messages_of(row, form="text")[1] == [{"role": "text", "content": "Where is my card?"}]
    assert messages_of(row, columns={"text": "text"})[0] == "text"


def test_prompt_and_completion_stay_raw_texts_with_their_spaces():
    assert messages_of({"prompt": "q ", "completion": " a"}) == (
        "prompt/completion",
        [{"role": "prompt", "content": "q "}, {"role": "completion", "content": " a"}],
    )
    assert reason({"prompt": "", "completion": "a"}) == "missing question"
    assert reason({"prompt": "q", "completion": ""}) == "missing answer"


def test_prompt_and_completion_as_turns_are_a_conversation_in_which_only_the_completion_is_trained():
    row = {"prompt": [QUESTION, ANSWER, QUESTION], "completion": [OTHER]}
    assert messages_of(row)[1] == [QUESTION, {**ANSWER, "train": False}, QUESTION, OTHER]


# Columns and forms that the recipe names


def test_columns_name_the_fields_of_the_form():
    row = {"text": "Where is my card?", "category": "card", "id": "7"}
    assert messages_of(row, columns={"question": "text", "answer": "category"}) == (
        "question/answer",
        [{"role": "user", "content": "Where is my card?"}, {"role": "assistant", "content": "card"}],
    )


def test_columns_decide_the_form_before_other_fields_do():
    row = {"messages": "internal", "ask": "q", "say": "a"}
    assert messages_of(row, columns={"question": "ask", "answer": "say"}) == ("question/answer", [QUESTION, ANSWER])


def test_columns_that_name_some_fields_leave_the_others():
    row = {"task": "q", "input": "x", "output": "a"}
    assert messages_of(row, columns={"instruction": "task"})[1] == [{"role": "user", "content": "q\nx"}, ANSWER]


def test_a_named_column_that_is_not_there_is_the_reason():
    assert reason({"question": "q"}, columns={"question": "text"}) == "missing field: `text`; the row has question"


@pytest.mark.parametrize(
    ("cell", "text"), [(5, "5"), (1.5, "1.5"), (True, "true"), (10**20, "1" + "0" * 20), (float("inf"), "Infinity")]
)
def test_numbers_and_booleans_in_named_columns_become_text(cell, text):
    row = {"x": "q", "label": cell}
    assert messages_of(row, columns={"question": "x", "answer": "label"})[1][1]["content"] == text


@pytest.mark.parametrize("cell", [None, float("nan"), ""])
def test_an_empty_cell_of_a_named_column_is_missing(cell):
    assert reason({"x": "q", "label": cell}, columns={"question": "x", "answer": "label"}) == "missing answer"


def test_a_named_form_is_taken_and_its_fields_are_required():
    row = {"messages": [QUESTION, OTHER], "question": "q", "answer": "a"}
    assert messages_of(row, form="question/answer") == ("question/answer", [QUESTION, ANSWER])
    assert reason(row, form="alpaca") == "missing field: `instruction`; the row has messages, question, answer"


def test_every_form_of_the_recipe_is_known_here():
    from typing import get_args

    from danlu.recipe.data_schema import FormatName

    assert {form.name for form in FORMATS} == set(get_args(FormatName))


# All forms


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [SYSTEM, QUESTION, CALLING, RESULT, {**ANSWER, "reasoning_content": "r"}], "tools": [TOOL]},
        {"instruction": "q", "chosen": "a", "rejected": "b"},
        {"text": "t"},
    ],
)
def test_records_go_through_json_and_through_a_change_that_changes_nothing(row):
    before = copy.deepcopy(row)
    _, record = to_record(row)
    assert row == before
    assert Record.from_json(record.to_json()) == record
    assert record.with_texts(lambda role, text: text) == record


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=3)
    | st.sampled_from(["user", "gpt", "{}"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "role",
                    "content",
                    "from",
                    "value",
                    "tool_calls",
                    "function",
                    "name",
                    "arguments",
                    "weight",
                    "text",
                    "type",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)
FIELDS = sorted({key for form in FORMATS for key in form.keys} | {"system", "history", "tools", "input"})


@given(st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=5))
def test_any_row_is_a_record_or_a_fault(row):
    try:
        name, record = to_record(row)
    except RowFault:
        return
    assert name in known_formats()
    assert record.messages
    assert all(isinstance(text, str) for text in record.texts())
