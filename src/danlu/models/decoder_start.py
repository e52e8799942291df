"""The token that the decoder of an encoder-decoder model begins with, in training as in generation."""

from __future__ import annotations

from typing import Any

from danlu.errors import Fault, ModelError


def decoder_start(model: Any) -> int | None:
    """Id of the token before the first token of every target; None for a model without an encoder.

    Args:
        model: Transformers' own, with or without weights.

    Raises:
        ModelError: the config names none, or the model's code shifts targets in another way.
    """
    import torch

    config = model.config
    if not config.is_encoder_decoder:
        return None
    start: int | None = getattr(config, "decoder_start_token_id", None)
    if start is None or config.pad_token_id is None:
        missing = "decoder_start_token_id" if start is None else "pad_token_id"
        raise _fault(model, f"config.json has no {missing}, so the decoder could not begin")
    if hasattr(model, "prepare_decoder_input_ids_from_labels"):
        ends = config.eos_token_id
        end = ends[0] if isinstance(ends, list) else ends
        other = next(token for token in range(4) if token not in (start, end, config.pad_token_id))
        target = [other, other if end is None else end]
        shifted = model.prepare_decoder_input_ids_from_labels(labels=torch.tensor([target])).tolist()
        # MBart of 2020 moves a target's last token, its language, to the front.
        if shifted != [[start, other]]:
            raise _fault(model, f"its targets are shifted to {shifted[0]} in training, generation begins with {start}")
    return start


def _fault(model: Any, what: str) -> ModelError:
    name = type(model).__name__
    allowed = "an encoder-decoder model whose decoder begins with decoder_start_token_id, such as T5, BART, Pegasus"
    return ModelError(Fault(f"{name}: {what}", "config.json", allowed, "use such a model, or mend its config.json"))
