"""Further encoder-decoder families train with the loss and gradients of one row at a time through their own code."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from kernels_there import THERE
from sequence_models import bart_config, t5_config
from test_sequences import ALL, batches_of, measure, reference, require_close, some_documents
from transformers import (
    AutoModelForSeq2SeqLM,
    BlenderbotConfig,
    LongT5Config,
    M2M100Config,
    MarianConfig,
    PreTrainedConfig,
    SwitchTransformersConfig,
    UMT5Config,
)

from danlu.adapters.kinds import Lora
from danlu.adapters.lora import add_adapter
from danlu.adapters.targets import resolve_targets
from danlu.training.engine import choose_engine

EXPERTS = {"num_experts": 2, "num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1}
CONFIGS: dict[str, Callable[[], PreTrainedConfig]] = {
    "umt5": lambda: t5_config(UMT5Config, 54),
    "longt5": lambda: t5_config(LongT5Config, 54),
    "switch_transformers": lambda: t5_config(SwitchTransformersConfig, 54, **EXPERTS),
    "marian": lambda: bart_config(MarianConfig, 54, pad_token_id=0, eos_token_id=1, decoder_start_token_id=0),
    "m2m_100": lambda: bart_config(M2M100Config, 54),
    "blenderbot": lambda: bart_config(BlenderbotConfig, 54),
}


@pytest.mark.parametrize("family", CONFIGS)
def test_the_family_trains_as_by_its_own_code(family: str) -> None:
    torch.manual_seed(0)
    base = AutoModelForSeq2SeqLM.from_config(CONFIGS[family]()).eval()
    model = add_adapter(base, Lora(2, 4.0, 0.0), resolve_targets(base, "all-linear"), 0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    documents = some_documents(base.config.eos_token_id)
    expected = reference(model, documents)
    engine = choose_engine(model, documents)
    assert engine.name == "padded rows, plain attention, fused layers, chunked loss" or not THERE
    require_close(measure(model, engine.objective, batches_of(documents, ALL)), expected)
