import os
import pickle
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from danlu.data.cleaning import STEPS
from danlu.data.cleaning.texts import answers
from danlu.data.records import Record, RowFault
from danlu.recipe import data_schema

KEYS = {
    "replace": {"pattern": r"\d+", "replacement": "#"},
    "reject": {"pattern": "secret"},
    "language": {"keep": ("zh", "en")},
    "answer_format": {"pattern": "."},
}
TEXT_STEPS = ["encoding", "unicode", "control_characters", "html", "whitespace"]
# Texts made of what the steps look for are far likelier to trip them than random characters are.
PIECES = st.sampled_from(
    [
        *"ab5 \t\n\r<>&;/`~-#=",
        *"，。　５％＋－．＠ＡＢ你好é\u0301ÃÂ©€â€œ鈥锛銆",
        *"\u200b\u200c\u200d\u200e\ufeff\u00ad\ue000\ufe0f\x00\x85\u2028\u00a0",
        *"👩💻🏴\U000e0067\U000e007fنمक्",
        *["<b>", "</b>", "<p>", "</p>", "<br>", "<pre>", "</pre>", "<code>", "</code>", "<!--", "-->", "<script>"],
        *[
            "</script>",
            "&lt;",
            "&gt;",
            "&amp;",
            "&nbsp;",
            "&#96;",
            "b&gt;",
            "<a href='x'>",
            "</a>",
            "<item>",
            "</item>",
        ],
        *[
            "```",
            "\n```\n",
            "~~~",
            "\n~~~~\n",
            "`x`",
            "- ",
            "1. ",
            "> ",
            "    ",
            "　　你好。",
            "Ã©",
            "â€œ",
            "ä½\xa0",
            "ÄãºÃ",
        ],
    ]
)


def row(answer, question="你好吗？", **keys):
    return Record([{"role": "user", "content": question}, {"role": "assistant", "content": answer, **keys}])


def cleaned(step, text, **keys):
    return STEPS[step](**{**KEYS.get(step, {}), **keys})(row(text)).messages[1]["content"]


@pytest.mark.parametrize("step", TEXT_STEPS)
@settings(deadline=None, max_examples=300)
@given(text=st.one_of(st.lists(PIECES, max_size=25).map("".join), st.text(max_size=60)))
def test_a_text_step_done_twice_is_as_done_once(step, text):
    once = _or_none(step, text)
    assert once is None or _or_none(step, once) == once


def _or_none(step, text):
    try:
        return cleaned(step, text)
    except RowFault:
        return None


@pytest.mark.parametrize("step", STEPS)
def test_a_clean_row_comes_back_as_the_same_object(step):
    record = row("不客气，很高兴能帮到您。")
    assert STEPS[step](**KEYS.get(step, {}))(record) is record


@pytest.mark.parametrize("step", STEPS)
def test_a_step_is_itself_after_pickling(step):
    made = STEPS[step](**KEYS.get(step, {}))
    made(row("不客气。"))
    again = pickle.loads(pickle.dumps(made))
    assert again.name == made.name
    assert again(row("ＡＢ１２３ 好")) == made(row("ＡＢ１２３ 好"))


@pytest.mark.parametrize("name", STEPS)
def test_a_step_takes_the_keys_of_its_section(name):
    section = next(
        value
        for value in vars(data_schema).values()
        if isinstance(value, type) and name in str(getattr(value, "__annotations__", {}).get("type", ""))
    )
    keys = section(type=name, **KEYS.get(name, {})).model_dump(exclude={"type"})
    assert STEPS[name](**keys).name == name


@pytest.mark.parametrize("section", [data_schema.ReplaceStep, data_schema.RejectStep])
def test_a_role_that_no_turn_has_is_refused(section):
    name = section.__name__.removesuffix("Step").lower()
    assert section(type=name, pattern="x", roles=("user", "text")).roles == ("user", "text")
    with pytest.raises(ValidationError, match="roles"):
        section(type=name, pattern="x", roles=("human",))


@pytest.mark.parametrize(
    ("step", "text"),
    [("control_characters", "\u200b\ufeff"), ("html", "<p></p>"), ("replace", "123")],
)
def test_a_text_that_becomes_empty_drops_the_row(step, text):
    keys = {"replacement": ""} if step == "replace" else {}
    with pytest.raises(RowFault, match=f"^empty after {step}$"):
        cleaned(step, text, **keys)


def test_a_text_that_was_blank_before_drops_nothing():
    assert cleaned("whitespace", "\u3000\n") == ""


def test_every_turn_the_reasoning_and_the_rejected_answer_are_cleaned():
    record = Record(
        [
            {"role": "system", "content": "Ａ"},
            {"role": "user", "content": "Ｂ"},
            {"role": "assistant", "content": "Ｃ", "reasoning_content": "Ｄ"},
        ],
        rejected=[{"role": "assistant", "content": "Ｅ"}],
    )
    done = STEPS["unicode"]()(record)
    assert sorted(done.texts()) == list("ABCDE")
    assert record.messages[0]["content"] == "Ａ"


def tool_row():
    call = {"type": "function", "function": {"name": "f", "arguments": {"html": "<b>ａ</b>  b"}}}
    return Record(
        [
            {"role": "user", "content": "问  <b>题</b>"},
            {"role": "assistant", "tool_calls": [call], "content": ""},
            {"role": "tool", "content": '{"html":  "<b>x</b>"}'},
            {"role": "assistant", "content": "好"},
        ]
    )


@pytest.mark.parametrize(("step", "question"), [("html", "问  题"), ("whitespace", "问 <b>题</b>")])
def test_tool_calls_and_results_keep_their_spaces_and_brackets(step, question):
    before = tool_row()
    after = STEPS[step]()(before)
    assert after.messages[0]["content"] == question
    assert after.messages[1:] == before.messages[1:]
    assert list(after.messages[1]) == list(before.messages[1])


def test_tool_arguments_change_their_width_as_the_question_does():
    arguments = STEPS["unicode"]()(tool_row()).messages[1]["tool_calls"][0]["function"]["arguments"]
    assert arguments == {"html": "<b>a</b>  b"}


def test_answers_are_those_that_are_trained():
    record = Record(
        [
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": "no", "train": False},
            {"role": "assistant", "content": "", "tool_calls": []},
            {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": {}}}]},
            {"role": "assistant", "content": "yes"},
        ],
        rejected=[{"role": "assistant", "content": "unwanted"}],
    )
    assert answers(record) == ["", "yes"]
    assert answers(Record([{"role": "text", "content": "plain"}])) == ["plain"]


def test_the_table_loads_no_library_before_a_step_is_used():
    heavy = "('ftfy', 'py3langid', 'numpy', 'pyarrow')"
    code = f"import sys, danlu.data.cleaning; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=dict(os.environ)
    )
    assert done.stdout.strip() == "[]"
