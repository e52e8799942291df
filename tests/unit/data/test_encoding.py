"""Quick encoding gives the tokenizer's own ids, whatever the text."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from danlu.data.encoding import Encoder, encoder_of

QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = QWEN.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
QWEN35 = QWEN.replace(r"?\p{L}+", r"?[\p{L}\p{M}]+").replace(r"\p{L}\p{N}]+[", r"\p{L}\p{M}\p{N}]+[")

CHINESE = "今天天气很好，我们去公园。人工智能模型，训练数据！我们今天训练模型：天气好、人好。"
MIXED = [
    "",
    " ",
    "\n",
    "  \n\n \t x",
    "It's  they'LL 'twas don't\n\n\n2. word.\n\nNext!\n!\r\n\r\n? \n .\n/a",
    "a\u3000b\u3000 c\u00a0\u00a0d \u2028e\u200b\u200b f!\u200b\ufeff \x1c \x1d!\x1f y",
    "1234567 12 3 4.5e6 ¼ ٣ ４",
    "好。 好 。，好\n好！\n\n好a好1好 A好，b「好」“好”",
    "<|im_end|><|im_start|> <|im_end|> x<|im_end|\n<|endoftext|>",
    "你好\u0301世e\u0301界 é 한국어 日本語カタカナ 🎉👩‍👩‍👧‍👦 𠮷野家",
    "  def f(x):\n\t\treturn x  # 注释\n\n\nif __name__ == '__main__':\n    f( 1 )  ",
    "trailing spaces   ",
    "tab\t\tnew\x0b\x0cline\x7f\x00null",
]
PIECES = st.sampled_from(
    [
        *"ab'sT 1９.,!?/-\n\r\t\u3000\u00a0\u200b\u0301é好天气模型，。！今“ ",
        "  ",
        "\n\n",
        "'s",
        "'LL",
        "<|im_end|>",
        "训练数据",
    ]
)
TEXTS = st.one_of(st.lists(PIECES, max_size=30).map("".join), st.text(max_size=30))


def with_steps(tokenizer: Any, steps: list[Any], normalizer: Any = None) -> Any:
    changed = copy.deepcopy(tokenizer)
    changed.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    if normalizer is not None:
        changed.backend_tokenizer.normalizer = normalizer
    return changed


def split_by(pattern: str) -> list[Any]:
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return [pre_tokenizers.Split(Regex(pattern), "isolated"), plain]


def chinese_tokenizer(pattern: str | None) -> Any:
    """A small vocabulary with many tokens that reach over several Chinese characters, and some over parts of them."""
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(split_by(pattern)) if pattern else byte_level
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=420, initial_alphabet=alphabet, special_tokens=["<|endoftext|>"], show_progress=False
    )
    backend.train_from_iterator([CHINESE, "训练数据，训练模型，今天天气", "the model of the day"] * 5, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>")


@pytest.fixture(scope="module")
def kinds(tokenizer: Any) -> dict[str, Any]:
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return {
        "gpt2": tokenizer,
        "digits": with_steps(tokenizer, [pre_tokenizers.Digits(individual_digits=True), byte_level]),
        "groups of digits": with_steps(tokenizer, [pre_tokenizers.Digits(individual_digits=False), byte_level]),
        "qwen": with_steps(tokenizer, split_by(QWEN), normalizers.NFC()),
        "llama3": with_steps(tokenizer, split_by(LLAMA3)),
        "qwen3.5": with_steps(tokenizer, split_by(QWEN35), normalizers.NFC()),
        "chinese": chinese_tokenizer(None),
        "chinese, lines": chinese_tokenizer(QWEN),
    }


KINDS = ["gpt2", "digits", "groups of digits", "qwen", "llama3", "qwen3.5", "chinese", "chinese, lines"]


def by_the_tokenizer(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    return [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]


@pytest.mark.parametrize("kind", KINDS)
def test_odd_texts_have_the_tokenizers_own_ids_the_first_and_the_second_time(kinds: dict[str, Any], kind: str) -> None:
    encoder, texts = Encoder(kinds[kind]), [*MIXED, CHINESE, CHINESE * 20, *MIXED]
    assert encoder.cuts
    expected = by_the_tokenizer(kinds[kind], texts)
    assert encoder.encode(texts) == expected
    assert encoder.encode(texts[::-1]) == expected[::-1]


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(TEXTS, min_size=1, max_size=8))
def test_any_texts_have_the_tokenizers_own_ids(kinds: dict[str, Any], kind: str, texts: list[str]) -> None:
    assert encoder_of(kinds[kind]).encode(texts) == by_the_tokenizer(kinds[kind], texts)


@pytest.mark.parametrize(
    "change",
    [
        lambda made: setattr(made.backend_tokenizer, "pre_tokenizer", pre_tokenizers.Metaspace()),
        lambda made: setattr(made.backend_tokenizer, "pre_tokenizer", pre_tokenizers.ByteLevel(add_prefix_space=True)),
        lambda made: setattr(made.backend_tokenizer, "normalizer", normalizers.Lowercase()),
        lambda made: setattr(
            made.backend_tokenizer, "pre_tokenizer", pre_tokenizers.Sequence(split_by(r"[^\s]+\s*|\s+"))
        ),
    ],
)
def test_a_tokenizer_of_an_unknown_kind_gets_whole_texts(tokenizer: Any, change: Callable[[Any], None]) -> None:
    changed = copy.deepcopy(tokenizer)
    change(changed)
    encoder = Encoder(changed)
    assert not encoder.cuts
    assert encoder.encode(MIXED) == by_the_tokenizer(changed, MIXED)


@pytest.mark.parametrize(
    "token",
    [
        AddedToken("<|sep|>", rstrip=True, special=True),
        AddedToken("<|sep|>", lstrip=True, special=True),
        AddedToken("two words", special=False),
        AddedToken("好，", special=False),
        AddedToken("word", single_word=True, special=False),
        AddedToken("<|<|", special=True),
        AddedToken("|><", special=True),
        AddedToken("<|im_end|>!", special=True),
    ],
    ids=lambda token: token.content,
)
def test_added_tokens_that_reach_into_their_neighbours_do_so_still(tokenizer: Any, token: AddedToken) -> None:
    changed = copy.deepcopy(tokenizer)
    changed.add_tokens([token])
    texts = [
        f"a  {token.content}  b\n{token.content}\n\n c{token.content}d <|im_end|> e",
        f"<|im_end|>{token.content}<|im_end|><|im_end|>! <|<|im_start|> {token.content}",
        "words in two words, 好，的 a word of wordy words",
    ]
    assert Encoder(changed).encode(texts * 2) == by_the_tokenizer(changed, texts * 2)


def test_a_token_added_later_is_seen(tokenizer: Any) -> None:
    changed = copy.deepcopy(tokenizer)
    before = encoder_of(changed).encode(["a <new> b"])
    changed.add_tokens([AddedToken("<new>", special=True)])
    after = encoder_of(changed).encode(["a <new> b"])
    assert before != after == by_the_tokenizer(changed, ["a <new> b"])


def test_half_a_character_is_an_error_and_no_wrong_ids(tokenizer: Any) -> None:
    with pytest.raises(TypeError):
        Encoder(tokenizer).encode(["fine", "half \ud83d"])
    assert Encoder(tokenizer).encode(["fine"]) == by_the_tokenizer(tokenizer, ["fine"])


def test_an_encoder_goes_with_its_tokenizer(tokenizer: Any) -> None:
    changed = copy.deepcopy(tokenizer)
    encoder_of(changed).encode(["a"])
    seen = weakref.ref(changed)
    del changed
    gc.collect()
    assert seen() is None
