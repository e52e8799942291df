"""A model of a real one's shape with random weights, for speed and memory: what it says means nothing.

python benchmarks/random_model.py --shape llama-1b --out FOLDER

Weights are bfloat16 safetensors. The tokenizer and its template are those of the embedded SmolLM2-135M-Instruct.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    PreTrainedConfig,
    Qwen2Config,
    T5Config,
)

from danlu.models.embedded import embedded_model_folder

_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")
_TOKENS: dict[str, Any] = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}


def llama_1b(vocab_size: int = 49152) -> LlamaConfig:
    """Llama 3.2 1B's shape, its vocabulary cut to the tokenizer's."""
    return LlamaConfig(
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=16,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=64,
        vocab_size=vocab_size,
        max_position_embeddings=8192,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 500_000.0},
        tie_word_embeddings=True,
        **_TOKENS,
    )


def llama_1b_whole() -> LlamaConfig:
    """Llama 3.2 1B's shape with its whole vocabulary, of which the tokenizer uses the first part."""
    return llama_1b(128_256)


def llama_7b() -> LlamaConfig:
    """Llama 2 7B's shape; the tokenizer, which has a larger vocabulary, brings its own number of tokens."""
    return LlamaConfig(
        hidden_size=4096,
        intermediate_size=11008,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=32,
        vocab_size=49152,
        max_position_embeddings=4096,
        rms_norm_eps=1e-5,
        tie_word_embeddings=False,
        **_TOKENS,
    )


def gemma_270m() -> Gemma3TextConfig:
    """Gemma 3 270M's shape, its whole vocabulary, of which the tokenizer uses the first part."""
    return Gemma3TextConfig(
        hidden_size=640,
        intermediate_size=2048,
        num_hidden_layers=18,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=256,
        query_pre_attn_scalar=256,
        sliding_window=512,
        vocab_size=262_144,
        max_position_embeddings=32_768,
        tie_word_embeddings=True,
        **_TOKENS,
    )


def qwen2_170m() -> Qwen2Config:
    """Qwen 2.5's make at a third of its smallest size: biases on q, k, v, a long vocabulary cut to the tokenizer's."""
    return Qwen2Config(
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=14,
        num_attention_heads=12,
        num_key_value_heads=2,
        vocab_size=49152,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        **_TOKENS,
    )


def gpt2_124m() -> GPT2Config:
    """GPT-2's smallest shape, with the tokenizer's vocabulary; no dropout."""
    return GPT2Config(vocab_size=49152, embd_pdrop=0.0, attn_pdrop=0.0, resid_pdrop=0.0, **_TOKENS)


def t5_77m() -> T5Config:
    """FLAN-T5-small's shape: an encoder and a decoder of eight layers with gated MLPs."""
    return T5Config(
        d_model=512,
        d_ff=1024,
        d_kv=64,
        num_layers=8,
        num_heads=6,
        vocab_size=49152,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        dropout_rate=0.0,
        decoder_start_token_id=0,
        **_TOKENS,
    )


SHAPES: dict[str, Callable[[], PreTrainedConfig]] = {
    "llama-1b": llama_1b,
    "llama-1b-whole": llama_1b_whole,
    "llama-7b": llama_7b,
    "gemma-270m": gemma_270m,
    "qwen2-170m": qwen2_170m,
    "gpt2-124m": gpt2_124m,
    "t5-77m": t5_77m,
}


def write_model(shape: str, folder: Path) -> int:
    """Writes config, weights and tokenizer files into a new or empty folder; the number of parameters."""
    if folder.exists() and any(folder.iterdir()):
        raise SystemExit(f"{folder} is not empty")
    torch.manual_seed(0)
    config = SHAPES[shape]()
    kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    model = kind.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    source = embedded_model_folder("smollm2-135m-instruct")
    for name in _TOKENIZER:
        shutil.copyfile(source / name, folder / name)
    return sum(parameter.numel() for parameter in model.parameters())


def main() -> None:
    """Writes the model asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=sorted(SHAPES), required=True)
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    asked = parser.parse_args()
    print(f"{write_model(asked.shape, asked.out):,} parameters in {asked.out}")


if __name__ == "__main__":
    main()
