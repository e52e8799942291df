"""Fixtures that all tests share."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from kernels_there import THERE

# Several test files run at once: one thread each, as threads that wait for a core take it from the others.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from danlu.data.store import Store, StoreWriter, to_batch, write_order
from danlu.data.template import Document
from danlu.runs import danlu_home

EMBEDDED = "smollm2-135m-instruct"
# Of the kernels themselves, which can be deleted.
_OF_KERNELS = [
    *("gpu", "unit/kernels"),
    *(f"unit/adapters/test_{name}.py" for name in ("fused", "fused_quantized", "variants")),
    *(f"unit/training/test_{name}.py" for name in ("engine", "engine_families", "engine_invariance")),
]
collect_ignore = [] if THERE else _OF_KERNELS
# Speed is measured in benchmarks: an example that is slow because the machine is busy is no fault.
settings.register_profile("danlu", deadline=None)
settings.load_profile("danlu")


@pytest.fixture(scope="session", autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Prepared data go to a folder of this test session; models and tools stay those of the ordinary `DANLU_HOME`."""
    home = tmp_path_factory.mktemp("danlu_home")
    for name in ("models", "tools"):
        kept = (danlu_home() / name).absolute()
        kept.mkdir(parents=True, exist_ok=True)
        (home / name).symlink_to(kept, target_is_directory=True)
    before = os.environ.get("DANLU_HOME")
    os.environ["DANLU_HOME"] = str(home)
    yield
    if before is None:
        del os.environ["DANLU_HOME"]
    else:
        os.environ["DANLU_HOME"] = before


@pytest.fixture(scope="session")
def model_folder(_own_home: None) -> Path:
    """The embedded model; the first time on a machine it is downloaded and converted."""
    from danlu.models.embedded import embedded_model_folder

    return embedded_model_folder(EMBEDDED)


@pytest.fixture(scope="session")
def tokenizer(model_folder: Path) -> Any:
    """The embedded model's tokenizer; copy it before changing it."""
    from danlu.models.tokenizer import load_tokenizer

    return load_tokenizer(model_folder)


@pytest.fixture(scope="session")
def tiny_base(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of two layers with random bfloat16 weights, tied, and the embedded model's tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("tiny_base")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.2,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        shutil.copyfile(model_folder / name, folder / name)
    return folder


@pytest.fixture
def make_store(tmp_path: Path) -> Callable[[Sequence[Document]], Store]:
    """Writes documents to a new folder and opens them."""

    def make(documents: Sequence[Document]) -> Store:
        folder = tmp_path / f"store-{len(list(tmp_path.glob('store-*')))}"
        folder.mkdir()
        with StoreWriter(folder) as writer:
            writer.append(to_batch(documents, ["rows.jsonl"] * len(documents)))
        write_order(folder, "train", range(len(documents)))
        return Store(folder, "train")

    return make
