"""The tutorials' way: Transformers' Trainer with PEFT, batches padded to their longest row."""

from __future__ import annotations

import tempfile
import time

import torch
from common import ALPHA, LEARNING_RATE, RANK, SEED, TARGETS, accumulated, arguments, clock, read_rows, report, tokenise
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    Trainer,
    TrainingArguments,
)


def main() -> None:
    """Two epochs; the second is timed."""
    begun = time.perf_counter()
    asked = arguments()
    if asked.packed:
        raise SystemExit("this trainer does not pack")
    tokenizer = AutoTokenizer.from_pretrained(asked.model)
    rows = [tokenise(tokenizer, row, asked.max_tokens) for row in read_rows(asked.rows)]
    model = AutoModelForCausalLM.from_pretrained(asked.model, dtype=getattr(torch, asked.dtype))
    lora = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=TARGETS, task_type="CAUSAL_LM")
    timer = clock()
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model=get_peft_model(model, lora),
            args=TrainingArguments(
                output_dir=folder,
                per_device_train_batch_size=asked.micro_batch,
                gradient_accumulation_steps=accumulated(asked),
                num_train_epochs=2,
                learning_rate=LEARNING_RATE,
                lr_scheduler_type="constant",
                bf16=asked.dtype == "bfloat16",
                use_cpu=not torch.cuda.is_available(),
                seed=SEED,
                save_strategy="no",
                report_to="none",
                logging_steps=1,
                disable_tqdm=True,
            ),
            train_dataset=rows,  # type: ignore[arg-type,unused-ignore]
            data_collator=DataCollatorForSeq2Seq(tokenizer),
            callbacks=[timer],
        )
        ready = time.perf_counter() - begun
        trainer.train()
    report(sum(len(row["input_ids"]) for row in rows), timer.epochs, ready, timer.loss, steps=len(timer.losses))


if __name__ == "__main__":
    main()
