import unicodedata

import pytest

from danlu.data.cleaning.unicode import Unicode


def test_full_width_letters_digits_and_spaces_become_half_width():
    assert Unicode().normalized("ＶＩＰ　客户，订单号ａ１２３") == "VIP 客户，订单号a123"


def test_chinese_punctuation_stays():
    text = "“你好”，世界。真的！是吗？如下：一；二、（三）【四】《五》～￥５…".replace("５", "5")
    assert Unicode().normalized(text) == text


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("３．１４", "3.14"),
        ("增长５０％，下降-5％", "增长50%，下降-5%"),
        ("气温－５度到＋３度", "气温-5度到+3度"),
        ("２０２４－０１－３１", "2024-01-31"),
        ("２０２４／０１／３１", "2024/01/31"),
        ("ｋｅｆｕ＠ｅｘａｍｐｌｅ．ｃｏｍ", "kefu@example.com"),
        ("＄５０", "$50"),
        ("１２：３０，１，０００", "12：30，1，000"),
        ("＊＊＊注意＊＊＊", "＊＊＊注意＊＊＊"),
        ("完毕．", "完毕．"),
    ],
)
def test_full_width_signs_follow_the_number_or_name_that_they_are_in(before, after):
    assert Unicode().normalized(before) == after


def test_widths_stay_if_asked():
    assert Unicode(full_width=False).normalized("ＶＩＰ　１２") == "ＶＩＰ　１２"


def test_letters_and_accents_are_joined():
    assert Unicode().normalized("cafe\u0301") == "café"
    assert Unicode().normalized("Ａ\u0301") == "Á"


def test_nfc_leaves_compatibility_characters():
    text = "m² ① ㎡ ﬁ … ½ ™ ｶﾅ"
    assert Unicode().normalized(text) == text


def test_nfkc_is_unicodes_own():
    text = "m² ① ㎡ ﬁ，你好！"
    assert Unicode("NFKC").normalized(text) == unicodedata.normalize("NFKC", text) == "m2 1 m2 fi,你好!"


def test_emoji_stay():
    text = "👩‍💻 ❤️ 👍🏽 🇨🇳 1️⃣"
    assert Unicode("NFKC").normalized(text) == text
