"""Danlu as danlu_sft.py runs it, then the probes that end every run: the most memory of each, the weights' bytes."""

from __future__ import annotations

import itertools
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from common import peak_rss_bytes, report
from danlu_sft import arguments, first_epoch_steps, make_session

from danlu.models.quantization import dequantized, quantized_layers


def peak_bytes() -> int:
    """Largest resident size of this process so far, on a GPU the most that it had allocated there."""
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else peak_rss_bytes()


def stored_bytes(layer: Any) -> int:
    """Bytes of a quantised layer's weights with all that is needed to make them again."""
    weight = layer.weight
    state = getattr(weight, "quant_state", None)
    if state is None:  # int8: a float32 for each row
        return int(weight.nbytes + 4 * weight.shape[0])
    inner = [state.state2.absmax, state.state2.code, state.offset] if state.nested else []
    return int(weight.nbytes + sum(tensor.nbytes for tensor in (state.absmax, state.code, *inner)))


def weights(model: Any) -> dict[str, int]:
    """Bytes of the quantised layers as they are kept, and as bfloat16."""
    layers = [layer for _, layer in quantized_layers(model)]
    return {
        "quantised_bytes": sum(stored_bytes(layer) for layer in layers),
        "bfloat16_bytes": sum(dequantized(layer, torch.bfloat16).nbytes for layer in layers),
    }


def main() -> None:
    """Two epochs, the second timed; then the probes."""
    begun = time.perf_counter()
    session = make_session(arguments())
    ready, loaded = time.perf_counter(), peak_bytes()
    steps = session.steps()
    list(itertools.islice(steps, first_epoch_steps(session)))
    half = time.perf_counter()
    second = list(steps)
    ended, trained = time.perf_counter(), peak_bytes()
    engine, kept = session.engine.name, weights(session.model)
    with tempfile.TemporaryDirectory() as folder:
        session.write_probes(Path(folder))
    report(
        sum(step.tokens for step in second),
        [half - ready, ended - half],
        ready - begun,
        sum(step.loss for step in second) / len(second),
        steps=len(second),
        engine=engine,
        peak_ready_bytes=loaded,
        peak_trained_bytes=trained,
        **kept,
    )


if __name__ == "__main__":
    main()
