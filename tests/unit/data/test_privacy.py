import pickle
import re
import sys
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.data.privacy import KINDS, Masker, names_zh, restore
from danlu.data.privacy.masker import _without_overlaps
from danlu.data.privacy.names import find_names
from danlu.data.privacy.recognisers import find_by_form
from danlu.errors import DataError
from danlu.recipe.data_schema import PrivateKind

SECRET = b"0123456789abcdef0123456789abcdef"


def masked(text, mode="placeholder", **options):
    return Masker(mode=mode, secret=SECRET, **options).mask([text]).texts[0]


def found(text, kind=None):
    return [
        (text[start:end], each) for start, end, each in find_by_form(text, frozenset(KINDS)) if kind in (None, each)
    ]


@pytest.mark.parametrize(
    ("kind", "text", "hidden"),
    [
        ("mobile", "打13812345678找我", "打138****5678找我"),
        ("mobile", "打+86 138-1234-5678找我", "打+86 138-****-5678找我"),
        ("landline", "电话010-88881234", "电话010-****1234"),
        ("bank_card", "卡号6222 0212 3456 7894 有误", "卡号6222 **** **** 7894 有误"),
        ("email", "write to zoe.li@example.com", "write to z***@example.com"),
        ("ssn", "SSN 212-09-9999", "SSN ***-**-9999"),
        ("ip", "host 203.0.113.9", "host 203.0.*.*"),
        ("plate", "车牌京A·12345", "车牌京A·***45"),
        ("name", "我叫张伟，你好", "我叫张*，你好"),
        ("name", "欧阳静怡女士", "欧阳**女士"),
        ("name", "Ask Sarah Mitchell", "Ask S*** M***"),
        ("address", "住杭州市西湖区文三路478号", "住杭州市西湖区****"),
    ],
)
def test_mask_keeps_the_usual_visible_part(kind, text, hidden):
    assert masked(text, "mask", kinds=[kind]) == hidden


def test_same_value_has_the_same_number_in_all_texts_of_a_row():
    texts = ["我的手机是138 1234 5678", "打13812345678还是139-8765-4321？", "１３８１２３４５６７８"]
    result = Masker(mode="placeholder", names=False).mask(texts)
    assert result.texts == ["我的手机是<MOBILE_1>", "打<MOBILE_1>还是<MOBILE_2>？", "<MOBILE_1>"]
    assert result.counts == {"mobile": 4}
    assert result.tokens == {}


def test_numbering_begins_anew_in_each_row():
    masker = Masker(mode="placeholder", names=False)
    assert masker.mask(["13812345678"]).texts == masker.mask(["13987654321"]).texts == ["<MOBILE_1>"]


def test_placeholder_typed_by_a_user_is_not_given_to_a_value():
    result = Masker(mode="placeholder", names=False).mask(["<MOBILE_1>是什么", "打13812345678和13987654321"])
    assert result.texts == ["<MOBILE_1>是什么", "打<MOBILE_2>和<MOBILE_3>"]


def test_masking_what_is_masked_changes_nothing():
    masker = Masker(mode="reversible", secret=SECRET)
    once = masker.mask(["我叫陈思远，手机13812345678，邮箱a.b@example.com"])
    assert masker.mask(once.texts).texts == once.texts


def test_name_found_by_its_surroundings_is_masked_in_the_rest_of_the_row():
    result = Masker(mode="placeholder").mask(["我叫汪知遥，想改地址", "好的汪知遥这边帮您改"])
    assert result.texts == ["我叫<NAME_1>，想改地址", "好的<NAME_1>这边帮您改"]


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.sampled_from(
            ["手机13812345678", "我叫陈思远", "zoe@example.com", "<MOBILE_1>", "<", "a", "卡 6222 0212 3456 7894", "\n"]
        ),
        max_size=8,
    ).map("，".join)
)
def test_restore_gives_back_the_original_to_the_letter(text):
    result = Masker(mode="reversible", secret=SECRET).mask([text, text[::-1]])
    assert [restore(each, result.tokens) for each in result.texts] == [text, text[::-1]]


def test_reversible_tokens_are_the_same_in_all_rows_and_differ_by_secret():
    first, second = (
        Masker(mode="reversible", secret=SECRET, names=False).mask([text]) for text in ("13812345678", "是13812345678")
    )
    assert first.texts[0] == second.texts[0][1:]
    assert re.fullmatch(r"<MOBILE_[A-Z2-7]{10}>", first.texts[0])
    other = Masker(mode="reversible", secret=SECRET[::-1], names=False).mask(["13812345678"])
    assert other.texts != first.texts


def test_restore_leaves_tokens_alone_that_it_does_not_know():
    assert restore("<MOBILE_K7Q2MZXD3A>和<MOBILE_1>", {}) == "<MOBILE_K7Q2MZXD3A>和<MOBILE_1>"


