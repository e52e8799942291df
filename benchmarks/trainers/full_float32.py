"""Every weight trained, in float32, by plain Transformers and AdamW, a row at a time: 16 bytes for each parameter."""

from __future__ import annotations

import time
from typing import Any

import torch
from common import LEARNING_RATE, make_parser, read_rows, report, tokenise
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer


def main() -> None:
    """Two epochs; the second is timed."""
    parser = make_parser()
    parser.add_argument("--layers", type=int, help="only the lowest so many layers of the model")
    asked = parser.parse_args()
    begun = time.perf_counter()
    tokenizer = AutoTokenizer.from_pretrained(asked.model)
    rows = [tokenise(tokenizer, row, asked.max_tokens) for row in read_rows(asked.rows)]
    config = AutoConfig.from_pretrained(asked.model)
    config.num_hidden_layers = asked.layers or config.num_hidden_layers
    model = AutoModelForCausalLM.from_pretrained(asked.model, config=config, dtype=torch.float32).train()
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    # Fused, AdamW makes no tensors on the way: the least memory it can have.
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, fused=True)
    ready = time.perf_counter() - begun
    epochs, losses = [], []
    for _ in range(2):
        started, losses = time.perf_counter(), []
        for start in range(0, len(rows), asked.rows_per_step):
            losses.append(step(model, optimizer, rows[start : start + asked.rows_per_step]))
        epochs.append(time.perf_counter() - started)
    tokens = sum(len(row["input_ids"]) for row in rows)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    report(tokens, epochs, ready, sum(losses) / len(losses), steps=len(losses), parameters=parameters)


def step(model: Any, optimizer: Any, rows: list[dict[str, list[int]]]) -> float:
    """One update over the rows, each weighted by its answer tokens; the mean loss of a token."""
    weight = sum(label >= 0 for row in rows for label in row["labels"])
    total = 0.0
    for row in rows:
        batch = {name: torch.tensor([values], device=model.device) for name, values in row.items()}
        loss = model(**batch, use_cache=False, num_items_in_batch=weight).loss
        loss.backward()
        total += float(loss)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return total


if __name__ == "__main__":
    main()
