"""Does the engine reach the optimum of the tutorials' way? Same rows, order, first adapter and steps, then one judge.

    python benchmarks/same_optimum.py --rows /path/alpaca_en_demo.json --out benchmarks/results/NAME.json

Danlu trains as it does by itself (dtype auto, fused); Transformers' Trainer with PEFT trains in float32, padded, from
the same first adapter over the same rows in the same order. Both adapters are then judged on held-out rows by plain
PEFT in float32.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments

from danlu.adapters.kinds import Lora
from danlu.adapters.lora import add_adapter, save_adapter
from danlu.data.template import Document
from danlu.models.embedded import embedded_model_folder
from danlu.models.loading import choose_device, choose_dtype, load_base
from danlu.models.tokenizer import load_tokenizer
from danlu.training.backends.replicated import Replicated
from danlu.training.engine import choose_engine
from danlu.training.feed import Feed, to_batches
from danlu.training.loop import Course, train
from danlu.training.machine import prepare_machine
from danlu.training.objectives import sft

_MODEL = "smollm2-135m-instruct"
_TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


class _Documents(list[Document]):
    """Documents as the feed asks for them."""

    @property
    def num_tokens(self) -> int:
        return sum(len(document.ids) for document in self)


def read_documents(path: Path, tokenizer: Any, count: int, max_tokens: int) -> list[Document]:
    """The first rows, the answer trained, cut at the end."""
    documents = []
    for row in json.loads(path.read_text(encoding="utf-8"))[:count]:
        asked = "\n".join(part for part in (row["instruction"], row.get("input")) if part)
        messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": row["output"]}]
        prompt = tokenizer.apply_chat_template(messages[:1], add_generation_prompt=True, return_dict=False)
        ids = tokenizer.apply_chat_template(messages, return_dict=False)[:max_tokens]
        documents.append(Document(tuple(ids), ((min(len(prompt), len(ids) - 1), len(ids)),)))
    return documents


def ours(feed: Feed, base: Path, rate: float, first: Path, last: Path) -> dict[str, Any]:
    """Trains by Danlu's engine; writes the adapter before and after."""
    dtype = choose_dtype("auto", choose_device())
    model = add_adapter(load_base(base, dtype), Lora(16, 32.0), _TARGETS, 0)
    save_adapter(model, first, str(base))
    engine = choose_engine(model, feed.store)
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    backend = Replicated(model, trained, lambda given: torch.optim.AdamW(given.values(), lr=rate, weight_decay=0.0))
    begun = time.perf_counter()
    losses = [step.loss for step in train(model, engine.objective, feed, backend, Course(lambda _: rate, 1.0))]
    save_adapter(model, last, str(base))
    return {"engine": engine.name, "dtype": str(dtype), "seconds": time.perf_counter() - begun, "losses": losses}


def theirs(feed: Feed, base: Path, rate: float, first: Path, last: Path) -> dict[str, Any]:
    """Trains by Transformers' Trainer in float32, row after row in Danlu's order."""
    rows = []
    for step in range(feed.num_steps):
        for document in feed.documents(step):
            start, end = document.spans[0]
            labels = [-100] * start + list(document.ids[start:end])
            rows.append({"input_ids": list(document.ids), "labels": labels, "attention_mask": [1] * len(document.ids)})
    model = PeftModel.from_pretrained(load_base(base, torch.float32), first, is_trainable=True)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model=model,
            args=TrainingArguments(
                output_dir=folder,
                per_device_train_batch_size=4,
                gradient_accumulation_steps=feed.global_batch_size // 4,
                num_train_epochs=1,
                learning_rate=rate,
                lr_scheduler_type="constant",
                weight_decay=0.0,
                max_grad_norm=1.0,
                train_sampling_strategy="sequential",
                use_cpu=not torch.cuda.is_available(),
                save_strategy="no",
                report_to="none",
                logging_steps=1,
                disable_tqdm=True,
            ),
            train_dataset=rows,  # type: ignore[arg-type,unused-ignore]
            data_collator=DataCollatorForSeq2Seq(load_tokenizer(base)),
        )
        begun = time.perf_counter()
        trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    model.save_pretrained(last)
    return {"dtype": "torch.float32", "seconds": time.perf_counter() - begun, "losses": losses}


def judge(base: Path, adapter: Path, documents: list[Document]) -> float:
    """Mean loss per answer token by plain PEFT in float32, one row at a time."""
    model = PeftModel.from_pretrained(load_base(base, torch.float32), adapter).eval()
    loss_sum, weight_sum = 0.0, 0.0
    with torch.inference_mode():
        for batch in to_batches(documents, 1, False, torch.device("cpu")):
            loss, weight = sft(model, batch)
            loss_sum, weight_sum = loss_sum + loss.item(), weight_sum + weight
    return loss_sum / weight_sum


def main() -> None:
    """Trains both ways, judges both and the base."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--num-rows", type=int, default=96)
    parser.add_argument("--num-held-out", type=int, default=64)
    parser.add_argument("--num-epochs", type=float, default=2)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    prepare_machine()
    base = embedded_model_folder(_MODEL)
    documents = read_documents(asked.rows, load_tokenizer(base), asked.num_rows + asked.num_held_out, 512)
    store, held = _Documents(documents[: asked.num_rows]), documents[asked.num_rows :]
    feed = Feed(store, asked.num_epochs, 16, 0, 1024, True, choose_device())  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as folder:
        first, mine, other = (Path(folder) / name for name in ("first", "mine", "other"))
        result: dict[str, Any] = {"date": time.strftime("%Y-%m-%d"), "steps": feed.num_steps, "rate": asked.rate}
        result["danlu"] = ours(feed, base, asked.rate, first, mine)
        result["trainer"] = theirs(feed, base, asked.rate, first, other)
        result["held_out"] = {
            name: judge(base, adapter, held)
            for name, adapter in (("first", first), ("danlu", mine), ("trainer", other))
        }
    result["difference"] = result["held_out"]["danlu"] / result["held_out"]["trainer"] - 1
    print(json.dumps(result, indent=1))
    if asked.out:
        asked.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