def test_masker_in_another_process_does_the_same():
    texts = ["我叫陈思远，13812345678", "Sarah Mitchell, 212-555-0147"]
    masker = Masker(mode="reversible", secret=SECRET)
    assert pickle.loads(pickle.dumps(masker)).mask(texts) == masker.mask(texts)


def test_only_the_kinds_asked_for_are_masked():
    text = "我叫陈思远，手机13812345678，邮箱zoe@example.com"
    assert masked(text, kinds=["email"]) == "我叫陈思远，手机13812345678，邮箱<EMAIL_1>"
    assert masked(text, names=False) == "我叫陈思远，手机<MOBILE_1>，邮箱<EMAIL_1>"


def test_what_is_kept_must_match_whole():
    text = "service@danlu.example 或 me@danlu.example"
    assert masked(text, keep=["service@.*"]) == "service@danlu.example 或 <EMAIL_1>"
    assert masked(text, keep=["service"]) == "<EMAIL_1> 或 <EMAIL_2>"


@pytest.mark.parametrize("options", [{"mode": "hide"}, {"mode": "mask", "kinds": ["phones"]}, {"mode": "reversible"}])
def test_impossible_settings_are_refused(options):
    with pytest.raises(ValueError, match=r"unknown|secret"):
        Masker(**options)


@pytest.mark.parametrize(
    "text",
    [
        "订单号6222021234567894已发货",
        "订单13812345678的物流",
        "订单20240315138123456789",
        "时间戳1712345678901",
        "版本10.0.19.45",
        "v1.2.3.4",
        "身份证要带18位的",
        "北京市今天多云",
        "在3号楼512开会",
        "2024-03-15 10:23:45",
        "￥6,225.88",
        "圆周率3.14159265358979323846",
        "ISBN 978-7-111-54742-6",
        "SKU 123-45-6789",
        "std::vector 和 12:34:56",
        "MAC 00:1A:2B:3C:4D:5E",
        "npm install foo@1.2.3",
        "全国人口1411780000人",
        "路由器管理页面是192.168.0.1",
    ],
)
def test_near_misses_survive(text):
    assert found(text) == []


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("resident_id", "身份证１１０１０５１９４９１２３１００２Ｘ有效", "１１０１０５１９４９１２３１００２Ｘ"),
        ("mobile", "tel(+86)13812345678。", "(+86)13812345678"),
        ("landline", "致电（0755）26543210转8", "（0755）26543210转8"),
        ("landline", "座机02188881234", "02188881234"),
        ("email", "发到张zoe.li＠qq.com吧", "zoe.li＠qq.com"),
        ("iban", "send to DE89 3704 0044 0532 0130 00 TODAY", "DE89 3704 0044 0532 0130 00"),
        ("ip", "IP2001:db8::8a2e:370:7334", None),
        ("ip", "地址2001:db8::8a2e:370:7334，", "2001:db8::8a2e:370:7334"),
        ("ip", "他的IP45.208.124.235异常", "45.208.124.235"),
        ("passport", "护照号码：EA1234567", "EA1234567"),
        ("plate", "粤AD12345挡路", "粤AD12345"),
        ("phone", "call (212) 555-0147 x12", "(212) 555-0147 x12"),
        ("phone", "打 +44 20 7946 0123", "+44 20 7946 0123"),
        ("address", "寄到贵阳市观山湖区林城东路摩根中心A座23层，谢谢", "贵阳市观山湖区林城东路摩根中心A座23层"),
        ("address", "at 350 Fifth Avenue, New York, NY 10118.", "350 Fifth Avenue, New York, NY 10118"),
    ],
)
def test_ways_of_writing_are_found_whole(kind, text, value):
    assert [each for each, _ in found(text, kind)] == ([value] if value else [])


def test_the_nearest_label_decides_between_card_and_order():
    card = "6222021234567894"
    assert found(f"订单号{card}") == []
    assert found(f"订单已付，卡号{card}") == [(card, "bank_card")]
    assert found(f"我的卡付了订单，订单号：{card}") == []


def test_kinds_are_those_of_the_recipe():
    assert sorted(KINDS) == sorted(get_args(PrivateKind))


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("患者刘慧敏昨天出院，王主任签了字", ["刘慧敏"]),
        ("阿尔伯特·海因斯先生来了", ["阿尔伯特·海因斯"]),
        ("my name is sarah, thanks", ["sarah"]),
        ("Dr. Patel met Jean-Luc O'Brien Jr. in Austin", ["Patel", "Jean-Luc O'Brien Jr."]),
        ("Wei Zhang reviewed John Smith's Resume", ["Wei Zhang", "John Smith"]),
        ("高兴地和平相处，于是何时任意成功", []),
        ("水果、米饭和高铁，张贴海报", []),
        ("Machine Learning in New York on Monday, April 3", []),
        ("Amazon, Apple Pay and Harvard University", []),
        ("我是陈女士的丈夫", []),
    ],
)
def test_names_of_people_and_of_nothing_else(text, names):
    assert [text[start:end] for start, end in sorted(set(find_names(text)))] == names


