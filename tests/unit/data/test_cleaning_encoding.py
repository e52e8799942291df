import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.data.cleaning.encoding import _suspects, repair_encoding

CHINESE = "我们的产品很好用，请联系客服。"
GOOD = [
    "我们的产品很好用，请联系客服！价格：￥99（约 $14）。",
    "“引号”、‘单引号’、《书名》——破折号……",
    "ﬁne ligatures, ＦＵＬＬ　ＷＩＤＴＨ, curly “quotes” and ‘these’, 5 × 3 ÷ 2 ≥ 1, 20 °C, 3 µm, €5, £7, ¥8",
    "emoji 👩‍💻 🏴󠁧󠁢󠁷󠁬󠁳󠁿 ❤️ and kaomoji (╯°□°)╯︵ ┻━┻ ¯\\_(ツ)_/¯",
    "naïve café, Ångström, Ærø, São Paulo, Łódź, Čeština, Ελληνικά, Русский, עברית, العربية, हिन्दी, 日本語、한국어",
    "def f(x):\n    return 'é' + \"ü\"  # Ü\n\\u00e9 &eacute; %C3%A9",
    "浣熊在河边，鍏是一个生僻字，锛也是。",
    "The Latin-1 letters are ÀÁÂÃÄÅ ÈÉÊË ÌÍÎÏ ÒÓÔÕÖ ÙÚÛÜ.",
    "ÖÖÖÖÖÖÖ!",
    "a line\r\nand another\u2028and this",
]


@pytest.mark.parametrize("text", GOOD)
def test_good_text_stays_as_it_is(text):
    assert repair_encoding(text) == text


@pytest.mark.parametrize("encoding", ["latin-1", "sloppy-windows-1252", "sloppy-windows-1251", "macroman"])
@pytest.mark.parametrize("text", [CHINESE, "“quotes” — and a dash…", "价格是 99 元，包邮。"])
def test_utf8_read_in_a_one_byte_encoding_is_repaired(text, encoding):
    import ftfy  # noqa: F401 - it registers the sloppy encodings

    assert repair_encoding(text.encode().decode(encoding)) == text


def test_accents_read_as_latin_1_are_repaired():
    assert repair_encoding("cafÃ© naÃ¯ve, crÃ¨me brÃ»lÃ©e") == "café naïve, crème brûlée"


def test_utf8_read_wrongly_twice_is_repaired():
    assert repair_encoding(CHINESE.encode().decode("latin-1").encode().decode("latin-1")) == CHINESE


def test_a_bad_line_among_good_ones_is_repaired_alone():
    text = f"第一行。\n{CHINESE.encode().decode('latin-1')}\n🙂 “third”"
    assert repair_encoding(text) == f"第一行。\n{CHINESE}\n🙂 “third”"


def test_gb2312_read_as_latin_1_is_repaired():
    assert repair_encoding(f"A: {CHINESE.encode('gb2312').decode('latin-1')} B") == f"A: {CHINESE} B"


def test_rare_characters_are_repaired_with_the_frequent_ones_beside_them():
    text = '输出： "雷霆，公牛和网队"\n我们的会员：徐霞客'
    assert repair_encoding(text.encode("gb2312").decode("latin-1")) == text


def test_a_run_of_accented_letters_is_no_chinese():
    for text in ("ÀÁÂÃÄÅÆÇÈÉ", "ÄÖÜÄÖÜ", "ÐÐÐÐÐÐÖÖÖÖÖÖ", "¡¡¡¡¡¡ñññññññ"):
        assert repair_encoding(text) == text


def test_text_that_lost_bytes_is_left_for_another_step_to_reject():
    broken = "浣犲ソ锛屼笘鐣\ufffd 锟斤拷"
    assert repair_encoding(broken) == broken


@settings(deadline=None)
@given(
    st.text(alphabet="的一是不了在人有我他这个们中来上大为和国地到以说时要，。！？：；“”《》（）0aA \n", max_size=80)
)
def test_chinese_text_is_never_changed(text):
    assert repair_encoding(text) == text


@settings(deadline=None, max_examples=500)
@given(st.text(alphabet=st.characters(max_codepoint=0xFFFF, exclude_categories=["Cs"]), max_size=20))
def test_the_quick_look_misses_nothing_that_ftfy_calls_bad(text):
    from ftfy.badness import is_bad

    assert _suspects().search(text) or not is_bad(text)
