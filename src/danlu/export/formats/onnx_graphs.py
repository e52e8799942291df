"""A model as graphs that take and give its cache: the tensors' names are those that onnxruntime's users know."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

_AXES = {0: "batch", 2: "past_sequence"}


class _Decoder(nn.Module):  # type: ignore[misc]
    """A causal model: ids, mask, positions and a flat cache in; logits and the longer cache out."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Any, attention_mask: Any, position_ids: Any, past: Sequence[Any]) -> tuple[Any, ...]:
        cache = _filled(self.model.config.get_text_config(decoder=True), past)
        output = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=True,
        )
        return output.logits, *_flat(output.past_key_values)


class _Encoder(nn.Module):  # type: ignore[misc]
    """The encoder of an encoder-decoder model."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Any, attention_mask: Any) -> Any:
        return self.model.get_encoder()(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state


class _AnsweringDecoder(nn.Module):  # type: ignore[misc]
    """The decoder of an encoder-decoder model, with a cache of what it has written; the encoder's is made each time."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: Any, encoder_hidden_states: Any, encoder_attention_mask: Any, past: Sequence[Any]
    ) -> tuple[Any, ...]:
        from transformers import DynamicCache, EncoderDecoderCache

        own = _filled(self.model.config.get_text_config(decoder=True), past)
        output = self.model(
            decoder_input_ids=input_ids,
            encoder_outputs=(encoder_hidden_states,),
            attention_mask=encoder_attention_mask,
            past_key_values=EncoderDecoderCache(own, DynamicCache()),
            use_cache=True,
        )
        return output.logits, *_flat(output.past_key_values.self_attention_cache)


def _filled(config: Any, past: Sequence[Any]) -> Any:
    from transformers import DynamicCache

    # Without the config all layers keep all that they have seen, which is what a graph with one length can say.
    cache = DynamicCache()
    for layer in range(len(past) // 2):
        cache.update(past[2 * layer], past[2 * layer + 1], layer)
    return cache


def _flat(cache: Any) -> list[Any]:
    return [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]


def write_causal(model: Any, path: Path) -> None:
    """Writes a causal model as one graph."""
    past = _some_cache(model)
    ids = torch.ones(2, 3, dtype=torch.long)
    given = (ids, torch.ones(2, 8, dtype=torch.long), torch.arange(5, 8).expand(2, 3).contiguous(), past)
    axes = ({0: "batch", 1: "sequence"}, {0: "batch", 1: "total_sequence"}, {0: "batch", 1: "sequence"})
    names = ["input_ids", "attention_mask", "position_ids"]
    _write(_Decoder(model), path, given, (*axes, [_AXES] * len(past)), names)


def write_encoder(model: Any, path: Path) -> None:
    """Writes the encoder of an encoder-decoder model."""
    mask = torch.ones(2, 7, dtype=torch.long)
    axes = {0: "batch", 1: "encoder_sequence"}
    names = ["input_ids", "attention_mask"]
    _write(_Encoder(model), path, (mask, mask.clone()), (axes, axes), names, ["last_hidden_state"])


def write_answering(model: Any, path: Path) -> None:
    """Writes the decoder of an encoder-decoder model."""
    past = _some_cache(model)
    states = torch.randn(2, 7, model.get_encoder().config.hidden_size)
    given = (torch.ones(2, 3, dtype=torch.long), states, torch.ones(2, 7, dtype=torch.long), past)
    beside = {0: "batch", 1: "encoder_sequence"}
    names = ["input_ids", "encoder_hidden_states", "encoder_attention_mask"]
    _write(
        _AnsweringDecoder(model), path, given, ({0: "batch", 1: "sequence"}, beside, beside, [_AXES] * len(past)), names
    )


def _some_cache(model: Any) -> list[torch.Tensor]:
    """A cache of five tokens for two rows, its sizes as the model itself makes them."""
    ids = torch.ones(2, 5, dtype=torch.long)
    with torch.inference_mode():
        if model.config.is_encoder_decoder:
            cache = model(input_ids=ids, decoder_input_ids=ids, use_cache=True).past_key_values.self_attention_cache
        else:
            cache = model(input_ids=ids, use_cache=True).past_key_values
    return [torch.zeros_like(tensor) for tensor in _flat(cache)]


def _write(
    module: nn.Module, path: Path, given: tuple[Any, ...], axes: Any, names: list[str], outputs: list[str] | None = None
) -> None:
    count = len(given[-1]) // 2 if isinstance(given[-1], list) else 0
    kept = [f"{layer}.{part}" for layer in range(count) for part in ("key", "value")]
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # on names of axes and of packages that no model here needs
        torch.onnx.export(
            module.eval(),
            given,
            str(path),
            dynamo=True,
            input_names=[*names, *(f"past_key_values.{name}" for name in kept)],
            output_names=outputs or ["logits", *(f"present.{name}" for name in kept)],
            dynamic_shapes=axes,
            external_data=True,
            verbose=False,
        )
