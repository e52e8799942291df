import pytest

from danlu.data.cleaning.control_characters import without_control_characters as clean

KEPT = [
    "tab\tand\nline feed",
    "你好，世界。　“全角”",
    "👩‍💻 👨‍👩‍👧‍👦 ❤️‍🔥 🏳️‍🌈 👍🏽 1️⃣ ☎️ 🇨🇳",
    "Wales 🏴󠁧󠁢󠁷󠁬󠁳󠁿, England 🏴󠁧󠁢󠁥󠁮󠁧󠁿",
    "می\u200cخواهم",  # Persian: without the non-joiner it is another word
    "क्\u200dष and ശ്രീ\u200d",  # half form in Hindi
    "葛\U000e0100城",  # a variant of a character
    "lost: \ufffd",
    "عربي עברית",
    "no\u00a0break",
]


@pytest.mark.parametrize("text", KEPT)
def test_what_a_text_needs_stays(text):
    assert clean(text) == text


@pytest.mark.parametrize(
    "code", [0x00, 0x07, 0x08, 0x1B, 0x7F, 0x80, 0x9F, 0xAD, 0x200B, 0x200E, 0x200F, 0x202A, 0x202E]
)
def test_controls_zero_width_and_direction_characters_go(code):
    assert clean(f"你好{chr(code)}world") == "你好world"


@pytest.mark.parametrize(
    "code", [0x061C, 0x2060, 0x2066, 0x2069, 0xE000, 0xF8FF, 0xFEFF, 0xFFF9, 0xFFFC, 0xFFFE, 0xF0000, 0xE0067]
)
def test_private_use_marks_and_stray_tags_go(code):
    assert clean(f"你好{chr(code)}world") == "你好world"


@pytest.mark.parametrize("text", ["你\u200d好", "a\u200cb", "👩\u200d", "👩\u200d!", "a\u200d👩"])
def test_joiners_go_where_they_join_nothing(text):
    assert clean(text) == text.replace("\u200d", "").replace("\u200c", "")


@pytest.mark.parametrize("line_break", ["\r\n", "\r", "\x0b", "\x0c", "\x85", "\u2028", "\u2029"])
def test_every_line_break_becomes_a_line_feed(line_break):
    assert clean(f"一{line_break}二") == "一\n二"


def test_a_windows_text_keeps_its_empty_lines():
    assert clean("a\r\n\r\nb") == "a\n\nb"
