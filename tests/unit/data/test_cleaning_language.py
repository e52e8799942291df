import pytest

from danlu.data.cleaning.language import LANGUAGES, Language
from danlu.data.records import Record, RowFault
from danlu.errors import DataError

TEXTS = {
    "zh": [
        "我的新卡什么时候能到？我到现在还没有收到呢，请查一下。",
        "iPhone 15 Pro Max 支持 USB-C 快充吗？",
        "请用 Python 写一个 FastAPI 服务，支持 Docker 部署。",
        '把 "The quick brown fox jumps over" 翻译成中文',
        "臺灣的繁體中文使用正體字，請問如何轉換成簡體中文？",
        "香港嘅天氣點呀？我想知道聽日會唔會落雨，要唔要帶遮。",
        "日本的「の」和「は」有什么区别？请举例说明。",
    ],
    "en": [
        "Where is my new bank card?",
        "My payment was declined twice.",
        "What is LoRA fine-tuning exactly?",
        "Describe a mojito cocktail.",
        "Define a computer algorithm.",
        "Generate a recipe for a chili con carne dish.",
        "Convert the number in Fahrenheit to Celsius.\n210",
        'The literal translation of "好领导" is "good leader."',
    ],
    "ja": ["カードはいつ届きますか。まだ受け取っていません。"],
    "ko": ["새 카드는 언제 도착하나요? 아직 못 받았어요."],
    "de": ["Wo ist meine neue Karte geblieben?"],
    "fr": ["Où est passée ma nouvelle carte bancaire ?"],
    "es": ["La vida es un viaje, no un destino."],
    "nl": ["Waar is mijn nieuwe bankpas gebleven?"],
    "ms": ["Kad baharu saya belum sampai lagi, bila akan tiba?"],
    "vi": ["Thẻ mới của tôi đâu rồi? Tôi chưa nhận được."],
    "ru": ["Где моя новая банковская карта?"],
    "ar": ["أين بطاقتي المصرفية الجديدة من فضلك؟"],
}
CASES = [(language, text) for language, texts in TEXTS.items() for text in texts]
NO_LANGUAGE = [
    "Amanda, James, John, Maria",
    "1. Tokyo\n2. Beijing\n3. Manila",
    "1. 2 x 3 = ?\n2. 8 x 7 = ?\n3. 5 x 9 = ?",
    "```python\na = 2\nb = 3\nsum = a + b\nprint(sum)\n```",
    "https://example.com/de/kontakt/impressum/datenschutz",
    "|   Column 1   |   Column 2   |\n|:------------:|:------------:|",
]


@pytest.mark.parametrize(("language", "text"), CASES)
def test_a_text_in_a_language_to_keep_is_kept(language, text):
    assert Language([language]).foreign(text) == ""
    assert Language(sorted({"zh", "en", language})).foreign(text) == ""


@pytest.mark.parametrize(("language", "text"), [case for case in CASES if case[0] not in ("zh", "en")])
def test_a_foreign_text_is_named(language, text):
    assert Language(["zh", "en"]).foreign(text) == language


def test_chinese_among_english_and_english_among_chinese_are_foreign():
    assert Language(["en"]).foreign(TEXTS["zh"][0]) == "zh"
    assert Language(["zh"]).foreign(TEXTS["en"][0]) == "en"


@pytest.mark.parametrize("text", NO_LANGUAGE)
@pytest.mark.parametrize("keep", ["zh", "en"])
def test_names_figures_and_code_have_no_language(text, keep):
    assert Language([keep]).foreign(text) == ""


def test_a_short_text_is_kept():
    assert Language(["zh"]).foreign("Bonjour !") == ""
    assert Language(["zh"], min_characters=5).foreign("Wo ist meine neue Karte?") == "de"


def test_each_text_of_a_row_is_judged():
    row = Record([{"role": "user", "content": TEXTS["en"][0]}, {"role": "assistant", "content": TEXTS["fr"][0]}])
    with pytest.raises(RowFault, match=r"^other language: fr in a assistant text$"):
        Language(["en"])(row)
    assert Language(["en", "fr"])(row) is row


def test_tool_results_are_not_judged():
    row = Record([{"role": "user", "content": TEXTS["zh"][0]}, {"role": "tool", "content": TEXTS["fr"][0]}])
    assert Language(["zh"])(row) is row


def test_an_unknown_language_is_refused_before_any_row():
    with pytest.raises(DataError, match="unknown language 'cn'"):
        Language(["zh", "cn"])


def test_every_language_offered_is_one_of_the_models():
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    labels = LanguageIdentifier.from_model_file(MODEL_FILE).labels
    assert set(LANGUAGES) == {label for label in labels if len(label) == 2}
