"""Models by size alone, for forecasts without any file: Llama's make at the sizes that people tune."""

from __future__ import annotations

import difflib
import json
from contextlib import AbstractContextManager
from pathlib import Path
from tempfile import TemporaryDirectory

from danlu.errors import Fault, InputError

# Hidden size, size within the MLP, layers, heads, key heads, vocabulary, tied head: those of Qwen2.5-0.5B and 1.5B,
# Llama-3.2-3B, Llama-2-7B, Llama-3.1-8B, Qwen2.5-14B, Qwen2.5-32B, Llama-3.1-70B, as their configs have them.
_SIZES: dict[str, tuple[int, int, int, int, int, int, bool]] = {
    "0.5b": (896, 4864, 24, 14, 2, 151_936, True),
    "1.5b": (1536, 8960, 28, 12, 2, 151_936, True),
    "3b": (3072, 8192, 28, 24, 8, 128_256, True),
    "7b": (4096, 11008, 32, 32, 32, 32_000, False),
    "8b": (4096, 14336, 32, 32, 8, 128_256, False),
    "14b": (5120, 13824, 48, 40, 8, 152_064, False),
    "32b": (5120, 27648, 64, 40, 8, 152_064, False),
    "70b": (8192, 28672, 80, 64, 8, 128_256, False),
}
SIZES = tuple(_SIZES)


def write_size(name: str, folder: Path) -> Path:
    """Writes the `config.json` of a model of that size.

    Raises:
        InputError: there is no such size.
    """
    key = name.lower()
    if key not in _SIZES:
        near = difflib.get_close_matches(key, _SIZES, n=1, cutoff=0.3)
        hint = f"did you mean {near[0]}?" if near else "or name a folder with a config.json: model.name=FOLDER"
        raise InputError(Fault(f"no size is called {name}", "--size", ", ".join(_SIZES), hint))
    hidden, within, layers, heads, key_heads, vocabulary, tied = _SIZES[key]
    config = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": hidden,
        "intermediate_size": within,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": key_heads,
        "vocab_size": vocabulary,
        "tie_word_embeddings": tied,
        "max_position_embeddings": 131_072,
        "rms_norm_eps": 1e-5,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def folder_for_size() -> AbstractContextManager[str]:
    """A folder that is gone afterwards."""
    return TemporaryDirectory(prefix="danlu-size-")
