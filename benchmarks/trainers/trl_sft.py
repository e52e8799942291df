"""TRL's SFTTrainer: bfloat16, loss on completions only; with --packed, rows packed without padding."""

from __future__ import annotations

import tempfile
import time

import torch
from common import ALPHA, LEARNING_RATE, RANK, SEED, TARGETS, accumulated, arguments, clock, read_rows, report
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer


def main() -> None:
    """Two epochs; the second is timed."""
    begun = time.perf_counter()
    asked = arguments()
    model = AutoModelForCausalLM.from_pretrained(asked.model, dtype=getattr(torch, asked.dtype))
    timer = clock()
    with tempfile.TemporaryDirectory() as folder:
        trainer = SFTTrainer(
            model=model,
            processing_class=AutoTokenizer.from_pretrained(asked.model),
            peft_config=LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=TARGETS, task_type="CAUSAL_LM"),
            args=SFTConfig(
                output_dir=folder,
                per_device_train_batch_size=asked.micro_batch,
                gradient_accumulation_steps=accumulated(asked),
                max_length=asked.max_tokens,
                packing=asked.packed,
                completion_only_loss=True,
                num_train_epochs=2,
                learning_rate=LEARNING_RATE,
                lr_scheduler_type="constant",
                bf16=asked.dtype == "bfloat16",
                use_cpu=not torch.cuda.is_available(),
                gradient_checkpointing=False,
                seed=SEED,
                save_strategy="no",
                report_to="none",
                logging_steps=1,
                disable_tqdm=True,
            ),
            train_dataset=Dataset.from_list(read_rows(asked.rows)),
            callbacks=[timer],
        )
        tokens = sum(len(ids) for ids in trainer.train_dataset["input_ids"])
        ready = time.perf_counter() - begun
        trainer.train()
    report(tokens, timer.epochs, ready, timer.loss, steps=len(timer.losses))


if __name__ == "__main__":
    main()
