"""The referee is written with Python's sets of strings and no hashes; it shares no code with what it judges."""

import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.data.duplicates.normal import normal_text, normal_texts
from danlu.data.duplicates.shingles import jaccard, shingles, shingles_of_texts, text_of_record
from danlu.data.records import Record

# Letters that compose, half-width kana with its marks, hangul in parts, astral characters, format characters.
PIECES = st.sampled_from(
    [
        *"abAB  .,-+。，！你好世界のカｶﾞé",
        "e\u0301",
        "\u1100\u1161",
        "\u200b",
        "ﬁ",
        "ß",
        "Ａ",
        "😀",
        "𠮷",
        "𝐀",
        "\u0338",
        "\n",
        "≠",
    ]
)
TEXTS = st.lists(PIECES, max_size=40).map("".join)


def normal_by_the_book(text: str) -> str:
    text = unicodedata.normalize("NFKC", text).casefold()
    kinds = [(character, unicodedata.category(character)) for character in text]
    kinds = [(character, kind) for character, kind in kinds if kind != "Cf"]
    spaced = "".join(" " if kind[0] in "ZP" or kind == "Cc" else character for character, kind in kinds)
    if not spaced.strip(" "):
        return "".join(character for character, _ in kinds) if text.strip() else ""
    return " ".join(part for part in spaced.split(" ") if part)


def set_by_the_book(text: str) -> set[str]:
    text = normal_by_the_book(text)
    found = set()
    for start, character in enumerate(text):
        name = unicodedata.name(character, "")
        width = 3 if name.startswith(("CJK UNIFIED", "HIRAGANA", "KATAKANA", "HANGUL")) else 5
        if start + width <= len(text):
            found.add(text[start : start + width])
    return found or ({text} if text else set())


@settings(deadline=None, max_examples=300)
@given(TEXTS)
def test_normal_text_is_the_one_by_the_book(text):
    assert normal_text(text) == normal_by_the_book(text)


def test_every_character_of_the_basic_plane_becomes_what_unicode_says():
    # Each between two letters, so that what composes with its neighbours shows.
    texts = [f"a{chr(code)}か" for code in range(0x10000)]
    normal = normal_texts(texts)
    ends = np.cumsum(normal.lengths)
    for text, length, end in zip(texts, normal.lengths.tolist(), ends.tolist(), strict=True):
        assert [*map(chr, normal.codes[end - length : end].tolist())] == [*normal_by_the_book(text)], ascii(text)


def test_width_case_spacing_and_punctuation_do_not_count():
    assert normal_text("  Ｈello，，World!!\n你好。世界 ") == "hello world 你好 世界"
    assert np.array_equal(shingles("你好，世界！Hello."), shingles("你好 世界。 hello"))


def test_symbols_count():
    assert not np.array_equal(shingles("what is 3 + 5"), shingles("what is 3 < 5"))
    assert not np.array_equal(shingles("that was 👍 fine"), shingles("that was 👎 fine"))


def test_text_of_punctuation_alone_keeps_it():
    assert not np.array_equal(shingles("???"), shingles("!!!"))
    assert shingles("???").size == 1


@pytest.mark.parametrize("text", ["", " ", "\n\t　"])
def test_empty_text_has_no_shingles_and_is_like_nothing(text):
    assert shingles(text).size == 0
    assert jaccard(shingles(text), shingles(text)) == 0.0


def test_chinese_is_cut_by_three_and_english_by_five():
    assert shingles("今天天气很好").size == 4
    assert shingles("weather").size == 3
    assert shingles("今天ab").size == 2  # 今天a, 天ab; no five characters are left for ab


def test_short_text_is_one_shingle():
    assert shingles("ab").size == 1
    assert not np.array_equal(shingles("ab"), shingles("abc"))
    assert not np.array_equal(shingles("好"), shingles("你"))


@settings(deadline=None, max_examples=300)
@given(TEXTS, TEXTS)
def test_jaccard_is_that_of_sets_of_strings(a, b):
    first, second = set_by_the_book(a), set_by_the_book(b)
    expected = len(first & second) / len(first | second) if first and second else 0.0
    assert jaccard(shingles(a), shingles(b)) == expected


@settings(deadline=None, max_examples=100)
@given(st.lists(TEXTS, max_size=12))
def test_many_at_once_are_the_same_as_one_by_one(texts):
    together = shingles_of_texts(texts)
    assert [one.tolist() for one in together] == [shingles(text).tolist() for text in texts]


def test_shingles_are_sorted_and_each_once():
    found = shingles("abcabcabcabc 你好你好你好 " * 5)
    assert (np.diff(found.astype(object)) > 0).all()


def test_hashes_stay_what_they_are():
    # Written once: files of one machine are read on another, and by the next version.
    assert shingles("你好，world").tolist() == HASHES


HASHES = [329343149419285611, 961194851417434927, 3113389203396709948, 3450633144556458015]

TALK = Record(
    [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "how warm is it"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"function": {"name": "weather", "arguments": {"city": "Paris"}}}],
        },
        {"role": "tool", "content": "31 degrees"},
        {"role": "assistant", "reasoning_content": "that is hot", "content": "hot"},
    ],
    rejected=[{"role": "assistant", "content": "cold"}],
)


def test_row_is_compared_by_all_turns_but_the_system_turn():
    assert text_of_record(TALK, "row").split("\n") == [
        "how warm is it",
        "Paris",
        "31 degrees",
        "that is hot",
        "hot",
        "cold",
    ]


def test_prompt_is_compared_by_what_is_asked():
    assert text_of_record(TALK, "prompt") == "how warm is it"
    raw = Record([{"role": "prompt", "content": "Once"}, {"role": "completion", "content": "upon"}])
    assert (text_of_record(raw, "prompt"), text_of_record(raw, "row")) == ("Once", "Once\nupon")
    assert text_of_record(Record([{"role": "text", "content": "plain"}]), "prompt") == "plain"


def test_unknown_comparison_is_refused():
    with pytest.raises(ValueError, match="compare is 'answer', must be one of row, prompt"):
        text_of_record(TALK, "answer")