DOTTED = (
    "伊莎贝拉·罗西",
    "让-皮埃尔·杜邦",
    "玛尔塔·科瓦尔斯卡",
    "索菲娅·略萨",
    "尤塔·约翰森-贝格",
    "T·埃德蒙·哈珀",
    "露西·J·马洛",
    "古丽娜尔·买买提",
    "大卫·阮",
    "唐娜•布罗姆利",
)


@pytest.mark.parametrize("name", DOTTED)
@pytest.mark.parametrize(
    "sentence",
    [
        "患者{}昨天出院",
        "由总经理{}签字",
        "房东{}夫人不在家",
        "{}合作了三年",
        "画家{}生于1970年",
        "{}加入了公司",
        "描述为{}的人",
        "{}因其才华闻名",
    ],
)
def test_foreign_name_with_dots_is_taken_without_the_words_beside_it(name, sentence):
    text = sentence.format(name)
    assert [text[start:end] for start, end in set(find_names(text))] == [name]


@pytest.mark.parametrize(
    ("cause", "text", "names"),
    [
        ("a character outside the list links two of it", "他叫安布罗萨修斯·维尔姆", ["安布罗萨修斯·维尔姆"]),
        ("the last character stands in a word that goes on", "见到约翰·博世了", ["约翰·博世"]),
        ("a word reaches up to the dot", "《临江仙·柳絮》", []),
        ("units and plain letters", "力矩5N·米，A·B·C", []),
        ("a part of a foreign word", "他在西林伍德中学读书，去了鲁安格河", []),
        ("a foreign word is a place by its end", "安多利亚峰、高迪亚山口和皮克斯峰", []),
        ("initials stand before", "她读过P.K.罗琳达的书", []),
        ("away from", "住在离海远的村子", []),
        ("a prefix of the next word", "喜欢艾小助手", []),
        ("a method's name", "用席林格算法求解", []),
        ("called by a foreign name", "她叫艾莉西亚，住在这里", ["艾莉西亚"]),
        ("foreign, and said to be a person", "客户安德森来电", ["安德森"]),
        ("the same characters as a Chinese name", "患者高文博和丁雷昨天出院", ["高文博", "丁雷"]),
    ],
)
def test_foreign_word_is_taken_whole_or_left_alone(cause, text, names):
    assert [text[start:end] for start, end in sorted(set(find_names(text)))] == names, cause


def test_name_is_not_taken_out_of_a_longer_one_elsewhere_in_the_row():
    result = Masker(mode="placeholder").mask(["我叫艾德琳，你好", "她叫艾德琳·罗西"])
    assert result.texts == ["我叫<NAME_1>，你好", "她叫<NAME_2>"]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("阿尔伯特·爱因斯坦先生和玛丽•居里", []),
        ("蒂姆·伯纳斯-李发明了万维网", []),
        ("姓名：马可·波罗", []),
        ("邻居汉斯·爱因斯坦搬走了", ["汉斯·爱因斯坦"]),
        ("同事丽莎·居里请假", ["丽莎·居里"]),
        ("温斯顿·丘吉尔·罗西签收", ["温斯顿·丘吉尔·罗西"]),
    ],
)
def test_well_known_person_stays_only_by_the_whole_name(text, names):
    assert [text[start:end] for start, end in sorted(set(find_names(text)))] == names


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("用Adam优化器训练，Adam 收敛得快", []),
        ("The Adam optimizer is used; Adam converges", []),
        ("Contact: Adam. The Adam optimizer is used", ["Adam"]),
        ("Sarah手机没电了，Emily公司很远", ["Sarah", "Emily"]),
        ("'Adrienne Miller' and -Robert Jones", ["Adrienne Miller", "Robert Jones"]),
        ("-C.K. Wilson wrote", ["C.K. Wilson"]),
        ("x-John, it's don'John", []),
        ("near St. Robert's Hospital and Robert's house on Elm St. Sarah called", ["Robert", "Sarah"]),
    ],
)
def test_latin_name_is_neither_cut_nor_taken_from_a_thing(text, names):
    assert [text[start:end] for start, end in sorted(set(find_names(text)))] == names


def test_without_jieba_the_fault_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "jieba", None)
    names_zh._dictionary.cache_clear()
    try:
        with pytest.raises(DataError, match=r"danlu\[privacy\]"):
            Masker(mode="mask").mask(["我叫张伟"])
        assert Masker(mode="mask", names=False).mask(["我叫张伟"]).counts == {}
    finally:
        names_zh._dictionary.cache_clear()


@settings(deadline=None, max_examples=200)
@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 6)), max_size=12))
def test_of_overlapping_places_the_earlier_in_the_list_stays(spans):
    places = [(start, start + length, "k") for start, length in spans]
    kept = []
    for place in places:
        if all(place[1] <= other[0] or other[1] <= place[0] for other in kept):
            kept.append(place)
    assert _without_overlaps(places) == sorted(kept)
