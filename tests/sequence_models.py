"""Small random encoder-decoder models, each with a tokenizer as its family has it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForSeq2SeqLM,
    BartConfig,
    MBart50Tokenizer,
    MBartConfig,
    MT5Config,
    PegasusConfig,
    PegasusTokenizer,
    PreTrainedConfig,
    RobertaTokenizer,
    T5Config,
    T5Tokenizer,
)

from danlu.data.vocabulary import byte_letters

CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789-,.?"
WORDS = ("what", "is", "the", "moon", "sun", "made", "of", "a", "stone", "fire")


def pieces(*special: str, words: Sequence[str] = WORDS) -> list[tuple[str, float]]:
    """A Unigram vocabulary: special tokens, single characters, whole words."""
    letters = [("\u2581", -2.0), *((character, -8.0) for character in CHARACTERS)]
    return [*((token, 0.0) for token in special), *letters, *((f"\u2581{word}", -4.0) for word in words)]


def t5_tokenizer(words: Sequence[str] = WORDS) -> Any:
    return T5Tokenizer(vocab=pieces("<pad>", "</s>", "<unk>", words=words), extra_ids=0)


def bart_tokenizer() -> Any:
    special = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
    letters = (*special, *byte_letters().values())
    return RobertaTokenizer(vocab={letter: number for number, letter in enumerate(letters)}, merges=[])


def pegasus_tokenizer() -> Any:
    return PegasusTokenizer(vocab=pieces("<pad>", "</s>", "<unk>", "<mask_2>"), offset=3)


def mbart50_tokenizer() -> Any:
    from transformers.models.mbart50.tokenization_mbart50 import FAIRSEQ_LANGUAGE_CODES

    codes = (*FAIRSEQ_LANGUAGE_CODES, "<mask>")
    vocabulary = [*pieces("<s>", "<pad>", "</s>", "<unk>"), *((code, 0.0) for code in codes)]
    return MBart50Tokenizer(vocab=vocabulary, src_lang="en_XX", tgt_lang="zh_CN")


def t5_config(kind: Any, size: int, **more: Any) -> PreTrainedConfig:
    return kind(
        vocab_size=size,
        d_model=32,
        d_kv=8,
        d_ff=48,
        num_layers=2,
        num_heads=4,
        relative_attention_num_buckets=8,
        relative_attention_max_distance=16,
        dropout_rate=0.0,
        initializer_factor=1.0,
        decoder_start_token_id=0,
        **more,
    )


def bart_config(kind: Any, size: int, **more: Any) -> PreTrainedConfig:
    return kind(
        vocab_size=size,
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        max_position_embeddings=96,
        dropout=0.0,
        init_std=0.2,
        **more,
    )


FAMILIES: dict[str, tuple[Callable[[], Any], Callable[[int], PreTrainedConfig]]] = {
    "t5": (t5_tokenizer, lambda size: t5_config(T5Config, size)),
    "mt5": (t5_tokenizer, lambda size: t5_config(MT5Config, size)),
    "bart": (bart_tokenizer, lambda size: bart_config(BartConfig, size)),
    "pegasus": (pegasus_tokenizer, lambda size: bart_config(PegasusConfig, size, decoder_start_token_id=0)),
    "mbart50": (mbart50_tokenizer, lambda size: bart_config(MBartConfig, size, decoder_start_token_id=2)),
}


def random_model(family: str, seed: int = 0) -> Any:
    """A model of a family in evaluation mode."""
    make_tokenizer, make_config = FAMILIES[family]
    torch.manual_seed(seed)
    return AutoModelForSeq2SeqLM.from_config(make_config(len(make_tokenizer()))).eval()


def write_model(folder: Path, family: str) -> Path:
    """A folder with such a model and its tokenizer, as it would come from a hub."""
    random_model(family).save_pretrained(folder)
    FAMILIES[family][0]().save_pretrained(folder)
    return folder
